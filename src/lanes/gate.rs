//! The gate of a lane: whether it may send at all now, beside how much it may have in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::Breaker;
use super::pace::Pace;

/// What may keep a lane from sending, whatever permits are free. Shared by the replica's workers.
#[derive(Debug)]
pub struct Gate {
    /// Opened by failures; shared with the other replicas.
    pub breaker: Arc<Breaker>,
    /// What the receiver, or the config's rate, asks for.
    pub pace: Pace,
}

// === impl Gate ===

impl Gate {
    /// A gate behind this breaker.
    #[must_use]
    pub fn new(breaker: Arc<Breaker>) -> Self {
        Self { breaker, pace: Pace::default() }
    }

    /// How long the lane may not send from `now` on; `None` when it may.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        self.breaker.shut_for(now).max(self.pace.shut_for(now))
    }

    /// When a lane that may not send at `now`, or whose tokens are spent, is to be looked at again; `None` where
    /// neither is so.
    #[must_use]
    pub fn next_look(&self, now: Instant) -> Option<Duration> {
        self.shut_for(now).max(self.pace.next_token(now))
    }
}
