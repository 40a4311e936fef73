//! How many deliveries the logs show, where the question is for all of them or for all that were delivered: by a
//! glance at the packed pages (`domain::log_glance`), without building their rows. The pages stay at hand, so that
//! the first page of the answer is made of them (`log_page`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource, RecordCounts};
use super::log_read::{self, PackedEntry, PageRequest};
use super::log_scan::{AtHand, Budget, ROUND_PAGES_FIRST, ROUND_PAGES_MAX};
use super::log_search::written_until;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_glance::glance;

/// Queued deliveries that are looked at one by one.
const RECORDS_MAX: usize = 10_000;

/// Logs of which the whole budget is read although they hold more.
const LOGS_FEW: usize = 16;

/// Pages of the first round where one log is counted: a log at its default cap of rows, if its pages are half full.
const ONE_LOG_PAGES_FIRST: usize = 512;

/// Rows that a page is taken to hold before any was read.
const ROWS_PER_PAGE: usize = 32;

/// Which deliveries are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Every one that the log shows.
    All,
    /// Those with status `delivered`.
    Delivered,
}

/// What was counted, and what of it the first page is made of.
pub(super) struct Counted {
    /// Deliveries that match.
    pub(super) total: usize,
    /// Whether there may be more.
    pub(super) is_floor: bool,
    /// What cannot be understood.
    pub(super) unreadable: usize,
    /// The pages that were read, by log.
    pub(super) at_hand: Vec<AtHand>,
    /// Records of each log, before its pages were read.
    pub(super) records: Vec<RecordCounts>,
    /// When the oldest failed delivery of each log failed.
    pub(super) oldest_failed: Vec<Option<UnixMillis>>,
    /// Rows of this millisecond and before were all written before anything was read.
    pub(super) as_of: UnixMillis,
}

/// Hashes delivery ids, which are unique by themselves, at a fraction of what the standard hasher costs: a question
/// counts tens of thousands.
#[derive(Default)]
struct IdHasher(u64);

/// One log as far as it was read.
#[derive(Default)]
struct GlancedLog {
    at_hand: AtHand,
    /// By delivery that ended: its newest end.
    ends: HashMap<DeliveryId, Status, BuildHasherDefault<IdHasher>>,
    records: RecordCounts,
    oldest_failed: Option<UnixMillis>,
    /// Pages that it held when it was opened.
    length: usize,
}

/// The logs as far as they were read.
struct Glance {
    logs: Vec<GlancedLog>,
    rows: usize,
    bytes: usize,
    pages: usize,
    unreadable: usize,
    /// The ends in the page at hand.
    page_ends: Vec<(DeliveryId, Status)>,
}

