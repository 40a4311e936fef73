//! The keyspace itself: its version and its shards in `meta`, and what Redis must be for it.

use redis::cmd;

use super::connection::{Cause, Link, RedisError, Result};
use super::keys::{Keys, SHARDS_MAX, ShardKeys};
use crate::domain::ids::ShardNumber;

/// The version of the keyspace that this program reads and writes.
pub const KEYSPACE_VERSION: u32 = 1;

/// Opens the keyspace: writes version and shards at the first start, checks them afterwards. `wanted` shards are
/// only used at the first start; growing and shrinking are refused here.
///
/// # Errors
/// Redis's, or when the keyspace was written by a newer program or has another number of shards.
pub async fn open(link: &Link, wanted: u16) -> Result<Vec<ShardKeys>> {
    let operation = "opening the keyspace";
    let setting = |what: String| RedisError { operation, cause: Cause::Setting(what) };
    let meta = link.keys().meta();
    // Read first: a newer program's keyspace is left alone, and a full Redis, which must still drain, refuses
    // HSETNX even where it would change nothing.
    if find_shards(link).await?.is_none() {
        for (field, value) in
            [("keyspaceVersion", KEYSPACE_VERSION.to_string()), ("shards", wanted.to_string())]
        {
            let mut command = cmd("HSETNX");
            command.arg(&meta).arg(field).arg(value);
            link.query::<i64>(operation, &command).await?;
        }
    }
    let shards = shards(link).await?;
    if shards.len() != usize::from(wanted) {
        return Err(setting(format!(
            "shards: the keyspace '{meta}' has {} shards, --shards says {wanted}; leave --shards as it was",
            shards.len()
        )));
    }
    Ok(shards)
}

/// The shards of a keyspace that exists.
///
/// # Errors
/// Redis's, or when there is none or it was written by a newer program.
pub async fn shards(link: &Link) -> Result<Vec<ShardKeys>> {
    let operation = "reading the keyspace's shards";
    let none = "the namespace has no keyspace yet; start 'postrider serve' on it once";
    let missing = || RedisError { operation, cause: Cause::Setting(none.into()) };
    find_shards(link).await?.ok_or_else(missing)
}

/// The shards of a keyspace; `None` where nobody opened it yet.
///
/// # Errors
/// Redis's, or when it was written by a newer program.
pub async fn find_shards(link: &Link) -> Result<Option<Vec<ShardKeys>>> {
    let operation = "reading the keyspace's shards";
    let setting = |what: String| RedisError { operation, cause: Cause::Setting(what) };
    let mut command = cmd("HMGET");
    command
        .arg(link.keys().meta())
        .arg("keyspaceVersion")
        .arg("shards")
        .arg("migration")
        .arg("migrationStops");
    let (version, count, step, stops): (Option<u32>, Option<u16>, Option<String>, Option<u8>) =
        link.query(operation, &command).await?;
    if let (Some(step), Some(1)) = (step, stops) {
        return Err(setting(format!(
            "step {step} of a migration was begun and not finished: 'postrider migrate apply' goes on with it"
        )));
    }
    match (version, count) {
        (Some(KEYSPACE_VERSION), Some(count)) if (1..=SHARDS_MAX).contains(&count) => {
            Ok(Some(all_shards(link.keys(), count)))
        }
        (None, _) | (Some(KEYSPACE_VERSION), None) => Ok(None),
        (version, count) => Err(setting(format!(
            "the keyspace has version {version:?} and {count:?} shards; this program knows version {KEYSPACE_VERSION} \
             ('postrider migrate plan' says what to do about an older one)"
        ))),
    }
}

/// The keys of shards 0 to `count - 1`.
#[must_use]
pub fn all_shards(keys: &Keys, count: u16) -> Vec<ShardKeys> {
    (0..count).map(|number| keys.shard(ShardNumber(number))).collect()
}

/// Checks that the server can be used at all: version 7.0 or later, nothing evicted, no Cluster.
///
/// # Errors
/// Redis's, or which of these is not so and what to change.
pub async fn check_server(link: &Link, allow_eviction: bool) -> Result<()> {
    let operation = "checking the Redis server";
    let setting = |what: String| Err(RedisError { operation, cause: Cause::Setting(what) });
    let info: String = link.query(operation, cmd("INFO").arg("everything")).await?;
    let value = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    let version = value("redis_version");
    let major: u32 = version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if major < 7 {
        return setting(format!("redis_version is {version}; 7.0 or later is needed"));
    }
    if value("cluster_enabled") == "1" {
        return setting("cluster_enabled is 1; Redis Cluster is not supported yet".into());
    }
    let policy = value("maxmemory_policy");
    if policy != "noeviction" && !allow_eviction {
        return setting(format!(
            "maxmemory-policy is {policy}, so Redis may drop events and queues when it is full; set it to noeviction \
             (CONFIG SET maxmemory-policy noeviction, and in redis.conf), or go on at your own risk with \
             --allow-eviction"
        ));
    }
    if value("maxmemory") == "0" {
        tracing::warn!("maxmemory is 0: nothing keeps Redis from using all memory; set it, with noeviction");
    }
    Ok(())
}
