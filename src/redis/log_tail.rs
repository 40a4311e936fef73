//! Following attempt logs as they are written: one `XREAD BLOCK` over every log of a caller, on a connection of its
//! own. Nothing is held for a reader that is slow: what it did not take yet lies in the logs.
//!
//! Cost: a tail is one connection and, per look, one `XREAD` that names every log (configs times shards). A look
//! follows a write, at most ten a second while the tail keeps up; an idle tail looks every 15 s.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::answer::list_of;
use super::connection::{During, Redis, RedisError, Result};
use super::keys::ShardKeys;
use super::log_read;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, InvalidId, ShardNumber, StreamId};
use crate::domain::log::LogRow;
use crate::domain::owned_config::OwnedConfig;
use crate::metrics;

/// Logs (configs times shards) that one tail follows.
pub const LOGS_MAX: usize = 1_024;
/// Longest wait for a new page in one look.
const BLOCK: Duration = Duration::from_secs(15);
/// Pages of all logs together that one look is after: at some 16 KiB each, 4 MiB.
const PAGES: usize = 256;
/// Pages of one log in one look.
const PAGES_OF_ONE_MAX: usize = 64;

/// A row's place over all logs of an organisation: what an event of the tail is named by, and where another tail
/// goes on. The text is `<page>.<row>_<shard>_<config>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailPlace {
    /// The page's id in its stream.
    pub page: StreamId,
    /// The shard that it lies in.
    pub shard: ShardNumber,
    /// The config whose log it is.
    pub config: ConfigId,
    /// The row in the page, from 0.
    pub row: usize,
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailStart {
    /// With what is written from now on.
    Now,
    /// With what was written from this time on and is still kept.
    Since(UnixMillis),
    /// After the row with this place. Rows of other logs that were written in the same millisecond come again, for
    /// some of them may not have been seen.
    After(TailPlace),
}

/// A row that was read.
#[derive(Clone, Debug)]
pub struct TailedRow {
    /// Its place.
    pub place: TailPlace,
    /// The row.
    pub row: LogRow,
}

/// What one look found.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The rows, in the order of their pages.
    pub rows: Vec<TailedRow>,
    /// Whether more is there to be read at once.
    pub more: bool,
}

/// A tail of one organisation's logs.
pub struct LogTail {
    redis: Redis,
    connection: Option<MultiplexedConnection>,
    /// Where a log begins that was not looked at yet.
    start: StreamId,
    after: Option<TailPlace>,
    logs: Vec<Log>,
}

/// One followed log.
struct Log {
    key: String,
    shard: ShardNumber,
    config: ConfigId,
    /// The last page that was taken.
    at: StreamId,
}

// === impl TailPlace ===

impl fmt::Display for TailPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}_{}_{}", self.page, self.row, self.shard.0, self.config)
    }
}

impl FromStr for TailPlace {
    type Err = InvalidId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidId> {
        let wrong = || InvalidId { expected: "the id of an event of this stream" };
        let mut parts = text.splitn(3, '_');
        let (Some(place), Some(shard), Some(config)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let (page, row) = place.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            page: page.parse().map_err(|_| wrong())?,
            shard: ShardNumber(shard.parse().map_err(|_| wrong())?),
            config: config.parse().map_err(|_| wrong())?,
            row: row.parse().map_err(|_| wrong())?,
        })
    }
}

// === impl LogTail ===

impl LogTail {
    /// A tail that follows nothing yet; connects, so that a Redis that is away is told at once.
    ///
    /// # Errors
    /// Redis's.
    pub async fn begin(redis: &Redis, start: TailStart) -> Result<Self> {
        let mut connection = connect(redis).await?;
        let (ms, after) = match start {
            TailStart::Since(since) => (since.0, None),
            TailStart::After(place) => (place.page.ms, Some(place)),
            TailStart::Now => (log_read::redis_time(&mut connection, "following logs").await?.0, None),
        };
        // The greatest id of the millisecond before: Redis reads what lies behind it.
        let start = StreamId { ms: ms.saturating_sub(1), seq: u64::MAX };
        Ok(Self { redis: redis.clone(), connection: Some(connection), start, after, logs: Vec::new() })
    }

    /// Follows the logs of these configs, at most [`LOGS_MAX`]; false when some were left out. Those that are
    /// followed already go on where they are.
    pub fn follow(&mut self, configs: &[OwnedConfig], shards: &[ShardKeys]) -> bool {
        let at: HashMap<(ShardNumber, ConfigId), StreamId> =
            self.logs.iter().map(|log| ((log.shard, log.config), log.at)).collect();
        let start_of = |shard: ShardNumber, config: ConfigId| match self.after {
            // The page itself comes again: it may have rows behind the one that was seen.
            Some(after) if (after.shard, after.config) == (shard, config) => before(after.page),
            _ => self.start,
        };
        let logs = configs.iter().flat_map(|config| {
            let config = config.id();
            shards.iter().map(move |keys| (keys, config))
        });
        self.logs = logs
            .take(LOGS_MAX)
            .map(|(keys, config)| {
                let shard = keys.shard;
                let at = at.get(&(shard, config)).copied().unwrap_or_else(|| start_of(shard, config));
                Log { key: keys.log(config), shard, config, at }
            })
            .collect();
        configs.len() * shards.len() <= LOGS_MAX
    }

