//! The walk of one event by what can be seen from outside: the stream, the receiver, the admin API.

use std::time::Duration;

use serde_json::{Value, json};

use crate::arrivals::{Arrival, Reply};
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

/// The first request of each delivery gets `status`, every later one 200.
fn first(status: u16) -> impl Fn(&Arrival) -> Reply + Send + Sync {
    move |arrival| Reply::status(if arrival.nth == 1 { status } else { 200 })
}

#[test]
fn an_event_becomes_a_signed_post_a_log_record_and_an_acknowledgement() {
    let stage = stage(&[]);
    let config = stage.config("/a", json!({ "headers": { "X-API-Key": "k" } }), |_| Reply::ok());
    let data = r#"{ "n": 123456789012345678901234567890, "s": "\u00e9 ü" }"#;
    let id = stage.add(&[("data", data), ("timestamp", "2026-05-01T09:00:00.000Z")]);

    let arrival = stage.wait_arrived(&config, 1).remove(0);
    let body = format!(
        r#"{{"event":"{EVENT}","timestamp":"2026-05-01T09:00:00.000Z","nonce":"evt_0_{id}","id":"evt_0_{id}","data":{data}}}"#
    );
    assert_eq!(String::from_utf8_lossy(&arrival.body), body, "data goes into the body byte for byte");
    assert!(arrival.verified);
    assert_eq!((arrival.method.as_str(), arrival.path.as_str()), ("POST", "/a"));
    assert_eq!(arrival.header("content-type"), "application/json");
    assert_eq!(arrival.header("x-nudj-event"), EVENT);
    assert_eq!(arrival.header("x-api-key"), "k");
    assert!(arrival.delivery.starts_with("dlv_") && arrival.delivery.len() == 30, "{}", arrival.delivery);

    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!(record["deliveryId"], arrival.delivery);
    assert_eq!(record["webhookConfigId"], config.id);
    assert_eq!((&record["attempts"], &record["responseStatus"]), (&json!(1), &json!(200)));
    assert_eq!(record["responseBody"], "answer 200");
    assert_eq!((record.get("nextAttemptAt"), &record["event"]), (None, &json!(EVENT)));
    let whole = stage.delivery(&record["deliveryId"]);
    assert!(holds_payload(&whole["payload"], &body), "{whole}");

    stage.wait_acked();
    wait_for("the floor to pass the event", || {
        stage.redis::<Option<String>>(&["GET", &stage.keys.floor()]).is_some_and(|floor| floor >= id)
    });
}

/// The payload is the body that was sent, as text or as the JSON that it is.
fn holds_payload(payload: &Value, body: &str) -> bool {
    payload.as_str() == Some(body) || serde_json::from_str::<Value>(body).is_ok_and(|json| json == *payload)
}

#[test]
fn the_stream_is_trimmed_behind_what_has_a_fate() {
    let stage = stage(&[]);
    stage.config("/a", json!({}), |_| Reply::ok());
    stage.add_many(2_000);
    wait_for("every event to arrive", || stage.arrivals.tally().nonces == 2_000);
    // Trimming removes whole nodes only: at most 100 entries, or 4 KiB, stay behind.
    wait_within(Duration::from_secs(90), "the stream to be trimmed", || {
        stage.redis::<usize>(&["XLEN", &stage.keys.events()]) <= 200
    });
    assert_eq!(stage.arrivals.tally().requests, 2_000, "no duplicates");
}

#[test]
fn a_503_is_retried_with_the_same_bytes_and_the_history_is_kept() {
    let stage = stage(&["--retry-schedule", "200ms"]);
    let config = stage.config("/a", json!({}), first(503));
    stage.add(&[]);
    let arrivals = stage.wait_arrived(&config, 2);
    assert_eq!(arrivals[0].body, arrivals[1].body);
    assert_eq!(arrivals[0].delivery, arrivals[1].delivery);
    assert_eq!(arrivals[0].header("x-nudj-signature"), arrivals[1].header("x-nudj-signature"));

    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!((&record["attempts"], &record["responseStatus"]), (&json!(2), &json!(200)));
    let history = stage.delivery(&record["deliveryId"])["attemptLog"].clone();
    let statuses: Vec<(u64, u64)> = history
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| (attempt["attempt"].as_u64().unwrap(), attempt["responseStatus"].as_u64().unwrap()))
        .collect();
    assert_eq!(statuses, [(1, 503), (2, 200)]);
    stage.wait_acked();
    assert_eq!(stage.redis::<usize>(&["ZCARD", &stage.keys.due()]), 0);
    assert_eq!(stage.arrivals.at("/a").len(), 2);
}

