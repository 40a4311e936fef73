//! The `rejected` stream of each shard: what could not be understood is kept, listed newest first over all shards,
//! put back among the events, or removed.

use std::collections::VecDeque;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};

use super::answer::{fields_of, list_of, text_of};
use super::connection::{During, Link, Redis, RedisError, Result};
use super::events::StreamEntry;
use super::keys::ShardKeys;
use super::ranges::older_than;
use super::scripts::{self, REJECT, TAKE_REJECTED};
use crate::domain::event::{EventFields, Rejection};
use crate::domain::ids::{EventId, OrganisationId, StreamId};
use crate::domain::rejected::{RejectReason, RejectedEntry, RejectedId};
use crate::metrics;
use crate::settings::retention::RetentionSettings;

/// Fields of a rejected entry that are kept: a script's call takes some 8,000 arguments, and an entry that cannot be
/// rejected would stop its reader.
const FIELDS_MAX: usize = 1_000;

/// Bytes of names and values of one rejected entry that are kept: four times what `data` may have.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// Entries that are read of a shard at a time: 8 MiB where each is as large as it can be.
const PAGE: usize = 8;

/// What one query reads at most.
const READ_ENTRIES_MAX: usize = 1_000;
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which entries a query wants; `None` wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedQuery {
    /// The kind of mistake.
    pub reason: Option<RejectReason>,
    /// The field that was wrong.
    pub field: Option<String>,
    /// The organisation that the entry names.
    pub organisation: Option<OrganisationId>,
    /// Only what is older than this entry.
    pub before: Option<RejectedId>,
    /// Most entries.
    pub limit: usize,
}

/// A page, newest first.
#[derive(Clone, Debug, Default)]
pub struct RejectedPage {
    /// The entries.
    pub entries: Vec<RejectedEntry>,
    /// Where the next page begins; `None` when there is nothing more.
    pub next: Option<RejectedId>,
}

/// One shard's stream, read from its newest entry back.
struct Source<'a> {
    keys: &'a ShardKeys,
    /// Where the next read begins; `None` when everything was read.
    from: Option<String>,
    read: VecDeque<RejectedEntry>,
}

/// Keeps an entry that cannot be routed, with the reason; answers how many older ones the limits evicted.
///
/// # Errors
/// Redis's: then the entry must not be acknowledged.
pub async fn reject(
    link: &Link,
    keys: &ShardKeys,
    entry: &StreamEntry,
    rejection: &Rejection,
    retention: &RetentionSettings,
) -> Result<u64> {
    let mut bytes = 0;
    let kept = entry.fields.iter().take(FIELDS_MAX).take_while(|(name, value)| {
        bytes += name.len() + value.len();
        bytes <= ENTRY_BYTES_MAX
    });
    let fields: Vec<Vec<u8>> = kept.flat_map(|(name, value)| [name.clone(), value.clone()]).collect();
    let problem = match entry.fields.len() - fields.len() / 2 {
        0 => rejection.problem.clone(),
        left_out => format!("{} ({left_out} further fields were left out)", rejection.problem),
    };
    let age = u64::try_from(retention.log_age_max.as_millis()).unwrap_or(u64::MAX);
    let limits = [retention.rejected_max, retention.rejected_bytes_max, age].map(|limit| limit.to_string());
    let [count, bytes, age] = limits.each_ref().map(|text| text.as_bytes());
    let call = REJECT.call_batch(
        [&keys.rejected(), &keys.rejected_bytes()],
        &[],
        [count, bytes, age, entry.id.to_string().as_bytes(), rejection.field.as_bytes(), problem.as_bytes()],
        &fields,
    );
    link.query::<i64>("keeping a rejected event", &call).await.map(|gone| u64::try_from(gone).unwrap_or(0))
}

/// A page over all shards. A query reads at most 1,000 entries and some 16 MiB: a page may then be short, even
/// empty, and still name where the next begins.
///
/// # Errors
/// Redis's. An entry that was not kept by Postrider is left out.
pub async fn list(redis: &Redis, shards: &[ShardKeys], query: &RejectedQuery) -> Result<RejectedPage> {
    let mut connection = redis.pooled("listing rejected events").await?;
    let mut sources: Vec<Source<'_>> = shards.iter().map(|keys| Source::new(keys, query.before)).collect();
    let (mut page, mut entries, mut bytes) = (RejectedPage::default(), 0, 0);
    loop {
        for source in &mut sources {
            source.fill(&mut connection).await?;
        }
        let newest = sources.iter_mut().max_by_key(|source| source.read.front().map(|entry| entry.id));
        let Some(entry) = newest.and_then(|source| source.read.pop_front()) else { return Ok(page) };
        entries += 1;
        bytes += entry.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let id = entry.id;
        page.entries.extend(Some(entry).filter(|entry| query.wants(entry)));
        if page.entries.len() >= query.limit || entries >= READ_ENTRIES_MAX || bytes >= READ_BYTES_MAX {
            let more = sources.iter().any(|source| source.from.is_some() || !source.read.is_empty());
            page.next = more.then_some(id);
            return Ok(page);
        }
    }
}

/// One entry; `None` when there is none with this id.
///
/// # Errors
/// Redis's.
pub async fn find(redis: &Redis, shards: &[ShardKeys], id: RejectedId) -> Result<Option<RejectedEntry>> {
    let operation = "reading a rejected event";
    let Some(keys) = shards.iter().find(|keys| keys.shard == id.shard) else { return Ok(None) };
    let mut connection = redis.pooled(operation).await?;
    let mut command = redis::cmd("XRANGE");
    command.arg(keys.rejected()).arg(id.id.to_string()).arg(id.id.to_string());
    let answer: Value = command.query_async(&mut connection).await.during(operation)?;
    let entry = list_of(operation, answer)?.into_iter().next();
    Ok(entry.map(|entry| parse(operation, keys, entry)).transpose()?.and_then(|(_, entry)| entry))
}

