//! The end of deleted configs: their tombstones go when nothing of them is left in Redis (docs/REDIS.md, "Keys").

use std::time::Duration;

use redis::Value;

use super::answer::int_of;
use super::configs::CHANGES_MAX;
use super::connection::{During, Redis, Result};
use super::deliveries::millis;
use super::keys::ShardKeys;
use super::scripts::{self, FORGET_CONFIG};
use crate::domain::clock::UnixMillis;
use crate::domain::config::StoredConfig;
use crate::domain::ids::ConfigId;

/// Tombstones that one call looks at.
const LOOKED_AT_MAX: usize = 1_000;

/// Removes tombstones that are older than `age` and whose queue, failed set, log and payloads are gone in every shard,
/// and their sizes. Looks at the oldest ones, at most 1,000; answers how many went. A log without an expiry, whose
/// writer crashed before it told the sizes, gets one here.
///
/// # Errors
/// Redis's; what went so far stays away, and a repeat goes on.
pub async fn forget_deleted<'a>(
    redis: &Redis,
    shards: &[ShardKeys],
    configs: impl Iterator<Item = &'a StoredConfig>,
    now: UnixMillis,
    age: Duration,
) -> Result<usize> {
    let mut old: Vec<(UnixMillis, ConfigId)> = configs
        .filter_map(|stored| match stored {
            StoredConfig::Tombstone(tombstone) => Some((tombstone.deleted_at, tombstone.id)),
            StoredConfig::Config(_) => None,
        })
        .filter(|(deleted_at, _)| now.since(*deleted_at) > age)
        .collect();
    old.sort_unstable();
    let mut count = 0;
    for (_, id) in old.into_iter().take(LOOKED_AT_MAX) {
        count += usize::from(forget(redis, shards, id, age).await?);
    }
    Ok(count)
}

async fn forget(redis: &Redis, shards: &[ShardKeys], id: ConfigId, age: Duration) -> Result<bool> {
    let operation = "looking for what is left of a deleted config";
    let mut connection = redis.pooled(operation).await?;
    let mut empty = true;
    for keys in shards {
        let mut commands = redis::pipe();
        for stream in [keys.log(id), keys.bodies(id)] {
            commands.cmd("PEXPIRE").arg(stream).arg(millis(age)).arg("NX").ignore();
        }
        commands.cmd("EXISTS").arg(&[keys.queue(id), keys.failed(id), keys.log(id), keys.bodies(id)]);
        let answers: Vec<Value> = commands.query_async(&mut *connection).await.during(operation)?;
        let left = answers.into_iter().next_back().unwrap_or(Value::Nil);
        empty &= int_of(operation, left)? == 0;
    }
    if !empty {
        return Ok(false);
    }
    for keys in shards {
        let mut command = redis::cmd("UNLINK");
        command.arg(keys.size(id));
        command.query_async::<()>(&mut *connection).await.during(operation)?;
    }
    let names = redis.keys();
    let call = FORGET_CONFIG.call(
        [&names.configs(), &names.changes(), &names.health()],
        [id.to_string().as_bytes(), CHANGES_MAX.to_string().as_bytes()],
    );
    let gone: u64 = scripts::run(&mut connection, "forgetting a deleted config", &call).await?;
    Ok(gone == 1)
}
