//! The pace of a lane: a receiver that answers `Retry-After` slows everything that is sent to it, not only the
//! delivery that it answered.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::retry_policy::DELAY_MAX;

/// When a lane may send again.
#[derive(Debug, Default)]
pub struct Pace {
    not_before: Mutex<Option<Instant>>,
}

// === impl Pace ===

impl Pace {
    /// The receiver asked for no request within `asked`; never shortens what was asked before.
    pub fn hold(&self, asked: Duration) {
        let until = Instant::now() + asked.min(DELAY_MAX);
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |known| known.max(until)));
    }

    /// How long the lane may not send from `now` on; `None` when it may.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        let left =
            not_before.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero());
        if left.is_none() {
            *not_before = None;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_held_as_long_as_was_asked_and_never_shorter() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.shut_for(now), None);
        pace.hold(Duration::from_secs(60));
        pace.hold(Duration::from_secs(1));
        assert!(pace.shut_for(now).is_some_and(|left| left > Duration::from_secs(59)));
        assert_eq!(pace.shut_for(now + Duration::from_secs(61)), None);
    }
}
