//! One look at a shard: what the gauges show.

use redis::{Value, cmd, pipe};

use super::answer::{int_of, list_of, text_of};
use super::connection::{Link, RedisError, Result};
use super::keys::ShardKeys;
use super::publish::memory_share;
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

/// Used memory over `maxmemory`; `None` without a limit.
///
/// # Errors
/// Redis's.
pub async fn memory(link: &Link) -> Result<Option<f64>> {
    let info: String = link.query("reading redis's memory", cmd("INFO").arg("memory")).await?;
    Ok(memory_share(&info))
}

/// Looks at a shard.
///
/// # Errors
/// Redis's.
pub async fn read(link: &Link, keys: &ShardKeys, floor: Option<&str>) -> Result<ShardState> {
    let operation = "sampling a shard";
    let after = floor.map_or_else(|| "-".to_owned(), |floor| format!("({floor}"));
    let mut commands = pipe();
    commands.cmd("XLEN").arg(keys.events());
    commands.cmd("ZCARD").arg(keys.due());
    commands.cmd("ZCARD").arg(keys.replicas());
    commands.cmd("XLEN").arg(keys.rejected());
    commands.cmd("GET").arg(keys.rejected_bytes());
    commands.cmd("XRANGE").arg(keys.events()).arg(after).arg("+").arg("COUNT").arg(1);
    let answers = link.pipeline(operation, &commands).await?;
    let Ok([entries, due, consumers, rejected, bytes, oldest]) = <[Result<Value>; 6]>::try_from(answers)
    else {
        return Err(RedisError::answer(operation, "six answers expected"));
    };
    let number = |value: Result<Value>| Ok(u64::try_from(int_of(operation, value?)?).unwrap_or(0));
    let bytes = bytes.map(|value| if value == Value::Nil { Value::Int(0) } else { value });
    let oldest_undelivered = match list_of(operation, oldest?)?.into_iter().next() {
        Some(entry) => {
            let id = list_of(operation, entry)?.into_iter().next();
            let id = id.ok_or_else(|| RedisError::answer(operation, "an entry without an id"))?;
            text_of(operation, id)?.parse().ok()
        }
        None => None,
    };
    Ok(ShardState {
        entries: number(entries)?,
        due_configs: number(due)?,
        consumers: number(consumers)?,
        rejected: number(rejected)?,
        rejected_bytes: number(bytes)?,
        oldest_undelivered,
    })
}
