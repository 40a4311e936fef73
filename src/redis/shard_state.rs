//! One look at a shard: what the gauges show.

use super::answer::Answer;
use super::connection::{Link, Result};
use super::keys::ShardKeys;
use super::scripts::SAMPLE;
use crate::domain::ids::StreamId;

/// What one look at a shard found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShardState {
    /// Entries of `events`.
    pub entries: u64,
    /// Configs with something in their queue.
    pub due_configs: u64,
    /// Consumers that hold a lease.
    pub consumers: u64,
    /// Entries of `rejected`.
    pub rejected: u64,
    /// Their bytes.
    pub rejected_bytes: u64,
    /// The first entry above the floor.
    pub oldest_undelivered: Option<StreamId>,
}

/// Looks at a shard.
///
/// # Errors
/// Redis's.
pub async fn read(link: &Link, keys: &ShardKeys, floor: Option<&str>) -> Result<ShardState> {
    let operation = "sampling a shard";
    let looked_at = [keys.events(), keys.due(), keys.replicas(), keys.rejected(), keys.rejected_bytes()];
    let [events, due, replicas, rejected, bytes] = &looked_at;
    let call = SAMPLE.call([events, due, replicas, rejected, bytes], [floor.unwrap_or_default().as_bytes()]);
    let mut answer = Answer::new(operation, link.query(operation, &call).await?)?;
    let mut number = || answer.int().map(|count| u64::try_from(count).unwrap_or(0));
    let (entries, due_configs, consumers) = (number()?, number()?, number()?);
    let (rejected, rejected_bytes) = (number()?, number()?);
    let oldest_undelivered = answer.text()?.parse().ok();
    Ok(ShardState { entries, due_configs, consumers, rejected, rejected_bytes, oldest_undelivered })
}
