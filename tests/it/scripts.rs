//! What holds for every script of the walk: it works while Redis is full, it touches its own keys only, and it is
//! loaded again where Redis forgot it.

use postrider::domain::event::Rejection;
use postrider::domain::ids::{ConfigSequence, DeliveryId};
use postrider::redis::connection::Redis;
use postrider::redis::deliveries::{Claim, clear, put_back};
use postrider::redis::events::{ensure_group, raise_floor, read};
use postrider::redis::failed::evict_failed;
use postrider::redis::fates::{Applied, Proof, Step};
use postrider::redis::leases::{LeaseEnd, Reclaimed, leave, reclaim, renew};
use postrider::redis::log_write::{Written, trim};
use postrider::redis::rejected::reject;
use postrider::settings::redis::RedisSettings;
use redis::Commands;

use crate::script_world::{CLAIM, CONSUMER, LARGE, Walk, at_once, config, fail, hand_off, queue, seconds};
use crate::support::{RedisServer, TestSpace};

fn alone(server: &RedisServer) -> TestSpace {
    TestSpace { url: server.url(), namespace: "alone".into() }
}

/// Called before each script with the keys that it may touch.
type Before<'a> = &'a mut dyn FnMut(&mut Walk, &[String]);

/// Runs every script of the walk on two events that `reader.0` read, each once with something to do.
async fn all_scripts(walk: &mut Walk, before: Before<'_>) {
    let (one, keys) = (config(1), walk.keys.clone());
    let event = walk.read_event(7, CONSUMER).await;
    let other = walk.read_event(8, CONSUMER).await;
    let ids: [DeliveryId; 2] = [event, other].map(|event| event.delivery(ConfigSequence(1)));
    let mut settle_keys = vec![
        keys.events(),
        keys.queue(one),
        keys.due(),
        keys.failed(one),
        keys.size(one),
        keys.log(one),
        keys.bodies(one),
    ];
    settle_keys.extend([keys.delivery(ids[0]), keys.body(event.stream_id())]);
    settle_keys.extend([keys.delivery(ids[1]), keys.body(other.stream_id())]);

    before(walk, &settle_keys);
    let Applied::Now(handed_off) = walk.settle(one, event, Walk::pending(event), hand_off(one, LARGE)).await
    else {
        panic!("the event is pending")
    };
    let parked = walk.settle(one, other, Walk::pending(other), at_once(queue(one, LARGE, true))).await;
    assert!(matches!(parked, Applied::Now(_)));
    let failed = walk.settle(one, event, Proof::Claimed(handed_off), fail(one, LARGE, false)).await;
    assert!(matches!(failed, Applied::Now(_)));

    before(walk, &[keys.queue(one), keys.due()]);
    let claimed = walk.claim(one, CLAIM).await;
    assert_eq!(claimed.ids, [ids[1]]);
    let back = put_back(&walk.link, &keys, one, &[(ids[1], claimed.claim)], seconds(0)).await.unwrap();
    assert_eq!(back, 1);
    let claimed = walk.claim(one, CLAIM).await;
    before(walk, &[keys.queue(one), keys.due(), keys.size(one), keys.delivery(ids[1])]);
    assert_eq!(clear(&walk.link, &keys, one, &[(ids[1], Claim(5))]).await.unwrap(), (0, 0));
    before(walk, &settle_keys);
    let finished = walk.settle(one, other, Proof::Claimed(claimed.claim), Step::Finish).await;
    assert!(matches!(finished, Applied::Now(_)));
    before(walk, &[keys.failed(one), keys.size(one), keys.delivery(ids[0]), keys.body(event.stream_id())]);
    assert_eq!(evict_failed(&walk.link, &keys, one, None, 64).await.unwrap(), 1);

    before(walk, &[keys.rejected(), keys.rejected_bytes()]);
    let rejection = Rejection { field: "data", problem: "no JSON".into() };
    let entry = postrider::redis::events::StreamEntry {
        id: event.stream_id(),
        fields: vec![(b"a".into(), b"b".into())],
    };
    assert_eq!(reject(&walk.link, &keys, &entry, &rejection, &walk.retention).await.unwrap(), 0);
    before(walk, &[keys.log(one), keys.bodies(one), keys.size(one)]);
    let written = Written { rows: 1, log_bytes: 10, payload_bytes: 0 };
    assert_eq!(trim(&walk.link, &keys, one, written, &walk.retention).await.unwrap(), 0);

    before(walk, &[keys.replicas()]);
    assert!(renew(&walk.link, &keys, "a.0", seconds(300), None).await.unwrap().end.is_some());
    before(walk, &[keys.events(), keys.floor()]);
    assert!(!ensure_group(&walk.link, &keys).await.unwrap());
    assert_eq!(raise_floor(&walk.link, &keys).await.unwrap().pending, 2);
    before(walk, &[keys.events(), keys.replicas()]);
    let reclaimed = reclaim(&walk.link, &keys, CONSUMER, None::<LeaseEnd>, Some("a.0")).await.unwrap();
    assert_eq!(reclaimed, Reclaimed::Moved(2));
    assert!(!leave(&walk.link, &keys, "a.0").await.unwrap());
    assert!(leave(&walk.link, &keys, CONSUMER).await.unwrap());
}

