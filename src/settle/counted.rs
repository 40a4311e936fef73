//! What a worker counts for the stats of each config, between two tellings.

use std::cell::RefCell;
use std::collections::hash_map::Entry;

use super::settler::Settler;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::stats::Counts;
use crate::redis::stats::Counted;

/// Configs that are counted at a time: 5 MiB. More than that within some seconds, or while Redis is away, go without
/// stats for as long.
const CONFIGS_MAX: usize = 16_384;

/// Counts by shard and config.
#[derive(Default)]
pub(super) struct Counting(RefCell<Counted>);

// === impl Counting ===

impl Counting {
    pub(super) fn count(&self, shard: ShardNumber, config: ConfigId, change: impl FnOnce(&mut Counts)) {
        let mut counted = self.0.borrow_mut();
        let full = counted.len() >= CONFIGS_MAX;
        match counted.entry((shard, config)) {
            Entry::Occupied(entry) => change(entry.into_mut()),
            Entry::Vacant(entry) if !full => change(entry.insert(Counts::default())),
            Entry::Vacant(_) => {}
        }
    }
}

// === impl Settler ===

impl Settler {
    /// An event was read that an inactive config would have had.
    pub fn skipped(&self, shard: ShardNumber, config: ConfigId) {
        self.counting.count(shard, config, |counts| counts.skipped += 1);
    }

    /// Takes what was counted.
    #[must_use]
    pub fn take_counted(&self) -> Counted {
        self.counting.0.take()
    }
}