#[test]
fn while_it_waits_for_a_retry_the_record_says_when() {
    let stage = stage(&["--retry-schedule", "1h"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(503));
    stage.add(&[]);
    let record = stage.wait_logged(&config, "retrying", 1).remove(0);
    assert_eq!((&record["attempts"], &record["responseStatus"]), (&json!(1), &json!(503)));
    assert!(record["nextAttemptAt"].as_str() > record["lastAttemptAt"].as_str(), "{record}");
    assert!(stage.logs("&status=delivered").is_empty());
    stage.wait_acked();
}

#[test]
fn a_hanging_endpoint_does_not_pin_the_stream() {
    let stage = stage(&["--retry-schedule", "200ms"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_secs(6)));
    stage.add(&[]);
    stage.wait_arrived(&config, 1);
    // Handed to its queue after a second, while the attempt still runs.
    wait_within(Duration::from_secs(4), "the event to be acknowledged", || stage.pending() == 0);
    assert!(stage.logs("&status=delivered").is_empty(), "the attempt still runs");
    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!(record["attempts"], 1);
    wait_for("the queue to be empty", || stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0);
    assert_eq!(stage.arrivals.at("/a").len(), 1, "delivered once");
}

#[test]
fn an_event_goes_to_every_config_that_wants_it_and_to_no_other() {
    let stage = stage(&[]);
    let a = stage.config("/a", json!({}), |_| Reply::ok());
    let b = stage.config("/b", json!({}), |_| Reply::ok());
    stage.add(&[("nonce", "one")]);
    let (at_a, at_b) = (stage.wait_arrived(&a, 1), stage.wait_arrived(&b, 1));
    assert_eq!((at_a[0].nonce.as_str(), at_b[0].nonce.as_str()), ("one", "one"));
    assert_eq!(at_a[0].body, at_b[0].body);
    assert_ne!(at_a[0].delivery, at_b[0].delivery);

    stage.add(&[("nonce", "two"), ("configId", &b.id)]);
    stage.add(&[("nonce", "three"), ("organisationId", "org_other")]);
    stage.add(&[("nonce", "four"), ("configId", &a.id)]);
    stage.wait_arrived(&a, 2);
    stage.wait_arrived(&b, 2);
    stage.wait_acked();
    let nonces =
        |put: &Put| stage.arrivals.at(&put.path).into_iter().map(|arrival| arrival.nonce).collect::<Vec<_>>();
    assert_eq!(nonces(&a), ["one", "four"]);
    assert_eq!(nonces(&b), ["one", "two"]);
}

#[test]
fn an_event_that_nobody_wants_is_counted_and_acknowledged() {
    let stage = stage(&[]);
    stage.config("/a", json!({}), |_| Reply::ok());
    let before = stage.serve().metric("unrouted");
    stage.add(&[("event", "points.awarded")]);
    stage.add(&[("organisationId", "org_other")]);
    stage.wait_acked();
    wait_for("both to be counted", || stage.serve().metric("unrouted") >= before + 2.0);
    assert!(stage.arrivals.at("/a").is_empty());
    assert!(stage.logs("").is_empty());
}

#[test]
fn a_paused_config_gets_nothing_and_what_it_missed_is_counted() {
    let stage = stage(&[]);
    let paused = stage.config("/paused", json!({}), |_| Reply::ok());
    stage.change(&paused.id, json!({ "active": false }));
    // Changes are followed in order, so once the second config is in effect the first is paused.
    let active = stage.config("/active", json!({}), |_| Reply::ok());
    let before = stage.serve().metric("skipped");
    stage.add(&[]);
    stage.wait_arrived(&active, 1);
    stage.wait_acked();
    wait_for("the event to be counted", || stage.serve().metric("skipped") >= before + 1.0);
    assert!(stage.arrivals.at("/paused").is_empty());
    assert!(stage.logs(&format!("&webhookConfigId={}", paused.id)).is_empty());
}

#[test]
fn a_changed_url_and_secret_are_used_by_the_next_retry() {
    let stage = stage(&["--retry-schedule", "3s"]);
    let config = stage.config("/old", json!({}), |_| Reply::status(503));
    stage.add(&[("organisationId", ORGANISATION)]);
    stage.wait_logged(&config, "retrying", 1);
    let url = stage.arrivals.endpoint("/new", "whsec_the_new_one", |_| Reply::ok());
    stage.change(&config.id, json!({ "url": url, "secret": "whsec_the_new_one" }));

    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    let (old, new) = (stage.arrivals.at("/old"), stage.arrivals.at("/new"));
    assert_eq!((old.len(), new.len()), (1, 1));
    assert!(new[0].verified, "signed with the new secret");
    assert_eq!((&new[0].body, &new[0].delivery), (&old[0].body, &old[0].delivery));
    assert_eq!((record["url"].as_str(), &record["attempts"]), (Some(url.as_str()), &json!(2)));
}

#[test]
fn retries_that_came_due_while_nothing_ran_are_made_after_the_start() {
    let settings = ["--retry-schedule", "5s", "--breaker-failures", "0"];
    let mut stage = stage(&settings);
    let config = stage.config("/a", json!({}), first(503));
    (0..50).for_each(|_| drop(stage.add(&[])));
    let queue = stage.keys.queue(config.id.parse().expect("an id"));
    wait_for("all of them to be queued", || stage.redis::<usize>(&["ZCARD", &queue]) == 50);
    let status = stage.take_serve().terminate();
    assert!(status.success(), "{status}");
    stage.start_serve(&settings);
    wait_for("every retry", || stage.logs("&status=delivered").len() == 50);
    assert_eq!(stage.arrivals.at("/a").len(), 100, "two attempts each");
}
