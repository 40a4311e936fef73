//! The operator's listener, and how a listener ends.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use postrider::admin::ops::{Readiness, ops_router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support_http::Api;

#[tokio::test]
async fn readiness_names_what_fails_and_the_listener_ends_when_told() {
    let readiness = Arc::new(Readiness::new());
    let (redis, configs) = (readiness.latch("redis"), readiness.latch("configs"));
    let prometheus = PrometheusBuilder::new().build_recorder().handle();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api { address: listener.local_addr().unwrap(), headers: Vec::new() };
    let (stop, stopped) = watch::channel(false);
    let router = ops_router(Arc::clone(&readiness), prometheus);
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
    assert!(tokio::net::TcpStream::connect(api.address).await.is_err());
}
