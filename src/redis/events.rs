//! The `events` stream of a shard, from the dispatchers' side: reading, own pending entries, acknowledging,
//! the floor and the trim behind it.

use std::time::Duration;

use redis::{Value, cmd, pipe};

use super::answer::{Answer, fields_of, int_of, list_of, text_of};
use super::connection::{Link, RedisError, Result};
use super::keys::{GROUP, ShardKeys};
use super::scripts::{ENSURE_GROUP, RAISE_FLOOR, TRIM_EVENTS};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::StreamId;
use crate::settings::retention::RetentionSettings;

/// An entry as read: its id and its fields, still unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Its id.
    pub id: StreamId,
    /// Names and values, in their order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry that is pending for a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    /// Its id.
    pub id: StreamId,
    /// How many times it was given to a consumer.
    pub deliveries: u64,
}

/// What `raise_floor` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// The floor; `None` while there is no stream.
    pub floor: Option<String>,
    /// Entries that are pending for any consumer.
    pub pending: u64,
}

/// Entries that one `XTRIM` removes at most: keeps it under a millisecond.
const TRIM_LIMIT: u32 = 10_000;

/// Most entries of a stream's node (`stream-node-max-entries`, Redis's default): fewer may be no whole node.
const NODE_ENTRIES_MAX: u32 = 100;

/// Looks at the stream's size in one round of trimming; the next round goes on.
const TRIMS_TO_SIZE_MAX: usize = 20;

/// Reads new entries for `consumer`; an empty list when none came within `block`.
///
/// # Errors
/// Redis's; `NOGROUP` when the group is gone.
pub async fn read(
    link: &Link,
    keys: &ShardKeys,
    consumer: &str,
    count: u32,
    block: Option<Duration>,
) -> Result<Vec<StreamEntry>> {
    let operation = "reading events";
    let mut command = cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(count);
    if let Some(block) = block {
        command.arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
    }
    command.arg("STREAMS").arg(keys.events()).arg(">");
    let answer: Value = link.query(operation, &command).await?;
    if answer == Value::Nil {
        return Ok(Vec::new());
    }
    let mut streams = list_of(operation, answer)?;
    let Some(stream) = streams.pop() else { return Ok(Vec::new()) };
    let mut name_and_entries = list_of(operation, stream)?;
    let entries = name_and_entries.pop().ok_or_else(|| RedisError::answer(operation, "no entries"))?;
    list_of(operation, entries)?.into_iter().map(|entry| entry_of(operation, entry)).collect()
}

/// Entries that are pending for `consumer`, from `after` (exclusive) on, at most `count`.
///
/// # Errors
/// Redis's.
pub async fn own_pending(
    link: &Link,
    keys: &ShardKeys,
    consumer: &str,
    after: Option<StreamId>,
    count: u32,
) -> Result<Vec<PendingEntry>> {
    let operation = "listing own pending events";
    let start = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
    let mut command = cmd("XPENDING");
    command.arg(keys.events()).arg(GROUP).arg(start).arg("+").arg(count).arg(consumer);
    let answer: Value = link.query(operation, &command).await?;
    list_of(operation, answer)?
        .into_iter()
        .map(|row| {
            let mut row = list_of(operation, row)?.into_iter();
            let id = row.next().ok_or_else(|| RedisError::answer(operation, "no id"))?;
            let deliveries = row.nth(2).ok_or_else(|| RedisError::answer(operation, "no count"))?;
            Ok(PendingEntry {
                id: id_of(operation, id)?,
                deliveries: u64::try_from(int_of(operation, deliveries)?).unwrap_or(0),
            })
        })
        .collect()
}

/// The entries with these ids; one that the stream no longer holds is missing from the answer.
///
/// # Errors
/// Redis's.
pub async fn fetch(link: &Link, keys: &ShardKeys, ids: &[StreamId]) -> Result<Vec<StreamEntry>> {
    let operation = "fetching events";
    let mut commands = pipe();
    for id in ids {
        commands.cmd("XRANGE").arg(keys.events()).arg(id.to_string()).arg(id.to_string());
    }
    let mut entries = Vec::with_capacity(ids.len());
    for answer in link.pipeline(operation, &commands).await? {
        for entry in list_of(operation, answer?)? {
            entries.push(entry_of(operation, entry)?);
        }
    }
    Ok(entries)
}

/// The command that acknowledges events; to be sent only after every write that they depend on was answered.
#[must_use]
pub fn ack_command(keys: &ShardKeys, ids: impl Iterator<Item = StreamId>) -> redis::Cmd {
    let mut command = cmd("XACK");
    command.arg(keys.events()).arg(GROUP);
    ids.for_each(|id| {
        command.arg(id.to_string());
    });
    command
}

/// Acknowledges one event at once: one that needs no delivery.
///
/// # Errors
/// Redis's.
pub async fn acknowledge(link: &Link, keys: &ShardKeys, id: StreamId) -> Result<()> {
    link.query::<i64>("acknowledging an event", &ack_command(keys, std::iter::once(id))).await.map(drop)
}

