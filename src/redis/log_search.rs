//! The log's two questions: which deliveries match, newest first, and everything about one of them.
//!
//! Records are read before rows, so a delivery that ends in between is found in its final row. A question
//! reads a bounded amount; where the bound is hit, the count is a floor and says so. The first page of a question
//! counts what matches: at a glance where every delivery does (`log_count`), else by reading the rows. Later ones
//! (`log_page`) begin at their cursor and read no more than they show.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::sync::Semaphore;

use super::connection::{Cause, Redis, RedisError, Result};
use super::delivery_read::{self, LogSource};
use super::keys::ShardKeys;
use super::log_count::Which;
use super::log_heads::{Heads, Whose};
use super::log_read::{self, PayloadPlace};
use super::log_scan::{Budget, Scan};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::{DeliveryRecord, RecordHead};
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_cursor::{LogCursor, Place};
use crate::domain::log_merge::{self, DeliveryState, LogFilter, PlacedRow};
use crate::domain::log_view::DeliveryView;
use crate::domain::owned_config::OwnedConfig;

/// What is read while the asked-for deliveries are not all found, or to count one config's: six full logs'
/// worth by rows, about 11 ms of Redis in slices of a few.
pub(super) const SEARCH_BUDGET: Budget = Budget { rows: 65_536, bytes: 24 * MIB };

/// What is read for the rows of one delivery, which keeps nothing else in memory: above every sensible cap.
const ONE_DELIVERY_BUDGET: Budget = Budget { rows: 262_144, bytes: 128 * MIB };

/// Logs that one question reads: configs (deleted ones included) times shards.
const SOURCES_MAX: usize = 4_096;

/// Deliveries before a page that is still put together from the top.
const NEAR_SKIP_MAX: usize = 1_000;

/// Questions that are answered at a time; others wait. Each holds up to about 40 MiB and one pooled connection.
const QUESTIONS_MAX: usize = 4;

/// Attempts whose payload is looked for, newest first, before a delivery's counts as gone: every attempt sent
/// the same bytes, and each look can read 64 payload pages.
const PAYLOAD_LOOKS_MAX: usize = 4;

pub(super) const MIB: usize = 1024 * 1024;

static QUESTIONS: Semaphore = Semaphore::const_new(QUESTIONS_MAX);

/// A page of the deliveries that match.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// What matches.
    pub filter: LogFilter,
    /// Deliveries to leave out at the front.
    pub skip: usize,
    /// Most deliveries to answer.
    pub limit: usize,
    /// Where to go on, of an answer to the same question.
    pub cursor: Option<LogCursor>,
    /// The question's fingerprint ([`crate::domain::log_cursor::question`]), for cursors.
    pub question: u64,
}

/// The answer to a [`LogQuery`].
#[derive(Clone, Debug, Default)]
pub struct LogAnswer {
    /// How many match, whatever `skip` and `limit`.
    pub total: usize,
    /// Whether there may be more than `total`: a bound was hit, or something could not be read.
    pub total_is_floor: bool,
    /// The deliveries, newest first.
    pub deliveries: Vec<DeliveryView>,
    /// When the oldest row that the logs still hold was made.
    pub oldest_at: Option<UnixMillis>,
    /// Pages, records and members that could not be understood.
    pub unreadable: usize,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<LogCursor>,
}

/// A question under way.
pub(super) struct Asked<'a> {
    pub(super) shards: &'a [ShardKeys],
    pub(super) configs: &'a [OwnedConfig],
    pub(super) sources: Vec<(usize, LogSource<'a>)>,
    pub(super) query: &'a LogQuery,
    /// Whether there are more logs than one question reads.
    pub(super) left_out: bool,
}

/// Everything about one delivery.
#[derive(Clone, Debug)]
pub struct DeliveryDetail {
    /// The delivery with every attempt that is still known.
    pub view: DeliveryView,
    /// The bytes that were or will be sent; `None` where they are gone or were too large to keep.
    pub payload: Option<Bytes>,
    /// Whether the delivery has a record: it waits, or failed and its record is still kept.
    pub recorded: bool,
    /// The URL of each attempt whose row is still there.
    pub urls: HashMap<u32, Arc<str>>,
    /// The event's `traceparent`, while the delivery has a record.
    pub traceparent: Option<Arc<str>>,
}

// === impl LogQuery ===

impl LogQuery {
    /// Whether every delivery matches, or every delivered one, so that they are counted without being looked at;
    /// and whether the page lies near the top.
    fn asks_for_every(&self, status: Option<Status>) -> bool {
        let LogFilter { event, since, until, unsuccessful, .. } = &self.filter;
        matches!(status, None | Some(Status::Delivered))
            && event.is_none()
            && since.is_none()
            && until.is_none()
            && !unsuccessful
            && self.skip <= NEAR_SKIP_MAX
    }
}

