//! Faults that were found by reading, each with the test that shows it.

use std::time::Duration;

use serde_json::json;

use crate::arrivals::Reply;
use crate::stage::Stage;
use crate::support::{RedisServer, TestSpace, wait_for};

/// A delivery that was handed off and then delivered counted twice for its event, which was acknowledged while
/// another delivery of it, refused by its full queue, was still under way and nowhere but in memory.
#[test]
fn an_event_waits_for_each_of_its_deliveries() {
    let space = TestSpace::new();
    let stage = Stage::on(
        &space.url,
        &space.namespace,
        &["--retry-schedule", "1h", "--queue-max", "1", "--workers", "1"],
    );
    let quick = stage.config("/quick", json!({}), |_| Reply::ok().after(Duration::from_millis(1_500)));
    let slow = stage.config("/slow", json!({}), |arrival| {
        if arrival.nonce == "fill" { Reply::status(503) } else { Reply::ok().after(Duration::from_secs(6)) }
    });
    stage.add(&[("nonce", "fill"), ("configId", &slow.id)]);
    stage.wait_logged(&slow, "retrying", 1);
    stage.wait_acked();
    stage.add(&[("nonce", "both")]);
    stage.wait_logged(&quick, "delivered", 1);
    // One more to the quick one: acknowledged after the first would have been.
    stage.add(&[("nonce", "after"), ("configId", &quick.id)]);
    stage.wait_logged(&quick, "delivered", 2);
    wait_for("the acknowledgement", || stage.pending() <= 1);
    assert_eq!(stage.pending(), 1, "the other delivery has no durable fate yet");
    stage.wait_logged(&slow, "delivered", 1);
    stage.wait_acked();
}

/// The plain writes of the success path are refused by a full Redis, for ever: nothing was acknowledged, so nothing
/// could be trimmed.
#[test]
fn a_full_redis_drains() {
    let redis = RedisServer::start(&[]);
    let stage = Stage::on(&redis.url(), "postrider", &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(700)));
    stage.add_many(20);
    wait_for("the events to be read", || stage.unread() == 0);
    stage.redis::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.add(&[])));
    assert!(refused.is_err(), "Redis is full for producers");
    stage.wait_logged(&config, "delivered", 20);
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/a").len(), 20);
}

/// A connection that loaded the scripts once trusted that Redis keeps them.
#[test]
fn scripts_that_redis_forgot_are_loaded_again() {
    let redis = RedisServer::start(&[]);
    let stage = Stage::on(&redis.url(), "postrider", &["--retry-schedule", "200ms"]);
    let config =
        stage.config("/a", json!({}), |arrival| Reply::status(if arrival.nth == 1 { 500 } else { 200 }));
    stage.redis::<()>(&["SCRIPT", "FLUSH"]);
    stage.add(&[]);
    stage.wait_logged(&config, "delivered", 1);
    stage.wait_acked();
}

/// Rejecting an entry of thousands of fields was more than a script's call takes; its reader never came past it.
#[test]
fn an_entry_of_thousands_of_fields_is_rejected() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--workers", "1"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let names: Vec<String> = (0..5_000).map(|number| format!("f{number}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    stage.add_raw("*", &fields);
    stage.add(&[]);
    stage.wait_arrived(&config, 1);
    stage.wait_acked();
    assert_eq!(stage.redis::<usize>(&["XLEN", &stage.keys.rejected()]), 1);
}

/// Permits that waited for the backlog of a config stayed with its lane when it was paused, and blocked it when it
/// was resumed.
#[test]
fn a_config_with_a_backlog_is_served_after_a_pause() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--workers", "3", "--config-in-flight-max", "8"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(200)));
    stage.add_many(600);
    wait_for("a backlog", || {
        stage.redis::<usize>(&["ZCARD", &stage.keys.queue(config.id.parse().unwrap())]) > 100
    });
    stage.change(&config.id, json!({ "active": false }));
    stage.wait_acked();
    stage.change(&config.id, json!({ "active": true }));
    wait_for("every event to arrive", || stage.arrivals.tally().nonces == 600);
    assert_eq!(stage.arrivals.tally().requests, 600);
}