/// Makes the group where it is missing, at `floor` (else the beginning). True when it was made.
///
/// # Errors
/// Redis's.
pub async fn ensure_group(link: &Link, keys: &ShardKeys) -> Result<bool> {
    let call = ENSURE_GROUP.call([&keys.events(), &keys.floor()], []);
    link.query::<i64>("making the consumer group", &call).await.map(|made| made == 1)
}

/// Raises the shard's floor as far as everything below it has a durable fate.
///
/// # Errors
/// Redis's.
pub async fn raise_floor(link: &Link, keys: &ShardKeys) -> Result<Floor> {
    let operation = "raising the floor";
    let call = RAISE_FLOOR.call([&keys.events(), &keys.floor()], []);
    let mut answer = Answer::new(operation, link.query(operation, &call).await?)?;
    let floor = Some(answer.text()?).filter(|id| !id.is_empty());
    Ok(Floor { floor, pending: u64::try_from(answer.int()?).unwrap_or(0) })
}

/// Removes entries below `floor`, whole nodes only, until nothing more goes; answers how many went.
///
/// # Errors
/// Redis's.
pub async fn trim(link: &Link, keys: &ShardKeys, floor: &str) -> Result<u64> {
    let mut total = 0;
    loop {
        let removed = trim_some(link, keys, floor, TRIM_LIMIT).await?;
        if removed == 0 {
            return Ok(total);
        }
        total += removed;
    }
}

/// Removes what lies behind `floor`, held back to what is younger than `retention` says and has room in it; answers
/// how many entries went.
///
/// # Errors
/// Redis's.
pub async fn trim_behind(
    link: &Link,
    keys: &ShardKeys,
    floor: &str,
    now: UnixMillis,
    retention: &RetentionSettings,
) -> Result<u64> {
    let age = retention.events_age;
    let mut trimmed = trim(link, keys, &held_back(floor, now, age)).await?;
    if !age.is_zero() {
        trimmed += trim_to_size(link, keys, floor, retention.events_bytes_max).await?;
    }
    metrics::counter!("postrider_stream_trimmed_total").increment(trimmed);
    Ok(trimmed)
}

/// Removes the oldest entries below `floor` while the stream takes more than `bytes_max`, whole nodes only.
async fn trim_to_size(link: &Link, keys: &ShardKeys, floor: &str, bytes_max: u64) -> Result<u64> {
    let operation = "measuring the events";
    let (mut usage, mut length) = (cmd("MEMORY"), cmd("XLEN"));
    usage.arg("USAGE").arg(keys.events());
    length.arg(keys.events());
    let mut total = 0;
    for _ in 0..TRIMS_TO_SIZE_MAX {
        let bytes = link.query::<Option<u64>>(operation, &usage).await?.unwrap_or(0);
        if bytes <= bytes_max {
            break;
        }
        // The share of the entries that is too much, by the mean of their sizes.
        let entries = u128::from(link.query::<u64>(operation, &length).await?);
        let excess = entries * u128::from(bytes - bytes_max) / u128::from(bytes);
        let limit = u32::try_from(excess).unwrap_or(TRIM_LIMIT).clamp(NODE_ENTRIES_MAX, TRIM_LIMIT);
        let removed = trim_some(link, keys, floor, limit).await?;
        if removed == 0 {
            break;
        }
        total += removed;
    }
    Ok(total)
}

async fn trim_some(link: &Link, keys: &ShardKeys, below: &str, limit: u32) -> Result<u64> {
    let limit = limit.to_string();
    let call = TRIM_EVENTS.call([&keys.events(), &keys.retained()], [below.as_bytes(), limit.as_bytes()]);
    link.query("trimming events", &call).await
}

/// The trim's bound: the floor, or the retained age where that is earlier.
fn held_back(floor: &str, now: UnixMillis, age: Duration) -> String {
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let kept_from = now.0.saturating_sub(age);
    let floor_ms = floor.split('-').next().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0);
    if age > 0 && kept_from < floor_ms { format!("{kept_from}-0") } else { floor.to_owned() }
}

pub(super) fn entry_of(operation: &'static str, entry: Value) -> Result<StreamEntry> {
    let mut parts = list_of(operation, entry)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(RedisError::answer(operation, "an entry without id and fields"));
    };
    // An entry that was deleted while it was pending has no fields: kept as an empty one, which is rejected.
    let fields = if fields == Value::Nil { Vec::new() } else { fields_of(operation, fields)? };
    Ok(StreamEntry { id: id_of(operation, id)?, fields })
}

fn id_of(operation: &'static str, value: Value) -> Result<StreamId> {
    let text = text_of(operation, value)?;
    text.parse().map_err(|error| RedisError::answer(operation, format!("'{text}': {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_holds_the_trim_back_and_never_drives_it_forward() {
        let now = UnixMillis(10_000);
        assert_eq!(held_back("9000-3", now, Duration::ZERO), "9000-3");
        assert_eq!(held_back("9000-3", now, Duration::from_secs(5)), "5000-0");
        assert_eq!(held_back("4000-1", now, Duration::from_secs(5)), "4000-1");
    }
}
