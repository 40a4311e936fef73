//! The log's two questions: which deliveries match, newest first, and everything about one of them.
//!
//! Records are read before rows, so a delivery that ends in between is found in its final row. A question
//! reads a bounded amount; where the bound is hit, the count is a floor and says so.

use std::collections::HashMap;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::sync::Semaphore;

use super::connection::{Cause, Redis, RedisError, Result};
use super::delivery_read::{self, LogSource};
use super::keys::ShardKeys;
use super::log_heads::Heads;
use super::log_read::{self, PayloadPlace};
use super::log_scan::{Budget, Scan};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::{DeliveryRecord, RecordHead};
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_merge::{self, DeliveryState, LogFilter, PlacedRow};
use crate::domain::log_view::DeliveryView;
use crate::domain::owned_config::OwnedConfig;

/// What is read of the logs of several configs so that their deliveries are counted: one full log's worth at
/// the default caps (10,000 rows, 8 MiB) and what a trim lags behind. A first page needs far less.
const COUNT_BUDGET: Budget = Budget { rows: 16_384, bytes: 10 * MIB };

/// What is read while the asked-for deliveries are not all found, or to count one config's: six full logs'
/// worth by rows, about 11 ms of Redis in slices of a few.
const SEARCH_BUDGET: Budget = Budget { rows: 65_536, bytes: 24 * MIB };

/// What is read for the rows of one delivery, which keeps nothing else in memory: above every sensible cap.
const ONE_DELIVERY_BUDGET: Budget = Budget { rows: 262_144, bytes: 128 * MIB };

/// Logs that one question reads: configs (deleted ones included) times shards.
const SOURCES_MAX: usize = 4_096;

/// Questions that are answered at a time; others wait. Each holds up to about 40 MiB and one pooled connection.
const QUESTIONS_MAX: usize = 4;

/// Attempts whose payload is looked for, newest first, before a delivery's counts as gone: every attempt sent
/// the same bytes, and each look can read 64 payload pages.
const PAYLOAD_LOOKS_MAX: usize = 4;

const MIB: usize = 1024 * 1024;

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
    let mut heads = Heads::read(&mut connection, &sources, configs.len()).await?;
    let mut scan = Scan::new(&sources, query.filter.since, None);
    let from_queues = matches!(query.filter.status, Some(Status::Pending | Status::Retrying));
    let with_pages = !from_queues || heads.truncated;
    let mut budgets =
        if configs.len() == 1 { vec![SEARCH_BUDGET] } else { vec![SEARCH_BUDGET, COUNT_BUDGET] };
    let found = loop {
        let Some(budget) = budgets.pop().filter(|_| with_pages) else {
            break matching(&scan.rows, &heads.of, &query.filter);
        };
        scan.read(&mut connection, budget).await?;
        heads.add_unread(&mut connection, &sources, &scan.rows).await?;
        let found = matching(&scan.rows, &heads.of, &query.filter);
        let frontier = scan.frontier();
        let settled = found.partition_point(|(_, state)| state.position >= frontier);
        if budgets.is_empty() || scan.is_complete() || settled >= query.skip + query.limit {
            break found;
        }
    };
    let page: Vec<&(usize, DeliveryState<'_>)> = found.iter().skip(query.skip).take(query.limit).collect();
    let deliveries = views(&mut connection, shards, configs, &page, &query.filter).await?;
    let unreadable = scan.unreadable + heads.unreadable;
    Ok(LogAnswer {
        total: found.len(),
        total_is_floor: left_out || heads.truncated || unreadable > 0 || (with_pages && !scan.is_complete()),
        deliveries,
        oldest_at: scan.oldest_row(&mut connection).await?,
        unreadable,
    })
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
    let Some(state) = DeliveryState::new(id, head.as_ref(), rows.iter().collect()) else { return Ok(None) };
    let view = DeliveryView::new(config, &state, record.as_ref());
    // A config that does not log payloads shows none, also not of what still waits or was logged before.
    let payload = match config.logs_payloads() {
        true => payload_among(&mut connection, source, id, record.as_ref(), &rows).await?,
        false => None,
    };
    Ok(Some(DeliveryDetail { view, payload, recorded: record.is_some() }))
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
fn matching<'a>(
    rows: &'a [Vec<PlacedRow>],
    heads: &'a [HashMap<DeliveryId, RecordHead>],
    filter: &LogFilter,
) -> Vec<(usize, DeliveryState<'a>)> {
    let mut found: Vec<(usize, DeliveryState<'a>)> = rows
        .iter()
        .zip(heads)
        .enumerate()
        .flat_map(|(config, (rows, heads))| {
            log_merge::merge(rows, heads).into_iter().map(move |state| (config, state))
        })
        .filter(|(_, state)| filter.wants_state(state))
        .collect();
    found.sort_unstable_by_key(|(_, state)| state.order());
    found
}

/// The views of a page of states. A record that changed meanwhile shows as it is now, unless it no longer
/// matches.
async fn views(
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
    let views = page
        .iter()
        .map(|(config, state)| DeliveryView::new(&configs[*config], state, records.get(&state.delivery)));
    let still_wanted = |view: &DeliveryView| {
        filter.wants(view.status, &view.event_type, view.last_attempt_at, view.created_at)
    };
    Ok(views.filter(still_wanted).collect())
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
