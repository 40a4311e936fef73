//! Bounds how often one line is logged: what an endpoint, a producer or an absent Redis causes at the rate of events
//! would fill disks otherwise. The first is logged, then at most one a second, with the count of those left out.
//!
//! ```
//! use postrider::domain::log_limit::LogLimit;
//! static LINES: LogLimit = LogLimit::new();
//! if let Some(left_out) = LINES.admit() {
//!     tracing::warn!(left_out, "a write failed; it is repeated");
//! }
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Shortest time between two lines, in milliseconds.
const APART_MS: u64 = 1_000;

/// The limit of one line: a static beside it, shared by all workers. Metrics count what lines leave out.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// When the next line may be logged, in milliseconds since [`now_ms`] began; 0 at first.
    next_ms: AtomicU64,
    left_out: AtomicU64,
}

// === impl LogLimit ===

impl LogLimit {
    /// A limit that nothing was logged under.
    #[must_use]
    pub const fn new() -> Self {
        Self { next_ms: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// How many lines were left out since the last one, where this one may be logged; `None` where it is left out.
    #[must_use]
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(now_ms())
    }

    fn admit_at(&self, now_ms: u64) -> Option<u64> {
        let next = self.next_ms.load(Ordering::Relaxed);
        let taken = || {
            let after = now_ms.saturating_add(APART_MS);
            // Of several workers that come at once, one logs.
            self.next_ms.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        if now_ms >= next && taken() {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Milliseconds since the first call.
fn now_ms() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    u64::try_from(EPOCH.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_failures_make_one_line_a_second_and_none_is_forgotten() {
        let limit = LogLimit::new();
        let lines =
            |second: u64| (0..1_000).filter_map(|n| limit.admit_at(second * 1_000 + n)).collect::<Vec<_>>();
        assert_eq!(lines(0), [0], "the first at once, and nothing was left out before it");
        assert_eq!(lines(1), [999]);
        assert_eq!(limit.admit_at(60_000), Some(999));
        assert_eq!(limit.admit_at(61_000), Some(0));
    }

    #[test]
    fn of_many_threads_one_logs() {
        let limit = LogLimit::new();
        let count = || (0..1_000).filter(|_| limit.admit_at(5).is_some()).count();
        let logged: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((logged, limit.admit_at(2_000)), (1, Some(3_999)));
    }
}
