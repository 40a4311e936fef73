//! Reading deliveries that are queued or failed: which they are, their records, their bodies. Every function
//! takes the proof that the config is its organisation's, and gives nothing of another config.

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline};

use super::connection::{During, Result};
use super::keys::ShardKeys;
use crate::domain::codec::Malformed;
use crate::domain::delivery::{DeliveryRecord, RECORD_HEAD_MAX_BYTES, RecordBody, RecordHead};
use crate::domain::ids::DeliveryId;
use crate::domain::owned_config::OwnedConfig;

/// Most commands of one pipeline: bounds what a reply holds in memory, and how long others wait for Redis.
pub(super) const PIPELINE_COMMANDS_MAX: usize = 1_000;

/// The bytes of `body:<stream id>` before the body: its count.
const BODY_COUNT_BYTES: usize = 4;

/// One config in one shard: what a reader reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSource<'a> {
    /// The config, proven to be its organisation's.
    pub(super) config: &'a OwnedConfig,
    /// The shard's keys.
    pub(super) keys: &'a ShardKeys,
}

/// How many deliveries of a source have a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordCounts {
    /// In `queue:<config>`.
    pub(super) queued: usize,
    /// In `failed:<config>`.
    pub(super) failed: usize,
}

/// Deliveries of one source that have a record.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// Their ids, each once.
    pub(super) ids: Vec<DeliveryId>,
    /// Members that are no id of a delivery of that shard.
    pub(super) unreadable: usize,
}

/// The commands are one batch per call; reading their replies in slices keeps each short.
pub(super) async fn in_slices<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    operation: &'static str,
    commands: Vec<redis::Cmd>,
) -> Result<Vec<T>> {
    let mut replies = Vec::with_capacity(commands.len());
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() {
        let mut pipeline = Pipeline::new();
        for command in commands.by_ref().take(PIPELINE_COMMANDS_MAX) {
            pipeline.add_command(command);
        }
        let slice: Vec<T> = pipeline.query_async(connection).await.during(operation)?;
        replies.extend(slice);
    }
    Ok(replies)
}

