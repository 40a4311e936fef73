//! Reading the attempt log: pages of `log:<config>`, and the payload of an attempt from `bodies:<config>`
//! (docs/REDIS.md, "Log page" and "Payload page"). Every function takes the proof that the config is its
//! organisation's.

use bytes::Bytes;
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connection::{During, Result};
use super::delivery_read::{LogSource, in_slices};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{DeliveryId, StreamId};
use crate::domain::log::{LogPage, PageKey, PayloadPage};

/// How far back from a log page its payload page is looked for: settle flushes of other workers may lie
/// between the two, but seldom more than one.
const PAYLOAD_PAGES_MAX: usize = 64;

/// How many payload pages are asked for at a time: a page holds up to 80 KiB, and nearly always it is the
/// first.
const PAYLOAD_PAGES_STEPS: [usize; 3] = [2, 14, 48];

/// A slice of a log to read, newest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRequest<'a> {
    /// Which log.
    pub(super) source: LogSource<'a>,
    /// Only pages older than this.
    pub(super) below: Option<StreamId>,
    /// At most so many.
    pub(super) count: usize,
}

/// An entry of a log as read.
#[derive(Clone, Debug)]
pub(super) struct ReadPage {
    /// Its stream id.
    pub(super) id: StreamId,
    /// Bytes of the packed page.
    pub(super) bytes: usize,
    /// The page; `None` when it cannot be understood.
    pub(super) page: Option<LogPage>,
}

/// An entry of a log as it is stored: its stream id and its packed page.
pub(super) type PackedEntry = (StreamId, Vec<u8>);

/// An attempt whose payload is wanted: the page that holds its row, and the attempt's number.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadPlace {
    /// The log page's stream id.
    pub(super) page: StreamId,
    /// The log page's key.
    pub(super) key: PageKey,
    /// The attempt.
    pub(super) attempt: u32,
}