    /// Waits for rows, at most 15 s. A look that is given up (its future dropped) loses nothing: the next one makes
    /// a new connection and begins where this one did.
    ///
    /// # Errors
    /// Redis's.
    pub async fn look(&mut self) -> Result<Look> {
        let operation = "following logs";
        if self.logs.is_empty() {
            tokio::time::sleep(BLOCK).await;
            return Ok(Look::default());
        }
        // Taken out until the answer is there: behind a read that was given up another would have to wait.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.redis).await?,
        };
        let count = (PAGES / self.logs.len()).clamp(1, PAGES_OF_ONE_MAX);
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(count).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for log in &self.logs {
            command.arg(&log.key);
        }
        for log in &self.logs {
            command.arg(log.at.to_string());
        }
        let answer: Value = command.query_async(&mut connection).await.during(operation)?;
        self.connection = Some(connection);
        self.take(operation, answer, count)
    }

    /// Takes what was read up to the place down to which every log was read: an event's id must stand for
    /// everything before it.
    fn take(&mut self, operation: &'static str, answer: Value, count: usize) -> Result<Look> {
        let mut read: Vec<(usize, Vec<log_read::ReadPage>)> = Vec::new();
        for stream in list_of(operation, answer)? {
            let mut parts = list_of(operation, stream)?.into_iter();
            let (Some(Value::BulkString(key)), Some(entries)) = (parts.next(), parts.next()) else {
                return Err(RedisError::answer(operation, "a stream without key and entries"));
            };
            let place = self.logs.iter().position(|log| log.key.as_bytes() == key);
            let place =
                place.ok_or_else(|| RedisError::answer(operation, "a stream that was not asked for"))?;
            read.push((place, log_read::pages_of(entries)));
        }
        let cut = read.iter().filter(|(_, pages)| pages.len() >= count);
        let frontier = cut.filter_map(|(_, pages)| pages.last().map(|page| page.id)).min();
        let mut look = Look { rows: Vec::new(), more: frontier.is_some() };
        for (place, pages) in read {
            let log = &mut self.logs[place];
            for page in pages.into_iter().filter(|page| frontier.is_none_or(|frontier| page.id <= frontier)) {
                log.at = page.id;
                let Some(rows) = page.page.map(|page| page.rows) else {
                    metrics::stored_unreadable("page");
                    continue;
                };
                let (shard, config) = (log.shard, log.config);
                look.rows.extend(rows.into_iter().enumerate().map(|(number, row)| TailedRow {
                    place: TailPlace { page: page.id, shard, config, row: number },
                    row,
                }));
            }
        }
        if let Some(after) = self.after {
            let seen = |place: &TailPlace| {
                (place.shard, place.config) == (after.shard, after.config) && *place <= after
            };
            look.rows.retain(|row| !seen(&row.place));
        }
        look.rows.sort_by_key(|row| row.place);
        Ok(look)
    }
}

/// The greatest id before `id`.
const fn before(id: StreamId) -> StreamId {
    match id.seq.checked_sub(1) {
        Some(seq) => StreamId { ms: id.ms, seq },
        None => StreamId { ms: id.ms.saturating_sub(1), seq: u64::MAX },
    }
}

async fn connect(redis: &Redis) -> Result<MultiplexedConnection> {
    redis.connect(Some(BLOCK + redis.response_timeout())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_its_text_and_nothing_else_is() {
        let text = "1777626000000-2.5_3_0123456789abcdef00000007";
        let place: TailPlace = text.parse().unwrap();
        assert_eq!((place.page.seq, place.row, place.shard.0, place.to_string().as_str()), (2, 5, 3, text));
        for wrong in
            ["", "1-1", "1-1.0_0_12", "1-1_0_0123456789abcdef00000007", "1.0_0_0123456789abcdef00000007"]
        {
            assert!(wrong.parse::<TailPlace>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_id_before_an_id() {
        assert_eq!(before(StreamId { ms: 5, seq: 3 }), StreamId { ms: 5, seq: 2 });
        assert_eq!(before(StreamId { ms: 5, seq: 0 }), StreamId { ms: 4, seq: u64::MAX });
        assert_eq!(before(StreamId { ms: 0, seq: 0 }), StreamId { ms: 0, seq: u64::MAX });
    }
}
