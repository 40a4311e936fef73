//! The answers to a question for deliveries: a first page over the logs, which counts; a later one, which goes on
//! at its cursor; and those that records alone answer.

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::LogSource;
use super::log_count::{self, Which};
use super::log_failed::{self, FailedQuestion};
use super::log_heads::{Heads, Whose};
use super::log_page::{PageQuestion, PageRead};
use super::log_read;
use super::log_scan::{Budget, Scan};
use super::log_search::{Asked, LogAnswer, MIB, SEARCH_BUDGET, matching, views, views_with, written_until};
use super::log_waiting;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{DeliveryId, StreamId};
use crate::domain::log_cursor::{LogCursor, Place};
use crate::domain::log_merge::{DeliveryState, Position};
use crate::domain::log_view::DeliveryView;

/// What is read of the logs of several configs so that their deliveries are counted: one full log's worth at
/// the default caps (10,000 rows, 8 MiB) and what a trim lags behind. A first page needs far less.
const COUNT_BUDGET: Budget = Budget { rows: 16_384, bytes: 10 * MIB };

/// Pages this far above Redis's clock were written ahead of it.
const AHEAD_MS: u64 = 60_000;

// === impl Asked ===

impl Asked<'_> {
    /// The first page over the logs, or one by `skip`: counts what matches.
    pub(super) async fn first_page(
        &self,
        connection: &mut MultiplexedConnection,
        began: UnixMillis,
        mut heads: Heads,
    ) -> Result<LogAnswer> {
        let Self { configs, sources, query, .. } = self;
        let mut scan = Scan::new(sources, query.filter.since, None);
        let mut budgets =
            if configs.len() == 1 { vec![SEARCH_BUDGET] } else { vec![SEARCH_BUDGET, COUNT_BUDGET] };
        let wanted = query.skip + query.limit;
        let mut as_of = began;
        while let Some(budget) = budgets.pop() {
            scan.read(connection, budget).await?;
            heads.add_unread(connection, sources, &scan.rows).await?;
            let pages = scan.rows.iter().flatten().map(|placed| placed.position.page.ms);
            as_of = as_of_with(began, pages.max());
            let found = matching(&scan.rows, &heads.of, &query.filter, as_of);
            if scan.is_complete() || settled(&found, scan.frontier()) >= wanted {
                break;
            }
        }
        let found = matching(&scan.rows, &heads.of, &query.filter, as_of);
        let page: Vec<&(usize, DeliveryState<'_>)> =
            found.iter().skip(query.skip).take(query.limit).collect();
        let unreadable = scan.unreadable + heads.unreadable;
        let total_is_floor = self.left_out || heads.truncated || unreadable > 0 || !scan.is_complete();
        let settled = settled(&found, scan.frontier());
        let next = match page.last() {
            Some((_, last)) if found.len() > wanted && settled >= wanted => {
                Some((last.position, last.delivery))
            }
            _ if scan.is_complete() => None,
            // What was read ends here; what lies deeper is found from here on.
            _ => Some((scan.frontier(), DeliveryId::from_bytes([0; 16]))),
        };
        let next = next.map(|(position, id)| LogCursor {
            place: Place::Rows(position, id),
            as_of,
            total: found.len() as u64,
            total_is_floor,
            question: query.question,
        });
        Ok(LogAnswer {
            total: found.len(),
            total_is_floor,
            deliveries: views(connection, self.shards, configs, &page, &query.filter).await?,
            oldest_at: scan.oldest_row(connection).await?,
            unreadable,
            next,
        })
    }

    /// The first page where the question is for all deliveries, or for all that were delivered: counted at a
    /// glance, and made of the newest pages alone.
    pub(super) async fn newest(
        &self,
        connection: &mut MultiplexedConnection,
        which: Which,
    ) -> Result<LogAnswer> {
        let Self { query, configs, sources, .. } = self;
        let budget = if configs.len() == 1 { SEARCH_BUDGET } else { COUNT_BUDGET };
        let counted = log_count::count(connection, sources, which, budget).await?;
        let newest = counted.at_hand.iter().filter_map(|log| log.pages.front()).map(|(id, _)| id.ms).max();
        let as_of = as_of_with(counted.as_of, newest);
        let top = Position { page: StreamId { ms: u64::MAX, seq: u64::MAX }, row: usize::MAX };
        let question = PageQuestion {
            filter: &query.filter,
            limit: query.skip + query.limit,
            below: (top, DeliveryId::from_bytes([u8::MAX; 16])),
            as_of,
            is_first: true,
        };
        let (counted_unreadable, is_floor, total) = (counted.unreadable, counted.is_floor, counted.total);
        let read =
            PageRead::read_first(connection, sources.clone(), configs.len(), question, counted).await?;
        let (states, next) = read.page();
        let page: Vec<&(usize, DeliveryState<'_>)> = states.iter().skip(query.skip).collect();
        let unreadable = counted_unreadable.max(read.unreadable());
        let total_is_floor = self.left_out || is_floor || unreadable > 0;
        let total = total.max(states.len());
        let next = next.map(|(position, id)| LogCursor {
            place: Place::Rows(position, id),
            as_of,
            total: total as u64,
            total_is_floor,
            question: query.question,
        });
        let deliveries = views(connection, self.shards, configs, &page, &query.filter).await?;
        Ok(LogAnswer { total, total_is_floor, deliveries, oldest_at: read.oldest_at, unreadable, next })
    }

    /// A page over the logs from a cursor down.
    pub(super) async fn later_page(
        &self,
        connection: &mut MultiplexedConnection,
        as_of: UnixMillis,
        below: (Position, DeliveryId),
    ) -> Result<LogAnswer> {
        let Self { query, configs, .. } = *self;
        let question =
            PageQuestion { filter: &query.filter, limit: query.limit, below, as_of, is_first: false };
        let read = PageRead::read(connection, self.sources.clone(), configs.len(), question).await?;
        let (states, next) = read.page();
        let page: Vec<&(usize, DeliveryState<'_>)> = states.iter().collect();
        let deliveries = views(connection, self.shards, configs, &page, &query.filter).await?;
        let place = next.map(|(position, id)| Place::Rows(position, id));
        Ok(self.later_answer(deliveries, read.oldest_at, read.unreadable(), place))
    }

    pub(super) async fn waiting(
        &self,
        connection: &mut MultiplexedConnection,
        as_of: UnixMillis,
        below: Option<(UnixMillis, DeliveryId)>,
    ) -> Result<LogAnswer> {
        let Self { query, configs, .. } = *self;
        let heads = Heads::read(connection, &self.sources, configs.len(), Whose::Queued).await?;
        if heads.truncated && below.is_none() {
            // Too many to order by themselves: their rows tell which are the newest.
            return self.first_page(connection, as_of, heads).await;
        }
        let waiting = log_waiting::in_order(connection, &self.sources, &heads, &query.filter, as_of).await?;
        let total = waiting.len();
        let below: Vec<_> =
            waiting.into_iter().filter(|(at, id, _)| below.is_none_or(|below| (*at, *id) < below)).collect();
        let more = below.len() > query.skip + query.limit;
        let page: Vec<_> = below.into_iter().skip(query.skip).take(query.limit).collect();
        let place = page.last().filter(|_| more).map(|(at, id, _)| Place::Waiting(*at, *id));
        let states: Vec<(usize, DeliveryState<'_>)> = page
            .iter()
            .filter_map(|(_, id, config)| {
                Some((*config, log_failed::state_of(*id, heads.of[*config].get(id)?)?))
            })
            .collect();
        let page: Vec<&(usize, DeliveryState<'_>)> = states.iter().collect();
        let deliveries = views(connection, self.shards, self.configs, &page, &query.filter).await?;
        let plain: Vec<LogSource<'_>> = self.sources.iter().map(|(_, source)| *source).collect();
        let oldest = log_read::oldest_pages(connection, &plain).await?;
        let answer = LogAnswer {
            total,
            total_is_floor: heads.truncated || heads.unreadable > 0,
            deliveries,
            oldest_at: oldest.iter().flatten().map(|page| page.at).min(),
            unreadable: heads.unreadable,
            next: None,
        };
        Ok(self.record_answer(answer, as_of, place))
    }

    pub(super) async fn failed(
        &self,
        connection: &mut MultiplexedConnection,
        below: Option<(UnixMillis, DeliveryId)>,
    ) -> Result<LogAnswer> {
        let query = self.query;
        let question = FailedQuestion { filter: &query.filter, skip: query.skip, limit: query.limit, below };
        let found = log_failed::find(connection, &self.sources, &question).await?;
        let states: Vec<(usize, DeliveryState<'_>)> = found
            .page
            .iter()
            .filter_map(|(config, id)| Some((*config, log_failed::state_of(*id, found.heads.get(id)?)?)))
            .collect();
        let page: Vec<&(usize, DeliveryState<'_>)> = states.iter().collect();
        let deliveries = match &found.records {
            Some(records) => views_with(self.configs, &page, &query.filter, records),
            None => views(connection, self.shards, self.configs, &page, &query.filter).await?,
        };
        let answer = LogAnswer {
            total: found.total.unwrap_or_default(),
            total_is_floor: found.truncated || found.unreadable > 0,
            deliveries,
            oldest_at: found.oldest_at,
            unreadable: found.unreadable,
            next: None,
        };
        let place = found.next.map(|(at, id)| Place::Failed(at, id));
        Ok(self.record_answer(answer, written_until(found.now), place))
    }

    /// The answer of a page that was made of records alone: of a first page as it is, of a later one with what its
    /// cursor brings.
    fn record_answer(&self, answer: LogAnswer, as_of: UnixMillis, next: Option<Place>) -> LogAnswer {
        if self.query.cursor.is_some() {
            return self.later_answer(answer.deliveries, answer.oldest_at, answer.unreadable, next);
        }
        let total_is_floor = answer.total_is_floor || self.left_out;
        let next = next.map(|place| LogCursor {
            place,
            as_of,
            total: answer.total as u64,
            total_is_floor,
            question: self.query.question,
        });
        LogAnswer { total_is_floor, next, ..answer }
    }

    /// The answer of a page behind a cursor, which brings the first page's count.
    fn later_answer(
        &self,
        deliveries: Vec<DeliveryView>,
        oldest_at: Option<UnixMillis>,
        unreadable: usize,
        next: Option<Place>,
    ) -> LogAnswer {
        let (total, total_is_floor) =
            self.query.cursor.map_or((0, true), |cursor| (cursor.total, cursor.total_is_floor));
        let next = next.and_then(|place| Some(LogCursor { place, ..self.query.cursor? }));
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        LogAnswer { total, total_is_floor, deliveries, oldest_at, unreadable, next }
    }
}

/// What a walk that began then is about. A clock that was set back, or entries that were written ahead of it, leave
/// pages above the present: they were all written before.
fn as_of_with(began: UnixMillis, newest_page: Option<u64>) -> UnixMillis {
    match newest_page {
        Some(newest) if newest > began.0.saturating_add(AHEAD_MS) => UnixMillis(newest),
        _ => began,
    }
}

/// How many of what was found cannot be overtaken by what is unread.
fn settled(found: &[(usize, DeliveryState<'_>)], frontier: Position) -> usize {
    found.partition_point(|(_, state)| state.position >= frontier)
}
