//! How a lane is slowed: by `Retry-After`, by a config's retry policy; and that what waits and what is new share it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::arrivals::{Arrival, Reply};
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

#[test]
fn retry_after_slows_the_lane_and_nobody_else() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    let slowed = stage.config("/slowed", json!({}), |arrival: &Arrival| {
        if arrival.nth_at_path == 1 { Reply::status(503).retry_after(2) } else { Reply::ok() }
    });
    stage.add(&[("configId", &slowed.id)]);
    let first = stage.wait_arrived(&slowed, 1)[0].at;
    stage.wait_logged(&slowed, "retrying", 1);
    let other = stage.config("/other", json!({}), |_| Reply::ok());
    let began = Instant::now();
    (0..50).for_each(|_| drop(stage.add(&[])));
    stage.wait_arrived(&other, 50);
    assert!(began.elapsed() < Duration::from_secs(1), "the other is not slowed: {:?}", began.elapsed());

    // 51 deliveries, one of them twice.
    let arrivals = stage.wait_arrived(&slowed, 52);
    let second = arrivals[1].at.duration_since(first);
    assert!(second >= Duration::from_secs(2), "nothing earlier than asked: {second:?}");
    assert!(second < Duration::from_secs(4), "and soon after: {second:?}");
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/slowed").len(), 52, "no attempt was used for waiting");
}

#[test]
fn a_429_is_final_unless_the_config_says_otherwise() {
    let stage = stage(&["--retry-schedule", "1h"]);
    let first_429 = |arrival: &Arrival| {
        if arrival.nth == 1 { Reply::status(429).retry_after(2) } else { Reply::ok() }
    };
    let plain = stage.config("/plain", json!({}), first_429);
    let policy = json!({ "retryOn": [429], "retryPolicy": { "mode": "fixed", "delaySeconds": 1 } });
    let chosen = stage.config("/chosen", policy, first_429);
    stage.add(&[]);
    let record = stage.wait_logged(&plain, "failed", 1).remove(0);
    assert_eq!((&record["failReason"], &record["responseStatus"]), (&json!("refused"), &json!(429)));

    let record = stage.wait_logged(&chosen, "delivered", 1).remove(0);
    assert_eq!(record["attempts"], 2);
    let arrivals = stage.arrivals.at("/chosen");
    let pause = arrivals[1].at.duration_since(arrivals[0].at);
    assert!((2.0..4.0).contains(&pause.as_secs_f64()), "as asked, not the policy's 1 s: {pause:?}");
}

#[test]
fn a_fixed_policy_wins_over_the_installations_schedule() {
    let stage = stage(&["--retry-schedule", "1h"]);
    let policy = json!({ "retryPolicy": { "mode": "fixed", "delaySeconds": 1 } });
    let config = stage
        .config("/a", policy, |arrival: &Arrival| Reply::status(if arrival.nth < 3 { 500 } else { 200 }));
    stage.add(&[]);
    let arrivals = stage.wait_arrived(&config, 3);
    for pair in arrivals.windows(2) {
        let pause = pair[1].at.duration_since(pair[0].at).as_secs_f64();
        assert!((1.0..2.5).contains(&pause), "{pause}");
    }
}

#[test]
fn what_a_config_chose_is_shown_kept_and_taken_away() {
    let stage = stage(&[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let shown = || {
        let all = stage.serve().get(&stage.token, "/configs");
        ["retryPolicy", "retryOn", "rateLimit"].map(|name| all[0][name].clone())
    };
    assert_eq!(shown(), [json!({ "mode": "exponential" }), json!([]), json!(null)]);
    let policy = json!({ "mode": "fixed", "delaySeconds": 60 });
    let limit = json!({ "perSecond": 20 });
    stage.change(&config.id, json!({ "retryPolicy": policy, "retryOn": [429, 408], "rateLimit": limit }));
    let chosen = [policy, json!([408, 429]), json!({ "perSecond": 20, "burst": 20 })];
    wait_for("the choice to be shown", || shown() == chosen);
    let kept = stage.change(&config.id, json!({ "maxRetries": 5 }));
    assert_eq!(["retryPolicy", "retryOn", "rateLimit"].map(|name| kept[name].clone()), chosen);
    let plain = json!({ "retryPolicy": { "mode": "exponential" }, "retryOn": [], "rateLimit": null });
    let taken = stage.change(&config.id, plain);
    assert_eq!((&taken["rateLimit"], &taken["retryOn"]), (&json!(null), &json!([])));
    assert_eq!(taken["retryPolicy"], json!({ "mode": "exponential" }));
}

#[test]
fn what_waits_and_what_is_new_share_a_lane() {
    let stage = stage(&["--config-in-flight-max", "4"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(20)));
    // 200 a second at best: most of these are parked, and take three seconds by themselves.
    let (new, old) = new_beside_a_backlog(&stage, &config, 600);
    assert!(new + old > 150, "the lane is used: {new} and {old}");
    assert!(new * 5 > old, "new events progress: {new} and {old}");
    assert!(old * 5 > new, "so does the backlog: {new} and {old}");
}

#[test]
fn what_waits_and_what_is_new_share_a_rate() {
    let stage = stage(&[]);
    let limit = json!({ "rateLimit": { "perSecond": 80, "burst": 10 } });
    let config = stage.config("/a", limit, |_| Reply::ok());
    let (new, old) = new_beside_a_backlog(&stage, &config, 400);
    assert!((100..200).contains(&(new + old)), "two seconds' tokens: {new} and {old}");
    assert!(new * 6 > old, "new events progress: {new} and {old}");
    assert!(old * 6 > new, "so does the backlog: {new} and {old}");
}

/// Adds `backlog` events, waits until most of them are parked, and adds 100 new ones a second for two seconds.
/// Answers how many of the new and of the old ones arrived in that time, and sees to it that all arrive once.
fn new_beside_a_backlog(stage: &Stage, config: &Put, backlog: usize) -> (usize, usize) {
    stage.add_many(backlog);
    wait_for("a backlog", || stage.serve().metric("deliveries_parked") >= backlog as f64 * 0.6);
    let from = Instant::now();
    let mut sent = 0_u32;
    wait_within(Duration::from_secs(20), "two seconds of new events", || {
        // One every 10 ms, whatever the machine does.
        while f64::from(sent) < from.elapsed().as_secs_f64() * 100.0 {
            stage.add(&[("nonce", &format!("new-{sent}"))]);
            sent += 1;
        }
        from.elapsed() > Duration::from_secs(2)
    });
    let arrived = stage.arrivals.at("/a");
    let (new, old): (Vec<&Arrival>, Vec<&Arrival>) = arrived
        .iter()
        .filter(|arrival| arrival.at > from)
        .partition(|arrival| arrival.nonce.starts_with("new-"));
    println!("new {} of {sent}, old {}", new.len(), old.len());
    let total = backlog + sent as usize;
    wait_for("everything", || stage.arrivals.at(&config.path).len() >= total);
    assert_eq!(stage.arrivals.tally().deliveries, total);
    (new.len(), old.len())
}
