//! What arrives by the config's choices: subscriptions by either name and by wildcard, entity filters, the
//! developer format, `PUT`, Standard Webhooks headers, payloads that are not kept.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::arrivals::{Arrival, READY_EVENT, Reply};
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for};

fn stage() -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, &[])
}

fn body(arrival: &Arrival) -> Value {
    serde_json::from_slice(&arrival.body).expect("a JSON body")
}

/// The nonces of what arrived at the config, sorted, once `done` (an event that every config gets) is among it.
fn nonces(stage: &Stage, config: &Put, done: &str) -> Vec<String> {
    let id_of = |arrival: &Arrival| body(arrival)["id"].as_str().expect("an id").to_owned();
    wait_for("the last event", || {
        stage.arrivals.at(&config.path).iter().any(|arrival| id_of(arrival) == done)
    });
    stage.wait_acked();
    let mut nonces: Vec<String> = stage.arrivals.at(&config.path).iter().map(id_of).collect();
    nonces.retain(|nonce| nonce != done);
    nonces.sort();
    nonces
}

#[test]
fn a_subscription_is_matched_by_either_name_and_by_wildcards() {
    let stage = stage();
    let subscribe = |path: &str, events: &[&str]| {
        let mut events = events.to_vec();
        events.push(READY_EVENT);
        events.push(EVENT);
        stage.config(path, json!({ "events": events }), |_| Reply::ok())
    };
    let dotted = subscribe("/dotted", &["reward.claimed"]);
    let hyphenated = subscribe("/hyphenated", &["reward-claim"]);
    let below = subscribe("/below", &["reward.*", "auth.*"]);
    let all = stage.config("/all", json!({ "events": ["*"] }), |_| Reply::ok());
    for (nonce, event) in [
        ("1", "reward.claimed"),
        ("2", "reward-claim"),
        ("3", "reward.redeemed"),
        ("4", "reward-redemption"),
        ("5", "user.authenticated"),
        ("6", "rewards.x"),
        ("7", "post-like"),
    ] {
        stage.add(&[("event", event), ("nonce", nonce)]);
    }
    stage.add(&[("nonce", "done")]);
    assert_eq!(nonces(&stage, &dotted, "done"), ["1", "2"]);
    assert_eq!(nonces(&stage, &hyphenated, "done"), ["1", "2"]);
    assert_eq!(nonces(&stage, &below, "done"), ["1", "2", "3", "4", "5"]);
    assert_eq!(nonces(&stage, &all, "done"), ["1", "2", "3", "4", "5", "6", "7"]);

    // The standard format says what was published; each name finds both in the log.
    let named: Vec<String> = stage
        .arrivals
        .at("/dotted")
        .iter()
        .map(|arrival| arrival.header("x-nudj-event").to_owned())
        .collect();
    assert!(named.contains(&"reward-claim".to_owned()) && named.contains(&"reward.claimed".to_owned()));
    for name in ["event=reward.claimed", "event=reward-claim", "eventSubCategory=reward-claim"] {
        let path = format!("/logs?{name}&success=true&webhookConfigId={}", dotted.id);
        let mut answer = Value::Null;
        wait_for("both in the log", || {
            answer = stage.serve().get(&stage.token, &path);
            answer["totalCount"] == 2
        });
        assert_eq!(answer["edges"][0]["eventSubCategory"], "reward-claim", "{answer}");
    }
}

