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

/// Pages at a log's old end among which the row of a waiting delivery is looked for, before it counts as evicted.
const END_PAGES: usize = 64;

/// Records without rows.
pub(super) struct Rowless {
    /// By config.
    pub(super) of: Vec<HashMap<DeliveryId, RecordHead>>,
    /// Whether there may be more.
    pub(super) truncated: bool,
    /// What cannot be understood.
    pub(super) unreadable: usize,
}

/// What is looked for.
pub(super) struct RowlessQuestion<'q> {
    /// Only this status.
    pub(super) status: Option<Status>,
    /// Only what stands below.
    pub(super) below: Position,
    /// At most so many failed ones of each log are needed.
    pub(super) limit: usize,
    /// On a first page, how many records each log has: what was never tried may then have no row yet.
    pub(super) first: Option<&'q [RecordCounts]>,
}

// === impl Rowless ===

impl Rowless {
    /// Reads them. `oldest` is the oldest page of each log.
    ///
    /// # Errors
    /// Redis's.
    pub(super) async fn read(
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        configs: usize,
        oldest: &[Option<OldestPage>],
        question: &RowlessQuestion<'_>,
    ) -> Result<Self> {
        let mut found =
            Self { of: (0..configs).map(|_| HashMap::new()).collect(), truncated: false, unreadable: 0 };
        if question.status != Some(Status::Delivered) {
            found.add_waiting(connection, sources, oldest, question.first).await?;
            found.add_failed(connection, sources, oldest, question).await?;
        }
        Ok(found)
    }

    async fn add_waiting(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        oldest: &[Option<OldestPage>],
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
        self.truncated |= heads.truncated;
        self.unreadable += heads.unreadable;
        let mut ends: HashMap<(usize, u16), u64> = HashMap::new();
        for ((config, source), oldest) in sources.iter().zip(oldest) {
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
        for ((config, source), oldest) in sources.iter().zip(oldest) {
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
        oldest: &[Option<OldestPage>],
        question: &RowlessQuestion<'_>,
    ) -> Result<()> {
        if matches!(question.status, Some(Status::Pending | Status::Retrying)) {
            return Ok(());
        }
        let reach = question.below.page.ms.saturating_add(ROW_DELAY_MS);
        let most = |page: Option<&OldestPage>| reach.min(end_of(page).saturating_sub(1));
        let mut open: Vec<(usize, ScoreRange<'_>)> = sources
            .iter()
            .zip(oldest)
            .enumerate()
            .filter(|(index, _)| question.first.is_none_or(|counts| counts[*index].failed > 0))
            .map(|(_, ((config, source), page))| {
                (
                    *config,
                    ScoreRange {
                        source: *source,
                        most: most(page.as_ref()),
                        skip: 0,
                        count: question.limit + 1,
                    },
                )
            })
            .collect();
        while !open.is_empty() {
            let ranges: Vec<ScoreRange<'_>> = open.iter().map(|(_, range)| *range).collect();
            let replies = members_by_score(connection, &ranges, &mut self.unreadable).await?;
            let wanted: Vec<(LogSource<'_>, DeliveryId)> = ranges
                .iter()
                .zip(&replies)
                .flat_map(|(range, reply)| reply.ids.iter().map(|(_, id)| (range.source, *id)))
                .collect();
            let mut heads = delivery_read::record_heads(connection, &wanted).await?.into_iter();
            let mut next = Vec::new();
            for ((config, mut range), reply) in open.into_iter().zip(replies) {
                let mut below = 0;
                for ((_, id), head) in reply.ids.iter().zip(heads.by_ref()) {
                    match head {
                        Ok(Some(head)) => {
                            below += usize::from(Position::at(time_of(&head)) < question.below);
                            self.of[config].insert(*id, head);
                        }
                        Ok(None) => {}
                        Err(_) => self.unreadable += 1,
                    }
                }
                // What failed late stands above the cursor by its last attempt: more is needed then.
                if reply.is_full && below < question.limit {
                    range.skip += range.count;
                    next.push((config, range));
                }
            }
            open = next;
        }
        Ok(())
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
