//! The end of deleted configs: when a tombstone goes, and what goes with it.

use std::sync::Arc;
use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::config::{StoredConfig, Tombstone};
use postrider::domain::ids::{ConfigId, ConfigSequence, OrganisationId, ShardNumber};
use postrider::domain::token::Role;
use postrider::redis::forget::forget_deleted;
use redis::Commands;
use serde_json::json;

use crate::support::{TestSpace, eventually};
use crate::support_http::{AdminServer, CONFIGS};

const MONTH: Duration = Duration::from_secs(30 * 86_400);

fn tombstone(number: u32, deleted_at: UnixMillis) -> StoredConfig {
    StoredConfig::Tombstone(Tombstone {
        id: ConfigId::new([7; 8], ConfigSequence(number)),
        organisation: OrganisationId::new("org_1").unwrap(),
        deleted_at,
        log_payloads: true,
    })
}

#[tokio::test]
async fn a_tombstone_goes_when_it_is_old_and_nothing_of_its_config_is_left() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let (redis, mut raw) = (server.state.redis.clone(), space.raw());
    let shards = [0, 1].map(|shard| redis.keys().shard(ShardNumber(shard)));
    let names = ["queue", "failed", "log", "bodies", "nothing", "young"];
    let now = UnixMillis(MONTH.as_millis() as u64 * 20);
    let deleted: Vec<StoredConfig> = (0..)
        .zip(names)
        .map(|(number, name)| {
            let age = if name == "young" { MONTH } else { MONTH + Duration::from_secs(1) };
            tombstone(number, UnixMillis(now.0 - age.as_millis() as u64))
        })
        .collect();
    for (stored, name) in deleted.iter().zip(names) {
        let (id, last) = (stored.id(), &shards[1]);
        let json = serde_json::to_string(stored).unwrap();
        let () = raw.hset(redis.keys().configs(), id.to_string(), json).unwrap();
        shards.iter().for_each(|keys| raw.hset(keys.size(id), "logRows", 3).unwrap());
        let () = match name {
            "queue" => raw.zadd(last.queue(id), "x", 1).unwrap(),
            "failed" => raw.zadd(last.failed(id), "x", 1).unwrap(),
            "log" => raw.xadd(last.log(id), "1-1", &[("p", "x")]).map(|_: String| ()).unwrap(),
            "bodies" => raw.xadd(last.bodies(id), "1-1", &[("p", "x")]).map(|_: String| ()).unwrap(),
            _ => (),
        };
    }
    let all = || deleted.iter();
    assert_eq!(forget_deleted(&redis, &shards, all(), now, MONTH).await.unwrap(), 1);
    let mut left: Vec<String> = raw.hkeys(redis.keys().configs()).unwrap();
    left.sort();
    let gone = deleted[4].id();
    assert!(!left.contains(&gone.to_string()) && left.len() == 5, "{left:?}");
    for keys in &shards {
        assert!(!raw.exists::<_, bool>(keys.size(gone)).unwrap(), "its sizes go with it");
        assert!(raw.exists::<_, bool>(keys.size(deleted[5].id())).unwrap());
    }
    let expiry: i64 = raw.pttl(shards[1].log(deleted[2].id())).unwrap();
    assert!(expiry > 0, "a log that nobody let expire does so from now on");
    assert_eq!(forget_deleted(&redis, &shards, all(), now, MONTH).await.unwrap(), 0, "once");
    let () = raw.del(shards[1].queue(deleted[0].id())).unwrap();
    assert_eq!(forget_deleted(&redis, &shards, all(), now, MONTH).await.unwrap(), 1);
}

#[tokio::test]
async fn replicas_forget_it_too_and_a_living_config_is_never_touched() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let body = json!({ "url": "https://hooks.example/a", "events": ["reward.earned"] });
    let config = admin.put(CONFIGS, &body).await.ok(200);
    let id: ConfigId = config["id"].as_str().unwrap().parse().unwrap();
    let state = &server.state;
    let later = state.clock.now().plus(MONTH * 2);
    // A list that is behind: it still says deleted.
    let stale = StoredConfig::Tombstone(Tombstone {
        id,
        organisation: OrganisationId::new("org_1").unwrap(),
        deleted_at: UnixMillis(1),
        log_payloads: true,
    });
    let forget = async |one: &StoredConfig| {
        forget_deleted(&state.redis, &state.shards, std::iter::once(one), later, MONTH).await.unwrap()
    };
    assert_eq!(forget(&stale).await, 0);
    admin.get(&format!("{CONFIGS}/{id}")).await.ok(200);
    admin.send(hyper::Method::DELETE, &format!("{CONFIGS}/{id}"), Vec::new()).await;
    let stored = Arc::clone(&state.directory.configs().by_id[&id]);
    assert_eq!(forget(&stored).await, 1);
    eventually("the directory to forget it", async || !state.directory.configs().by_id.contains_key(&id))
        .await;
}