/// `ZCARD` of the queue and of the failed set of each source.
///
/// # Errors
/// Redis's.
pub(super) async fn count_records(
    connection: &mut MultiplexedConnection,
    sources: &[LogSource<'_>],
) -> Result<Vec<RecordCounts>> {
    let mut commands = Vec::with_capacity(sources.len() * 2);
    for source in sources {
        let id = source.config.id();
        for key in [source.keys.queue(id), source.keys.failed(id)] {
            let mut command = redis::cmd("ZCARD");
            command.arg(key);
            commands.push(command);
        }
    }
    let counts: Vec<usize> = in_slices(connection, "counting queued and failed deliveries", commands).await?;
    Ok(counts.chunks_exact(2).map(|pair| RecordCounts { queued: pair[0], failed: pair[1] }).collect())
}

/// `ZREVRANGE` of the queue and the failed set of each source, at most as many as `counts` says: those due
/// last, and those that failed last, come first.
///
/// # Errors
/// Redis's.
pub(super) async fn members(
    connection: &mut MultiplexedConnection,
    sources: &[(LogSource<'_>, RecordCounts)],
) -> Result<Vec<Members>> {
    let mut commands = Vec::new();
    let mut owners = Vec::new();
    for (index, (source, counts)) in sources.iter().enumerate() {
        let id = source.config.id();
        for (key, count) in [(source.keys.queue(id), counts.queued), (source.keys.failed(id), counts.failed)]
        {
            if count > 0 {
                let mut command = redis::cmd("ZREVRANGE");
                command.arg(key).arg(0).arg(count - 1);
                commands.push(command);
                owners.push(index);
            }
        }
    }
    let replies: Vec<Vec<Vec<u8>>> =
        in_slices(connection, "reading queued and failed deliveries", commands).await?;
    let mut found = vec![Members::default(); sources.len()];
    for (index, reply) in owners.into_iter().zip(replies) {
        let shard = sources[index].0.keys.shard;
        for member in reply {
            let id = std::str::from_utf8(&member).ok().and_then(|text| text.parse::<DeliveryId>().ok());
            match id.filter(|id| id.event().shard() == shard) {
                Some(id) => found[index].ids.push(id),
                None => found[index].unreadable += 1,
            }
        }
    }
    for members in &mut found {
        members.ids.sort_unstable();
        members.ids.dedup();
    }
    Ok(found)
}

/// What is kept of a delivery.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// No record, or another config's, or a mark that says no more than that it was delivered.
    Nothing,
    /// Its record.
    Record(RecordHead),
    /// The mark of one that was delivered when it was asked for by hand: rows of fewer attempts are not its state.
    DeliveredByHand {
        /// The attempts made.
        attempts: u32,
    },
}

/// The head of each delivery's record (`GETRANGE`, so that no body travels); `None` where there is none, it is
/// another config's, or only the mark of a delivered one is left.
///
/// # Errors
/// Redis's.
pub(super) async fn record_heads(
    connection: &mut MultiplexedConnection,
    wanted: &[(LogSource<'_>, DeliveryId)],
) -> Result<Vec<std::result::Result<Option<RecordHead>, Malformed>>> {
    let head = |kept| match kept {
        Kept::Record(head) => Some(head),
        Kept::Nothing | Kept::DeliveredByHand { .. } => None,
    };
    Ok(kept(connection, wanted).await?.into_iter().map(|read| read.map(head)).collect())
}

/// What is kept of each delivery, by the front of its record (`GETRANGE`).
///
/// # Errors
/// Redis's.
pub(super) async fn kept(
    connection: &mut MultiplexedConnection,
    wanted: &[(LogSource<'_>, DeliveryId)],
) -> Result<Vec<std::result::Result<Kept, Malformed>>> {
    let commands = wanted.iter().map(|(source, id)| {
        let mut command = redis::cmd("GETRANGE");
        command.arg(source.keys.delivery(*id)).arg(0).arg(RECORD_HEAD_MAX_BYTES - 1);
        command
    });
    let replies: Vec<Vec<u8>> = in_slices(connection, "reading delivery records", commands.collect()).await?;
    let kept = replies.iter().zip(wanted).map(|(bytes, (source, _))| {
        let config = source.config.id();
        // GETRANGE answers the empty string for a key that is not there.
        if bytes.is_empty() || DeliveryRecord::is_mark(bytes) {
            let marked = DeliveryRecord::marked_attempts(bytes, config);
            return Ok(marked.map_or(Kept::Nothing, |attempts| Kept::DeliveredByHand { attempts }));
        }
        let head = RecordHead::decode(bytes)?;
        Ok(if head.config == config { Kept::Record(head) } else { Kept::Nothing })
    });
    Ok(kept.collect())
}

/// Each delivery's whole record; `None` where there is none, it is another config's, or only the mark of a
/// delivered one is left.
///
/// # Errors
/// Redis's.
pub(super) async fn records(
    connection: &mut MultiplexedConnection,
    wanted: &[(LogSource<'_>, DeliveryId)],
) -> Result<Vec<std::result::Result<Option<DeliveryRecord>, Malformed>>> {
    let commands = wanted.iter().map(|(source, id)| {
        let mut command = redis::cmd("GET");
        command.arg(source.keys.delivery(*id));
        command
    });
    let replies: Vec<Option<Vec<u8>>> =
        in_slices(connection, "reading delivery records", commands.collect()).await?;
    let records = replies.iter().zip(wanted).map(|(bytes, (source, _))| match bytes {
        None => Ok(None),
        Some(bytes) if DeliveryRecord::is_mark(bytes) => Ok(None),
        Some(bytes) => DeliveryRecord::decode(bytes)
            .map(|record| Some(record).filter(|record| record.config == source.config.id())),
    });
    Ok(records.collect())
}

/// The body that a record holds or points to; `None` where it is gone, or was left out of the record.
///
/// # Errors
/// Redis's.
pub(super) async fn body_of(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    id: DeliveryId,
    record: &DeliveryRecord,
) -> Result<Option<Bytes>> {
    let length = match &record.body {
        RecordBody::Inline(body) => return Ok(Some(body.clone()).filter(|body| !body.is_empty())),
        RecordBody::Apart(length) => *length,
    };
    let mut command = redis::cmd("GET");
    command.arg(source.keys.body(id.event().stream_id()));
    let stored: Option<Vec<u8>> =
        command.query_async(connection).await.during("reading a body that lies apart")?;
    let body = stored.map(Bytes::from).filter(|bytes| bytes.len() > BODY_COUNT_BYTES);
    let body = body.map(|bytes| bytes.slice(BODY_COUNT_BYTES..));
    Ok(body.filter(|body| u32::try_from(body.len()) == Ok(length)))
}
