//! Replaying retained events to one config.

use std::time::Duration;

use postrider::domain::ids::StreamId;
use serde_json::{Value, json};

use crate::arrivals::{Arrival, Reply};
use crate::recover::{job_path, wait_job};
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_within};

const LIMIT: Duration = Duration::from_secs(120);
const RETAINED: [&str; 2] = ["--events-age", "1h"];

fn stage(space: &TestSpace) -> Stage {
    Stage::on(&space.url, &space.namespace, &RETAINED)
}

fn iso(ms: u64) -> String {
    postrider::domain::clock::UnixMillis(ms).to_string()
}

fn ms_of(stream_id: &str) -> u64 {
    stream_id.parse::<StreamId>().expect("a stream id").ms
}

fn replay(stage: &Stage, config: &Put, status: u16, body: &Value) -> Value {
    stage.serve().post(&stage.token, &format!("/configs/{}/replay", config.id), status, body)
}

#[test]
fn a_range_of_events_comes_again_to_one_config_with_the_same_bytes() {
    let space = TestSpace::new();
    let stage = stage(&space);
    let early = stage.config("/early", json!({}), |_| Reply::ok());
    let first = stage.add(&[("nonce", "n-first"), ("data", r#"{ "n" : 1.50 }"#), ("userId", "u1")]);
    let derived = stage.add(&[]);
    stage.add(&[("event", "reward.redeemed")]);
    stage.add(&[("organisationId", "org_other")]);
    stage.add(&[("event", "No Type")]);
    stage.add(&[("configId", &early.id), ("nonce", "n-only-early")]);
    stage.wait_acked();
    let late = stage.config("/late", json!({}), |_| Reply::ok());
    let since = iso(ms_of(&first));
    let dry = json!({"since": since, "dryRun": true, "event": EVENT});
    assert_eq!(replay(&stage, &late, 200, &dry), json!({"count": 2, "countIsFloor": false}));
    assert!(stage.arrivals.at("/late").is_empty());

    let job = replay(&stage, &late, 202, &json!({"since": since, "event": EVENT}));
    assert_eq!((&job["kind"], &job["total"]), (&json!("replay"), &json!(2)));
    let done = wait_job(&stage, &late, &job, "done");
    assert_eq!((&done["moved"], &done["skipped"]), (&json!(2), &json!(0)), "{done}");
    let again = stage.wait_arrived(&late, 2);
    stage.wait_acked();
    let before = stage.arrivals.at("/early");
    assert_eq!((before.len(), again.len()), (3, 2), "only the late config got them again");
    for nonce in ["n-first", &format!("evt_0_{derived}")] {
        // Order is not promised.
        let of = |list: &[Arrival]| list.iter().find(|arrival| arrival.nonce == nonce).cloned();
        let (original, copy) = (of(&before).expect("the original"), of(&again).expect("the copy"));
        assert_eq!(copy.body, original.body);
        assert_ne!(copy.delivery, original.delivery, "a replay is a delivery of its own");
        assert!(copy.verified);
    }
    assert_eq!(stage.serve().metric("unknown_fields_total"), 0.0, "replayOf is known");

    // What a replay appended is never replayed.
    let second = replay(&stage, &late, 202, &json!({"since": since, "event": EVENT}));
    assert_eq!(second["total"], 2);
    assert_eq!(wait_job(&stage, &late, &second, "done")["moved"], 2);
    stage.wait_arrived(&late, 4);
    // The config that an entry names gets it again, the others do not.
    let own = replay(&stage, &early, 202, &json!({"since": since, "event": EVENT}));
    assert_eq!(own["total"], 3);
    wait_job(&stage, &early, &own, "done");
    stage.wait_arrived(&early, 6);
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/late").len(), 4);
}

#[test]
fn a_replay_goes_on_after_kill_nine_and_appends_nothing_twice() {
    let space = TestSpace::new();
    let mut stage = stage(&space);
    stage.config("/early", json!({}), |_| Reply::ok());
    let first = stage.add(&[("nonce", "n-zero")]);
    stage.add_many(2_000);
    stage.wait_acked();
    let late = stage.config("/late", json!({}), |_| Reply::ok());
    let length = || stage.redis::<usize>(&["XLEN", &stage.keys.events()]);
    let before = length();
    let asked = json!({"since": iso(ms_of(&first)), "event": EVENT, "ratePerSecond": 500});
    let job = replay(&stage, &late, 202, &asked);
    assert_eq!(job["total"], 2_001);
    wait_within(LIMIT, "the middle", || length() > before + 500);
    let there = length() - before;
    stage.take_serve().kill();
    assert!(there < 2_001, "all were appended before the crash: nothing is tested");
    stage.start_serve(&RETAINED);
    let done = wait_job(&stage, &late, &job, "done");
    assert_eq!((&done["moved"], &done["skipped"]), (&json!(2_001), &json!(0)), "{done}");
    stage.wait_acked_within(LIMIT);
    let after: usize = stage.redis(&["XLEN", &stage.keys.events()]);
    assert_eq!(after - before, 2_001, "each was appended once");
    wait_within(LIMIT, "all to arrive", || {
        let nonces: std::collections::HashSet<String> =
            stage.arrivals.at("/late").into_iter().map(|arrival| arrival.nonce).collect();
        nonces.len() == 2_001
    });
    assert_eq!(stage.serve().get(&stage.token, &job_path(&late, &job, ""))["state"], "done");
}

#[test]
fn what_is_not_retained_is_refused_with_how_far_back_it_reaches() {
    let space = TestSpace::new();
    let mut stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let first = stage.add(&[]);
    stage.add_many(5_000);
    stage.wait_acked();
    let since = json!({"since": iso(ms_of(&first))});
    let refused = replay(&stage, &config, 409, &since);
    assert!(refused["message"].as_str().expect("text").contains("events-age"), "{refused}");
    // Without retention the stream is trimmed; with it from now on, it does not reach back to the first event.
    let retained = || stage.redis::<Option<String>>(&["GET", &stage.keys.retained()]);
    wait_within(LIMIT, "the stream to be trimmed", || retained().is_some());
    let from = ms_of(&retained().expect("a stream id"));
    assert!(stage.take_serve().terminate().success());
    stage.start_serve(&RETAINED);
    let refused = replay(&stage, &config, 409, &since);
    let told = refused["message"].as_str().expect("text").to_owned();
    assert!(told.contains("retained from 2"), "{told}");
    replay(&stage, &config, 200, &json!({"since": iso(from + 1_000_000), "dryRun": true}));
    let missing = replay(&stage, &config, 400, &json!({}));
    assert!(missing["message"].as_str().expect("text").contains("body.since"), "{missing}");
}

#[test]
fn the_retained_stream_keeps_to_its_bytes() {
    let space = TestSpace::new();
    let stage =
        Stage::on(&space.url, &space.namespace, &["--events-age", "1h", "--events-bytes-max", "256KiB"]);
    stage.config("/a", json!({}), |_| Reply::ok());
    stage.add_many(10_000);
    stage.wait_acked();
    let usage = || stage.redis::<u64>(&["MEMORY", "USAGE", &stage.keys.events()]);
    assert!(stage.redis::<usize>(&["XLEN", &stage.keys.events()]) > 0);
    wait_within(LIMIT, "the stream to be small", || usage() <= 256 * 1024);
    let length: usize = stage.redis(&["XLEN", &stage.keys.events()]);
    println!("{length} of 10,000 events are kept in {} bytes", usage());
    assert!(length > 1_000, "no more goes than must: {length}");
    assert!(stage.redis::<Option<String>>(&["GET", &stage.keys.retained()]).is_some());
}
