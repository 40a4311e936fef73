//! A later page of a walk through the logs: reads from the cursor down and no more than the page needs, so every
//! page costs the same, however deep it lies. What happened since the walk began moves no delivery to another page
//! (`domain::log_as_of`).

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource, RecordCounts};
use super::log_count::Counted;
use super::log_read::{self, OldestPage};
use super::log_rowless::{Rowless, RowlessQuestion};
use super::log_scan::{Budget, Scan, oldest_of_each};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::RecordHead;
use crate::domain::ids::DeliveryId;
use crate::domain::log::LogRow;
use crate::domain::log_as_of::{attempts_before, needs_later_rows, stands_here};
use crate::domain::log_merge::{DeliveryState, LogFilter, PlacedRow, Position};

/// What one page reads at most before it ends early, with a cursor at the place that it reached.
const PAGE_BUDGET: Budget = Budget { rows: 16_384, bytes: 10 * 1024 * 1024 };

/// Rows that a page of the log is taken to hold when the first round is planned: what a quiet config's hold.
const ROWS_PER_PAGE: usize = 8;

/// Pages that are read of what a log took in since the walk began: a whole log at its default cap, if they are
/// well filled.
const LATER_PAGES_MAX: usize = 1_024;

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
    question: PageQuestion<'a>,
    sources: Vec<(usize, LogSource<'a>)>,
    scan: Scan<'a>,
    rowless: Rowless,
    /// By config: the heads of deliveries whose rows were read, `None` where there is no record.
    heads: Vec<HashMap<DeliveryId, Option<RecordHead>>>,
    /// By config: rows beside those that were scanned, of deliveries for which that matters: such as were written
    /// since the walk began, and earlier attempts of what a first page shows.
    later: Vec<Vec<PlacedRow>>,
    looked_for: HashSet<DeliveryId>,
    /// On a first page, by the index of the config and by shard: how many records each log had before its pages were
    /// read.
    records: HashMap<(usize, u16), RecordCounts>,
    /// By config: the deliveries whose place is known, which are those at or above `judged_to`.
    judged: Vec<HashSet<DeliveryId>>,
    judged_to: (Position, DeliveryId),
    heads_unreadable: usize,
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
        let (below, filter) = (question.below.0, question.filter);
        let rowless = RowlessQuestion { status: filter.status, below, limit: question.limit, first: None };
        let rowless = Rowless::read(connection, &sources, configs, &oldest, &rowless).await?;
        let scan = Scan::new(&sources, filter.since, None).begin_at(below.page, first_round(question.limit));
        let mut page = Self::new(sources, configs, question, scan, rowless);
        page.oldest_at = oldest.iter().flatten().map(|page| page.at).min();
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
        let Counted { at_hand, records, rowless: known, .. } = counted;
        let oldest = oldest_of_each(connection, &sources, &at_hand).await?;
        let (below, filter) = (question.below.0, question.filter);
        let (status, limit) = (filter.status, question.limit);
        let first = records.iter().zip(&known).map(|(records, known)| match known {
            Some(_) => RecordCounts { failed: 0, ..*records },
            None => *records,
        });
        let first: Vec<RecordCounts> = first.collect();
        let rowless = RowlessQuestion { status, below, limit, first: Some(&first) };
        let mut rowless = Rowless::read(connection, &sources, configs, &oldest, &rowless).await?;
        for ((config, _), known) in sources.iter().zip(known) {
            rowless.of[*config].extend(known.into_iter().flatten());
        }
        let scan = Scan::new(&sources, None, None).begin_with(at_hand, first_round(limit));
        let places = sources.iter().map(|(config, source)| (*config, source.keys.shard.0));
        let records = places.zip(records).collect();
        let mut page = Self::new(sources, configs, question, scan, rowless);
        page.records = records;
        page.oldest_at = oldest.iter().flatten().map(|page| page.at).min();
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
                break;
            }
            wanted = settled * 2;
        }
        Ok(())
    }

    /// Judges what was read, the newest first, until the page is full or all of it is judged; says whether it is full.
    async fn is_filled(&mut self, connection: &mut MultiplexedConnection) -> Result<bool> {
        let mut count = self.question.limit + 1;
        loop {
            let all = self.choose(count);
            self.add_heads(connection).await?;
            self.add_later(connection).await?;
            if self.states().len() > self.question.limit {
                return Ok(true);
            }
            if all {
                return Ok(false);
            }
            count *= 2;
        }
    }

    /// Chooses the deliveries with the newest rows as those to be judged: a delivery stands at its newest row or below.
    /// Says whether all are chosen.
    fn choose(&mut self, count: usize) -> bool {
        let frontier = self.scan.frontier();
        let mut places: Vec<(Position, DeliveryId, usize)> = Vec::new();
        for config in 0..self.scan.rows.len() {
            let settled = self.rows_below(config).filter(|placed| placed.position >= frontier);
            places.extend(settled.map(|placed| (placed.position, placed.row.delivery, config)));
        }
        places.sort_unstable_by(|one, other| other.cmp(one));
        self.judged_to = (frontier, DeliveryId::from_bytes([0; 16]));
        let mut chosen = 0;
        for (position, id, config) in places {
            if self.judged[config].contains(&id) {
                continue;
            }
            if chosen == count {
                return false;
            }
            self.judged[config].insert(id);
            self.judged_to = (position, id);
            chosen += 1;
        }
        self.judged_to = (frontier, DeliveryId::from_bytes([0; 16]));
        true
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

    /// The rows below the cursor that the walk may see.
    fn rows_below(&self, config: usize) -> impl Iterator<Item = &PlacedRow> {
        let PageQuestion { below, as_of, is_first, .. } = self.question;
        self.scan.rows[config].iter().filter(move |placed| {
            let seen = is_first || placed.position.page.ms <= as_of.0;
            (placed.position, placed.row.delivery) < below && seen
        })
    }

    /// The rows of what is judged, by delivery. Each has one at or above the frontier: nothing unread can stand
    /// before it.
    fn rows_of(&self, config: usize) -> HashMap<DeliveryId, Vec<&PlacedRow>> {
        let judged = &self.judged[config];
        let mut rows: HashMap<DeliveryId, Vec<&PlacedRow>> = HashMap::with_capacity(judged.len());
        for placed in self.rows_below(config).chain(&self.later[config]) {
            if judged.contains(&placed.row.delivery) {
                rows.entry(placed.row.delivery).or_default().push(placed);
            }
        }
        rows
    }

    fn states(&self) -> Vec<Shown<'_>> {
        let PageQuestion { filter, below, as_of, .. } = self.question;
        let mut states = Vec::new();
        for config in 0..self.heads.len() {
            let rows = self.rows_of(config);
            let is_met = |id: &DeliveryId| rows.contains_key(id);
            for (id, head) in self.rowless.of[config].iter().filter(|(id, _)| !is_met(id)) {
                let state = DeliveryState::new(*id, Some(head), Vec::new(), as_of);
                states.extend(state.map(|state| (config, state)));
            }
            for (id, rows) in rows {
                let head = self.heads[config].get(&id).and_then(Option::as_ref);
                let state = DeliveryState::new(id, head, rows, as_of);
                let shown = state.filter(|state| stands_here(state, as_of) || self.is_new(state));
                states.extend(shown.map(|state| (config, state)));
            }
        }
        states.retain(|(_, state)| {
            let place = (state.position, state.delivery);
            place < below && place >= self.judged_to && filter.wants_state(state)
        });
        states.sort_unstable_by_key(|(_, state)| state.order());
        states
    }

    /// Whether the delivery came after the walk began, and stands at the top of its first page: it has no earlier
    /// row that a later page would meet.
    fn is_new(&self, state: &DeliveryState<'_>) -> bool {
        let (as_of, complete) = (self.question.as_of, self.scan.is_complete());
        let later = |placed: &&PlacedRow| placed.position.page.ms > as_of.0;
        self.question.is_first
            && state.rows.iter().all(later)
            && (complete || state.rows.iter().all(|placed| attempts_before(&placed.row) == 0))
    }

    async fn add_heads(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut wanted = Vec::new();
        for config in 0..self.heads.len() {
            let known = &self.heads[config];
            let ended = |id: &DeliveryId, rows: &[&PlacedRow]| {
                let records = self.records.get(&(config, id.event().shard().0));
                let last = rows.iter().max_by_key(|placed| placed.position);
                records.zip(last).is_some_and(|(records, last)| is_state(&last.row, *records))
            };
            let rows = self.rows_of(config).into_iter();
            let unknown = rows.filter(|(id, rows)| !known.contains_key(id) && !ended(id, rows));
            wanted.extend(
                unknown.map(|(id, _)| id).filter_map(|id| Some((config, (self.source(config, id)?, id)))),
            );
        }
        let places: Vec<(LogSource<'_>, DeliveryId)> = wanted.iter().map(|(_, place)| *place).collect();
        let read = delivery_read::record_heads(connection, &places).await?;
        for ((config, (_, id)), head) in wanted.into_iter().zip(read) {
            self.heads_unreadable += usize::from(head.is_err());
            self.heads[config].insert(id, head.ok().flatten());
        }
        Ok(())
    }

    /// Looks for newer rows of deliveries whose rows below the cursor do not tell where they stood.
    async fn add_later(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut places: HashMap<(usize, u16), HashSet<DeliveryId>> = HashMap::new();
        for config in 0..self.heads.len() {
            for (id, rows) in self.rows_of(config) {
                let Some(newest) = rows.iter().max_by_key(|placed| placed.position) else { continue };
                let head = self.heads[config].get(&id).and_then(Option::as_ref);
                let has_final = rows.iter().any(|placed| placed.row.is_final());
                if !self.looked_for.contains(&id) && needs_later_rows(&newest.row, has_final, head) {
                    places.entry((config, id.event().shard().0)).or_default().insert(id);
                }
            }
        }
        let asked: Vec<(usize, LogSource<'a>)> = self
            .sources
            .iter()
            .filter(|(config, source)| places.contains_key(&(*config, source.keys.shard.0)))
            .copied()
            .collect();
        let plain: Vec<LogSource<'a>> = asked.iter().map(|(_, source)| *source).collect();
        let read = log_read::pages_after(connection, &plain, self.question.as_of, LATER_PAGES_MAX).await?;
        for ((config, source), pages) in asked.into_iter().zip(read) {
            let wanted = places.remove(&(config, source.keys.shard.0)).unwrap_or_default();
            for read in pages {
                let Some(page) = read.page else { continue };
                let key = page.key;
                let placed =
                    page.rows.into_iter().enumerate().filter(|(_, row)| wanted.contains(&row.delivery));
                let place = |row| Position { page: read.id, row };
                let placed = placed.map(|(at, row)| PlacedRow { position: place(at), key, row });
                let scanned = &self.scan.rows[config];
                let is_known = |one: &PlacedRow| {
                    let same = |known: &PlacedRow| {
                        known.position == one.position && known.row.delivery == one.row.delivery
                    };
                    self.question.is_first && scanned.iter().any(same)
                };
                self.later[config].extend(placed.filter(|one| !is_known(one)));
            }
            self.looked_for.extend(wanted);
        }
        Ok(())
    }

    fn source(&self, config: usize, id: DeliveryId) -> Option<LogSource<'a>> {
        let shard = id.event().shard();
        let found = self.sources.iter().find(|(of, source)| *of == config && source.keys.shard == shard);
        found.map(|(_, source)| *source)
    }
}

/// Whether this newest row of a delivery is its state, so that no record need be read: it ended, and nothing was queued
/// again by hand. A failed delivery has a record too, but it and the row were written in one step.
const fn is_state(row: &LogRow, records: RecordCounts) -> bool {
    row.is_final() && records.queued == 0
}

/// Pages of a first round that reads from Redis.
const fn first_round(limit: usize) -> usize {
    (limit + 1).div_ceil(ROWS_PER_PAGE)
}
