//! Deliveries that have a record and no row any more: a cap evicted the row. A walk through the log meets them by
//! the time of their last attempt, below the oldest page of their log.

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource, RecordCounts};
use super::log_failed::{ScoreRange, members_by_score};
use super::log_heads::{Heads, Whose};
use super::log_read::{self, OldestPage};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::RecordHead;
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_merge::Position;

/// How long after its attempt began a row may be written: the longest attempts, and what a flush waits for.
const ROW_DELAY_MS: u64 = 60_000;

/// Failed deliveries of one log that are read at a time.
const FAILED_ROUND_MAX: usize = 1_000;

/// Pages at a log's old end among which the row of a waiting delivery is looked for, before it counts as evicted.
const END_PAGES: usize = 64;

/// Records without rows.
pub(super) struct Rowless {
    /// By config.
    pub(super) of: Vec<HashMap<DeliveryId, RecordHead>>,
    /// What cannot be understood.
    pub(super) unreadable: usize,
    /// The oldest page of each log.
    oldest: Vec<Option<OldestPage>>,
    /// The logs whose failed deliveries are still to be looked at, should a page reach down to them.
    unread: Vec<usize>,
}

/// What a first page knows of each log.
#[derive(Clone, Copy)]
pub(super) struct KnownLogs<'q> {
    /// How many records it has: what was never tried may then have no row yet.
    pub(super) records: &'q [RecordCounts],
    /// When its oldest failed delivery failed.
    pub(super) oldest_failed: &'q [Option<UnixMillis>],
}

/// The failed deliveries of one log, as far as they were read.
struct FailedRead<'a> {
    config: usize,
    range: ScoreRange<'a>,
    /// When the last attempts began of those below the cursor, the latest that the page may need.
    met: Vec<UnixMillis>,
}

// === impl Rowless ===

impl Rowless {
    /// Reads those that wait; those that failed are read as a page reaches them ([`Self::reach`]). `oldest` is the
    /// oldest page of each log; only `status` is asked for.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read(
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        configs: usize,
        oldest: Vec<Option<OldestPage>>,
        (status, known): (Option<Status>, Option<KnownLogs<'_>>),
    ) -> Result<Self> {
        let of = (0..configs).map(|_| HashMap::new()).collect();
        let mut found = Self { of, unreadable: 0, oldest, unread: Vec::new() };
        if status != Some(Status::Delivered) {
            found.add_waiting(connection, sources, known.map(|known| known.records)).await?;
        }
        if matches!(status, None | Some(Status::Failed)) {
            let has_some = |index: &usize| match known {
                Some(known) => {
                    let end = end_of(found.oldest[*index].as_ref());
                    known.oldest_failed[*index].is_some_and(|at| at.0 < end)
                }
                None => true,
            };
            found.unread = (0..sources.len()).filter(has_some).collect();
        }
        Ok(found)
    }

