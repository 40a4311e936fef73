//! Reading the attempt log: pages of `log:<config>`, and the payload of an attempt from `bodies:<config>`
//! (docs/REDIS.md, "Log page" and "Payload page"). Every function takes the proof that the config is its
//! organisation's.

use bytes::Bytes;
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connection::{During, RedisError, Result};
use super::delivery_read::{LogSource, RecordCounts, in_slices};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{DeliveryId, StreamId};
use crate::domain::log::{LogPage, PageKey, PayloadPage};
use crate::domain::log_glance::glance;

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

/// The oldest page of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OldestPage {
    /// Its stream id.
    pub(super) id: StreamId,
    /// When its oldest row was made.
    pub(super) at: UnixMillis,
}

/// What a first page begins with.
pub(super) struct Opening {
    /// Redis's time, before anything else was read.
    pub(super) now: UnixMillis,
    /// Each log, in the order that was asked for.
    pub(super) logs: Vec<OpenedLog>,
}

/// The top of a log.
pub(super) struct OpenedLog {
    /// Its records, before its pages were read: what ends in between is found by its final row.
    pub(super) records: RecordCounts,
    /// When its oldest failed delivery failed.
    pub(super) oldest_failed: Option<UnixMillis>,
    /// How many pages it has.
    pub(super) length: usize,
    /// Its newest pages, newest first.
    pub(super) pages: Vec<PackedEntry>,
}

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
    let commands = requests.iter().map(newest_command);
    let replies: Vec<Value> = in_slices(connection, "reading log pages", commands.collect()).await?;
    Ok(replies.into_iter().map(|reply| entries(reply).collect()).collect())
}

/// `TIME`, and of each log the numbers of its records (`ZCARD`) and pages (`XLEN`), when its oldest failed delivery
/// failed (`ZRANGE`), and its newest `count` pages: all at once, so that a first page waits for Redis once.
///
/// # Errors
/// Redis's, or that an answer is of another kind.
pub(super) async fn opening(
    connection: &mut MultiplexedConnection,
    sources: &[LogSource<'_>],
    count: usize,
) -> Result<Opening> {
    const OPERATION: &str = "reading the top of the log";
    let mut commands = vec![redis::cmd("TIME")];
    for source in sources {
        let id = source.config.id();
        for (command, key) in [
            ("ZCARD", source.keys.queue(id)),
            ("ZCARD", source.keys.failed(id)),
            ("XLEN", source.keys.log(id)),
        ] {
            commands.push(redis::cmd(command).arg(key).to_owned());
        }
        let mut oldest_failed = redis::cmd("ZRANGE");
        oldest_failed.arg(source.keys.failed(id)).arg(0).arg(0).arg("WITHSCORES");
        commands.push(oldest_failed);
        commands.push(newest_command(&PageRequest { source: *source, below: None, count }));
    }
    let replies: Vec<Value> = in_slices(connection, OPERATION, commands).await?;
    let strange = || RedisError::answer(OPERATION, "an answer of another kind".to_owned());
    let mut replies = replies.into_iter();
    let now = time_of_reply(replies.next().unwrap_or_default()).during(OPERATION)?;
    let mut logs = Vec::with_capacity(sources.len());
    for _ in sources {
        let mut number = || match replies.next() {
            Some(Value::Int(number)) => usize::try_from(number).map_err(|_| strange()),
            _ => Err(strange()),
        };
        let records = RecordCounts { queued: number()?, failed: number()? };
        let length = number()?;
        let oldest_failed = scored_time(replies.next().unwrap_or_default()).during(OPERATION)?;
        let pages = entries(replies.next().ok_or_else(strange)?).collect();
        logs.push(OpenedLog { records, oldest_failed, length, pages });
    }
    Ok(Opening { now, logs })
}

/// The oldest page of each log (`XRANGE`), where there is one.
///
/// # Errors
/// Redis's.
pub(super) async fn oldest_pages(
    connection: &mut MultiplexedConnection,
    sources: &[LogSource<'_>],
) -> Result<Vec<Option<OldestPage>>> {
    let commands = sources.iter().map(oldest_command);
    let replies: Vec<Value> =
        in_slices(connection, "reading the oldest log page", commands.collect()).await?;
    Ok(replies.into_iter().map(oldest_of_reply).collect())
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

/// What an entry tells as the oldest of its log.
pub(super) fn oldest_page((id, packed): &PackedEntry) -> OldestPage {
    let mut at = None;
    let glanced = glance(packed, |row| at = at.into_iter().chain([row.at]).min());
    let at = at.filter(|_| glanced.is_ok()).unwrap_or(UnixMillis(id.ms));
    OldestPage { id: *id, at }
}

/// The oldest page in the answer to [`oldest_command`].
pub(super) fn oldest_of_reply(reply: Value) -> Option<OldestPage> {
    entries(reply).next().map(|entry| oldest_page(&entry))
}

/// `XRANGE` of a log's oldest page.
pub(super) fn oldest_command(source: &LogSource<'_>) -> redis::Cmd {
    let mut command = redis::cmd("XRANGE");
    command.arg(source.keys.log(source.config.id())).arg("-").arg("+").arg("COUNT").arg(1);
    command
}

/// The score of the only member in the answer to `ZRANGE ... WITHSCORES`, a time.
fn scored_time(reply: Value) -> std::result::Result<Option<UnixMillis>, redis::RedisError> {
    let members: Vec<(Vec<u8>, f64)> = redis::from_redis_value(reply)?;
    Ok(members.first().map(|(_, score)| time_of_score(*score)))
}

/// A score that is a time.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Milliseconds, far below 2^53.
pub(super) const fn time_of_score(score: f64) -> UnixMillis {
    UnixMillis(score as u64)
}

/// Redis's `TIME`.
///
/// # Errors
/// Redis's.
pub(super) async fn redis_time(
    connection: &mut MultiplexedConnection,
    operation: &'static str,
) -> Result<UnixMillis> {
    time_of_reply(redis::cmd("TIME").query_async(connection).await.during(operation)?).during(operation)
}

/// The answer to `TIME`.
pub(super) fn time_of_reply(reply: Value) -> std::result::Result<UnixMillis, redis::RedisError> {
    let (seconds, micros): (u64, u64) = redis::from_redis_value(reply)?;
    Ok(UnixMillis(seconds * 1_000 + micros / 1_000))
}

fn newest_command(request: &PageRequest<'_>) -> redis::Cmd {
    let key = request.source.keys.log(request.source.config.id());
    let from = request.below.map_or_else(|| "+".to_owned(), |id| format!("({id}"));
    let mut command = redis::cmd("XREVRANGE");
    command.arg(key).arg(from).arg("-").arg("COUNT").arg(request.count);
    command
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
