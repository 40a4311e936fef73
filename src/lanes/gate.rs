//! The gate of a lane: whether it may send at all now, beside how much it may have in flight.

use std::time::{Duration, Instant};

use super::breaker::Breaker;
use super::pace::Pace;

/// What may keep a lane from sending, whatever permits are free. Shared by the replica's workers.
#[derive(Debug, Default)]
pub struct Gate {
    /// Opened by failures; shared with the other replicas.
    pub breaker: Breaker,
    /// What the receiver, or the config's rate, asks for.
    pub pace: Pace,
}

// === impl Gate ===

impl Gate {
    /// How long the lane may not send from `now` on; `None` when it may.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        self.breaker.shut_for(now).max(self.pace.shut_for(now))
    }
}