/// Makes an event of an entry with these fields, which were checked, and takes the entry out of `rejected`; `None`
/// when it is there no more.
///
/// # Errors
/// Redis's. After an error of the connection it may have been done; a repeat then finds no entry.
pub async fn requeue(
    redis: &Redis,
    shards: &[ShardKeys],
    id: RejectedId,
    fields: EventFields,
) -> Result<Option<EventId>> {
    let operation = "requeueing a rejected event";
    let named = fields.into_named().into_iter();
    let fields: Vec<Vec<u8>> = named.flat_map(|(name, value)| [name.as_bytes().to_vec(), value]).collect();
    let answer = take(redis, operation, shards, id, &fields).await?;
    let Some(event) = answer.as_deref().and_then(|answer| answer.get(1)) else { return Ok(None) };
    let wrong = |error: crate::domain::ids::InvalidId| RedisError::answer(operation, error.to_string());
    let event = event.parse().and_then(|event| EventId::new(id.shard, event)).map_err(wrong)?;
    Ok(Some(event))
}

/// Removes an entry for good; false when there is none with this id.
///
/// # Errors
/// Redis's.
pub async fn remove(redis: &Redis, shards: &[ShardKeys], id: RejectedId) -> Result<bool> {
    Ok(take(redis, "removing a rejected event", shards, id, &[]).await?.is_some())
}

async fn take(
    redis: &Redis,
    operation: &'static str,
    shards: &[ShardKeys],
    id: RejectedId,
    fields: &[Vec<u8>],
) -> Result<Option<Vec<String>>> {
    let Some(keys) = shards.iter().find(|keys| keys.shard == id.shard) else { return Ok(None) };
    let command = taking(keys, id.id, fields);
    let mut connection = redis.pooled(operation).await?;
    let answer: Vec<String> = scripts::run(&mut connection, operation, &command).await?;
    match answer.first().map(String::as_str) {
        Some("gone") => Ok(None),
        Some("removed" | "requeued") => Ok(Some(answer)),
        _ => Err(RedisError::answer(operation, format!("{answer:?}"))),
    }
}

/// The script that takes an entry out of `rejected`, and its bytes out of `rejected_bytes`; with fields, it becomes an
/// event with these.
pub(super) fn taking(keys: &ShardKeys, id: StreamId, fields: &[Vec<u8>]) -> Cmd {
    let names = [keys.rejected(), keys.rejected_bytes(), keys.events()];
    let place = id.to_string();
    TAKE_REJECTED.call_batch([&names[0], &names[1], &names[2]], &[], [place.as_bytes()], fields)
}

// === impl RejectedQuery ===

impl RejectedQuery {
    fn wants(&self, entry: &RejectedEntry) -> bool {
        self.reason.is_none_or(|reason| reason == entry.reason())
            && self.field.as_ref().is_none_or(|field| *field == entry.field)
            && self.organisation.as_ref().is_none_or(|wanted| entry.organisation().as_ref() == Some(wanted))
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    fn new(keys: &'a ShardKeys, before: Option<RejectedId>) -> Self {
        let from = match before {
            None => "+".to_owned(),
            // Of two entries with the same stream id that of the greater shard comes first.
            Some(before) if keys.shard < before.shard => before.id.to_string(),
            Some(before) => older_than(before.id),
        };
        Self { keys, from: Some(from), read: VecDeque::new() }
    }

    /// Reads on where nothing is left of what was read.
    async fn fill(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let operation = "listing rejected events";
        while self.read.is_empty()
            && let Some(from) = self.from.take()
        {
            let mut command = redis::cmd("XREVRANGE");
            command.arg(self.keys.rejected()).arg(from).arg("-").arg("COUNT").arg(PAGE);
            let answer: Value = command.query_async(connection).await.during(operation)?;
            let entries = list_of(operation, answer)?;
            let whole = entries.len() == PAGE;
            for entry in entries {
                let (id, entry) = parse(operation, self.keys, entry)?;
                self.from = whole.then(|| format!("({id}"));
                self.read.extend(entry);
            }
        }
        Ok(())
    }
}

/// One stream entry; `None` for one that Postrider did not keep.
fn parse(
    operation: &'static str,
    keys: &ShardKeys,
    entry: Value,
) -> Result<(StreamId, Option<RejectedEntry>)> {
    let mut parts = list_of(operation, entry)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(RedisError::answer(operation, "an entry without id and fields"));
    };
    let text = text_of(operation, id)?;
    let id = text.parse().map_err(|error| RedisError::answer(operation, format!("'{text}': {error}")))?;
    // The first three are ours, by their place: a producer may write fields of the same names.
    let mut fields = fields_of(operation, fields)?.into_iter();
    let mut ours = |name: &[u8]| {
        let value = fields.next().filter(|(other, _)| other == name).map(|(_, value)| value);
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    };
    let (Some(event_id), Some(field), Some(problem)) = (ours(b"_id"), ours(b"_field"), ours(b"_problem"))
    else {
        metrics::stored_unreadable("rejected");
        return Ok((id, None));
    };
    let id = RejectedId { id, shard: keys.shard };
    Ok((id.id, Some(RejectedEntry { id, event_id, field, problem, fields: fields.collect() })))
}
