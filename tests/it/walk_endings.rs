//! How deliveries end without success: exhausted, refused, gone, blocked (docs/WIRE.md section 4).

use serde_json::json;

use crate::arrivals::Reply;
use crate::stage::Stage;
use crate::support::{TestSpace, wait_for};

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

#[test]
fn a_delivery_fails_when_its_retries_are_used_up() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    let config = stage.config("/a", json!({ "maxRetries": 2 }), |_| Reply::status(500));
    stage.add(&[]);
    let record = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!((&record["attempts"], &record["responseStatus"]), (&json!(3), &json!(500)));
    assert_eq!(record.get("nextAttemptAt"), None);
    assert_eq!(record["failReason"], "exhausted");
    assert_eq!(stage.arrivals.at("/a").len(), 3);
    stage.wait_acked();
}

#[test]
fn without_retries_the_first_failure_is_final() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    let config = stage.config("/a", json!({ "maxRetries": 0 }), |_| Reply::status(500));
    stage.add(&[]);
    assert_eq!(stage.wait_logged(&config, "failed", 1)[0]["attempts"], 1);
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/a").len(), 1);
}

#[test]
fn other_4xx_and_3xx_are_final_at_once() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    for status in [400_u16, 401, 404, 408, 429, 302] {
        let config = stage.config(&format!("/{status}"), json!({}), move |_| Reply::status(status));
        stage.add(&[("configId", &config.id)]);
        let record = stage.wait_logged(&config, "failed", 1).remove(0);
        assert_eq!((&record["attempts"], &record["responseStatus"]), (&json!(1), &json!(status)));
        assert_eq!(record["failReason"], "refused");
        assert_eq!(stage.arrivals.at(&config.path).len(), 1, "{status}");
    }
}

#[test]
fn a_410_disables_the_config_and_fails_what_is_queued_for_it() {
    let stage = stage(&["--retry-schedule", "1h", "--breaker-failures", "0"]);
    let config = stage
        .config("/a", json!({}), |arrival| Reply::status(if arrival.nonce == "last" { 410 } else { 503 }));
    let other = stage.config("/other", json!({}), |_| Reply::ok());
    for number in 0..90 {
        stage.add(&[("nonce", &format!("n-{number}")), ("configId", &config.id)]);
    }
    stage.wait_logged(&config, "retrying", 90);
    stage.add(&[("nonce", "last"), ("configId", &config.id)]);

    let failed = stage.wait_logged(&config, "failed", 91);
    assert!(failed.iter().all(|record| record["failReason"] == "gone"), "{failed:?}");
    assert!(stage.logs(&format!("&webhookConfigId={}&status=retrying", config.id)).is_empty());
    let configs = stage.serve().get(&stage.token, "/configs");
    let mine = configs.as_array().unwrap().iter().find(|one| one["id"] == config.id.as_str()).unwrap();
    assert_eq!((&mine["active"], &mine["disabledReason"]), (&json!(false), &json!("gone")));

    let before = stage.arrivals.at("/a").len();
    stage.add(&[]);
    stage.wait_arrived(&other, 1);
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/a").len(), before, "a disabled config gets nothing");
    assert_eq!(stage.redis::<usize>(&["ZCARD", &stage.keys.due()]), 0);
}

#[test]
fn a_receiver_that_is_not_there_is_retried_and_the_error_is_told() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    let config = stage.config("/a", json!({ "maxRetries": 1 }), |_| Reply::ok());
    let nobody = format!("http://127.0.0.1:{}/", crate::support::free_port());
    stage.change(&config.id, json!({ "url": nobody }));
    let marker = stage.config("/marker", json!({}), |_| Reply::ok());
    assert_ne!(marker.id, config.id);
    stage.add(&[("configId", &config.id)]);
    let record = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!(record["attempts"], 2);
    assert!(record["error"].as_str().is_some_and(|error| error.starts_with("connection")), "{record}");
    assert!(record["responseStatus"].is_null(), "{record}");
}

#[test]
fn a_large_body_is_kept_once_while_it_waits_and_goes_with_the_last_delivery() {
    let stage = stage(&["--retry-schedule", "2s"]);
    let late = |arrival: &crate::arrivals::Arrival| Reply::status(if arrival.nth == 1 { 503 } else { 200 });
    let a = stage.config("/a", json!({}), late);
    let b = stage.config("/b", json!({}), late);
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024));
    let id = stage.add(&[("data", &data)]);
    let key = stage.keys.body(id.parse().expect("a stream id"));
    wait_for("the body to be kept", || stage.redis::<usize>(&["EXISTS", &key]) == 1);
    let length: usize = stage.redis(&["STRLEN", &key]);
    assert!((data.len()..data.len() + 512).contains(&length), "once, for both: {length}");

    for config in [&a, &b] {
        let arrivals = stage.wait_arrived(config, 2);
        assert_eq!(arrivals[0].body, arrivals[1].body);
        assert!(arrivals.iter().all(|arrival| arrival.verified));
        stage.wait_logged(config, "delivered", 1);
    }
    wait_for("the body to be gone", || stage.redis::<usize>(&["EXISTS", &key]) == 0);
    assert_eq!(stage.redis::<usize>(&["ZCARD", &stage.keys.due()]), 0);
}
