//! The heads of the records that a question to the log needs: of every queued and failed delivery where they
//! are few, else of a fair share and of those whose rows were read.

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource, RecordCounts};
use crate::domain::delivery::RecordHead;
use crate::domain::ids::DeliveryId;
use crate::domain::log::Status;
use crate::domain::log_merge::PlacedRow;

/// Records whose heads one question reads: the failed set of one config at its default cap, 2 MiB.
const RECORDS_MAX: usize = 10_000;

/// Whose heads are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Of queued and of failed deliveries.
    All,
    /// Of queued ones.
    Queued,
}

/// Heads of records.
pub(super) struct Heads {
    /// By config.
    pub(super) of: Vec<HashMap<DeliveryId, RecordHead>>,
    /// Whether there are more than were read.
    pub(super) truncated: bool,
    /// Records and members that cannot be understood.
    pub(super) unreadable: usize,
}

// === impl Heads ===

impl Heads {
    /// Reads the heads of queued (and failed) deliveries, each set's fair share of [`RECORDS_MAX`].
    pub(super) async fn read(
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        configs: usize,
        whose: Whose,
    ) -> Result<Self> {
        let plain: Vec<LogSource<'_>> = sources.iter().map(|(_, source)| *source).collect();
        let mut counts = delivery_read::count_records(connection, &plain).await?;
        if whose == Whose::Queued {
            counts.iter_mut().for_each(|counts| counts.failed = 0);
        }
        Self::read_counted(connection, sources, configs, counts).await
    }

    /// The same, of as many of each set as `counts` says.
    pub(super) async fn read_counted(
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        configs: usize,
        mut counts: Vec<RecordCounts>,
    ) -> Result<Self> {
        let plain: Vec<LogSource<'_>> = sources.iter().map(|(_, source)| *source).collect();
        let truncated = share_out(&mut counts, RECORDS_MAX);
        let asked: Vec<(LogSource<'_>, RecordCounts)> = plain.into_iter().zip(counts).collect();
        let members = delivery_read::members(connection, &asked).await?;
        let mut heads = Self { of: (0..configs).map(|_| HashMap::new()).collect(), truncated, unreadable: 0 };
        let mut wanted = Vec::new();
        for ((config, source), members) in sources.iter().zip(members) {
            heads.unreadable += members.unreadable;
            wanted.extend(members.ids.into_iter().map(|id| (*config, (*source, id))));
        }
        heads.add(connection, wanted).await?;
        Ok(heads)
    }

    /// Where the sets were too large to be read whole: reads the heads of deliveries whose rows were read and
    /// that have not ended by them.
    pub(super) async fn add_unread(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        rows: &[Vec<PlacedRow>],
    ) -> Result<()> {
        if !self.truncated {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for (config, rows) in rows.iter().enumerate() {
            let ended = |placed: &&PlacedRow| placed.row.status == Status::Delivered;
            let done: HashSet<DeliveryId> =
                rows.iter().filter(ended).map(|placed| placed.row.delivery).collect();
            let mut seen = HashSet::new();
            let unknown = rows
                .iter()
                .map(|placed| placed.row.delivery)
                .filter(|id| !done.contains(id) && !self.of[config].contains_key(id) && seen.insert(*id));
            for id in unknown {
                let source = sources
                    .iter()
                    .find(|(of, source)| *of == config && source.keys.shard == id.event().shard());
                wanted.extend(source.map(|(_, source)| (config, (*source, id))));
            }
        }
        wanted.truncate(RECORDS_MAX);
        self.add(connection, wanted).await
    }

    async fn add(
        &mut self,
        connection: &mut MultiplexedConnection,
        wanted: Vec<(usize, (LogSource<'_>, DeliveryId))>,
    ) -> Result<()> {
        let (owners, places): (Vec<usize>, Vec<(LogSource<'_>, DeliveryId)>) = wanted.into_iter().unzip();
        let read = delivery_read::record_heads(connection, &places).await?;
        for ((config, (_, id)), head) in owners.into_iter().zip(places).zip(read) {
            match head {
                Ok(Some(head)) => drop(self.of[config].insert(id, head)),
                Ok(None) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(())
    }
}

/// Lowers the counts so that they sum to at most `most`, the smallest sets whole first; says whether any was
/// lowered.
fn share_out(counts: &mut [RecordCounts], most: usize) -> bool {
    let mut sets: Vec<&mut usize> =
        counts.iter_mut().flat_map(|counts| [&mut counts.queued, &mut counts.failed]).collect();
    sets.sort_unstable();
    let (mut left, mut remaining, mut lowered) = (most, sets.len(), false);
    for set in sets {
        let share = left / remaining.max(1);
        lowered |= *set > share;
        *set = (*set).min(share);
        left -= *set;
        remaining -= 1;
    }
    lowered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sets_are_read_whole_and_large_ones_share_the_rest() {
        let set = |queued, failed| RecordCounts { queued, failed };
        for (mut counts, most, wanted, lowered) in [
            (vec![], 10, vec![], false),
            (vec![set(3, 7)], 10, vec![set(3, 7)], false),
            (vec![set(100, 2), set(0, 50)], 10, vec![set(4, 2), set(0, 4)], true),
        ] {
            assert_eq!(share_out(&mut counts, most), lowered);
            assert_eq!(counts, wanted);
        }
    }
}