    /// Reads failed deliveries without a row that may stand at `bottom` or above, below `below`: of each log that
    /// begins above it at most `limit` and one. Says whether there was any to read.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn reach(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        bottom: Position,
        (below, limit): (Position, usize),
    ) -> Result<bool> {
        let oldest = &self.oldest;
        let is_reached = |index: &usize| end_of(oldest[*index].as_ref()) > bottom.page.ms;
        let (reached, unread): (Vec<usize>, Vec<usize>) = self.unread.iter().copied().partition(is_reached);
        self.unread = unread;
        self.add_failed(connection, sources, &reached, (below, limit)).await?;
        Ok(!reached.is_empty())
    }

    async fn add_waiting(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        first: Option<&[RecordCounts]>,
    ) -> Result<()> {
        let configs = self.of.len();
        let heads = match first {
            None => Heads::read(connection, sources, configs, Whose::Queued).await?,
            Some(counts) => {
                let queued = counts.iter().map(|counts| RecordCounts { failed: 0, ..*counts }).collect();
                Heads::read_counted(connection, sources, configs, queued).await?
            }
        };
        self.unreadable += heads.unreadable;
        let mut ends: HashMap<(usize, u16), u64> = HashMap::new();
        for ((config, source), oldest) in sources.iter().zip(&self.oldest) {
            ends.insert((*config, source.keys.shard.0), end_of(oldest.as_ref()));
        }
        let end = |config: usize, id: DeliveryId| {
            ends.get(&(config, id.event().shard().0)).copied().unwrap_or_default()
        };
        let mut unsure = HashSet::new();
        for (config, heads) in heads.of.into_iter().enumerate() {
            for (id, head) in heads {
                let (at, end) = (time_of(&head).0, end(config, id));
                if at < end {
                    if end != u64::MAX && at + ROW_DELAY_MS >= end {
                        unsure.insert((config, id.event().shard().0));
                    }
                    self.of[config].insert(id, head);
                } else if first.is_some() && head.attempts == 0 {
                    self.of[config].insert(id, head);
                }
            }
        }
        for ((config, source), oldest) in sources.iter().zip(&self.oldest) {
            let Some(oldest) = oldest.as_ref().filter(|_| unsure.contains(&(*config, source.keys.shard.0)))
            else {
                continue;
            };
            let before = UnixMillis(oldest.id.ms.saturating_sub(1));
            let pages = log_read::pages_after(connection, &[*source], before, END_PAGES).await?;
            for row in
                pages.iter().flatten().filter_map(|read| read.page.as_ref()).flat_map(|page| &page.rows)
            {
                self.of[*config].remove(&row.delivery);
            }
        }
        Ok(())
    }

    /// A delivery's failure and its row are written in one step, so one that failed before the oldest page has no
    /// row.
    async fn add_failed(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        reached: &[usize],
        (below, limit): (Position, usize),
    ) -> Result<()> {
        let reach = below.page.ms.saturating_add(ROW_DELAY_MS);
        let open = |index: &usize| {
            let (config, source) = sources[*index];
            let most = reach.min(end_of(self.oldest[*index].as_ref()).saturating_sub(1));
            let range = ScoreRange { source, most, skip: 0, count: limit + 1 };
            FailedRead { config, range, met: Vec::new() }
        };
        let mut open: Vec<FailedRead<'_>> = reached.iter().map(open).collect();
        while !open.is_empty() {
            let ranges: Vec<ScoreRange<'_>> = open.iter().map(|read| read.range).collect();
            let replies = members_by_score(connection, &ranges, &mut self.unreadable).await?;
            let wanted: Vec<(LogSource<'_>, DeliveryId)> = ranges
                .iter()
                .zip(&replies)
                .flat_map(|(range, reply)| reply.ids.iter().map(|(_, id)| (range.source, *id)))
                .collect();
            let mut heads = delivery_read::record_heads(connection, &wanted).await?.into_iter();
            let mut next = Vec::new();
            for (mut read, reply) in open.into_iter().zip(replies) {
                for ((_, id), head) in reply.ids.iter().zip(heads.by_ref()) {
                    match head {
                        Ok(Some(head)) => {
                            let at = time_of(&head);
                            read.met.extend((Position::at(at) < below).then_some(at));
                            self.of[read.config].insert(*id, head);
                        }
                        Ok(None) => {}
                        Err(_) => self.unreadable += 1,
                    }
                }
                let last = reply.ids.last().map(|(failed, _)| *failed);
                if reply.is_full && read.wants_more(last, limit) {
                    read.range.skip += read.range.count;
                    read.range.count = (read.range.count * 2).min(FAILED_ROUND_MAX);
                    next.push(read);
                }
            }
            open = next;
        }
        Ok(())
    }
}

// === impl FailedRead ===

impl FailedRead<'_> {
    /// Whether what failed before `last` may still belong to the page. The set is in the order of the failures, the
    /// log in that of the attempts' beginnings, and none fails before it began.
    fn wants_more(&mut self, last: Option<UnixMillis>, limit: usize) -> bool {
        self.met.sort_unstable_by(|one, other| other.cmp(one));
        self.met.truncate(limit + 1);
        match (self.met.get(limit), last) {
            (Some(lowest), Some(last)) => last >= *lowest,
            _ => true,
        }
    }
}

/// The time that a record without a row stands at.
pub(super) fn time_of(head: &RecordHead) -> UnixMillis {
    head.last_at.unwrap_or(head.created_at)
}

/// When the log begins; of an empty one nothing has a row.
fn end_of(oldest: Option<&OldestPage>) -> u64 {
    oldest.map_or(u64::MAX, |page| page.id.ms)
}
