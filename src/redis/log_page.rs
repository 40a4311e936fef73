//! A later page of a walk through the logs: reads from the cursor down and no more than the page needs, so every
//! page costs the same, however deep it lies. What happened since the walk began moves no delivery to another page
//! (`domain::log_as_of`).

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{LogSource, RecordCounts};
use super::log_count::Counted;
use super::log_read::{self, OldestPage};
use super::log_rowless::{KnownLogs, Rowless};
use super::log_scan::{Budget, Scan, oldest_of_each};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::RecordHead;
use crate::domain::ids::DeliveryId;
use crate::domain::log_merge::{DeliveryState, LogFilter, PlacedRow, Position};

/// What one page reads at most before it ends early, with a cursor at the place that it reached.
const PAGE_BUDGET: Budget = Budget { rows: 16_384, bytes: 10 * 1024 * 1024 };

/// Rows that a page of the log is taken to hold when the first round is planned: what a quiet config's hold.
const ROWS_PER_PAGE: usize = 8;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageQuestion<'q> {
    pub(super) filter: &'q LogFilter,
    pub(super) limit: usize,
    pub(super) below: (Position, DeliveryId),
    pub(super) as_of: UnixMillis,
    /// Whether it is the first page, which also shows what is newer than `as_of`.
    pub(super) is_first: bool,
}

/// A delivery, behind the index of its config.
pub(super) type Shown<'a> = (usize, DeliveryState<'a>);

/// What was read for a page.
pub(super) struct PageRead<'a> {
    pub(super) question: PageQuestion<'a>,
    pub(super) sources: Vec<(usize, LogSource<'a>)>,
    pub(super) scan: Scan<'a>,
    pub(super) rowless: Rowless,
    /// By config: the heads of deliveries whose rows were read, `None` where there is no record.
    pub(super) heads: Vec<HashMap<DeliveryId, Option<RecordHead>>>,
    /// The attempts after which a delivery was delivered by hand.
    pub(super) marked: HashMap<DeliveryId, u32>,
    /// By config: rows beside those that were scanned, of deliveries for which that matters: such as were written
    /// since the walk began, and earlier attempts of what a first page shows.
    pub(super) later: Vec<Vec<PlacedRow>>,
    pub(super) looked_for: HashSet<DeliveryId>,
    /// On a first page, by the index of the config and by shard: how many records each log had before its pages were
    /// read.
    pub(super) records: HashMap<(usize, u16), RecordCounts>,
    /// By config: the deliveries whose place is known, which are those at or above `judged_to`.
    pub(super) judged: Vec<HashSet<DeliveryId>>,
    pub(super) judged_to: (Position, DeliveryId),
    pub(super) heads_unreadable: usize,
    /// When the oldest row was made that the logs still hold.
    pub(super) oldest_at: Option<UnixMillis>,
}

// === impl PageRead ===

impl<'a> PageRead<'a> {
    /// Reads until the page is full, the logs end, or the budget is spent.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read(
        connection: &mut MultiplexedConnection,
        sources: Vec<(usize, LogSource<'a>)>,
        configs: usize,
        question: PageQuestion<'a>,
    ) -> Result<Self> {
        let plain: Vec<LogSource<'a>> = sources.iter().map(|(_, source)| *source).collect();
        let oldest: Vec<Option<OldestPage>> = log_read::oldest_pages(connection, &plain).await?;
        let oldest_at = oldest.iter().flatten().map(|page| page.at).min();
        let (below, filter) = (question.below.0, question.filter);
        let rowless = Rowless::read(connection, &sources, configs, oldest, (filter.status, None)).await?;
        let scan = Scan::new(&sources, filter.since, None).begin_at(below.page, first_round(question.limit));
        let mut page = Self::new(sources, configs, question, scan, rowless);
        page.oldest_at = oldest_at;
        page.read_on(connection).await?;
        Ok(page)
    }

