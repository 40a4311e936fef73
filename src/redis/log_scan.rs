//! A scan of attempt logs from the newest page back, over several configs and shards at once, within a budget.
//!
//! Each round is one pipeline of small reads; where one log is left, it gets the whole round.

use std::collections::{HashSet, VecDeque};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::LogSource;
use super::log_read::{self, OldestPage, PackedEntry, PageRequest, ReadPage};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{DeliveryId, StreamId};
use crate::domain::log::LogPage;
use crate::domain::log_glance::glance;
use crate::domain::log_merge::{PlacedRow, Position};

/// What a scan may read in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Rows.
    pub(super) rows: usize,
    /// Bytes of packed pages.
    pub(super) bytes: usize,
}

/// Pages of the first round over all logs: enough for a first page of results of any organisation (an answer
/// has at most 100 deliveries), 4 MiB if every page is full.
pub(super) const ROUND_PAGES_FIRST: usize = 256;

/// Pages of the largest round: 16 MiB if every page is full.
pub(super) const ROUND_PAGES_MAX: usize = 1_024;

/// How far a row's time may lie after its page's: replicas correct their clocks by Redis's at each renewal of
/// a lease, and a machine's clock is not off by more between two.
const CLOCK_SLACK_MS: u64 = 60_000;

/// The logs of a query and what was read of them.
pub(super) struct Scan<'a> {
    sources: Vec<ScannedSource<'a>>,
    /// Rows that were read and are kept, by config.
    pub(super) rows: Vec<Vec<PlacedRow>>,
    since: Option<UnixMillis>,
    only: Option<DeliveryId>,
    rows_read: usize,
    bytes_read: usize,
    pages_read: usize,
    round_pages: usize,
    /// Pages that cannot be understood.
    pub(super) unreadable: usize,
    /// When the oldest row that was read was made.
    oldest: Option<UnixMillis>,
}

struct ScannedSource<'a> {
    source: LogSource<'a>,
    config: usize,
    /// The oldest page that was read.
    below: Option<StreamId>,
    end: End,
    /// Pages at hand whose rows were not taken yet, newest first: those above `below`, and it.
    at_hand: VecDeque<PackedEntry>,
}

/// The newest pages of a log, read by someone else.
#[derive(Default)]
pub(super) struct AtHand {
    /// Newest first, without a gap.
    pub(super) pages: VecDeque<PackedEntry>,
    /// Whether there are no older ones.
    pub(super) is_whole: bool,
}

/// How far a log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There may be more.
    Open,
    /// To its oldest page.
    Reached,
    /// As far as the query needs.
    Enough,
}

// === impl AtHand ===

impl AtHand {
    /// The oldest page of a log that was read whole; `None` where it is empty.
    pub(super) fn oldest(&self) -> Option<OldestPage> {
        self.pages.back().filter(|_| self.is_whole).map(log_read::oldest_page)
    }
}

// === impl Scan ===

impl<'a> Scan<'a> {
    /// Nothing read yet. `sources` come with the index of their config. Pages that lie before `since` are not
    /// needed; with `only`, rows of other deliveries are read and forgotten.
    pub(super) fn new(
        sources: &[(usize, LogSource<'a>)],
        since: Option<UnixMillis>,
        only: Option<DeliveryId>,
    ) -> Self {
        let configs = sources.iter().map(|(config, _)| config + 1).max().unwrap_or(0);
        let unread = |(config, source): &(usize, LogSource<'a>)| ScannedSource {
            source: *source,
            config: *config,
            below: None,
            end: End::Open,
            at_hand: VecDeque::new(),
        };
        Self {
            sources: sources.iter().map(unread).collect(),
            rows: (0..configs).map(|_| Vec::new()).collect(),
            since,
            only,
            rows_read: 0,
            bytes_read: 0,
            pages_read: 0,
            round_pages: ROUND_PAGES_FIRST,
            unreadable: 0,
            oldest: None,
        }
    }

    /// Begins with pages that were read already, one log's after the other. Their rows are taken as they are
    /// needed, in rounds that read nothing; what lies deeper is read in rounds of `pages`.
    pub(super) fn begin_with(mut self, at_hand: Vec<AtHand>, pages: usize) -> Self {
        for (source, at_hand) in self.sources.iter_mut().zip(at_hand) {
            source.below = at_hand.pages.back().map(|(id, _)| *id);
            source.end = if at_hand.is_whole { End::Reached } else { End::Open };
            source.at_hand = at_hand.pages;
        }
        self.round_pages = pages.max(1);
        self
    }

    /// Begins at this page, not at the newest, with a round of `pages` or one of each log.
    pub(super) fn begin_at(mut self, page: StreamId, pages: usize) -> Self {
        let above = StreamId { ms: page.ms, seq: page.seq.saturating_add(1) };
        for source in &mut self.sources {
            source.below = Some(above);
        }
        self.round_pages = pages.max(1);
        self
    }

    /// Whether a budget is spent.
    pub(super) const fn has_spent(&self, budget: Budget) -> bool {
        self.rows_read >= budget.rows || self.bytes_read >= budget.bytes
    }

    /// Whether every log was read as far as the query needs.
    pub(super) fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| source.frontier().is_none())
    }

