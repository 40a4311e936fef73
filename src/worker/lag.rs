//! How late a worker's loop runs: what keeps its core busy keeps its leases from being renewed.

use std::time::Duration;

use metrics::Gauge;
use tokio::time::Instant;

use crate::metrics::loop_lag;

/// The worst of the present and of the last span of this length is shown: longer than the time between two scrapes.
const SPAN: Duration = Duration::from_secs(15);

/// The worst lag of a worker's loop.
pub(super) struct LoopLag {
    gauge: Gauge,
    since: Instant,
    worst: Duration,
    before: Duration,
}

// === impl LoopLag ===

impl LoopLag {
    pub(super) fn of(worker: usize) -> Self {
        Self { gauge: loop_lag(worker), since: Instant::now(), worst: Duration::ZERO, before: Duration::ZERO }
    }

    /// A tick came so long after it was planned.
    pub(super) fn observe(&mut self, lag: Duration, now: Instant) {
        if now.duration_since(self.since) >= SPAN {
            (self.since, self.before, self.worst) = (now, self.worst, Duration::ZERO);
        }
        self.worst = self.worst.max(lag);
        self.gauge.set(self.worst.max(self.before).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_shown_for_a_span_and_then_forgotten() {
        let mut lag = LoopLag::of(0);
        let now = lag.since;
        lag.observe(Duration::from_millis(300), now);
        lag.observe(Duration::from_millis(1), now);
        assert_eq!(lag.worst, Duration::from_millis(300));
        lag.observe(Duration::from_millis(2), now + SPAN);
        assert_eq!((lag.before, lag.worst), (Duration::from_millis(300), Duration::from_millis(2)));
        lag.observe(Duration::ZERO, now + SPAN * 2);
        assert_eq!(lag.before.max(lag.worst), Duration::from_millis(2));
    }
}