    /// The first page, of the newest pages of the logs that the count left at hand.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read_first(
        connection: &mut MultiplexedConnection,
        sources: Vec<(usize, LogSource<'a>)>,
        configs: usize,
        question: PageQuestion<'a>,
        counted: Counted,
    ) -> Result<Self> {
        let Counted { at_hand, records, oldest_failed, .. } = counted;
        let oldest = oldest_of_each(connection, &sources, &at_hand).await?;
        let oldest_at = oldest.iter().flatten().map(|page| page.at).min();
        let known = KnownLogs { records: &records, oldest_failed: &oldest_failed };
        let status = question.filter.status;
        let rowless = Rowless::read(connection, &sources, configs, oldest, (status, Some(known))).await?;
        let scan = Scan::new(&sources, None, None).begin_with(at_hand, first_round(question.limit));
        let places = sources.iter().map(|(config, source)| (*config, source.keys.shard.0));
        let records = places.zip(records).collect();
        let mut page = Self::new(sources, configs, question, scan, rowless);
        page.records = records;
        page.oldest_at = oldest_at;
        page.read_on(connection).await?;
        page.add_earlier();
        Ok(page)
    }

    /// Adds the rows of earlier attempts that lie deeper in the pages at hand, of what the page shows.
    fn add_earlier(&mut self) {
        let (shown, _) = self.page();
        let told = |state: &DeliveryState<'_>| state.rows.iter().map(|placed| placed.row.attempt).min();
        let in_part = shown.iter().filter(|(_, state)| told(state).is_some_and(|first| first > 1));
        let wanted: HashSet<DeliveryId> = in_part.map(|(_, state)| state.delivery).collect();
        if wanted.is_empty() {
            return;
        }
        for (config, placed) in self.scan.rows_at_hand(&wanted) {
            self.later[config].push(placed);
        }
    }

    fn new(
        sources: Vec<(usize, LogSource<'a>)>,
        configs: usize,
        question: PageQuestion<'a>,
        scan: Scan<'a>,
        rowless: Rowless,
    ) -> Self {
        Self {
            question,
            scan,
            rowless,
            sources,
            heads: (0..configs).map(|_| HashMap::new()).collect(),
            marked: HashMap::new(),
            later: (0..configs).map(|_| Vec::new()).collect(),
            looked_for: HashSet::new(),
            records: HashMap::new(),
            judged: (0..configs).map(|_| HashSet::new()).collect(),
            judged_to: (Position::default(), DeliveryId::from_bytes([0; 16])),
            heads_unreadable: 0,
            oldest_at: None,
        }
    }

    async fn read_on(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut wanted = self.question.limit + 1;
        while self.scan.read_round(connection, PAGE_BUDGET).await? {
            let settled = self.scan.rows.iter().map(Vec::len).sum::<usize>();
            // Rounds that read nothing from Redis are small: the page is put together when it may be full.
            if settled < wanted && !self.scan.is_complete() && !self.scan.has_spent(PAGE_BUDGET) {
                continue;
            }
            if self.is_filled(connection).await? || self.scan.has_spent(PAGE_BUDGET) {
                return Ok(());
            }
            wanted = settled * 2;
        }
        // Nothing is left of the logs; what has no row lies below.
        self.is_filled(connection).await.map(drop)
    }

    /// Judges what was read, the newest first, until the page is full or all of it is judged; says whether it is full.
    async fn is_filled(&mut self, connection: &mut MultiplexedConnection) -> Result<bool> {
        let mut count = self.question.limit + 1;
        loop {
            let all = self.choose(count);
            self.add_heads(connection).await?;
            self.add_later(connection).await?;
            let is_full = loop {
                let bottom = self.states().get(self.question.limit).map(|(_, state)| state.position);
                let reached = bottom.unwrap_or(self.judged_to.0);
                let range = (self.question.below.0, self.question.limit);
                if !self.rowless.reach(connection, &self.sources, reached, range).await? {
                    break bottom.is_some();
                }
            };
            if is_full || all {
                return Ok(is_full);
            }
            count *= 2;
        }
    }

    /// The page's deliveries with the index of their config, newest first, and where the next page begins.
    pub(super) fn page(&self) -> (Vec<Shown<'_>>, Option<(Position, DeliveryId)>) {
        let mut states = self.states();
        let limit = self.question.limit;
        let more = states.len() > limit;
        states.truncate(limit);
        let last = states.last().map(|(_, state)| (state.position, state.delivery));
        let reached = || (self.scan.frontier(), DeliveryId::from_bytes([0; 16]));
        let next = if more { last } else { (!self.scan.is_complete()).then(reached) };
        (states, next)
    }

    /// Parts that could not be understood.
    pub(super) const fn unreadable(&self) -> usize {
        self.scan.unreadable + self.rowless.unreadable + self.heads_unreadable
    }
}

/// Pages of a first round that reads from Redis.
const fn first_round(limit: usize) -> usize {
    (limit + 1).div_ceil(ROWS_PER_PAGE)
}
