//! The breaker of a lane, as this replica knows it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// While open, nothing is sent: deliveries wait in Redis and keep their attempts.
#[derive(Debug, Default)]
pub struct Breaker {
    open_until: Mutex<Option<Instant>>,
}

// === impl Breaker ===

impl Breaker {
    /// Opens it for `duration` from now on.
    pub fn open_for(&self, duration: Duration) {
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + duration);
    }

    /// Closes it.
    pub fn close(&self) {
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long the lane may not send from `now` on; `None` when it may.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        let open_until = self.open_until.lock().unwrap_or_else(PoisonError::into_inner);
        open_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}