/// Finds the deliveries of `configs` (all of one organisation) that match.
///
/// # Errors
/// Redis's. A page or record that cannot be understood is skipped and counted instead.
pub async fn find_deliveries(
    redis: &Redis,
    shards: &[ShardKeys],
    configs: &[OwnedConfig],
    query: &LogQuery,
) -> Result<LogAnswer> {
    let (_turn, mut connection) = begin(redis).await?;
    let mut sources = sources_of(shards, configs);
    let left_out = sources.len() > SOURCES_MAX;
    sources.truncate(SOURCES_MAX);
    let asked = Asked { shards, configs, sources, query, left_out };
    let status = query.filter.status;
    let as_of = match query.cursor {
        Some(cursor) => cursor.as_of,
        None if status == Some(Status::Failed) => return asked.failed(&mut connection, None).await,
        None if query.asks_for_every(status) => {
            let which = if status.is_some() { Which::Delivered } else { Which::All };
            return asked.newest(&mut connection, which).await;
        }
        None => written_until(log_read::redis_time(&mut connection, "reading the log").await?),
    };
    match (query.cursor.map(|cursor| cursor.place), status) {
        (Some(Place::Rows(position, id)), _) => {
            asked.later_page(&mut connection, as_of, (position, id)).await
        }
        (Some(Place::Waiting(at, id)), _) => asked.waiting(&mut connection, as_of, Some((at, id))).await,
        (Some(Place::Failed(at, id)), _) => asked.failed(&mut connection, Some((at, id))).await,
        (None, Some(Status::Pending | Status::Retrying)) => asked.waiting(&mut connection, as_of, None).await,
        (None, _) => {
            let heads = Heads::read(&mut connection, &asked.sources, configs.len(), Whose::All).await?;
            asked.first_page(&mut connection, as_of, heads).await
        }
    }
}

/// Rows of this millisecond and before are all written, when it is `now`: what a walk that begins now is about.
pub(super) const fn written_until(now: UnixMillis) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(1))
}

/// Finds one delivery of `config`, with its payload and every attempt; `None` when the log does not know it.
///
/// # Errors
/// Redis's, or that the record cannot be understood. A page that cannot is skipped.
pub async fn find_delivery(
    redis: &Redis,
    shards: &[ShardKeys],
    config: &OwnedConfig,
    id: DeliveryId,
) -> Result<Option<DeliveryDetail>> {
    let Some(source) = source_of(shards, config, id) else { return Ok(None) };
    let (_turn, mut connection) = begin(redis).await?;
    let mut record = record_of(&mut connection, source, id).await?;
    let rows = rows_of(&mut connection, source, id).await?;
    if record.is_none() && !rows.is_empty() {
        // Its first attempt may have failed after the record was looked for.
        record = record_of(&mut connection, source, id).await?;
    }
    let head = record.as_ref().map(DeliveryRecord::head);
    let Some(state) = DeliveryState::new(id, head.as_ref(), rows.iter().collect(), UnixMillis(u64::MAX))
    else {
        return Ok(None);
    };
    let view = DeliveryView::new(config, &state, record.as_ref());
    // A config that does not log payloads shows none, also not of what still waits or was logged before.
    let payload = match config.logs_payloads() {
        true => payload_among(&mut connection, source, id, record.as_ref(), &rows).await?,
        false => None,
    };
    let attempts = rows.iter().map(|placed| &placed.row).filter(|row| row.is_attempt());
    let urls = attempts.map(|row| (row.attempt, Arc::clone(&row.url))).collect();
    let recorded = record.is_some();
    let traceparent = record.and_then(|record| record.traceparent);
    Ok(Some(DeliveryDetail { view, payload, recorded, urls, traceparent }))
}

/// Waits for a turn, no longer than for an answer of Redis: what waits holds a place of the admin API.
async fn begin(redis: &Redis) -> Result<(tokio::sync::SemaphorePermit<'static>, deadpool_redis::Connection)> {
    let operation = "reading the log";
    let no_turn = || RedisError { operation, cause: Cause::Pool("too many questions to the log".to_owned()) };
    let turn = tokio::time::timeout(redis.response_timeout(), QUESTIONS.acquire()).await;
    let turn = turn.map_err(|_| no_turn())?.map_err(|_| no_turn())?;
    Ok((turn, redis.pooled(operation).await?))
}

