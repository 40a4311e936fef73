//! What survives: kill -9 and SIGTERM of `postrider serve`, crash and restart of Redis, each in the middle of
//! 20,000 events. Every event must arrive; what arrives twice is counted and bounded.

use std::time::Duration;

use serde_json::json;

use crate::arrivals::{Reply, Tally};
use crate::serving::Serve;
use crate::stage::Stage;
use crate::support::{RedisServer, TestSpace, signal, wait_within};

/// Events of each test.
const EVENTS: usize = 20_000;
/// How many must have arrived when the crash comes.
const MIDDLE: usize = 5_000;
/// Most duplicates after a crash: what was in flight (1,024) and what waited to be settled or acknowledged.
const DUPLICATES_MAX: usize = 5_000;
/// Retries are soon due, so that a test ends soon.
const SOON: [&str; 2] = ["--retry-schedule", "200ms,500ms,1s"];
const LIMIT: Duration = Duration::from_secs(120);

/// The log of a server that has ended, for a test that fails later.
struct ToldOnFailure(String);

impl Drop for ToldOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the server that got SIGTERM:\n{}", self.0);
        }
    }
}

/// One config whose endpoint takes `delay` for each answer.
fn stage(redis_url: &str, namespace: &str, delay: Duration) -> Stage {
    let stage = Stage::on(redis_url, namespace, &SOON);
    stage.config("/all", json!({ "maxRetries": 10 }), move |_| Reply::ok().after(delay));
    stage
}

/// Adds the events and waits until the middle.
fn reach_the_middle(stage: &Stage) {
    stage.add_many(EVENTS);
    wait_within(LIMIT, "the middle", || stage.arrivals.tally().nonces >= MIDDLE);
    let there = stage.arrivals.tally().nonces;
    assert!(there < EVENTS, "all {there} events had arrived before the crash: nothing is tested");
}

/// Waits for every event, then for every acknowledgement and an empty queue; gives the sums.
fn reach_the_end(stage: &Stage, what: &str) -> Tally {
    wait_within(LIMIT, "every event to arrive", || stage.arrivals.tally().nonces == EVENTS);
    stage.wait_acked_within(LIMIT);
    wait_within(LIMIT, "the queue to be empty", || stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0);
    let tally = stage.arrivals.tally();
    println!("{what}: {} events, {} duplicates", tally.nonces, tally.requests - tally.nonces);
    assert_eq!(tally.unverified, 0, "every signature is right");
    assert_eq!(tally.nonces, EVENTS);
    assert_eq!(tally.deliveries, EVENTS, "an event keeps its delivery id through a crash");
    tally
}

fn duplicates(tally: Tally) -> usize {
    tally.requests - tally.nonces
}

fn kill_nine_in_the_middle(what: &str, delay: Duration) {
    let space = TestSpace::new();
    let mut stage = stage(&space.url, &space.namespace, delay);
    reach_the_middle(&stage);
    stage.take_serve().kill();
    stage.start_serve(&SOON);
    let tally = reach_the_end(&stage, what);
    assert!(duplicates(tally) <= DUPLICATES_MAX, "{tally:?}");
}

#[test]
fn after_kill_nine_every_event_is_delivered_and_duplicates_are_bounded() {
    kill_nine_in_the_middle("kill -9 of serve, fast endpoint", Duration::ZERO);
}

#[test]
fn after_kill_nine_with_a_slow_endpoint_and_a_full_queue_every_event_is_delivered() {
    kill_nine_in_the_middle("kill -9 of serve, slow endpoint", Duration::from_millis(100));
}

#[test]
fn after_sigterm_under_load_nothing_is_lost_and_nothing_is_sent_twice() {
    let space = TestSpace::new();
    let mut stage = stage(&space.url, &space.namespace, Duration::ZERO);
    reach_the_middle(&stage);
    let (log, status) = stage.take_serve().terminate_and_read();
    let _log = ToldOnFailure(log);
    assert!(status.success(), "{status}");
    assert_eq!(stage.pending(), 0, "a stopped replica owns nothing");
    let there = stage.arrivals.tally().nonces;
    assert!(there < EVENTS, "all {there} events had arrived before the end: nothing is tested");
    stage.start_serve(&SOON);
    let tally = reach_the_end(&stage, "SIGTERM of serve");
    assert_eq!(duplicates(tally), 0, "{tally:?}");
}

#[test]
fn a_replica_that_stood_still_past_its_lease_sends_nothing_that_another_has_finished() {
    let space = TestSpace::new();
    let quick = ["--retry-schedule", "200ms", "--request-timeout", "1s", "--workers", "2"];
    let stage = Stage::on(&space.url, &space.namespace, &quick);
    stage.config("/all", json!({ "maxRetries": 10 }), |_| Reply::ok().after(Duration::from_millis(150)));
    stage.add_many(2_000);
    wait_within(LIMIT, "the first arrivals", || stage.arrivals.tally().nonces >= 200);
    signal(stage.serve().pid(), "STOP");
    let there = stage.arrivals.tally().nonces;
    assert!(there < 2_000, "all {there} events had arrived before the stop: nothing is tested");
    let other = Serve::start(&stage.url, &stage.namespace, &quick);
    wait_within(LIMIT, "the other to finish", || {
        stage.arrivals.tally().nonces == 2_000
            && stage.unread() == 0
            && stage.pending() == 0
            && stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0
    });
    let finished = stage.arrivals.at("/all").len();
    signal(stage.serve().pid(), "CONT");
    wait_within(LIMIT, "its leases to be lost", || stage.serve().metric("leases_lost") >= 1.0);
    wait_within(LIMIT, "its readiness", || stage.serve().is_ready());
    stage.add(&[("nonce", "n-last")]);
    wait_within(LIMIT, "a new event to arrive", || stage.arrivals.tally().nonces == 2_001);
    stage.wait_acked();
    let since: Vec<String> = stage.arrivals.at("/all")[finished..]
        .iter()
        .map(|one| format!("{} {}", one.nonce, one.nth))
        .collect();
    // A request that each of the two workers was writing at that very moment may go out; nothing that it holds.
    assert!(since.contains(&"n-last 1".to_owned()) && since.len() <= 3, "{since:?}");
    drop(other);
}

/// Ends Redis with a signal in the middle and starts it on the same data, while `postrider serve` runs on.
fn restart_redis_in_the_middle(signal_name: &str) {
    let durable = ["--appendfsync", "always"];
    let redis = RedisServer::start(&durable);
    let stage = stage(&redis.url(), "postrider", Duration::ZERO);
    reach_the_middle(&stage);
    let (directory, port) = redis.end(signal_name);
    wait_within(Duration::from_secs(30), "readiness to go red", || !stage.serve().is_ready());
    let redis = RedisServer::start_in(directory, port, &durable);
    stage.reconnect();
    wait_within(Duration::from_secs(30), "readiness to come back", || stage.serve().is_ready());
    let tally = reach_the_end(&stage, &format!("SIG{signal_name} of Redis"));
    assert!(duplicates(tally) <= DUPLICATES_MAX, "{tally:?}");
    drop(stage);
    drop(redis);
}

#[test]
fn after_a_crash_of_redis_every_event_is_delivered() {
    restart_redis_in_the_middle("KILL");
}

#[test]
fn after_a_restart_of_redis_every_event_is_delivered() {
    restart_redis_in_the_middle("TERM");
}