/// `XREVRANGE` of each log, all in one pipeline. Fewer pages than asked for mean the log's end.
///
/// # Errors
/// Redis's.
pub(super) async fn pages(
    connection: &mut MultiplexedConnection,
    requests: &[PageRequest<'_>],
) -> Result<Vec<Vec<ReadPage>>> {
    let read = packed_pages(connection, requests).await?;
    Ok(read.into_iter().map(|pages| pages.into_iter().map(log_page).collect()).collect())
}

/// As [`pages`], with each page as it is stored.
///
/// # Errors
/// Redis's.
pub(super) async fn packed_pages(
    connection: &mut MultiplexedConnection,
    requests: &[PageRequest<'_>],
) -> Result<Vec<Vec<PackedEntry>>> {
    let commands = requests.iter().map(|request| {
        let key = request.source.keys.log(request.source.config.id());
        let from = request.below.map_or_else(|| "+".to_owned(), |id| format!("({id}"));
        let mut command = redis::cmd("XREVRANGE");
        command.arg(key).arg(from).arg("-").arg("COUNT").arg(request.count);
        command
    });
    let replies: Vec<Value> = in_slices(connection, "reading log pages", commands.collect()).await?;
    Ok(replies.into_iter().map(|reply| entries(reply).collect()).collect())
}

/// The oldest page of each log (`XRANGE`), where there is one.
///
/// # Errors
/// Redis's.
pub(super) async fn oldest_pages(
    connection: &mut MultiplexedConnection,
    sources: &[LogSource<'_>],
) -> Result<Vec<Option<ReadPage>>> {
    let commands = sources.iter().map(|source| {
        let mut command = redis::cmd("XRANGE");
        command.arg(source.keys.log(source.config.id())).arg("-").arg("+").arg("COUNT").arg(1);
        command
    });
    let replies: Vec<Value> =
        in_slices(connection, "reading the oldest log page", commands.collect()).await?;
    Ok(replies.into_iter().map(|reply| entries(reply).map(log_page).next()).collect())
}

/// The first pages of each log that were written after a moment (`XRANGE`), at most `count` of each.
///
/// # Errors
/// Redis's.
pub(super) async fn pages_after(
    connection: &mut MultiplexedConnection,
    sources: &[LogSource<'_>],
    after: UnixMillis,
    count: usize,
) -> Result<Vec<Vec<ReadPage>>> {
    let commands = sources.iter().map(|source| {
        let mut command = redis::cmd("XRANGE");
        let key = source.keys.log(source.config.id());
        command.arg(key).arg(after.0.saturating_add(1)).arg("+").arg("COUNT").arg(count);
        command
    });
    let replies: Vec<Value> = in_slices(connection, "reading newer log pages", commands.collect()).await?;
    Ok(replies.into_iter().map(|reply| entries(reply).map(log_page).collect()).collect())
}

/// The payload that an attempt sent: its payload page was written just before its log page and carries the
/// same key, so the search goes from the log page's time back. `None` where it is gone, or was too large.
///
/// # Errors
/// Redis's.
pub(super) async fn payload_at(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    delivery: DeliveryId,
    place: PayloadPlace,
) -> Result<Option<Bytes>> {
    const {
        assert!(PAYLOAD_PAGES_STEPS[0] + PAYLOAD_PAGES_STEPS[1] + PAYLOAD_PAGES_STEPS[2] == PAYLOAD_PAGES_MAX)
    };
    // Both ids are of the same millisecond or of neighbouring ones, and each stream counts its own sequence.
    let mut from = place.page.ms.to_string();
    for count in PAYLOAD_PAGES_STEPS {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(source.keys.bodies(source.config.id())).arg(&from).arg("-").arg("COUNT").arg(count);
        let reply: Value = command.query_async(connection).await.during("reading payload pages")?;
        let mut seen = 0;
        for (id, packed) in entries(reply) {
            seen += 1;
            from = format!("({id}");
            let Ok(page) = PayloadPage::decode(&packed) else { continue };
            if page.key == place.key {
                let wanted = page
                    .payloads
                    .into_iter()
                    .find(|one| one.delivery == delivery && one.attempt == place.attempt);
                return Ok(wanted.map(|one| one.payload));
            }
        }
        if seen < count {
            return Ok(None);
        }
    }
    Ok(None)
}

/// The pages among the entries of a stream.
pub(super) fn pages_of(entries_read: Value) -> Vec<ReadPage> {
    entries(entries_read).map(log_page).collect()
}

/// The newest payload pages of a log, at most `count`; those that cannot be understood are left out.
///
/// # Errors
/// Redis's.
pub(super) async fn payload_pages(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    count: usize,
) -> Result<Vec<PayloadPage>> {
    let mut command = redis::cmd("XREVRANGE");
    command.arg(source.keys.bodies(source.config.id())).arg("+").arg("-").arg("COUNT").arg(count);
    let reply: Value = command.query_async(connection).await.during("reading payload pages")?;
    Ok(entries(reply).filter_map(|(_, packed)| PayloadPage::decode(&packed).ok()).collect())
}

/// Unpacks an entry.
pub(super) fn log_page((id, packed): PackedEntry) -> ReadPage {
    ReadPage { id, bytes: packed.len(), page: LogPage::decode(&packed).ok() }
}

/// The ids and `p` fields of a range of a stream; an entry without the field has an empty one, which no page
/// is.
fn entries(reply: Value) -> impl Iterator<Item = PackedEntry> {
    let Value::Array(entries) = reply else { return Vec::new().into_iter() };
    let read = entries.into_iter().filter_map(entry).collect::<Vec<_>>();
    read.into_iter()
}

fn entry(entry: Value) -> Option<(StreamId, Vec<u8>)> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let (Some(Value::BulkString(id)), Some(Value::Array(fields))) = (parts.next(), parts.next()) else {
        return None;
    };
    let id = std::str::from_utf8(&id).ok()?.parse().ok()?;
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if let (Value::BulkString(name), Value::BulkString(packed)) = (name, value)
            && name == b"p"
        {
            return Some((id, packed));
        }
    }
    Some((id, Vec::new()))
}
