//! `postrider purge` while a replica runs: what goes, what stays.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::serving::{BINARY, ORGANISATION};
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_within};

const LIMIT: Duration = Duration::from_secs(60);

/// Text that no key of the organisation may hold afterwards.
const PERSONAL: &str = "jane@example.test";

/// Runs the command and gives its JSON.
fn purge(stage: &Stage, more: &[&str]) -> Value {
    let output = Command::new(BINARY)
        .args(["purge", "--redis-url", &stage.url, "--namespace", &stage.namespace, "--output", "json"])
        .args(more)
        .output()
        .expect("postrider runs");
    assert!(output.status.success(), "purge {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The keys of the namespace that hold [`PERSONAL`].
fn keys_with_personal_data(stage: &Stage) -> Vec<String> {
    let all: Vec<String> = stage.redis(&["KEYS", &format!("{}:*", stage.namespace)]);
    let holds = |key: &String| {
        let kind: String = stage.redis(&["TYPE", key]);
        let value: redis::Value = match kind.as_str() {
            "string" => stage.redis(&["GET", key]),
            "stream" => stage.redis(&["XRANGE", key, "-", "+"]),
            "hash" => stage.redis(&["HGETALL", key]),
            "zset" => stage.redis(&["ZRANGE", key, "0", "-1"]),
            other => panic!("{key} is a {other}"),
        };
        bytes_of(&value).windows(PERSONAL.len()).any(|window| window == PERSONAL.as_bytes())
    };
    all.into_iter().filter(holds).collect()
}

fn bytes_of(value: &redis::Value) -> Vec<u8> {
    match value {
        redis::Value::BulkString(bytes) => bytes.clone(),
        redis::Value::Array(list) => list.iter().flat_map(bytes_of).collect(),
        _ => Vec::new(),
    }
}

fn data() -> String {
    json!({"user": {"id": "u1", "mail": PERSONAL}}).to_string()
}

/// A body over 4 KiB lies apart.
fn large_data() -> String {
    json!({"user": {"id": "u1", "mail": PERSONAL}, "pad": "x".repeat(6_000)}).to_string()
}

fn zcard(stage: &Stage, key: &str) -> usize {
    stage.redis(&["ZCARD", key])
}

/// A stage with deliveries of every fate, in one organisation, and one of another.
fn lived_in(space: &TestSpace) -> (Stage, Put, Put) {
    let stage = Stage::on(
        &space.url,
        &space.namespace,
        &["--events-age", "1h", "--retry-schedule", "1h", "--workers", "2"],
    );
    stage.config("/good", json!({}), |_| Reply::ok());
    let refusing = stage.config("/refusing", json!({}), |_| Reply::status(400));
    let down = stage.config("/down", json!({}), |_| Reply::status(503));
    for body in [data(), large_data()] {
        stage.add(&[("data", &body), ("nonce", "n-1")]);
    }
    stage.add(&[("data", &data()), ("event", "No Type")]);
    stage.add(&[("organisationId", "org_other"), ("data", &data())]);
    stage.add(&[("organisationId", "org_other"), ("data", &data()), ("event", "No Type")]);
    stage.wait_acked();
    let (failed, queue) = (stage.keys.failed(id(&refusing)), stage.keys.queue(id(&down)));
    wait_within(LIMIT, "two failed and two waiting", || {
        zcard(&stage, &failed) == 2 && zcard(&stage, &queue) == 2
    });
    stage.wait_logged(&refusing, "failed", 2);
    (stage, refusing, down)
}

fn id(config: &Put) -> postrider::domain::ids::ConfigId {
    config.id.parse().expect("an id")
}

#[test]
fn an_organisation_is_purged_of_everything_that_holds_its_data() {
    let space = TestSpace::new();
    let (stage, refusing, down) = lived_in(&space);
    let before = keys_with_personal_data(&stage);
    assert!(before.len() >= 7, "payloads, records, bodies, events, rejected: {before:?}");
    let counted = purge(&stage, &["--organisation", ORGANISATION, "--dry-run"]);
    assert_eq!((&counted["configs"], &counted["deliveries"]), (&json!(3), &json!(4)), "{counted}");
    assert_eq!(keys_with_personal_data(&stage), before, "a dry run removes nothing");

    let done = purge(&stage, &["--organisation", ORGANISATION]);
    assert_eq!(
        (&done["deliveries"], &done["rejected"], &done["undelivered"]),
        (&json!(4), &json!(1), &json!(0))
    );
    assert_eq!(done["events"], counted["events"], "{done} {counted}");
    assert!(done["payloadPages"].as_u64() >= Some(2), "of two configs with answered deliveries: {done}");
    assert_eq!(done["payloadPages"], counted["payloadPages"], "{done} {counted}");
    let mut after = keys_with_personal_data(&stage);
    after.sort();
    assert_eq!(after, [stage.keys.events(), stage.keys.rejected()], "those of the other organisation");
    for key in [stage.keys.events(), stage.keys.rejected()] {
        let left: redis::Value = stage.redis(&["XRANGE", &key, "-", "+"]);
        let text = String::from_utf8_lossy(&bytes_of(&left)).into_owned();
        assert!(text.contains("org_other") && !text.contains(ORGANISATION), "only the other's stay in {key}");
    }
    let kept: Vec<(String, Vec<String>)> = stage.redis(&["XRANGE", &stage.keys.rejected(), "-", "+"]);
    let kept: usize = kept.iter().flat_map(|(_, fields)| fields).map(String::len).sum();
    let counted: usize = stage.redis(&["GET", &stage.keys.rejected_bytes()]);
    assert_eq!(counted, kept, "the bytes of what is left, or the cap would evict early");
    for config in [&refusing, &down] {
        for key in [stage.keys.queue(id(config)), stage.keys.failed(id(config)), stage.keys.size(id(config))]
        {
            assert_eq!(stage.redis::<usize>(&["EXISTS", &key]), 0, "{key}");
        }
    }
    assert_eq!(zcard(&stage, &stage.keys.due()), 0);
    // Its configs stay, and go on.
    assert_eq!(stage.serve().get(&stage.token, "/configs").as_array().expect("configs").len(), 3);
    let arrived = stage.arrivals.at("/good").len();
    stage.add(&[("nonce", "n-after")]);
    wait_within(LIMIT, "the next event to arrive", || stage.arrivals.at("/good").len() == arrived + 1);
    let again = purge(&stage, &["--organisation", "org_unknown"]);
    assert_eq!((&again["configs"], &again["events"]), (&json!(0), &json!(0)), "{again}");
}

#[test]
fn one_delivery_is_purged_and_the_others_stay() {
    let space = TestSpace::new();
    let (stage, refusing, _) = lived_in(&space);
    let failed = stage.logs(&format!("&webhookConfigId={}&status=failed", refusing.id));
    let (one, other) = (failed[0]["deliveryId"].clone(), failed[1]["deliveryId"].clone());
    let text = one.as_str().expect("an id");
    assert!(stage.delivery(&one)["payloadRaw"].as_str().expect("a payload").contains(PERSONAL));
    let counted = purge(&stage, &["--delivery", text, "--dry-run"]);
    assert_eq!((&counted["deliveries"], &counted["events"]), (&json!(1), &json!(1)), "{counted}");
    let done = purge(&stage, &["--delivery", text]);
    assert_eq!((&done["deliveries"], &done["events"]), (&json!(1), &json!(1)), "{done}");
    let shown = stage.delivery(&one);
    assert_eq!((&shown["payloadOmitted"], &shown["payloadRaw"]), (&json!(true), &Value::Null), "{shown}");
    assert_eq!(shown["status"], "failed", "its row stays: {shown}");
    let members: Vec<String> = stage.redis(&["ZRANGE", &stage.keys.failed(id(&refusing)), "0", "-1"]);
    assert_eq!(members, [other.as_str().expect("an id")]);
    let again = purge(&stage, &["--delivery", text]);
    assert_eq!(
        (&again["deliveries"], &again["events"], &again["payloadPages"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[test]
fn what_is_purged_must_be_named_and_once() {
    let run = |more: &[&str]| {
        let output = Command::new(BINARY).arg("purge").args(more).output().expect("postrider runs");
        output.status.code()
    };
    assert_eq!(run(&[]), Some(2));
    assert_eq!(run(&["--organisation", "a", "--delivery", "dlv_00000000000000000000000000"]), Some(2));
    assert_eq!(run(&["--delivery", "x"]), Some(2));
}
