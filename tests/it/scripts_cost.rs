//! What the scripts cost: everybody waits while Redis runs one, so what grows with a batch is bounded here by count,
//! and a batch with a delivery that cannot be written leaves none of the others half written.

use postrider::redis::connection::Redis;
use postrider::redis::deliveries::BATCH_MAX;
use postrider::redis::fates::{Applied, Fate, settle_answer, settle_command};
use postrider::redis::log_write::{Written, trim};
use redis::Commands;

use crate::script_world::{CONSUMER, SMALL, Walk, config, queue};
use crate::scripts_log::{page, write};
use crate::support::{RedisServer, TestSpace};

/// A walk on a server of its own, whose counts are its own too.
async fn alone(server: &RedisServer) -> Walk {
    let space = TestSpace::new();
    let mut walk = Walk::on(&space, |space| Redis::new(&server.url(), &space.settings()).unwrap()).await;
    walk.raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    walk
}

/// How often Redis ran each command since the last call.
fn calls(walk: &mut Walk) -> Vec<(String, u64)> {
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut walk.raw).unwrap();
    let _: String = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut walk.raw).unwrap();
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

fn count(calls: &[(String, u64)], name: &str) -> u64 {
    calls.iter().find(|(of, _)| of == name).map_or(0, |(_, count)| *count)
}

async fn parked(walk: &mut Walk, deliveries: usize) -> Vec<Fate> {
    let mut fates = Vec::new();
    for ms in 1..=deliveries as u64 {
        let event = walk.read_event(ms, CONSUMER).await;
        let id = event.delivery(config(1).sequence());
        fates.push(Fate { id, proof: Walk::pending(event), step: queue(config(1), SMALL, true) });
    }
    fates
}

#[tokio::test]
async fn a_batch_that_is_parked_asks_for_its_queue_once() {
    let server = RedisServer::start(&[]);
    let mut walk = alone(&server).await;
    let fates = parked(&mut walk, BATCH_MAX).await;
    calls(&mut walk);
    let settled = walk.settle_all(config(1), &fates, None).await;
    assert!(settled.applied.iter().all(|applied| matches!(applied, Applied::Now(_))));
    let calls = calls(&mut walk);
    for name in ["get", "xpending", "set"] {
        assert_eq!(count(&calls, name), BATCH_MAX as u64, "{name}: {calls:?}");
    }
    // One of the queue and one of due.
    assert_eq!((count(&calls, "zadd"), count(&calls, "hincrby")), (2, 1), "{calls:?}");
    assert!(count(&calls, "zcard") <= 4 && count(&calls, "hget") <= 2, "{calls:?}");
    let waiting: usize = walk.raw.zcard(walk.keys.queue(config(1))).unwrap();
    assert_eq!(waiting, BATCH_MAX);
}

#[tokio::test]
async fn a_full_log_drops_its_pages_together() {
    let server = RedisServer::start(&[]);
    let mut walk = alone(&server).await;
    let one = page(1, 100);
    let written = write(&walk, &vec![&one; 60]).await;
    (walk.retention.log_rows_max, walk.retention.payload_bytes_max) = (10, 1_000);
    calls(&mut walk);
    let told = trim(&walk.link, &walk.keys, config(1), written, &walk.retention).await.unwrap();
    assert_eq!(told, 50);
    let calls = calls(&mut walk);
    // A hundred pages went, of two streams.
    for name in ["xrange", "xtrim", "hincrby"] {
        assert!(count(&calls, name) <= 12, "{name}: {calls:?}");
    }
    let rows: usize = walk.raw.xlen(walk.keys.log(config(1))).unwrap();
    assert_eq!(rows, 10);
    let told = trim(&walk.link, &walk.keys, config(1), Written::default(), &walk.retention).await.unwrap();
    assert_eq!(told, 0);
}

#[tokio::test]
async fn one_that_cannot_be_written_leaves_none_of_its_batch_half_written() {
    let mut walk = Walk::new().await;
    let mut fates = parked(&mut walk, 5).await;
    // The same delivery twice in one call counts once.
    fates.push(fates[0].clone());
    let spoilt = walk.keys.delivery(fates[3].id);
    let _: u64 = walk.raw.lpush(&spoilt, "no record").unwrap();
    let command = settle_command(&walk.keys, config(1), &fates, None, &walk.retention);
    assert!(walk.link.query::<redis::Value>("settling in a test", &command).await.is_err());
    let waiting: usize = walk.raw.zcard(walk.keys.queue(config(1))).unwrap();
    let records: usize = walk.raw.exists(walk.keys.delivery(fates[0].id)).unwrap();
    assert_eq!((waiting, records), (0, 0), "nothing is durable, so nothing may be acknowledged");

    let _: u64 = walk.raw.del(&spoilt).unwrap();
    let answer = walk.link.query("settling in a test", &command).await.unwrap();
    let settled = settle_answer(answer, fates.len()).unwrap();
    assert!(settled.applied[..5].iter().all(|applied| matches!(applied, Applied::Now(_))));
    assert!(matches!(settled.applied[5], Applied::Before(_)), "{settled:?}");
    let waiting: usize = walk.raw.zcard(walk.keys.queue(config(1))).unwrap();
    assert_eq!(waiting, 5);
}
