//! Bounds how often one line is logged: what an endpoint, a producer or an absent Redis causes at the rate of events
//! would fill disks otherwise. The first is logged, then at most one a second, with the count of those left out.
//!
//! [`limited`] is `tracing`'s `warn!`, `error!` or `info!` under a limit of its own:
//! `limited!(warn, %error, "a write failed; it is repeated")`.

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

/// Logs at the level named first, at most one line a second; the count of those left out since is its `left_out`.
macro_rules! limited {
    ($level:ident, $($line:tt)+) => {{
        static LINES: $crate::domain::log_limit::LogLimit = $crate::domain::log_limit::LogLimit::new();
        match LINES.admit() {
            Some(0) => tracing::$level!($($line)+),
            Some(left_out) => tracing::$level!(left_out, $($line)+),
            None => {}
        }
    }};
}
pub(crate) use limited;

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

    /// Counts the lines that reach it.
    struct Lines(std::sync::Arc<AtomicU64>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_thousand_failures_make_few_lines() {
        let count = std::sync::Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        tracing::subscriber::with_default(Lines(std::sync::Arc::clone(&count)), || {
            (0..1_000).for_each(|number| limited!(warn, number, "a write failed"));
        });
        let lines = count.load(Ordering::Relaxed);
        assert!((1..=1 + began.elapsed().as_secs() + 1).contains(&lines), "{lines} lines");
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
