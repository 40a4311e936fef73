//! Where an event is: its entry in the stream or in `rejected`, and the deliveries that were made of it. Everything
//! is looked up for one organisation; what belongs to another is not there.

use std::collections::HashMap;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::answer::{fields_of, list_of, text_of};
use super::connection::{During, Redis, RedisError, Result};
use super::delivery_read::{self, LogSource};
use super::keys::{GROUP, ShardKeys};
use super::log_read;
use crate::domain::clock::UnixMillis;
use crate::domain::event::EventFields;
use crate::domain::ids::{DeliveryId, EventId, OrganisationId, StreamId};
use crate::domain::owned_config::OwnedConfig;

/// Log pages after an event that are read of each config for its deliveries, shared among the configs.
const PAGES_MAX: usize = 4_096;
/// ... and at least so many of each.
const PAGES_EACH_MIN: usize = 16;

/// Entries of `rejected` that are looked at after an event.
const REJECTED_MAX: usize = 1_000;

const DAY_MS: u64 = 86_400_000;

const OPERATION: &str = "tracing an event";

/// How far the dispatchers are with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No worker has read it.
    Unread,
    /// A worker has it, and not all of its deliveries have a durable fate.
    InProgress,
    /// Everything that was to be made of it was made.
    Done,
}

/// An entry of the stream that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event's type, as the producer wrote it.
    pub event: String,
    /// The producer's nonce.
    pub nonce: Option<String>,
    /// Only for this config.
    pub only_config: Option<String>,
    /// How far it is.
    pub progress: Progress,
}

/// Why an entry was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// Its id in `rejected`.
    pub id: String,
    /// The field that was wrong.
    pub field: String,
    /// How.
    pub problem: String,
}

/// What is known of an event.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Its entry, while the stream holds it.
    pub entry: Option<Entry>,
    /// Its entry in `rejected`.
    pub rejected: Option<RejectedEntry>,
    /// Its deliveries that have a record or a row, each with the index of its config.
    pub deliveries: Vec<(usize, DeliveryId)>,
    /// Configs whose log goes on behind what was read.
    pub unread_logs: Vec<usize>,
}

/// Looks for everything about an event of the organisation.
///
/// # Errors
/// Redis's.
pub async fn find_event(
    redis: &Redis,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    configs: &[OwnedConfig],
    id: EventId,
    now: UnixMillis,
) -> Result<Found> {
    let Some(keys) = shards.iter().find(|keys| keys.shard == id.shard()) else { return Ok(Found::default()) };
    let mut connection = redis.pooled(OPERATION).await?;
    let entry = entry_of(&mut connection, keys, organisation, id.stream_id()).await?;
    let mut found = Found { entry, ..Found::default() };
    found.rejected = rejected_of(&mut connection, keys, organisation, id.stream_id(), now).await?;
    found.find_deliveries(&mut connection, keys, configs, id).await?;
    Ok(found)
}

/// The event that the publish endpoint wrote with this nonce, in the last 24 h.
///
/// # Errors
/// Redis's.
pub async fn published_as(
    redis: &Redis,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    nonce: &str,
) -> Result<Option<EventId>> {
    let mut connection = redis.pooled(OPERATION).await?;
    for keys in shards {
        let mut command = redis::cmd("GET");
        command.arg(keys.nonce(organisation, nonce));
        let id: Option<String> = command.query_async(&mut connection).await.during(OPERATION)?;
        if let Some(id) = id.and_then(|id| id.parse::<StreamId>().ok()) {
            return Ok(EventId::new(keys.shard, id).ok());
        }
    }
    Ok(None)
}

/// The shards in which the stream holds an entry with this id, or one of the organisation's could have been.
#[must_use]
pub fn in_every_shard(shards: &[ShardKeys], id: StreamId) -> Vec<EventId> {
    shards.iter().filter_map(|keys| EventId::new(keys.shard, id).ok()).collect()
}

async fn entry_of(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    organisation: &OrganisationId,
    id: StreamId,
) -> Result<Option<Entry>> {
    let (text, events) = (id.to_string(), keys.events());
    let mut command = redis::cmd("XRANGE");
    command.arg(&events).arg(&text).arg(&text);
    let entries: Value = command.query_async(connection).await.during(OPERATION)?;
    let Some(entry) = list_of(OPERATION, entries)?.into_iter().next() else { return Ok(None) };
    let (_, fields) = entry_parts(entry)?;
    if fields.organisation_id.as_deref() != Some(organisation.as_str().as_bytes()) {
        return Ok(None);
    }
    let mut command = redis::cmd("XPENDING");
    command.arg(&events).arg(GROUP).arg(&text).arg(&text).arg(1);
    let progress = match command.query_async::<Value>(connection).await {
        Ok(pending) => {
            let mut command = redis::cmd("XINFO");
            command.arg("GROUPS").arg(&events);
            let groups = command.query_async(connection).await.during(OPERATION)?;
            progress_of(groups, pending, id)?
        }
        // Without a group nothing was read.
        Err(error) if error.code() == Some("NOGROUP") => Progress::Unread,
        Err(error) => return Err(RedisError::new(OPERATION, error)),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(Entry {
        event: fields.event.map(text).unwrap_or_default(),
        nonce: fields.nonce.map(text),
        only_config: fields.config_id.map(text),
        progress,
    }))
}

