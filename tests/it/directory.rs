//! The directory follows configs and tokens: at once, over gaps, over bad values, over lost connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::domain::token::Role;
use postrider::redis::directory::Directory;
use postrider::redis::follower::Pace;
use redis::Connection;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{RedisServer, TestSpace, eventually};
use crate::support_http::{AdminServer, CONFIGS};

const ID: &str = "0123456789abcdef00000001";

fn key(space: &TestSpace, name: &str) -> String {
    format!("{}:{{control}}:{name}", space.namespace)
}

fn tombstone(id: &str) -> String {
    json!({"kind": "tombstone", "id": id, "organisation": "org_1", "deletedAt": 1}).to_string()
}

fn store(space: &TestSpace, raw: &mut Connection, id: &str, value: &str) {
    redis::cmd("HSET").arg(key(space, "configs")).arg(id).arg(value).exec(raw).unwrap();
}

fn announce(space: &TestSpace, raw: &mut Connection, at: &str, id: &str) {
    let mut command = redis::cmd("XADD");
    command.arg(key(space, "changes")).arg(at).arg("kind").arg("config").arg("id").arg(id);
    command.exec(raw).unwrap();
}

/// A directory that follows until the sender is dropped.
async fn following(space: &TestSpace, pace: Pace) -> (Arc<Directory>, watch::Sender<bool>) {
    let directory = Arc::new(Directory::new());
    let (stop, stopped) = watch::channel(false);
    let (follower, redis) = (Arc::clone(&directory), space.redis());
    tokio::spawn(async move { follower.follow_at(pace, &redis, stopped).await });
    eventually("the first full read", async || directory.is_complete()).await;
    (directory, stop)
}

fn knows(directory: &Directory, id: &str) -> bool {
    directory.configs().by_id.contains_key(&id.parse().unwrap())
}

