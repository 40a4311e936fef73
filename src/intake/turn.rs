//! Whose turn it is to block on a shard's stream: at low load one worker of the replica waits for entries, and
//! brings others when it finds more than it can take at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A standing-by worker looks whether the turn is free this often, in case its holder ended.
const STAND_BY: Duration = Duration::from_secs(1);

/// The turn of one shard, shared by the replica's workers.
#[derive(Debug, Default)]
pub struct ReadTurn {
    taken: AtomicBool,
    more: Notify,
}

/// Holding the turn; dropping it frees it.
#[derive(Debug)]
pub(super) struct Turn(Arc<ReadTurn>);

// === impl ReadTurn ===

impl ReadTurn {
    /// Takes the turn if nobody holds it.
    pub(super) fn take(self: &Arc<Self>) -> Option<Turn> {
        (!self.taken.swap(true, Ordering::Relaxed)).then(|| Turn(Arc::clone(self)))
    }

    /// There is more to read than one worker takes at once.
    pub(super) fn bring_another(&self) {
        self.more.notify_one();
    }

    /// Waits until there is more to read (true), or for a while (false).
    pub(super) async fn stand_by(&self) -> bool {
        tokio::time::timeout(STAND_BY, self.more.notified()).await.is_ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Relaxed);
        self.0.more.notify_one();
    }
}