fn progress_of(groups: Value, pending: Value, id: StreamId) -> Result<Progress> {
    if !list_of(OPERATION, pending)?.is_empty() {
        return Ok(Progress::InProgress);
    }
    for group in list_of(OPERATION, groups)? {
        let group: HashMap<String, Value> = redis::from_redis_value(group)
            .map_err(|error| RedisError::answer(OPERATION, error.to_string()))?;
        let text = |name: &str| group.get(name).cloned().and_then(|value| text_of(OPERATION, value).ok());
        if text("name").as_deref() == Some(GROUP) {
            let last: Option<StreamId> = text("last-delivered-id").and_then(|id| id.parse().ok());
            return Ok(if last.is_some_and(|last| id <= last) { Progress::Done } else { Progress::Unread });
        }
    }
    Ok(Progress::Unread)
}

/// Looks behind the event's own time: an entry is rejected after it was written.
async fn rejected_of(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    organisation: &OrganisationId,
    id: StreamId,
    now: UnixMillis,
) -> Result<Option<RejectedEntry>> {
    let mut command = redis::cmd("XRANGE");
    // An id ahead of the clock is later than its rejection.
    let from = if id.ms > now.0 { now.0.saturating_sub(DAY_MS) } else { id.ms };
    command.arg(keys.rejected()).arg(from).arg("+").arg("COUNT").arg(REJECTED_MAX);
    let reply: Value = command.query_async(connection).await.during(OPERATION)?;
    let wanted = id.to_string().into_bytes();
    for entry in list_of(OPERATION, reply)? {
        let mut parts = list_of(OPERATION, entry)?.into_iter();
        let (Some(own_id), Some(fields)) = (parts.next(), parts.next()) else { continue };
        let fields: HashMap<Vec<u8>, Vec<u8>> = fields_of(OPERATION, fields)?.into_iter().collect();
        let is = |name: &[u8], value: &[u8]| fields.get(name).is_some_and(|found| found == value);
        if is(b"_id", &wanted) && is(b"organisationId", organisation.as_str().as_bytes()) {
            let text = |name: &[u8]| {
                fields.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
            };
            let id = text_of(OPERATION, own_id)?;
            return Ok(Some(RejectedEntry { id, field: text(b"_field"), problem: text(b"_problem") }));
        }
    }
    Ok(None)
}

pub(super) fn entry_parts(entry: Value) -> Result<(StreamId, EventFields)> {
    let mut parts = list_of(OPERATION, entry)?.into_iter();
    let (Some(id), Some(values)) = (parts.next(), parts.next()) else {
        return Err(RedisError::answer(OPERATION, "an entry without fields"));
    };
    let id = text_of(OPERATION, id)?;
    let id = id.parse().map_err(|_| RedisError::answer(OPERATION, "an entry without an id"))?;
    let mut fields = EventFields::default();
    for (name, value) in fields_of(OPERATION, values)? {
        fields.set(&name, value);
    }
    Ok((id, fields))
}

// === impl Found ===

impl Found {
    /// A delivery has a record, or a row in its log after the event.
    async fn find_deliveries(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &ShardKeys,
        configs: &[OwnedConfig],
        id: EventId,
    ) -> Result<()> {
        let sources: Vec<LogSource<'_>> = configs.iter().map(|config| LogSource { config, keys }).collect();
        let places: Vec<(LogSource<'_>, DeliveryId)> =
            sources.iter().map(|source| (*source, id.delivery(source.config.id().sequence()))).collect();
        let heads = delivery_read::record_heads(connection, &places).await?;
        let mut open = Vec::new();
        for (index, ((_, delivery), head)) in places.iter().zip(heads).enumerate() {
            match head {
                Ok(None) => open.push(index),
                Ok(Some(_)) | Err(_) => self.deliveries.push((index, *delivery)),
            }
        }
        let each = (PAGES_MAX / open.len().max(1)).max(PAGES_EACH_MIN);
        let asked: Vec<LogSource<'_>> = open.iter().map(|index| sources[*index]).collect();
        let before = UnixMillis(id.stream_id().ms.saturating_sub(1));
        let read = log_read::pages_after(connection, &asked, before, each).await?;
        for (index, pages) in open.into_iter().zip(read) {
            let wanted = places[index].1;
            let rows = pages.iter().filter_map(|read| read.page.as_ref()).flat_map(|page| &page.rows);
            if rows.into_iter().any(|row| row.delivery == wanted) {
                self.deliveries.push((index, wanted));
            } else if pages.len() >= each {
                self.unread_logs.push(index);
            }
        }
        Ok(())
    }
}