    /// The place down to which everything was read: what stands at or above it cannot be overtaken.
    pub(super) fn frontier(&self) -> Position {
        self.sources.iter().filter_map(ScannedSource::frontier).max().unwrap_or_default()
    }

    /// Reads until the budget is spent or nothing is left.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read(
        &mut self,
        connection: &mut MultiplexedConnection,
        budget: Budget,
    ) -> Result<()> {
        while !self.has_spent(budget) && self.read_round(connection, budget).await? {}
        Ok(())
    }

    /// Reads one round; false when nothing is left to read.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read_round(
        &mut self,
        connection: &mut MultiplexedConnection,
        budget: Budget,
    ) -> Result<bool> {
        if self.take_at_hand() {
            return Ok(true);
        }
        let chosen = self.open_sources();
        if chosen.is_empty() {
            return Ok(false);
        }
        let count = (self.affordable_pages(budget) / chosen.len()).max(1);
        let requests: Vec<PageRequest<'a>> = chosen
            .iter()
            .map(|index| &self.sources[*index])
            .map(|scanned| PageRequest { source: scanned.source, below: scanned.below, count })
            .collect();
        let replies = log_read::pages(connection, &requests).await?;
        for (index, pages) in chosen.into_iter().zip(replies) {
            self.take(index, pages, count);
        }
        self.round_pages = (self.round_pages * 2).min(ROUND_PAGES_MAX);
        Ok(true)
    }

    /// When the oldest row was made that the logs still hold.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn oldest_row(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<UnixMillis>> {
        let unread = self.sources.iter().filter(|source| source.end != End::Reached);
        let unread: Vec<LogSource<'a>> = unread.map(|source| source.source).collect();
        let pages = log_read::oldest_pages(connection, &unread).await?;
        Ok(pages.iter().flatten().map(|page| page.at).chain(self.oldest).min())
    }

    /// Takes the newest page at hand, unless something that is yet to be read may be newer; says whether it did.
    fn take_at_hand(&mut self) -> bool {
        let newest = self.sources.iter().enumerate().max_by_key(|(_, source)| source.frontier());
        let Some((index, _)) = newest else { return false };
        let Some(entry) = self.sources[index].at_hand.pop_front() else { return false };
        let page = log_read::log_page(entry);
        self.pages_read += 1;
        self.bytes_read += page.bytes;
        self.take_rows(index, page);
        true
    }

    /// The rows of these deliveries in the pages at hand that were not taken, with the index of their config.
    pub(super) fn rows_at_hand(&self, wanted: &HashSet<DeliveryId>) -> Vec<(usize, PlacedRow)> {
        // No row lies before its event.
        let first_ms = wanted.iter().map(|id| id.event().stream_id().ms).min().unwrap_or_default();
        let mut rows = Vec::new();
        for source in &self.sources {
            for (id, packed) in source.at_hand.iter().take_while(|(id, _)| id.ms >= first_ms) {
                let mut is_met = false;
                let glanced = glance(packed, |row| is_met |= wanted.contains(&row.delivery));
                let Some(page) = (is_met && glanced.is_ok()).then(|| LogPage::decode(packed).ok()).flatten()
                else {
                    continue;
                };
                let key = page.key;
                let of_them =
                    page.rows.into_iter().enumerate().filter(|(_, row)| wanted.contains(&row.delivery));
                let place = |row| Position { page: *id, row };
                rows.extend(
                    of_them.map(|(at, row)| (source.config, PlacedRow { position: place(at), key, row })),
                );
            }
        }
        rows
    }

    /// The logs that are not read to their end, those with the newest unread pages first, as many as a round
    /// takes.
    fn open_sources(&self) -> Vec<usize> {
        let is_open = |source: &ScannedSource<'_>| source.end == End::Open && source.at_hand.is_empty();
        let open = self.sources.iter().enumerate().filter(|(_, source)| is_open(source));
        let mut open: Vec<usize> = open.map(|(index, _)| index).collect();
        if open.len() > ROUND_PAGES_MAX {
            open.sort_by_key(|index| {
                let below = self.sources[*index].below;
                (below.is_some(), std::cmp::Reverse(below))
            });
            open.truncate(ROUND_PAGES_MAX);
        }
        open
    }

    /// How many pages of the size met so far the rest of the budget pays for.
    fn affordable_pages(&self, budget: Budget) -> usize {
        if self.pages_read == 0 {
            return self.round_pages;
        }
        let pages_for = |left: usize, spent: usize| left.saturating_mul(self.pages_read) / spent.max(1) + 1;
        let by_rows = pages_for(budget.rows.saturating_sub(self.rows_read), self.rows_read);
        let by_bytes = pages_for(budget.bytes.saturating_sub(self.bytes_read), self.bytes_read);
        self.round_pages.min(by_rows).min(by_bytes)
    }

    fn take(&mut self, index: usize, pages: Vec<ReadPage>, asked: usize) {
        if pages.len() < asked {
            self.sources[index].end = End::Reached;
        }
        for page in pages {
            self.pages_read += 1;
            self.bytes_read += page.bytes;
            self.sources[index].below = Some(page.id);
            self.oldest = self.oldest.into_iter().chain([oldest_of(&page)]).min();
            self.take_rows(index, page);
        }
        let scanned = &mut self.sources[index];
        if let (Some(since), Some(below), End::Open) = (self.since, scanned.below, scanned.end)
            && below.ms.saturating_add(CLOCK_SLACK_MS) < since.0
        {
            scanned.end = End::Enough;
        }
    }

    fn take_rows(&mut self, index: usize, read: ReadPage) {
        let Some(page) = read.page else {
            self.unreadable += 1;
            // It costs what a row does, so that the budget bounds the pages too.
            self.rows_read += 1;
            return;
        };
        self.rows_read += page.rows.len();
        self.rows[self.sources[index].config].reserve(page.rows.len());
        for (place, row) in page.rows.into_iter().enumerate() {
            if self.only.is_some_and(|only| only != row.delivery) {
                continue;
            }
            // What lies before a delivery's first attempt is at most its parking.
            if self.only.is_some() && row.attempt == 1 && row.is_attempt() {
                self.sources[index].end = End::Enough;
            }
            let position = Position { page: read.id, row: place };
            self.rows[self.sources[index].config].push(PlacedRow { position, key: page.key, row });
        }
    }
}