/// Counts the deliveries of the logs: every one that is shown, or those that were delivered.
///
/// # Errors
/// Redis's.
pub(super) async fn count(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    which: Which,
    budget: Budget,
) -> Result<Counted> {
    let plain: Vec<LogSource<'_>> = sources.iter().map(|(_, source)| *source).collect();
    let mut read = Glance::of(plain.len());
    let now = read.open(connection, &plain, budget).await?;
    read.read(connection, &plain, budget).await?;
    let mut unreadable = read.unreadable;
    let queued = which.queued_looked_at(&read.logs);
    let too_many = queued.iter().sum::<usize>() > RECORDS_MAX;
    let members = match too_many {
        true => Vec::new(),
        false => read.queued_unsure(connection, &plain, &queued, which, &mut unreadable).await?,
    };
    let (owners, unsure): (Vec<usize>, Vec<(LogSource<'_>, DeliveryId)>) =
        members.into_iter().map(|(index, id)| (index, (plain[index], id))).unzip();
    let mut recorded = match which {
        Which::All => read.failed_rowless(connection, &plain).await?,
        Which::Delivered => vec![0; plain.len()],
    };
    let heads = delivery_read::record_heads(connection, &unsure).await?;
    for (owner, head) in owners.into_iter().zip(heads) {
        unreadable += usize::from(head.is_err());
        recorded[owner] += usize::from(matches!(head, Ok(Some(_))));
    }
    let total = read.logs.iter().zip(recorded).map(|(log, recorded)| {
        let looked = !too_many && (log.at_hand.is_whole || which == Which::Delivered);
        which.total(log, looked.then_some(recorded))
    });
    let total = total.sum();
    let whole = read.logs.iter().all(|log| log.at_hand.is_whole);
    let is_floor = !whole || too_many || unreadable > 0;
    let records = read.logs.iter().map(|log| log.records).collect();
    let oldest_failed = read.logs.iter().map(|log| log.oldest_failed).collect();
    let at_hand = read.logs.into_iter().map(|log| log.at_hand).collect();
    let as_of = written_until(now);
    Ok(Counted { total, is_floor, unreadable, at_hand, records, oldest_failed, as_of })
}

// === impl IdHasher ===

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

// === impl Which ===

impl Which {
    /// How many queued deliveries to look at one by one, by log. All deliveries are counted exactly only where the
    /// log was read whole, so only there do they matter; a delivered one is queued while it is tried again by hand.
    fn queued_looked_at(self, logs: &[GlancedLog]) -> Vec<usize> {
        let of = |log: &GlancedLog| match self {
            Self::All if !log.at_hand.is_whole => 0,
            Self::All | Self::Delivered => log.records.queued,
        };
        logs.iter().map(of).collect()
    }

    /// Whether a record of a delivery, with this newest end in the log, changes the count.
    fn asks_record(self, end: Option<Status>) -> bool {
        match self {
            Self::All => end.is_none(),
            Self::Delivered => end == Some(Status::Delivered),
        }
    }

    /// One log's count. `recorded` says how many records change it; without it the count is a floor.
    fn total(self, log: &GlancedLog, recorded: Option<usize>) -> usize {
        let records = log.records;
        let delivered = || log.ends.values().filter(|end| **end == Status::Delivered).count();
        match (self, recorded) {
            (Self::All, Some(recorded)) => log.ends.len() + recorded,
            // What has a record is shown, also where its rows were not read.
            (Self::All, None) => log.ends.len().max(records.queued).max(records.failed),
            (Self::Delivered, Some(recorded)) => delivered() - recorded,
            (Self::Delivered, None) => delivered().saturating_sub(records.queued),
        }
    }
}

// === impl Glance ===

impl Glance {
    fn of(logs: usize) -> Self {
        let logs = (0..logs).map(|_| GlancedLog::default()).collect();
        Self { logs, rows: 0, bytes: 0, pages: 0, unreadable: 0, page_ends: Vec::new() }
    }

    /// Reads the top of each log; gives Redis's time before it.
    async fn open(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        budget: Budget,
    ) -> Result<UnixMillis> {
        let round = if sources.len() == 1 { ONE_LOG_PAGES_FIRST } else { ROUND_PAGES_FIRST };
        let (mut now, mut index) = (None, 0);
        for chunk in sources.chunks(ROUND_PAGES_MAX) {
            // Redis answers nothing for a count of 0: the log stays unread.
            let count = if self.bytes < budget.bytes { (round / sources.len()).max(1) } else { 0 };
            let opening = log_read::opening(connection, chunk, count).await?;
            now = now.or(Some(opening.now));
            for opened in opening.logs {
                let log = &mut self.logs[index];
                (log.records, log.length, log.oldest_failed) =
                    (opened.records, opened.length, opened.oldest_failed);
                log.at_hand.is_whole = opened.pages.len() < count;
                self.take_all(index, opened.pages);
                index += 1;
            }
        }
        Ok(now.unwrap_or_default())
    }

    /// Whether many logs hold more than the budget pays for: the count stays a floor, which more reading would only
    /// raise.
    fn is_hopeless(&self, budget: Budget) -> bool {
        let pages: usize = self.logs.iter().map(|log| log.length).sum();
        self.logs.len() > LOGS_FEW && pages.saturating_mul(self.rows) / self.pages.max(1) > budget.rows
    }

    /// The queued deliveries whose record may change the count, with the index of their log.
    async fn queued_unsure(
        &self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        queued: &[usize],
        which: Which,
        unreadable: &mut usize,
    ) -> Result<Vec<(usize, DeliveryId)>> {
        let counts = queued.iter().map(|queued| RecordCounts { queued: *queued, failed: 0 });
        let asked: Vec<(LogSource<'_>, RecordCounts)> = sources.iter().copied().zip(counts).collect();
        let mut found = Vec::new();
        for (index, members) in delivery_read::members(connection, &asked).await?.into_iter().enumerate() {
            *unreadable += members.unreadable;
            let ends = &self.logs[index].ends;
            let unsure = members.ids.into_iter().filter(|id| which.asks_record(ends.get(id).copied()));
            found.extend(unsure.map(|id| (index, id)));
        }
        Ok(found)
    }

    /// How many failed deliveries of each log have no row any more, where it was read whole (`ZCOUNT`). A failure and
    /// its row are written in one step, so it is those that failed before the oldest page.
    async fn failed_rowless(
        &self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
    ) -> Result<Vec<usize>> {
        let (mut counts, mut asked, mut commands) = (vec![0; sources.len()], Vec::new(), Vec::new());
        for (index, log) in self.logs.iter().enumerate().filter(|(_, log)| log.at_hand.is_whole) {
            let begins = log.at_hand.oldest().map(|page| page.id.ms);
            match (log.oldest_failed, begins) {
                (None, _) => {}
                (Some(_), None) => counts[index] = log.records.failed,
                (Some(failed), Some(begins)) if failed.0 >= begins => {}
                (Some(_), Some(begins)) => {
                    let LogSource { config, keys } = sources[index];
                    let mut command = redis::cmd("ZCOUNT");
                    command.arg(keys.failed(config.id())).arg("-inf").arg(format!("({begins}"));
                    commands.push(command);
                    asked.push(index);
                }
            }
        }
        let found: Vec<usize> =
            delivery_read::in_slices(connection, "counting failed deliveries", commands).await?;
        for (index, count) in asked.into_iter().zip(found) {
            counts[index] = count;
        }
        Ok(counts)
    }

    /// Reads all logs in rounds, as many pages of each, until their ends or until the budget is spent.
    async fn read(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        budget: Budget,
    ) -> Result<()> {
        let mut round = ROUND_PAGES_FIRST * 2;
        while self.rows < budget.rows && self.bytes < budget.bytes && !self.is_hopeless(budget) {
            let mut open: Vec<usize> = (0..sources.len()).collect();
            open.retain(|index| !self.logs[*index].at_hand.is_whole);
            if open.is_empty() {
                break;
            }
            // Those that were read least far come first where there are more than a round takes.
            open.sort_by_key(|index| self.logs[*index].at_hand.pages.len());
            open.truncate(ROUND_PAGES_MAX);
            let count = (self.affordable(budget, round) / open.len()).max(1);
            let request = |index: &usize| PageRequest {
                source: sources[*index],
                below: self.logs[*index].at_hand.pages.back().map(|(id, _)| *id),
                count,
            };
            let requests: Vec<PageRequest<'_>> = open.iter().map(request).collect();
            let replies = log_read::packed_pages(connection, &requests).await?;
            for (index, pages) in open.into_iter().zip(replies) {
                self.logs[index].at_hand.is_whole = pages.len() < count;
                self.take_all(index, pages);
            }
            round = (round * 2).min(ROUND_PAGES_MAX);
        }
        Ok(())
    }

    /// How many pages of the size met so far the rest of the budget pays for, at most `round`.
    fn affordable(&self, budget: Budget, round: usize) -> usize {
        if self.pages == 0 {
            return round;
        }
        let pages_for = |left: usize, spent: usize| left * self.pages / spent.max(1) + 1;
        round
            .min(pages_for(budget.rows - self.rows, self.rows))
            .min(pages_for(budget.bytes - self.bytes, self.bytes))
    }

    fn take_all(&mut self, index: usize, pages: Vec<PackedEntry>) {
        // As many rows in each as in those before: growing step by step would hash every end again and again.
        let rows = self.rows.checked_div(self.pages).unwrap_or(ROWS_PER_PAGE) * pages.len();
        self.logs[index].ends.reserve(rows);
        pages.into_iter().for_each(|page| self.take(index, page));
    }

    fn take(&mut self, index: usize, entry: PackedEntry) {
        let log = &mut self.logs[index];
        self.pages += 1;
        self.bytes += entry.1.len();
        self.page_ends.clear();
        let ends = &mut self.page_ends;
        let glanced = glance(&entry.1, |row| {
            if matches!(row.status, Status::Delivered | Status::Failed) {
                ends.push((row.delivery, row.status));
            }
        });
        match glanced {
            Ok(rows) => {
                self.rows += rows;
                // Pages come newest first and rows oldest first; the newest end is the one that counts.
                for (id, status) in self.page_ends.drain(..).rev() {
                    log.ends.entry(id).or_insert(status);
                }
            }
            // It costs what a row does, so that the budget bounds the pages too.
            Err(_) => {
                self.rows += 1;
                self.unreadable += 1;
            }
        }
        log.at_hand.pages.push_back(entry);
    }
}