/// A replica without a scheduler kept permits for a backlog that nobody came for: its lane ended.
#[test]
fn a_replica_without_a_scheduler_keeps_its_lanes_alive() {
    let space = TestSpace::new();
    let stage = Stage::on(
        &space.url,
        &space.namespace,
        &["--workers", "1", "--roles", "intake,admin", "--config-in-flight-max", "8"],
    );
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(300)));
    // More than eight at a time can do in a second: some are parked, and stay so.
    stage.add_many(100);
    stage.wait_acked();
    let queue = stage.keys.queue(config.id.parse().unwrap());
    let arrived = || stage.arrivals.at("/a").len();
    wait_for("the attempts to end", || stage.redis::<usize>(&["ZCARD", &queue]) + arrived() == 100);
    let before = arrived();
    assert!(before < 100, "nothing was parked");
    stage.add_many(4);
    wait_for("an idle lane to take new events", || arrived() == before + 4);
}

/// A renewal whose answer was lost is the worker's own: the next one must not find the lease lost.
#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_renewed_again() {
    use postrider::domain::ids::ShardNumber;
    use postrider::redis::leases::{Reclaimed, observe, reclaim, renew};
    let space = TestSpace::new();
    let redis = space.redis();
    let (link, keys) = (redis.link(), redis.keys().shard(ShardNumber(0)));
    postrider::redis::events::ensure_group(&link, &keys).await.unwrap();
    let lease = Duration::from_millis(50);
    let known = renew(&link, &keys, "a", lease, None).await.unwrap().end;
    assert!(known.is_some());
    tokio::time::sleep(Duration::from_millis(5)).await;
    let unseen = renew(&link, &keys, "a", lease, known).await.unwrap().end;
    assert!(unseen.unwrap().0 > known.unwrap().0);
    assert!(renew(&link, &keys, "a", lease, known).await.unwrap().end.is_some());
    // A takeover ends it for good.
    let (_, observed) = observe(&link, &keys).await.unwrap().remove(0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(reclaim(&link, &keys, "a", observed, Some("b")).await.unwrap(), Reclaimed::Gone);
    assert_eq!(renew(&link, &keys, "a", lease, observed).await.unwrap().end, None);
}

/// An attempt after which the queue refused the delivery was missing from its record.
#[test]
fn a_delivery_that_a_full_queue_refuses_keeps_its_attempt() {
    let space = TestSpace::new();
    let stage = Stage::on(
        &space.url,
        &space.namespace,
        &["--retry-schedule", "1h", "--queue-max", "1", "--workers", "1"],
    );
    let config = stage.config("/a", json!({}), |_| Reply::status(503));
    stage.add(&[]);
    stage.wait_logged(&config, "retrying", 1);
    stage.add(&[]);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!(failed["attempts"], 1, "{failed}");
    assert_eq!(failed["responseStatus"], 503, "{failed}");
    stage.wait_acked();
}

/// A member of `due` that is no config id stopped every retry of its shard, one of `queue` those of its config.
#[test]
fn corrupt_members_stop_nothing() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--retry-schedule", "100ms"]);
    let config =
        stage.config("/a", json!({}), |arrival| Reply::status(if arrival.nth == 1 { 500 } else { 200 }));
    let queue = stage.keys.queue(config.id.parse().unwrap());
    stage.redis::<()>(&["ZADD", &stage.keys.due(), "1", "no config"]);
    stage.redis::<()>(&["ZADD", &queue, "1", "no delivery", "2", "dlv_00000000040000000000000001"]);
    stage.add(&[]);
    stage.wait_logged(&config, "delivered", 1);
    stage.wait_acked();
    wait_for("the queue to be empty", || {
        stage.redis::<usize>(&["ZCARD", &queue]) + stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0
    });
}

/// A write that Redis refuses for a reason of its own was repeated for ever, before all others and with a pause.
#[test]
fn a_refused_write_waits_for_itself() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--workers", "1"]);
    let broken = stage.config("/broken", json!({}), |_| Reply::ok());
    let sound = stage.config("/sound", json!({}), |_| Reply::ok());
    let log = stage.keys.log(broken.id.parse().unwrap());
    stage.redis::<()>(&["DEL", &log]);
    stage.redis::<()>(&["SET", &log, "no stream"]);
    (0..20).for_each(|_| drop(stage.add(&[("configId", &broken.id)])));
    wait_for("the attempts", || stage.arrivals.at("/broken").len() == 20);
    let began = std::time::Instant::now();
    for count in 1..=20 {
        stage.add(&[("configId", &sound.id)]);
        wait_for("the next one", || stage.arrivals.at("/sound").len() == count);
        wait_for("its acknowledgement", || stage.pending() <= 20);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stage.redis::<()>(&["DEL", &log]);
    stage.wait_acked_within(Duration::from_secs(60));
    assert_eq!(stage.arrivals.at("/broken").len(), 20, "nothing was sent twice");
}
