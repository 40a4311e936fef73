//! Spans as a collector gets them, and trace ids in the log: real sockets, a live server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::arrivals::Reply;
use crate::serving::Serve;
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, free_port, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A collector: remembers what was posted to `/v1/traces`.
struct Collector {
    port: u16,
    bodies: Arc<Mutex<Vec<Value>>>,
    /// Of each request, as its body in `bodies`.
    heads: Arc<Mutex<Vec<http::HeaderMap>>>,
    runtime: Option<Runtime>,
}

impl Collector {
    fn start() -> Self {
        Self::start_on(0)
    }

    fn start_on(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (shared, shared_heads) = (Arc::clone(&bodies), Arc::clone(&heads));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (bodies, heads) = (Arc::clone(&shared), Arc::clone(&shared_heads));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (bodies, heads) = (Arc::clone(&bodies), Arc::clone(&heads));
                    async move {
                        assert_eq!(
                            (request.method(), request.uri().path()),
                            (&http::Method::POST, "/v1/traces")
                        );
                        assert_eq!(request.headers()["content-type"], "application/json");
                        heads.lock().expect("heads").push(request.headers().clone());
                        let body = request.into_body().collect().await.expect("a body").to_bytes();
                        bodies.lock().expect("bodies").push(serde_json::from_slice(&body).expect("JSON"));
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from(
                            "{}",
                        ))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { port, bodies, heads, runtime: Some(runtime) }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Every span named `name`, in the order of their start.
    fn spans(&self, name: &str) -> Vec<Value> {
        let bodies = self.bodies.lock().expect("bodies");
        let mut spans: Vec<Value> = bodies
            .iter()
            .flat_map(|body| {
                body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone()
            })
            .filter(|span| span["name"] == name)
            .collect();
        spans.sort_by_key(|span| nanos(span, "startTimeUnixNano"));
        spans
    }

    fn wait_spans(&self, name: &str, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} {name} spans"), || self.spans(name).len() >= count);
        let spans = self.spans(name);
        assert_eq!(spans.len(), count, "{spans:?}");
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn nanos(span: &Value, field: &str) -> u64 {
    span[field].as_str().expect("a text").parse().expect("a number")
}

/// An attribute as text.
fn attribute(span: &Value, key: &str) -> Option<String> {
    let all = span["attributes"].as_array().expect("attributes");
    let value = &all.iter().find(|attribute| attribute["key"] == key)?["value"];
    let text = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
    Some(text.expect("a value").to_owned())
}

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

#[test]
fn a_sampled_event_gives_publish_wait_and_attempt() {
    let collector = Collector::start();
    let stage = stage(&["--retry-schedule", "300ms", "--otlp-endpoint", &collector.url()]);
    let config = stage.config("/a", json!({}), |arrival| {
        if arrival.nth == 1 { Reply::status(503) } else { Reply::ok().after(Duration::from_millis(50)) }
    });
    let id = stage.add(&[("traceparent", &traceparent("01"))]);
    stage.add(&[("traceparent", &traceparent("00")), ("nonce", "unsampled")]);
    let records = stage.wait_logged(&config, "delivered", 2);
    let (publish, wait, attempt) = (
        collector.wait_spans("publish", 1),
        collector.wait_spans("wait", 2),
        collector.wait_spans("attempt", 2),
    );
    for span in publish.iter().chain(&wait).chain(&attempt) {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
        assert_eq!(attribute(span, "postrider.event.type").as_deref(), Some(EVENT));
        assert_eq!(attribute(span, "postrider.event.id"), Some(format!("evt_0_{id}")));
        assert!(nanos(span, "endTimeUnixNano") >= nanos(span, "startTimeUnixNano"), "{span}");
        let text = span.to_string();
        assert!(!text.contains("127.0.0.1") && !text.contains("org_"), "no URL, no organisation: {text}");
    }
    let stream_ms: u64 = id.split('-').next().expect("ms").parse().expect("a number");
    assert_eq!(nanos(&publish[0], "startTimeUnixNano"), stream_ms * 1_000_000);
    for (number, (wait, attempt)) in wait.iter().zip(&attempt).enumerate() {
        assert_eq!(nanos(wait, "endTimeUnixNano"), nanos(attempt, "startTimeUnixNano"));
        assert_eq!(attribute(attempt, "postrider.attempt"), Some((number + 1).to_string()));
        assert_eq!(attribute(attempt, "postrider.config.id"), Some(config.id.clone()));
        assert_eq!(attribute(attempt, "postrider.delivery.id"), attribute(wait, "postrider.delivery.id"));
    }
    let waited = |span: &Value| nanos(span, "endTimeUnixNano") - nanos(span, "startTimeUnixNano");
    assert!(waited(&wait[1]) >= 250_000_000, "the retry's delay: {}", wait[1]);
    assert!(waited(&attempt[1]) >= 50_000_000, "the receiver's time: {}", attempt[1]);
    let said = |span: &Value| {
        (
            attribute(span, "http.response.status_code"),
            attribute(span, "postrider.outcome"),
            span["status"].clone(),
        )
    };
    let (first, second) = (said(&attempt[0]), said(&attempt[1]));
    assert_eq!((first.0.as_deref(), first.1.as_deref()), (Some("503"), Some("retryable")));
    assert_eq!(first.2["code"], 2);
    assert_eq!((second.0.as_deref(), second.1.as_deref()), (Some("200"), Some("delivered")));
    assert_eq!(second.2, json!({}));

    let arrivals = stage.wait_arrived(&config, 4);
    let sampled: Vec<_> = arrivals.iter().filter(|arrival| arrival.nonce != "unsampled").collect();
    for (arrival, span) in sampled.iter().zip(&attempt) {
        let wanted = format!("00-{TRACE}-{}-01", span["spanId"].as_str().expect("an id"));
        assert_eq!(arrival.header("traceparent"), wanted, "the attempt's span is the parent");
    }
    for arrival in arrivals.iter().filter(|arrival| arrival.nonce == "unsampled") {
        assert_eq!(arrival.header("traceparent"), traceparent("00"), "as it came");
    }
    assert!(records.iter().all(|record| record["traceId"] == TRACE), "{records:?}");
    assert!(stage.serve().metric("spans_exported") >= 5.0);
    assert!(stage.serve().sample("spans_dropped", "").abs() < 0.5);
}

#[test]
fn without_a_collector_the_header_goes_as_it_came_on_every_attempt_and_after_a_crash() {
    let mut stage = stage(&["--retry-schedule", "3s"]);
    let config = stage
        .config("/a", json!({}), |arrival| if arrival.nth == 1 { Reply::status(503) } else { Reply::ok() });
    stage.add(&[("traceparent", &traceparent("01"))]);
    let record = stage.wait_logged(&config, "retrying", 1).remove(0);
    assert_eq!(record["traceId"], TRACE, "from the record of the delivery");
    stage.wait_acked();
    stage.take_serve().kill();
    stage.start_serve(&["--retry-schedule", "3s"]);
    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!(record["traceId"], TRACE, "from the row in the log");
    assert_eq!(stage.delivery(&record["deliveryId"])["traceId"], TRACE);
    for arrival in stage.wait_arrived(&config, 2) {
        assert_eq!(arrival.header("traceparent"), traceparent("01"));
    }
    stage.add(&[]);
    wait_for("a delivery without a trace", || stage.logs("&status=delivered").len() == 2);
    assert_eq!(
        stage.logs("&status=delivered").iter().filter(|record| record.get("traceId").is_some()).count(),
        1
    );
}

#[test]
fn a_collector_that_is_away_slows_nothing_and_floods_no_log() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let mut stage = stage(&["--otlp-endpoint", &url]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let header = traceparent("01");
    (0..300).for_each(|number| {
        stage.add(&[("traceparent", &header), ("nonce", &format!("n-{number}"))]);
    });
    stage.wait_arrived(&config, 300);
    stage.wait_acked();
    wait_for("the spans to be dropped", || stage.serve().sample("spans_dropped", "collector") >= 300.0);
    let collector = Collector::start_on(port);
    stage.add(&[("traceparent", &header), ("nonce", "later")]);
    wait_for("the next span", || !collector.spans("attempt").is_empty());
    let (log, status) = stage.take_serve().terminate_and_read();
    assert!(status.success(), "{status}");
    let about: Vec<&str> = log.lines().filter(|line| line.contains("the collector")).collect();
    assert_eq!(about.len(), 2, "away, and back: {about:?}");
}

#[test]
fn the_standards_headers_go_with_every_export_and_into_no_log() {
    let collector = Collector::start();
    let space = TestSpace::new();
    let url = collector.url();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hunter2%2C%3D, x-tenant=7,user-agent=mine"),
    ];
    let flags = ["--log-level", "trace", "--workers", "1"];
    let serve = Serve::start_with(&space.url, &space.namespace, &flags, &environment);
    let mut stage = Stage::with(serve, &space.url, &space.url, &space.namespace);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    for number in 1..=2 {
        stage.add(&[("traceparent", &traceparent("01")), ("nonce", &format!("n-{number}"))]);
        stage.wait_arrived(&config, number);
        collector.wait_spans("attempt", number);
    }
    let heads = collector.heads.lock().expect("heads").clone();
    assert!(heads.len() >= 2, "each in an export of its own: {heads:?}");
    for head in &heads {
        assert_eq!(head["authorization"], "Bearer hunter2,=");
        assert_eq!(
            (&head["x-tenant"], &head["user-agent"]),
            (&"7".parse().unwrap(), &"mine".parse().unwrap())
        );
        assert_eq!(head["host"], format!("127.0.0.1:{}", collector.port));
    }
    let (log, status) = stage.take_serve().terminate_and_read();
    assert!(status.success(), "{status}");
    assert!(log.contains("spans of sampled traces are exported") && !log.contains("hunter2"), "{log}");
}

#[test]
fn what_is_left_is_exported_at_the_end() {
    let collector = Collector::start();
    let mut stage = stage(&["--otlp-endpoint", &collector.url()]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    stage.add(&[("traceparent", &traceparent("01"))]);
    stage.wait_arrived(&config, 1);
    let status = stage.take_serve().terminate();
    assert!(status.success(), "{status}");
    collector.wait_spans("attempt", 1);
}

#[test]
fn a_thousand_rejected_events_make_few_lines() {
    let mut stage = stage(&[]);
    let before = stage.serve().metric("events_rejected");
    (0..1_000).for_each(|_| drop(stage.add(&[("data", "no JSON")])));
    wait_for("all to be rejected", || stage.serve().metric("events_rejected") >= before + 1_000.0);
    let (log, _) = stage.take_serve().terminate_and_read();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("an event was rejected")).collect();
    assert!((1..=40).contains(&lines.len()), "{} lines", lines.len());
}