#[tokio::test]
async fn a_full_redis_still_drains() {
    let server = RedisServer::start(&[]);
    let mut walk = Walk::on(&alone(&server), TestSpace::redis).await;
    let _: () = walk.raw.set("filler", vec![0_u8; 2_000_000]).unwrap();
    // Events are written before it is full; from then on every plain write is refused.
    all_scripts(&mut walk, &mut |walk, _| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").exec(&mut walk.raw).unwrap();
        let refused = redis::cmd("SET").arg("more").arg("x").exec(&mut walk.raw).unwrap_err();
        assert_eq!(refused.code(), Some("OOM"));
        let refused = redis::cmd("ZADD").arg("z").arg(1).arg("x").exec(&mut walk.raw).unwrap_err();
        assert_eq!(refused.code(), Some("OOM"));
    })
    .await;
    let mut keys: Vec<String> = walk.raw.keys("alone:*").unwrap();
    // The mark of the one that was delivered before its event was acknowledged goes by itself.
    keys.retain(|key| walk.raw.pttl::<_, i64>(key).unwrap() < 0);
    assert!(keys.iter().all(|key| !key.contains(":queue:") && !key.contains(":delivery:")), "{keys:?}");
}

#[tokio::test]
async fn a_script_touches_its_own_keys_only() {
    let server = RedisServer::start(&[]);
    let space = alone(&server);
    let mut admin = space.raw();
    allow(&mut admin, &["*".to_owned()]);
    let limited = |space: &TestSpace| {
        let url = space.url.replace("redis://", "redis://script:secret@");
        let settings = RedisSettings { url: Some(url.clone()), ..space.settings() };
        Redis::new(&url, &settings).unwrap()
    };
    let mut walk = Walk::on(&space, limited).await;
    let mut calls = 0;
    // What reads beside the scripts, on the same link, reads keys of the script that follows.
    all_scripts(&mut walk, &mut |_, keys| {
        calls += 1;
        allow(&mut admin, keys);
    })
    .await;
    assert!(calls > 8);
    // The limit is one: another key is refused.
    let refused = read(&walk.link, &config_free(&space), CONSUMER, 1, None).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOPERM"));
}

/// Keys of a shard that no script was allowed.
fn config_free(space: &TestSpace) -> postrider::redis::keys::ShardKeys {
    space.redis().keys().shard(postrider::domain::ids::ShardNumber(1))
}

fn allow(admin: &mut redis::Connection, keys: &[String]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("script").arg("on").arg(">secret").arg("+@all").arg("resetkeys");
    for key in keys {
        command.arg(format!("~{key}"));
    }
    command.exec(admin).unwrap();
}

#[tokio::test]
async fn a_redis_that_forgot_the_scripts_gets_them_again() {
    let server = RedisServer::start(&[]);
    let walk = Walk::on(&alone(&server), TestSpace::redis).await;
    let mut raw = alone(&server).raw();
    assert!(ensure_group(&walk.link, &walk.keys).await.unwrap());
    assert!(walk.link.is_connected());
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut raw).unwrap();
    assert!(!ensure_group(&walk.link, &walk.keys).await.unwrap(), "loaded again, and run");
    assert!(walk.link.is_connected());

    // In a pipeline the other commands' answers are not lost with it.
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut raw).unwrap();
    let mut commands = redis::pipe();
    commands.cmd("PING");
    commands
        .add_command(postrider::redis::scripts::RENEW.call([&walk.keys.replicas()], [b"a.0", b"1000", b""]));
    commands.cmd("PING");
    let answers = walk.link.pipeline("testing a pipeline", &commands).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let answers = walk.link.pipeline("testing a pipeline", &commands).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_left_and_tried_again() {
    let server = RedisServer::start(&[]);
    let walk = Walk::on(&alone(&server), TestSpace::redis).await;
    let mut raw = alone(&server).raw();
    assert!(ensure_group(&walk.link, &walk.keys).await.unwrap());
    let role = |raw: &mut redis::Connection, host: &str, port: &str| {
        redis::cmd("REPLICAOF").arg(host).arg(port).exec(raw).unwrap();
    };
    role(&mut raw, "127.0.0.1", "1");
    for _ in 0..2 {
        let error = raise_floor(&walk.link, &walk.keys).await.unwrap_err();
        assert_eq!((error.code(), walk.link.is_connected()), (Some("READONLY"), false));
    }
    role(&mut raw, "NO", "ONE");
    assert_eq!(raise_floor(&walk.link, &walk.keys).await.unwrap().pending, 0);
}
