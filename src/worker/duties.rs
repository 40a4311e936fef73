//! Which worker serves which shard.

use crate::domain::ids::ShardNumber;

/// A worker's duty on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The shard.
    pub shard: ShardNumber,
    /// The worker looks at `due`, observes leases and keeps the shard within its bounds, for its replica.
    pub scans: bool,
}

/// The duties of worker `worker` of `workers`: every shard is served by at least one worker, every worker serves
/// at least one shard, and one worker of the replica scans each shard.
#[must_use]
pub fn duties_of(worker: usize, workers: usize, shards: u16) -> Vec<Duty> {
    let count = usize::from(shards.max(1));
    (0..shards.max(1))
        .filter(|shard| {
            let shard = usize::from(*shard);
            if workers <= count { shard % workers == worker } else { worker % count == shard }
        })
        .map(|shard| Duty {
            shard: ShardNumber(shard),
            scans: workers <= count || worker == usize::from(shard),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_served_and_scanned_once() {
        for workers in 1..10 {
            for shards in 1..10 {
                let all: Vec<Vec<Duty>> = (0..workers).map(|w| duties_of(w, workers, shards)).collect();
                assert!(all.iter().all(|duties| !duties.is_empty()), "{workers} {shards}");
                for shard in 0..shards {
                    let scans =
                        all.iter().flatten().filter(|d| d.shard == ShardNumber(shard) && d.scans).count();
                    assert_eq!(scans, 1, "{workers} workers, {shards} shards, shard {shard}");
                }
            }
        }
    }
}