#[test]
fn a_filter_lets_through_the_entities_that_it_names_and_decides_when_an_event_is_routed() {
    let stage = stage();
    let filtered = stage.config(
        "/filtered",
        json!({ "events": ["reward.*", "action-participation", READY_EVENT], "entityFilters": {
            "reward.claimed": ["r1", "r2"], "action-participation": ["a1"] },
            "retryPolicy": { "mode": "fixed", "delaySeconds": 5 } }),
        |arrival| Reply::status(if arrival.nth == 1 && body(arrival)["id"] == "1" { 503 } else { 200 }),
    );
    let free = stage.config("/free", json!({ "events": ["*"] }), |_| Reply::ok());
    for (nonce, event, data, source) in [
        ("1", "reward.claimed", r#"{"reward":{"id":"r1"}}"#, ""),
        ("2", "reward-claim", r#"{"rewardId":"r2"}"#, ""),
        ("3", "reward.claimed", r#"{"reward":{"id":"r3"}}"#, ""),
        ("4", "reward.claimed", "{}", ""),
        ("5", "reward.claimed", "{}", "r1"),
        ("6", "action.completed", r#"{"actionId":"a1"}"#, "participation-9"),
        ("7", "action-participation", r#"{"action":{"id":"a2"}}"#, "a1"),
        ("8", "reward.redeemed", r#"{"reward":{"id":"r9"}}"#, ""),
    ] {
        let mut fields = vec![("event", event), ("data", data), ("nonce", nonce)];
        if !source.is_empty() {
            fields.push(("eventSourceId", source));
        }
        stage.add(&fields);
    }
    stage.add(&[("nonce", "done")]);
    assert_eq!(nonces(&stage, &free, "done"), ["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(nonces(&stage, &filtered, "done"), ["1", "2", "5", "6", "8"]);
    let waiting = format!("/logs?webhookConfigId={}&success=false", filtered.id);
    let mut edges = Value::Null;
    wait_for("the first one to wait for its retry", || {
        edges = stage.serve().get(&stage.token, &waiting)["edges"].clone();
        edges[0]["status"] == "retrying"
    });

    // What is queued keeps the filter of its time; new events have the new one.
    stage.change(&filtered.id, json!({ "entityFilters": { "reward.claimed": ["r3"] } }));
    stage.config("/after", json!({}), |_| Reply::ok());
    stage.add(&[("event", "reward.claimed"), ("data", r#"{"reward":{"id":"r1"}}"#), ("nonce", "b1")]);
    stage.add(&[("event", "reward.claimed"), ("data", r#"{"reward":{"id":"r3"}}"#), ("nonce", "b3")]);
    stage.add(&[("nonce", "done2")]);
    let arrived = nonces(&stage, &filtered, "done2");
    assert!(arrived.contains(&"b3".to_owned()) && !arrived.contains(&"b1".to_owned()), "{arrived:?}");
    let path = format!("/logs/{}", edges[0]["deliveryId"].as_str().unwrap());
    wait_for("the queued one to be delivered all the same", || {
        stage.serve().get(&stage.token, &path)["status"] == "delivered"
    });
}

#[test]
fn the_developer_format_goes_out_by_put_under_its_own_name() {
    let stage = stage();
    let more =
        json!({ "bodyFormat": "developer", "httpMethod": "PUT", "headers": {"Authorization": "Bearer k"} });
    let developer = stage.config("/developer", more, |_| Reply::ok());
    let standard = stage.config("/standard", json!({}), |_| Reply::ok());
    let data = r#"{ "reward": {"id":"r1"}, "user":{"id":"u1"}, "n": 123456789012345678901234567890 }"#;
    stage.add(&[
        ("data", data),
        ("timestamp", "2026-05-01T09:00:00.000Z"),
        ("nonce", "n1"),
        ("communityId", "c1"),
    ]);
    let arrival = stage.wait_arrived(&developer, 1).remove(0);
    let wanted = format!(
        r#"{{"id":"n1","eventCategory":"reward","eventSubCategory":"reward-distribution","organisationId":"{ORGANISATION}","communityId":"c1","userId":"u1","eventSourceId":"r1","payload":{data},"createdAt":"2026-05-01T09:00:00.000Z"}}"#
    );
    assert_eq!(String::from_utf8_lossy(&arrival.body), wanted);
    assert!(arrival.verified, "the signature is over these bytes");
    assert_eq!((arrival.method.as_str(), arrival.header("x-nudj-event")), ("PUT", "reward-distribution"));
    assert_eq!(arrival.header("authorization"), "Bearer k");
    let other = stage.wait_arrived(&standard, 1).remove(0);
    assert_eq!((other.method.as_str(), other.header("x-nudj-event")), ("POST", EVENT));
    assert_eq!(body(&other)["event"], EVENT);

    let record = stage.wait_logged(&developer, "delivered", 1).remove(0);
    assert_eq!(record["event"], "reward-distribution", "the log says what the receiver saw: {record}");
    assert_eq!(stage.delivery(&record["deliveryId"])["payloadRaw"], wanted);
    let attempt = &record["attemptLog"][0];
    assert!(attempt["url"].as_str().is_some_and(|url| url.ends_with("/developer")), "{record}");
    assert_eq!(attempt["responseBody"], "answer 200");
}

/// Signs as the standard says, without the code under test.
fn standard_signature(key: &[u8], arrival: &Arrival) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    let (id, seconds) = (arrival.header("webhook-id"), arrival.header("webhook-timestamp"));
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", &arrival.body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn standard_webhooks_headers_go_along_where_the_config_asks_and_are_new_at_every_attempt() {
    let stage = stage();
    let retried = |arrival: &Arrival| Reply::status(if arrival.nth == 1 { 503 } else { 200 }).retry_after(2);
    let policy = json!({ "mode": "fixed", "delaySeconds": 2 });
    let config = stage.config("/s", json!({ "standardWebhooks": true, "retryPolicy": policy }), retried);
    let plain = stage.config("/plain", json!({}), |_| Reply::ok());
    stage.add(&[]);
    let arrivals = stage.wait_arrived(&config, 2);
    for arrival in &arrivals {
        assert!(arrival.verified, "the platform's own signature stays");
        assert_eq!(arrival.header("webhook-id"), arrival.delivery);
        // The stage's secret is no base64, so its own bytes are the key.
        assert_eq!(arrival.header("webhook-signature"), standard_signature(b"whsec_of_/s", arrival));
    }
    let seconds = |arrival: &Arrival| arrival.header("webhook-timestamp").parse::<u64>().unwrap();
    assert!(seconds(&arrivals[1]) > seconds(&arrivals[0]), "each attempt has its own time");
    let other = stage.wait_arrived(&plain, 1).remove(0);
    assert!(other.headers.keys().all(|name| !name.as_str().starts_with("webhook-")));
}

#[test]
fn payloads_are_kept_nowhere_in_the_log_where_the_config_says_so() {
    let stage = stage();
    let status = |arrival: &Arrival| Reply::status(if body(arrival)["id"] == "refused" { 400 } else { 200 });
    let silent = stage.config("/silent", json!({ "logPayloads": false }), status);
    let logged = stage.config("/logged", json!({}), status);
    for nonce in ["delivered", "refused"] {
        stage.add(&[("nonce", nonce), ("data", r#"{"personal":"only-for-the-receiver"}"#)]);
    }
    for (config, omitted) in [(&silent, true), (&logged, false)] {
        for status in ["delivered", "failed"] {
            let record = stage.wait_logged(config, status, 1).remove(0);
            let whole = stage.delivery(&record["deliveryId"]);
            assert_eq!(whole["payloadRaw"].is_null(), omitted, "{status}: {whole}");
            assert_eq!(whole.get("payloadOmitted").is_some(), omitted, "{status}: {whole}");
        }
    }
    let pages = |config: &Put| stage.redis::<u64>(&["XLEN", &stage.keys.bodies(config.id.parse().unwrap())]);
    assert_eq!(pages(&silent), 0);
    assert!(pages(&logged) > 0);
}
