//! How a lane is slowed: by `Retry-After`, by a config's retry policy; and that what waits and what is new share it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::arrivals::{Arrival, Reply};
use crate::stage::Stage;
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

    let arrivals = stage.wait_arrived(&slowed, 51);
    let second = arrivals[1].at.duration_since(first);
    assert!(second >= Duration::from_secs(2), "nothing earlier than asked: {second:?}");
    assert!(second < Duration::from_secs(4), "and soon after: {second:?}");
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/slowed").len(), 51, "no attempt was used for waiting");
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
fn what_waits_and_what_is_new_share_a_lane() {
    let stage = stage(&["--config-in-flight-max", "4"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(20)));
    // 200 a second at best: most of these are parked, and take three seconds by themselves.
    stage.add_many(600);
    wait_for("a backlog", || stage.serve().metric("deliveries_parked") >= 400.0);
    let from = Instant::now();
    let mut sent = 0_u32;
    wait_within(Duration::from_secs(20), "two seconds of new events", || {
        // One every 10 ms, whatever the machine does: half of what the receiver takes.
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
    assert!(new.len() + old.len() > 150, "the lane is used: {} and {}", new.len(), old.len());
    assert!(new.len() * 5 > old.len(), "new events progress: {} and {}", new.len(), old.len());
    assert!(old.len() * 5 > new.len(), "so does the backlog: {} and {}", new.len(), old.len());
    let total = 600 + sent as usize;
    wait_for("everything", || stage.arrivals.at(&config.path).len() >= total);
    assert_eq!(stage.arrivals.tally().deliveries, total);
}