fn sources_of<'a>(shards: &'a [ShardKeys], configs: &'a [OwnedConfig]) -> Vec<(usize, LogSource<'a>)> {
    let of = |(index, config)| shards.iter().map(move |keys| (index, LogSource { config, keys }));
    configs.iter().enumerate().flat_map(of).collect()
}

fn source_of<'a>(shards: &'a [ShardKeys], config: &'a OwnedConfig, id: DeliveryId) -> Option<LogSource<'a>> {
    let keys = shards.iter().find(|keys| keys.shard == id.event().shard())?;
    (id.config() == config.id().sequence()).then_some(LogSource { config, keys })
}

/// Every delivery that matches, of all configs, newest first, with the index of its config.
pub(super) fn matching<'a>(
    rows: &'a [Vec<PlacedRow>],
    heads: &'a [HashMap<DeliveryId, RecordHead>],
    filter: &LogFilter,
    as_of: UnixMillis,
) -> Vec<(usize, DeliveryState<'a>)> {
    let mut found: Vec<(usize, DeliveryState<'a>)> = rows
        .iter()
        .zip(heads)
        .enumerate()
        .flat_map(|(config, (rows, heads))| {
            log_merge::merge(rows, heads, as_of).into_iter().map(move |state| (config, state))
        })
        .filter(|(_, state)| filter.wants_state(state))
        .collect();
    found.sort_unstable_by_key(|(_, state)| state.order());
    found
}

/// The views of a page of states. A record that changed meanwhile shows as it is now, unless it no longer
/// matches.
pub(super) async fn views(
    connection: &mut MultiplexedConnection,
    shards: &[ShardKeys],
    configs: &[OwnedConfig],
    page: &[&(usize, DeliveryState<'_>)],
    filter: &LogFilter,
) -> Result<Vec<DeliveryView>> {
    let recorded = page.iter().filter(|(_, state)| state.record.is_some());
    let recorded: Vec<(LogSource<'_>, DeliveryId)> = recorded
        .filter_map(|(config, state)| {
            Some((source_of(shards, &configs[*config], state.delivery)?, state.delivery))
        })
        .collect();
    let read = delivery_read::records(connection, &recorded).await?;
    let records: HashMap<DeliveryId, DeliveryRecord> = recorded
        .iter()
        .zip(read)
        .filter_map(|((_, id), record)| Some((*id, record.ok().flatten()?)))
        .collect();
    Ok(views_with(configs, page, filter, &records))
}

/// The views of a page of states whose records were read.
pub(super) fn views_with(
    configs: &[OwnedConfig],
    page: &[&(usize, DeliveryState<'_>)],
    filter: &LogFilter,
    records: &HashMap<DeliveryId, DeliveryRecord>,
) -> Vec<DeliveryView> {
    let views = page
        .iter()
        .map(|(config, state)| DeliveryView::new(&configs[*config], state, records.get(&state.delivery)));
    let still_wanted = |view: &DeliveryView| {
        filter.wants(view.status, &view.event_type, view.last_attempt_at, view.created_at)
    };
    views.filter(still_wanted).collect()
}

async fn record_of(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    id: DeliveryId,
) -> Result<Option<DeliveryRecord>> {
    let read = delivery_read::records(connection, &[(source, id)]).await?;
    let record = read.into_iter().next().transpose();
    let record =
        record.map_err(|error| RedisError::answer("reading a delivery record", error.to_string()))?;
    Ok(record.flatten())
}

/// The rows of one delivery: none lies before its event.
async fn rows_of(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    id: DeliveryId,
) -> Result<Vec<PlacedRow>> {
    let since = UnixMillis(id.event().stream_id().ms);
    let mut scan = Scan::new(&[(0, source)], Some(since), Some(id));
    scan.read(connection, ONE_DELIVERY_BUDGET).await?;
    Ok(scan.rows.into_iter().next().unwrap_or_default())
}

async fn payload_among(
    connection: &mut MultiplexedConnection,
    source: LogSource<'_>,
    id: DeliveryId,
    record: Option<&DeliveryRecord>,
    rows: &[PlacedRow],
) -> Result<Option<Bytes>> {
    if let Some(record) = record
        && let Some(body) = delivery_read::body_of(connection, source, id, record).await?
    {
        return Ok(Some(body));
    }
    let mut attempts: Vec<&PlacedRow> = rows.iter().filter(|placed| placed.row.is_attempt()).collect();
    attempts.sort_unstable_by_key(|placed| std::cmp::Reverse(placed.position));
    for placed in attempts.into_iter().take(PAYLOAD_LOOKS_MAX) {
        let place = PayloadPlace { page: placed.position.page, key: placed.key, attempt: placed.row.attempt };
        if let Some(payload) = log_read::payload_at(connection, source, id, place).await? {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}
