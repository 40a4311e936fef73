//! Retained events again, for one config, in a job's batches (docs/WIRE.md section 11, "Replay"). The cursor is the
//! stream id of the entry that was looked at last.

use std::time::{Duration, Instant};

use redis::{Value, cmd, pipe};

use super::answer::{int_of, list_of};
use super::connection::{During, Redis, Result};
use super::deliveries::BATCH_MAX;
use super::events::{StreamEntry, entry_of};
use super::health::Ask;
use super::jobs::jobs_age;
use super::keys::ShardKeys;
use super::ranges::older_than;
use super::recover::{Batch, batch_of};
use super::scripts::PUBLISH_AGAIN;
use crate::domain::clock::UnixMillis;
use crate::domain::config::Config;
use crate::domain::event::{Event, EventFields, JsonScratch};
use crate::domain::ids::{ConfigId, EventId, ShardNumber, StreamId};
use crate::domain::interest::Interest;
use crate::domain::job::{Job, Progress, Selection};

/// The field that names the event of which an entry is a copy.
const REPLAY_OF: &[u8] = b"replayOf";

/// Entries that a count looks at, over all shards, and how long it takes at most: what is beyond makes it a floor.
const COUNT_ENTRIES_MAX: usize = 200_000;
const COUNT_TIME_MAX: Duration = Duration::from_secs(3);

/// Entries of one read of a count. An entry may have 256 KiB.
const COUNT_PAGE: usize = 256;

/// How many events match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many were found.
    pub count: u64,
    /// There may be more.
    pub is_floor: bool,
}

/// The time from which on every shard holds all events that came; `None` when nothing was ever trimmed.
///
/// # Errors
/// Redis's.
pub async fn retained_since(redis: &Redis, shards: &[ShardKeys]) -> Result<Option<UnixMillis>> {
    let operation = "reading how far back events are retained";
    let mut commands = pipe();
    for keys in shards {
        commands.cmd("GET").arg(keys.retained());
    }
    let mut connection = redis.pooled(operation).await?;
    let found: Vec<Option<String>> = commands.query_async(&mut *connection).await.during(operation)?;
    // A millisecond that is cut in two counts as gone.
    let whole = |id: StreamId| UnixMillis(id.ms + u64::from(id.seq > 0));
    Ok(found.into_iter().flatten().filter_map(|text| text.parse().ok().map(whole)).max())
}

/// How many retained events a replay for `config` would bring, as far as a bounded look tells.
///
/// # Errors
/// Redis's.
pub async fn count(
    redis: &Redis,
    shards: &[ShardKeys],
    config: &Config,
    selection: &Selection,
) -> Result<Count> {
    let (began, mut seen) = (Instant::now(), 0);
    let mut found = Count { count: 0, is_floor: false };
    for keys in shards {
        let mut cursor = String::new();
        loop {
            let page = page(redis, keys, selection, &cursor, COUNT_PAGE).await?;
            seen += page.len();
            let wanted = wanted(keys.shard, config, selection, &page);
            found.count += wanted.len() as u64;
            match page.last() {
                Some(last) if page.len() == COUNT_PAGE => cursor = last.id.to_string(),
                _ => break,
            }
            if seen >= COUNT_ENTRIES_MAX || began.elapsed() >= COUNT_TIME_MAX {
                found.is_floor = true;
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Appends those of the next [`BATCH_MAX`] entries that match, at most `max`, again.
///
/// # Errors
/// Redis's, `OOM` when it is full: then the batch was applied whole or not at all, and the next call finds out.
pub async fn replay(
    redis: &Redis,
    keys: &ShardKeys,
    job: &Job,
    config: &Config,
    progress: &Progress,
    max: usize,
) -> Result<Batch> {
    let page = page(redis, keys, &job.selection, &progress.cursor, BATCH_MAX).await?;
    let mut found = wanted(keys.shard, config, &job.selection, &page);
    let mut last = page.last().map(|entry| entry.id);
    let mut done = page.len() < BATCH_MAX;
    if found.len() > max.max(1) {
        found.truncate(max.max(1));
        last = found.last().map(|event| event.id.stream_id());
        done = false;
    }
    let cursor = last.map_or_else(|| progress.cursor.clone(), |id| id.to_string());
    let more_args: Vec<Vec<u8>> = found
        .into_iter()
        .flat_map(|event| [event.id.stream_id().to_string(), event.nonce, event.timestamp.to_string()])
        .map(String::into_bytes)
        .collect();
    let call = PUBLISH_AGAIN.call_batch(
        [&keys.events(), &keys.job(job.id)],
        &[],
        [
            config.id.to_string().as_bytes(),
            progress.cursor.as_bytes(),
            cursor.as_bytes(),
            if done { b"1" } else { b"0" },
            &jobs_age(),
        ],
        &more_args,
    );
    batch_of("replaying events", redis, &call, done).await
}

/// How many deliveries and bytes wait in a config's queue.
///
/// # Errors
/// Redis's.
pub async fn backlog(redis: &Redis, keys: &ShardKeys, config: ConfigId) -> Result<(u64, u64)> {
    let operation = "measuring a queue";
    let mut commands = pipe();
    commands.cmd("ZCARD").arg(keys.queue(config));
    commands.cmd("HGET").arg(keys.size(config)).arg("queueBytes");
    let mut connection = redis.pooled(operation).await?;
    let found: Vec<Value> = commands.query_async(&mut *connection).await.during(operation)?;
    let mut numbers = found.into_iter().map(|value| match value {
        Value::Nil => Ok(0),
        value => Ok(u64::try_from(int_of(operation, value)?).unwrap_or(0)),
    });
    Ok((numbers.next().unwrap_or(Ok(0))?, numbers.next().unwrap_or(Ok(0))?))
}

/// The next entries behind the cursor, in the window; by the time in their ids.
async fn page(
    redis: &Redis,
    keys: &ShardKeys,
    selection: &Selection,
    cursor: &str,
    count: usize,
) -> Result<Vec<StreamEntry>> {
    let operation = "reading retained events";
    let from = if cursor.is_empty() { format!("{}-0", selection.since.0) } else { format!("({cursor}") };
    let mut command = cmd("XRANGE");
    command
        .arg(keys.events())
        .arg(from)
        .arg(older_than(StreamId { ms: selection.until.0, seq: 0 }))
        .arg("COUNT")
        .arg(count);
    let entries = list_of(operation, redis.ask(operation, &command).await?)?;
    entries.into_iter().map(|entry| entry_of(operation, entry)).collect()
}

/// The events of a page that a replay brings. An entry that was rejected is none, nor is a copy of an earlier replay.
fn wanted(shard: ShardNumber, config: &Config, selection: &Selection, page: &[StreamEntry]) -> Vec<Event> {
    let mut scratch = JsonScratch::default();
    let interest = Interest::of(config);
    let organisation = config.organisation.as_str().as_bytes();
    let mine = |entry: &&StreamEntry| {
        let field = |name: &[u8]| entry.fields.iter().rev().find(|(other, _)| other == name);
        field(b"organisationId").is_some_and(|(_, value)| value == organisation) && field(REPLAY_OF).is_none()
    };
    page.iter()
        .filter(mine)
        .filter_map(|entry| {
            let mut fields = EventFields::default();
            entry.fields.iter().for_each(|(name, value)| fields.set(name, value.clone()));
            fields.check(EventId::new(shard, entry.id).ok()?, &mut scratch).ok()
        })
        .filter(|event| selection.replays(config, &interest, event))
        .collect()
}
