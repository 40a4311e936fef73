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
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_glance::glance;

/// Queued and failed deliveries that are looked at one by one: one config's failed set at its default cap.
const RECORDS_MAX: usize = 10_000;

/// Logs of which the whole budget is read although none ends in the first round.
const LOGS_FEW: usize = 16;

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
    // Before the pages: a delivery that ends in between is found by its final row.
    let records = delivery_read::count_records(connection, &plain).await?;
    let mut read = Glance::of(plain.len());
    read.read(connection, &plain, budget).await?;
    let mut unreadable = read.unreadable;
    let (chosen, too_many) = which.records_looked_at(&records, &read.logs);
    let looked_at: Vec<(LogSource<'_>, RecordCounts)> = plain.iter().copied().zip(chosen).collect();
    let mut unsure: Vec<(LogSource<'_>, DeliveryId)> = Vec::new();
    let mut owners: Vec<usize> = Vec::new();
    for (index, members) in delivery_read::members(connection, &looked_at).await?.into_iter().enumerate() {
        unreadable += members.unreadable;
        let ends = &read.logs[index].ends;
        for id in members.ids.into_iter().filter(|id| which.asks_record(ends.get(id).copied())) {
            unsure.push((plain[index], id));
            owners.push(index);
        }
    }
    let mut recorded = vec![0_usize; plain.len()];
    let heads = delivery_read::record_heads(connection, &unsure).await?;
    for (owner, head) in owners.into_iter().zip(heads) {
        unreadable += usize::from(head.is_err());
        recorded[owner] += usize::from(matches!(head, Ok(Some(_))));
    }
    let logs = read.logs.iter().zip(&records).zip(recorded);
    let total = logs.map(|((log, records), recorded)| {
        let looked = !too_many && (log.at_hand.is_whole || which == Which::Delivered);
        which.total(log, *records, looked.then_some(recorded))
    });
    let total = total.sum();
    let whole = read.logs.iter().all(|log| log.at_hand.is_whole);
    let is_floor = !whole || too_many || unreadable > 0;
    let at_hand = read.logs.into_iter().map(|log| log.at_hand).collect();
    Ok(Counted { total, is_floor, unreadable, at_hand, records })
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
    /// The records to look at one by one, and whether there are too many of them. All deliveries are counted
    /// exactly only where the log was read whole, so only there do they matter; a delivered one has a record only
    /// while it is tried again by hand, and is then queued.
    fn records_looked_at(self, records: &[RecordCounts], logs: &[GlancedLog]) -> (Vec<RecordCounts>, bool) {
        let of = |(records, log): (&RecordCounts, &GlancedLog)| match self {
            Self::All if log.at_hand.is_whole => *records,
            Self::All => RecordCounts::default(),
            Self::Delivered => RecordCounts { queued: records.queued, failed: 0 },
        };
        let chosen: Vec<RecordCounts> = records.iter().zip(logs).map(of).collect();
        let too_many = chosen.iter().map(|one| one.queued + one.failed).sum::<usize>() > RECORDS_MAX;
        (if too_many { vec![RecordCounts::default(); chosen.len()] } else { chosen }, too_many)
    }

    /// Whether a record of a delivery, with this newest end in the log, changes the count.
    fn asks_record(self, end: Option<Status>) -> bool {
        match self {
            Self::All => end.is_none(),
            Self::Delivered => end == Some(Status::Delivered),
        }
    }

    /// One log's count. `recorded` says how many records change it; without it the count is a floor.
    fn total(self, log: &GlancedLog, records: RecordCounts, recorded: Option<usize>) -> usize {
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

    /// Reads all logs in rounds, as many pages of each, until their ends or until the budget is spent.
    async fn read(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        budget: Budget,
    ) -> Result<()> {
        let mut round = ROUND_PAGES_FIRST;
        while self.rows < budget.rows && self.bytes < budget.bytes {
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
                pages.into_iter().for_each(|page| self.take(index, page));
            }
            if sources.len() > LOGS_FEW && self.logs.iter().all(|log| !log.at_hand.is_whole) {
                // Many logs, and no end of any: the count stays a floor, which more reading would only raise.
                break;
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

    fn take(&mut self, index: usize, entry: PackedEntry) {
        let log = &mut self.logs[index];
        self.pages += 1;
        self.bytes += entry.1.len();
        self.page_ends.clear();
        let ends = &mut self.page_ends;
        let glanced = glance(&entry.1, |id, status| {
            if matches!(status, Status::Delivered | Status::Failed) {
                ends.push((id, status));
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
