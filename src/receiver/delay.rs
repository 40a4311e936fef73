//! How long events were on their way to a receiver: counts in buckets that each span 5 %, so that a percentile is
//! exact to that, over any number of arrivals in constant memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bucket's upper bound over the one before.
const GROWTH: f64 = 1.05;
/// Buckets: `1.05^400` ms are over three days.
const BUCKETS: usize = 400;

/// Delays in milliseconds.
#[derive(Debug)]
pub(super) struct Delays {
    buckets: Box<[AtomicU64]>,
    longest: AtomicU64,
}

/// What a receiver says of its delays, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DelaySummary {
    /// Arrivals whose body had a timestamp.
    pub count: u64,
    /// Half of them came within this.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// All of them.
    pub max: u64,
}

// === impl Delays ===

impl Default for Delays {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), longest: AtomicU64::new(0) }
    }
}

impl Delays {
    pub(super) fn add(&self, ms: u64) {
        self.longest.fetch_max(ms, Ordering::Relaxed);
        self.buckets[bucket_of(ms)].fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets what was added so far. What is added meanwhile may be forgotten too.
    pub(super) fn forget(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        self.longest.store(0, Ordering::Relaxed);
    }

    pub(super) fn summary(&self) -> DelaySummary {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max = self.longest.load(Ordering::Relaxed);
        let percentile = |hundredths: u64| bound_of(&counts, (count * hundredths).div_ceil(100), max);
        DelaySummary { count, p50: percentile(50), p95: percentile(95), p99: percentile(99), max }
    }
}

fn bucket_of(ms: u64) -> usize {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bucket = (ms.max(1) as f64).log(GROWTH).ceil() as usize;
    bucket.min(BUCKETS - 1)
}

/// The upper bound of the bucket in which the `rank`-th smallest lies, but no more than the longest of all.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
fn bound_of(counts: &[u64], rank: u64, longest: u64) -> f64 {
    let mut below = 0;
    let at = counts.iter().position(|count| {
        below += count;
        below >= rank
    });
    let bound = at.map_or(0.0, |bucket| GROWTH.powi(bucket as i32));
    (bound.min(longest as f64) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_five_percent() {
        let delays = Delays::default();
        assert_eq!(delays.summary(), DelaySummary::default());
        (1..=1_000).for_each(|ms| delays.add(ms));
        let DelaySummary { count, p50, p95, p99, max } = delays.summary();
        assert_eq!((count, max), (1_000, 1_000));
        for (found, exact) in [(p50, 500.0), (p95, 950.0), (p99, 990.0)] {
            assert!((exact..=exact * GROWTH).contains(&found), "{found} for {exact}");
        }
        delays.add(u64::MAX);
        assert_eq!(delays.summary().max, u64::MAX);
        delays.forget();
        assert_eq!(delays.summary(), DelaySummary::default());
    }
}