#[tokio::test]
async fn a_change_is_visible_on_another_replica_within_100_ms() {
    let space = TestSpace::new();
    let (one, two) = (AdminServer::start(&space).await, AdminServer::start(&space).await);
    let admin = one.caller("org_1", Role::Admin).await;
    let mut watcher = two.state.directory.subscribe();
    let mut times = Vec::new();
    for round in 0..15 {
        watcher.mark_unchanged();
        let begun = Instant::now();
        let config = json!({"url": "https://a.example/", "events": ["a.b"], "maxRetries": round % 10});
        let (answer, seen) = tokio::join!(admin.put(CONFIGS, &config), async {
            watcher.changed().await.unwrap();
            begun.elapsed()
        });
        answer.ok(200);
        times.push(seen);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("a change is visible after {median:?} (median), {:?} (longest)", times.last());
    assert!(median < Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn a_gap_in_the_stream_forces_a_full_read() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    announce(&space, &mut raw, "5-1", ID);
    let (directory, _stop) = following(&space, Pace::default()).await;
    let reads = directory.full_reads();

    // Without a gap: one value is read, not all.
    store(&space, &mut raw, ID, &tombstone(ID));
    announce(&space, &mut raw, "6-1", ID);
    eventually("the change", async || knows(&directory, ID)).await;
    assert_eq!(directory.full_reads(), reads);

    // Two changes, of which the first is trimmed before it can be read: only a full read finds it.
    let (lost, other) = ("0123456789abcdef00000002", "0123456789abcdef00000003");
    store(&space, &mut raw, lost, &tombstone(lost));
    store(&space, &mut raw, other, &tombstone(other));
    let changes = key(&space, "changes");
    let mut both = redis::pipe();
    both.atomic();
    both.cmd("XADD").arg(&changes).arg("7-1").arg("kind").arg("config").arg("id").arg(lost);
    both.cmd("XADD")
        .arg(&changes)
        .arg("MAXLEN")
        .arg(1)
        .arg("8-1")
        .arg("kind")
        .arg("config")
        .arg("id")
        .arg(other);
    both.exec(&mut raw).unwrap();
    eventually("both changes", async || knows(&directory, lost) && knows(&directory, other)).await;
    assert_eq!(directory.full_reads(), reads + 1);
}

#[tokio::test]
async fn a_stream_that_was_deleted_and_begun_again_is_noticed() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    announce(&space, &mut raw, "9000-1", ID);
    let pace = Pace { block: Duration::from_millis(50), position_check: Duration::ZERO, ..Pace::default() };
    let (directory, _stop) = following(&space, pace).await;
    redis::cmd("DEL").arg(key(&space, "changes")).exec(&mut raw).unwrap();
    store(&space, &mut raw, ID, &tombstone(ID));
    announce(&space, &mut raw, "1-1", ID);
    eventually("the change", async || knows(&directory, ID)).await;
}

#[tokio::test]
async fn the_periodic_check_finds_what_nobody_announced() {
    let space = TestSpace::new();
    let pace =
        Pace { block: Duration::from_millis(20), full_check: Duration::from_millis(100), ..Pace::default() };
    let (directory, _stop) = following(&space, pace).await;
    store(&space, &mut space.raw(), ID, &tombstone(ID));
    eventually("the config", async || knows(&directory, ID)).await;
    redis::cmd("HDEL").arg(key(&space, "configs")).arg(ID).exec(&mut space.raw()).unwrap();
    eventually("its end", async || !knows(&directory, ID)).await;
}

#[tokio::test]
async fn what_does_not_parse_is_kept_out_and_counted() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    let good = "0123456789abcdef00000002";
    store(&space, &mut raw, good, &tombstone(good));
    for (id, value) in [(ID, "{"), ("x", "7"), ("0123456789abcdef00000003", r#"{"kind":"later"}"#)] {
        store(&space, &mut raw, id, value);
    }
    redis::cmd("HSET").arg(key(&space, "tokens")).arg("zz").arg("no").exec(&mut raw).unwrap();
    let (directory, _stop) = following(&space, Pace::default()).await;
    assert!(knows(&directory, good) && !knows(&directory, ID));
    assert_eq!(directory.unreadable(), 4);
    store(&space, &mut raw, ID, &tombstone(ID));
    announce(&space, &mut raw, "5-1", ID);
    eventually("the mended value", async || knows(&directory, ID)).await;
    assert_eq!(directory.unreadable(), 3);
}

#[tokio::test]
async fn following_outlives_redis() {
    let server = RedisServer::start(&[]);
    let space = TestSpace { url: server.url(), namespace: "away".into() };
    let pace = Pace { block: Duration::from_millis(100), ..Pace::default() };
    let (directory, _stop) = following(&space, pace).await;
    assert!(directory.is_fresh());
    let (data, port) = server.kill();
    let _server = RedisServer::start_in(data, port, &[]);
    let mut raw = space.raw();
    store(&space, &mut raw, ID, &tombstone(ID));
    announce(&space, &mut raw, "*", ID);
    eventually("the change", async || knows(&directory, ID)).await;
}

#[tokio::test]
async fn ten_thousand_configs_and_the_follower_ends_when_told() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    let mut pipeline = redis::pipe();
    for number in 1..=10_000 {
        let id = format!("0123456789abcdef{number:08x}");
        pipeline.cmd("HSET").arg(key(&space, "configs")).arg(&id).arg(tombstone(&id)).ignore();
    }
    pipeline.exec(&mut raw).unwrap();
    announce(&space, &mut raw, "5-1", ID);
    let directory = Directory::new();
    let begun = Instant::now();
    directory.read_once(&space.redis()).await.unwrap();
    println!("10,000 configs are read in {:?}", begun.elapsed());
    assert_eq!(directory.configs().by_id.len(), 10_000);
    let (stop, stopped) = watch::channel(false);
    let redis = space.redis();
    let (_, ()) = tokio::join!(async { stop.send_replace(true) }, directory.follow(&redis, stopped));
}
