//! Each fault is made alone in the facts about a good Redis, and has to be found.

use super::*;
use crate::domain::ids::StreamId;
use crate::redis::doctor::GroupFacts;

const NOW: u64 = 1_777_626_000_000;

fn good() -> Facts {
    let info = [
        ("redis_version", "7.0.15"),
        ("redis_mode", "standalone"),
        ("cluster_enabled", "0"),
        ("aof_enabled", "1"),
        ("aof_last_write_status", "ok"),
        ("maxmemory_policy", "noeviction"),
        ("maxmemory", "1073741824"),
        ("used_memory", "10485760"),
        ("role", "master"),
        ("connected_slaves", "1"),
    ];
    let config = [("appendfsync", "everysec"), ("min-replicas-to-write", "1")];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Facts {
        info: info.into_iter().map(owned).collect(),
        config: Some(config.into_iter().map(owned).collect()),
        redis_now: UnixMillis(NOW),
        local_now: UnixMillis(NOW + 3),
        round_trip_ms: 1,
        keyspace_version: Some(KEYSPACE_VERSION.to_string()),
        keyspace_shards: Some(1),
        shards: vec![ShardFacts {
            events: "postrider:{0}:events".into(),
            length: 3,
            oldest: Some(StreamId { ms: NOW - 500, seq: 0 }),
            last_generated: Some(StreamId { ms: NOW, seq: 0 }),
            group: Some(GroupFacts { pending: 3, lag: Some(0), consumers: 4 }),
            rejected: 0,
            unreadable: Vec::new(),
        }],
        ..Facts::default()
    }
}

/// The level of `check` and what to change, after `change` was made to a good Redis.
fn after(check: &str, change: impl FnOnce(&mut Facts)) -> (Level, String) {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts);
    let found: Vec<&Finding> = findings.iter().filter(|finding| finding.check == check).collect();
    assert_eq!(found.len(), 1, "{findings:?}");
    (found[0].level, found[0].change.clone().unwrap_or_default())
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Facts) {
    move |facts| drop(facts.info.insert(name.into(), value.into()))
}

#[test]
fn a_good_redis_has_nothing_to_change() {
    let findings = judge(&good());
    assert!(findings.iter().all(|f| f.level == Level::Ok && f.change.is_none()), "{findings:?}");
}

#[test]
fn each_fault_is_found_and_says_what_to_change() {
    for (check, name, value, level, change) in [
        ("version", "redis_version", "6.2.7", Level::Error, "7.0"),
        ("mode", "cluster_enabled", "1", Level::Error, "cluster"),
        ("persistence", "aof_enabled", "0", Level::Error, "appendonly yes"),
        ("persistence", "aof_last_write_status", "err", Level::Error, "disk"),
        ("eviction", "maxmemory_policy", "allkeys-lru", Level::Error, "noeviction"),
        ("memory", "maxmemory", "0", Level::Warn, "maxmemory"),
        ("memory", "used_memory", "800000000", Level::Warn, "maxmemory"),
        ("memory", "used_memory", "1000000000", Level::Error, "maxmemory"),
        ("replication", "role", "slave", Level::Error, "primary"),
    ] {
        let (found, said) = after(check, set(name, value));
        assert_eq!(found, level, "{name}");
        assert!(said.contains(change), "{name}: {said}");
    }
    let unsafe_config = |facts: &mut Facts| {
        facts.config = Some(
            [("appendfsync", "no"), ("min-replicas-to-write", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
    };
    assert_eq!(after("persistence", unsafe_config).0, Level::Warn);
    assert_eq!(after("replication", unsafe_config).0, Level::Warn);
    assert_eq!(after("persistence", |facts| facts.config = None).0, Level::Ok);
}

#[test]
fn clocks_streams_and_the_keyspace_are_judged() {
    assert_eq!(after("clock", |facts| facts.local_now = UnixMillis(NOW + 5_000)).0, Level::Warn);
    assert_eq!(after("keyspace", |facts| facts.keyspace_version = Some("2".into())).0, Level::Error);
    assert_eq!(after("keyspace", |facts| facts.keyspace_version = None).0, Level::Ok);
    let config = "5f0c1e9b2a7d4c3e00000001".to_owned();
    let (level, change) = after("unreadable", |facts| facts.shards[0].unreadable = vec![(config.clone(), 2)]);
    assert!(level == Level::Warn && change.contains(&format!("{{0}}:queue:{config}")), "{change}");
    let stream = |change: fn(&mut ShardFacts)| after("stream", |facts| change(&mut facts.shards[0]));
    assert_eq!(stream(|shard| shard.group = None).0, Level::Warn);
    let (level, change) = stream(|shard| shard.oldest = Some(StreamId { ms: NOW - 120_000, seq: 0 }));
    assert!(level == Level::Warn && change.contains("fall behind"));
    let (level, change) =
        stream(|shard| shard.group = Some(GroupFacts { pending: 0, lag: Some(3), consumers: 0 }));
    assert!(level == Level::Warn && change.contains("postrider serve"));
    let ahead = |facts: &mut Facts| {
        facts.shards[0].last_generated = Some(StreamId { ms: NOW + 3_600_000, seq: 0 });
    };
    let (level, change) = after("ids", ahead);
    assert!(level == Level::Warn && change.contains("XSETID postrider:{0}:events 1777626000000-0"));
    assert_eq!(after("rejected", |facts| facts.shards[0].rejected = 2).0, Level::Warn);
}
