//! The operator's listener, and how a listener ends.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use postrider::admin::ops::{Readiness, ops_router};
use postrider::domain::token::Role;
use postrider::metrics::Scrape;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{TestSpace, eventually};
use crate::support_http::{AdminServer, Api, EVENTS};

#[tokio::test]
async fn readiness_names_what_fails_and_the_listener_ends_when_told() {
    let readiness = Arc::new(Readiness::new());
    let (redis, configs) = (readiness.latch("redis"), readiness.latch("configs"));
    let scrape = Scrape::new(PrometheusBuilder::new().build_recorder().handle());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api { address: listener.local_addr().unwrap(), headers: Vec::new() };
    let (stop, stopped) = watch::channel(false);
    let router = ops_router(Arc::clone(&readiness), scrape);
    let serving = tokio::spawn(postrider::admin::serve(listener, router, stopped));

    api.get("/livez").await.ok(200);
    assert_eq!(api.get("/readyz").await.ok(503), json!({"ready": false, "failing": ["redis", "configs"]}));
    redis.set(true);
    assert_eq!(api.get("/readyz").await.ok(503)["failing"], json!(["configs"]));
    configs.set(true);
    assert_eq!(api.get("/readyz").await.ok(200), json!({"ready": true, "failing": []}));
    readiness.latch("redis").set(false);
    assert_eq!(api.get("/readyz").await.status, 503);
    let metrics = api.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));

    stop.send_replace(true);
    serving.await.unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
async fn a_request_in_flight_is_answered_after_the_listener_was_told_to_end() {
    let server = AdminServer::start(&TestSpace::new()).await;
    let api = server.caller("org_1", Role::Publisher).await;
    let address = server.address;
    let body = r#"{"event":"a.b","data":{}}"#;
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: x\r\nx-api-token: {}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        api.token(),
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // The 100 says that the handler waits for the body: from here on the request is in flight.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    drop(server);
    eventually("no new connections", async || TcpStream::connect(address).await.is_err()).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
}
