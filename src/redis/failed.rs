//! Failed deliveries and their caps.

use redis::{Value, cmd, pipe};

use super::answer::int_of;
use super::connection::{Link, Result};
use super::deliveries::BATCH_MAX;
use super::keys::ShardKeys;
use super::scripts::EVICT_FAILED;
use super::unusable::{parsed, remove_strange};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, DeliveryId};

/// Drops the oldest failed deliveries of `config`, at most [`BATCH_MAX`]; answers how many went.
///
/// # Errors
/// Redis's.
pub async fn evict_failed(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    failed_before: Option<UnixMillis>,
    max: usize,
) -> Result<u64> {
    let operation = "evicting failed deliveries";
    let mut command = cmd("ZRANGEBYSCORE");
    let until = failed_before.map_or_else(|| "+inf".to_owned(), |before| format!("({}", before.0));
    command.arg(keys.failed(config)).arg("-inf").arg(until).arg("LIMIT").arg(0).arg(max.min(BATCH_MAX));
    let (ids, strange) = parsed::<DeliveryId>(link.query(operation, &command).await?);
    remove_strange(link, &keys.failed(config), strange).await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut more_keys = Vec::with_capacity(2 * ids.len());
    for id in &ids {
        more_keys.push(keys.delivery(*id));
        more_keys.push(keys.body(id.event().stream_id()));
    }
    let more_args: Vec<Vec<u8>> = ids.iter().map(|id| id.to_string().into_bytes()).collect();
    let fixed = [&keys.failed(config)[..], &keys.size(config)];
    let call = EVICT_FAILED.call_batch(fixed, &more_keys, [&config.bytes()], &more_args);
    link.query(operation, &call).await
}

/// How many deliveries `config`'s failed set holds beyond its caps: those past the count, else one as long as
/// the bytes are passed.
///
/// # Errors
/// Redis's.
pub async fn failed_over(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    count_max: u64,
    bytes_max: u64,
) -> Result<usize> {
    let operation = "measuring failed deliveries";
    let mut commands = pipe();
    commands.cmd("ZCARD").arg(keys.failed(config));
    commands.cmd("HGET").arg(keys.size(config)).arg("failedBytes");
    let mut numbers = link.pipeline(operation, &commands).await?.into_iter().map(|answer| match answer? {
        Value::Nil => Ok(0),
        value => Ok(u64::try_from(int_of(operation, value)?).unwrap_or(0)),
    });
    let (count, bytes) = (numbers.next().unwrap_or(Ok(0))?, numbers.next().unwrap_or(Ok(0))?);
    let over = count.saturating_sub(count_max).max(u64::from(bytes > bytes_max));
    Ok(usize::try_from(over).unwrap_or(BATCH_MAX))
}
