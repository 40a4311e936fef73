//! What things cost in Redis, measured on a real server through `postrider capacity --sample`: the figures that the
//! command uses without a sample, and that docs/OPERATIONS.md shows, have to be near.

use std::time::Duration;

use postrider::domain::capacity::Figures;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::cli::{code, err, program};
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Stage};
use crate::support::{RedisServer, wait_within};

/// Events; and waiting, and failed deliveries.
const EVENTS: usize = 3_000;
/// Bytes of `data`.
const DATA: usize = 420;

fn add(stage: &Stage, count: usize) {
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(DATA - 11));
    let mut pipeline = redis::pipe();
    for _ in 0..count {
        let fields = [("organisationId", ORGANISATION), ("event", EVENT), ("data", &data)];
        pipeline.cmd("XADD").arg(stage.keys.events()).arg("*").arg(&fields).ignore();
    }
    pipeline.query::<()>(&mut redis::Client::open(stage.url.as_str()).unwrap()).unwrap();
}

fn sample(stage: &Stage, more: &[&str]) -> Value {
    let words =
        ["capacity", "--sample", "--sample-for", "1s", "--output", "json", "--size", "420", "--rate", "1000"];
    let reach = ["--redis-url", &stage.url, "--namespace", &stage.namespace];
    let output = program(&[&words[..], &reach, more].concat()).output().expect("it runs");
    assert_eq!(code(&output), 0, "{}", err(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn info(stage: &Stage, name: &str) -> f64 {
    let text: String = stage.redis(&["INFO"]);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("the field");
    value.trim().parse().expect("a number")
}

/// Asserts that each figure (name, default, measured) lies within 30 % of what was measured, and shows all.
fn all_near(figures: &[(&str, f64, f64)]) {
    for (name, default, measured) in figures {
        println!("{name}: measured {measured:.0}, the figure is {default:.0}");
    }
    let is_far = |(_, default, measured): &&(&str, f64, f64)| (default - measured).abs() > measured * 0.3;
    let far: Vec<_> = figures.iter().filter(is_far).collect();
    assert!(far.is_empty(), "not near: {far:?}");
}

#[test]
fn the_figures_are_near_to_what_a_real_redis_needs() {
    let server = RedisServer::start(&["--maxmemory", "1gb"]);
    // Delivered events stay, to be weighed; waiting deliveries wait.
    let extra = ["--events-age", "1h", "--retry-schedule", "1h", "--breaker-failures", "0"];
    let stage = Stage::on(&server.url(), "sizes", &extra);
    let empty = info(&stage, "used_memory");
    let figures = Figures::default();

    let good = stage.config("/good", json!({}), |_| Reply::ok());
    let (aof, at_first) = (info(&stage, "aof_current_size"), EVENTS);
    add(&stage, at_first);
    stage.wait_acked();
    let aof = (info(&stage, "aof_current_size") - aof) / at_first as f64;
    let body = stage.arrivals.at(&good.path).last().expect("an arrival").body.len();
    let wait = stage.config("/wait", json!({}), |_| Reply::status(503));
    let fail = stage.config("/fail", json!({ "maxRetries": 0 }), |_| Reply::status(503));
    add(&stage, EVENTS);
    let limit = Duration::from_secs(60);
    wait_within(limit, "everything to have its fate", || {
        let count = |key: String| stage.redis::<usize>(&["ZCARD", &key]);
        let id = |put: &crate::stage::Put| put.id.parse().expect("a config id");
        count(stage.keys.queue(id(&wait))) >= EVENTS && count(stage.keys.failed(id(&fail))) >= EVENTS
    });
    stage.wait_acked();

    let report = sample(&stage, &[]);
    println!("empty: {empty:.0} bytes; sampled: {}", report["sampled"]);
    let seen = |name: &str| report["figures"][name].as_f64().expect("a number");
    for name in ["eventBytes", "deliveryBytes", "logRowBytes", "payloadBytes"] {
        assert!(report["sampled"].as_array().unwrap().contains(&json!(name)), "{report}");
    }
    assert_eq!(report["seen"]["scannedWhole"], true);
    all_near(&[
        ("bytes of an event over its data", figures.event_bytes, seen("eventBytes")),
        ("bytes of a body over data", figures.body_bytes, (body - DATA) as f64),
        ("bytes of a delivery over its body", figures.delivery_bytes, seen("deliveryBytes")),
        ("bytes of a log row", figures.log_row_bytes, seen("logRowBytes")),
        ("bytes of a payload", figures.payload_bytes + body as f64, seen("payloadBytes") + body as f64),
    ]);
    // Fuller batches of a busier machine have fewer commands for each event: no more than the order of size is fixed.
    let aof = aof - (DATA + body) as f64;
    println!(
        "bytes of the AOF over data and body: measured {aof:.0}, the figure is {:.0}",
        figures.aof_bytes
    );
    assert!((figures.aof_bytes / 2.0..figures.aof_bytes * 2.0).contains(&aof), "{aof}");
}

#[test]
fn a_sample_of_configs_and_tokens_tells_what_one_costs() {
    let server = RedisServer::start(&["--maxmemory", "1gb"]);
    let stage = Stage::on(&server.url(), "sizes", &[]);
    for number in 0..120 {
        let config = json!({ "url": format!("http://127.0.0.1:9/{number}"), "events": [EVENT], "secret": "s3cret-of-it" });
        stage.serve().put(&stage.token, "/configs", &config);
    }
    for _ in 0..120 {
        let output = program(&["token", "create", "--redis-url", &stage.url, "--namespace", "sizes"])
            .args(["--organisation", ORGANISATION, "--role", "viewer"])
            .output()
            .expect("it runs");
        assert_eq!(code(&output), 0, "{}", err(&output));
    }
    let report = sample(&stage, &[]);
    let seen = |name: &str| report["figures"][name].as_f64().expect("a number");
    assert_eq!(report["endpoints"], 120.0);
    let figures = Figures::default();
    all_near(&[
        ("bytes of a config", figures.config_bytes, seen("configBytes")),
        ("bytes of a token", figures.token_bytes, seen("tokenBytes")),
    ]);
}
