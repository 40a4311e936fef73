//! The limits on what is kept in Redis, each hit, each with the metric that tells it (docs/OPERATIONS.md).

use std::time::Duration;

use serde_json::json;

use crate::arrivals::Reply;
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

/// A field of the config's `size` hash.
fn size(stage: &Stage, config: &Put, field: &str) -> u64 {
    let key = stage.keys.size(config.id.parse().expect("an id"));
    stage.redis::<Option<u64>>(&["HGET", &key, field]).unwrap_or(0)
}

fn queued(stage: &Stage, config: &Put) -> usize {
    stage.redis(&["ZCARD", &stage.keys.queue(config.id.parse().expect("an id"))])
}

fn failed(stage: &Stage, config: &Put) -> usize {
    stage.redis(&["ZCARD", &stage.keys.failed(config.id.parse().expect("an id"))])
}

/// `data` of so many bytes.
fn data(bytes: usize) -> String {
    format!("{{\"note\":\"{}\"}}", "x".repeat(bytes - 11))
}

#[test]
fn a_full_queue_fails_what_comes_and_says_so() {
    let stage = stage(&["--queue-max", "5", "--retry-schedule", "1h"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(503));
    (0..8).for_each(|_| drop(stage.add(&[])));
    let records = stage.wait_logged(&config, "failed", 3);
    assert!(records.iter().all(|record| record["failReason"] == "backlog full"), "{records:?}");
    assert!(records.iter().all(|record| record["attempts"] == 1), "the attempt that was made is told");
    stage.wait_acked();
    assert_eq!((queued(&stage, &config), stage.wait_logged(&config, "retrying", 5).len()), (5, 5));
    assert_eq!(stage.serve().sample("postrider_deliveries_failed_total", "backlog"), 3.0);
}

#[test]
fn a_queue_that_is_full_by_bytes_fails_what_comes_and_lets_smaller_ones_in() {
    let stage = stage(&["--queue-bytes-max", "64KiB", "--retry-schedule", "1h"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(503));
    (0..8).for_each(|_| drop(stage.add(&[("data", &data(15 * 1024))])));
    let records = stage.wait_logged(&config, "failed", 4);
    assert!(records.iter().all(|record| record["failReason"] == "backlog full"), "{records:?}");
    stage.add(&[]);
    stage.wait_logged(&config, "retrying", 5);
    stage.wait_acked();
    let bytes = size(&stage, &config, "queueBytes");
    assert!((60 * 1024..=64 * 1024).contains(&bytes), "{bytes}");
    assert_eq!(stage.serve().sample("postrider_deliveries_failed_total", "backlog"), 4.0);
}

#[test]
fn the_oldest_failed_deliveries_go_when_there_are_too_many_and_are_counted() {
    let stage = stage(&["--failed-max", "5"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(400));
    (0..25).for_each(|_| drop(stage.add(&[])));
    wait_for("twenty to be evicted", || stage.serve().metric("failed_evicted") >= 20.0);
    assert_eq!((failed(&stage, &config), stage.serve().metric("failed_evicted")), (5, 20.0));
    stage.wait_acked();
    let records: Vec<String> = stage.redis(&["KEYS", &format!("{}:*:delivery:*", stage.namespace)]);
    assert_eq!(records.len(), 5, "their records went too");
    assert_eq!(stage.logs("").len(), 25, "the log still tells of all of them");
}

#[test]
fn the_oldest_failed_deliveries_go_when_they_are_too_large() {
    let stage = stage(&["--failed-bytes-max", "64KiB"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(400));
    (0..10).for_each(|_| drop(stage.add(&[("data", &data(15 * 1024))])));
    stage.wait_logged(&config, "failed", 10);
    wait_for("six to be evicted", || stage.serve().metric("failed_evicted") >= 6.0);
    assert_eq!(failed(&stage, &config), 4);
    assert!(size(&stage, &config, "failedBytes") <= 64 * 1024);
    let bodies: Vec<String> = stage.redis(&["KEYS", &format!("{}:*:body:*", stage.namespace)]);
    assert_eq!(bodies.len(), 4, "their bodies went too");
}

#[test]
fn failed_deliveries_go_when_they_are_too_old() {
    let stage = stage(&["--log-age-max", "1s"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(400));
    stage.add_many(40);
    wait_for("all to fail", || failed(&stage, &config) == 40);
    // Every config is looked at in turn, a hundred a minute.
    wait_within(Duration::from_secs(100), "the old ones to go", || failed(&stage, &config) == 0);
    assert_eq!(stage.serve().metric("failed_evicted"), 40.0);
    let records: Vec<String> = stage.redis(&["KEYS", &format!("{}:*:delivery:*", stage.namespace)]);
    assert!(records.is_empty(), "{records:?}");
}

#[test]
fn logs_and_payloads_are_capped_by_rows_and_by_bytes() {
    for (limit, rows_max, log_max, payload_max) in [
        (["--log-rows-max", "200"], 264, u64::MAX, u64::MAX),
        (["--log-bytes-max", "64KiB"], u64::MAX, 80 * 1024, u64::MAX),
        (["--payload-bytes-max", "64KiB"], u64::MAX, u64::MAX, 128 * 1024),
    ] {
        let mut stage = stage(&limit);
        let config = stage.config("/a", json!({}), |_| Reply::ok());
        stage.add_many(1_500);
        stage.wait_acked();
        let rows_go = limit[0] != "--payload-bytes-max";
        // Sizes are told in portions, so a small one says nothing of a trim: what went is counted.
        wait_for("the log to be trimmed", || {
            let told = size(&stage, &config, "bodyBytes") > 0;
            told && (!rows_go || stage.serve().metric("log_rows_evicted") > 0.0)
        });
        let evicted = stage.serve().metric("log_rows_evicted");
        assert_eq!(evicted > 0.0, rows_go, "{limit:?}: {evicted}");
        // A worker that stops tells what it had not told yet.
        assert!(stage.take_serve().terminate().success());
        let [rows, log, payload] =
            ["logRows", "logBytes", "bodyBytes"].map(|field| size(&stage, &config, field));
        assert!(
            rows <= rows_max && log <= log_max && payload <= payload_max,
            "{limit:?}: {rows} {log} {payload}"
        );
        assert!(rows > 100, "{limit:?}: the newest stay, {rows}");
    }
}

#[test]
fn rejected_entries_are_capped_and_what_goes_is_counted() {
    let stage = stage(&["--rejected-max", "100"]);
    for number in 0..400 {
        stage.add_raw("*", &[("event", EVENT), ("nonce", &format!("n-{number}"))]);
    }
    stage.wait_acked();
    let kept: usize = stage.redis(&["XLEN", &stage.keys.rejected()]);
    assert_eq!(kept, 100);
    wait_for("all to be counted", || stage.serve().metric("events_rejected") >= 400.0);
    assert_eq!(stage.serve().metric("rejected_evicted"), (400 - kept) as f64);
}

#[test]
fn a_large_body_is_kept_once_for_all_that_wait_for_it_and_goes_with_the_last() {
    let stage = stage(&["--retry-schedule", "2s"]);
    let answer = |arrival: &crate::arrivals::Arrival| Reply::status(if arrival.nth == 1 { 503 } else { 200 });
    let (a, b) = (stage.config("/a", json!({}), answer), stage.config("/b", json!({}), answer));
    let id = stage.add(&[("data", &data(20 * 1024))]);
    stage.wait_logged(&a, "retrying", 1);
    stage.wait_logged(&b, "retrying", 1);
    let key = stage.keys.body(id.parse().expect("a stream id"));
    let body: Vec<u8> = stage.redis(&["GET", &key]);
    assert_eq!(body[..4], [0, 0, 0, 2], "counted once for each");
    assert!(body.len() > 20 * 1024);
    let records: Vec<String> = stage.redis(&["KEYS", &format!("{}:*:delivery:*", stage.namespace)]);
    assert!(records.iter().all(|key| stage.redis::<usize>(&["STRLEN", key]) < 1_024), "not in the records");
    for config in [&a, &b] {
        stage.wait_logged(config, "delivered", 1);
        let arrivals = stage.arrivals.at(&config.path);
        assert_eq!((arrivals.len(), &arrivals[0].body), (2, &arrivals[1].body));
    }
    wait_for("the body to go", || stage.redis::<usize>(&["EXISTS", &key]) == 0);
}