// === impl ScannedSource ===

impl ScannedSource<'_> {
    /// The place down to which the log was read; `None` when nothing is left of it.
    fn frontier(&self) -> Option<Position> {
        match (self.at_hand.front(), self.end) {
            // None of its rows was taken yet, all of those above it were.
            (Some((page, _)), _) => Some(Position { page: *page, row: usize::MAX }),
            (None, End::Open) => {
                let page = self.below.unwrap_or(StreamId { ms: u64::MAX, seq: u64::MAX });
                Some(Position { page, row: 0 })
            }
            (None, End::Reached | End::Enough) => None,
        }
    }
}

/// When the oldest row of a page was made.
fn oldest_of(read: &ReadPage) -> UnixMillis {
    let rows = read.page.iter().flat_map(|page| &page.rows);
    rows.map(|row| row.at).min().unwrap_or(UnixMillis(read.id.ms))
}

/// The oldest page of each log: at hand where the log was read whole.
///
/// # Errors
/// Redis's.
pub(super) async fn oldest_of_each(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    at_hand: &[AtHand],
) -> Result<Vec<Option<OldestPage>>> {
    let in_part = sources.iter().zip(at_hand).filter(|(_, at_hand)| !at_hand.is_whole);
    let in_part: Vec<LogSource<'_>> = in_part.map(|((_, source), _)| *source).collect();
    let mut read = log_read::oldest_pages(connection, &in_part).await?.into_iter();
    let oldest = |log: &AtHand| match log.is_whole {
        true => log.oldest(),
        false => read.next().flatten(),
    };
    Ok(at_hand.iter().map(oldest).collect())
}
