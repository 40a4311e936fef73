//! What a config's deliveries came to in a span of time: outcomes, latencies, the last success and failure
//! (format: docs/REDIS.md, "Stats"; answer: docs/WIRE.md section 12).

use super::clock::UnixMillis;
use super::delivery::FailReason;
use super::outcome::{AttemptResult, Outcome};

/// Upper bounds of the latency buckets, in milliseconds, each included; the last bucket has none. Steps of about a
/// half, so a percentile is off by at most that.
pub const BUCKET_BOUNDS_MS: [u32; 21] = [
    2, 5, 10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1_000, 1_500, 2_500, 4_000, 6_000, 10_000, 15_000,
    20_000, 30_000,
];

/// Buckets.
pub const BUCKETS: usize = BUCKET_BOUNDS_MS.len() + 1;

/// Counts of a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that ended delivered.
    pub delivered: u64,
    /// Deliveries that ended failed, in the order of [`FailReason::ALL`].
    pub failed: [u64; FailReason::ALL.len()],
    /// Attempts, in the order of [`Outcome::ALL`].
    pub attempts: [u64; Outcome::ALL.len()],
    /// Attempts by how long they took.
    pub took: [u64; BUCKETS],
    /// Events that would have gone to the config, had it been active.
    pub skipped: u64,
    /// When the last attempt that succeeded was over.
    pub last_success_at: Option<UnixMillis>,
    /// When the last attempt that did not was over, and what it came to.
    pub last_failure: Option<(UnixMillis, LastFailure)>,
}

/// What a failed attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastFailure {
    /// An answer with this status.
    Status(u16),
    /// No answer, and why; what is stored is only ever this text.
    Text(String),
}

// === impl Counts ===

impl Default for Counts {
    fn default() -> Self {
        Self {
            delivered: 0,
            failed: [0; FailReason::ALL.len()],
            attempts: [0; Outcome::ALL.len()],
            took: [0; BUCKETS],
            skipped: 0,
            last_success_at: None,
            last_failure: None,
        }
    }
}

impl Counts {
    /// Counts an attempt that began at `at`. A success allocates nothing.
    pub fn attempt(&mut self, at: UnixMillis, outcome: Outcome, result: &AttemptResult) {
        self.attempts[usize::from(outcome.code())] += 1;
        let took_ms = u32::try_from(result.took.as_millis()).unwrap_or(u32::MAX);
        self.took[bucket_of(took_ms)] += 1;
        let ended = Some(at.plus(result.took));
        if outcome == Outcome::Delivered {
            self.last_success_at = self.last_success_at.max(ended);
            return;
        }
        let failure = match &result.reply {
            Ok(answer) => LastFailure::Status(answer.status),
            Err(fault) => LastFailure::Text(fault.to_string()),
        };
        self.fail(ended.map(|at| (at, failure)));
    }

    /// Adds counts of the same span, or of one that is looked at together with it.
    pub fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.skipped += other.skipped;
        sum(&mut self.failed, &other.failed);
        sum(&mut self.attempts, &other.attempts);
        sum(&mut self.took, &other.took);
        self.last_success_at = self.last_success_at.max(other.last_success_at);
        self.fail(other.last_failure);
    }

    /// Attempts in all.
    #[must_use]
    pub fn attempts_made(&self) -> u64 {
        self.attempts.iter().sum()
    }

    /// The time, in milliseconds, that a share of the attempts (0..1) took at most: interpolated within its
    /// bucket; the last bucket's is its lower bound. `None` without attempts.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn percentile_ms(&self, share: f64) -> Option<u64> {
        let total: u64 = self.took.iter().sum();
        let rank = (share * total as f64).max(1.0);
        let mut before = 0.0;
        for (bucket, count) in self.took.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if before + count >= rank {
                let low = bucket.checked_sub(1).map_or(0, |lower| BUCKET_BOUNDS_MS[lower]);
                let high = BUCKET_BOUNDS_MS.get(bucket).copied().unwrap_or(low);
                let within = (rank - before) / count;
                return Some((f64::from(low) + within * f64::from(high - low)).round() as u64);
            }
            before += count;
        }
        None
    }

    fn fail(&mut self, failure: Option<(UnixMillis, LastFailure)>) {
        let known = self.last_failure.as_ref().map(|(at, _)| *at);
        if failure.as_ref().map(|(at, _)| *at) >= known && failure.is_some() {
            self.last_failure = failure;
        }
    }

    /// Every count that is not 0, under the name that it is stored by.
    pub fn fields(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let one = |name: &str, count: u64| (name.to_owned(), count);
        let failed = FailReason::ALL.iter().zip(self.failed);
        let attempts = Outcome::ALL.iter().zip(self.attempts);
        [one("delivered", self.delivered), one("skipped", self.skipped)]
            .into_iter()
            .chain(failed.map(|(reason, count)| (format!("f:{}", reason.as_str()), count)))
            .chain(attempts.map(|(outcome, count)| (format!("a:{}", outcome.as_str()), count)))
            .chain(self.took.into_iter().enumerate().map(|(bucket, count)| (format!("t:{bucket}"), count)))
            .filter(|(_, count)| *count > 0)
    }

    /// Takes one stored count; a name that no version knows is left out.
    pub fn take_field(&mut self, name: &str, count: u64) {
        let place = match name.split_once(':') {
            None if name == "delivered" => Some(&mut self.delivered),
            None if name == "skipped" => Some(&mut self.skipped),
            Some(("f", reason)) => {
                let known = FailReason::ALL.iter().position(|known| known.as_str() == reason);
                known.map(|place| &mut self.failed[place])
            }
            Some(("a", outcome)) => {
                let known = Outcome::ALL.iter().position(|known| known.as_str() == outcome);
                known.map(|place| &mut self.attempts[place])
            }
            Some(("t", bucket)) => bucket.parse().ok().and_then(|place: usize| self.took.get_mut(place)),
            _ => None,
        };
        if let Some(place) = place {
            *place += count;
        }
    }
}

// === impl LastFailure ===

impl std::fmt::Display for LastFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn bucket_of(took_ms: u32) -> usize {
    BUCKET_BOUNDS_MS.partition_point(|bound| *bound < took_ms)
}

fn sum<const N: usize>(into: &mut [u64; N], other: &[u64; N]) {
    into.iter_mut().zip(other).for_each(|(into, other)| *into += other);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::outcome::{Answer, Fault, FaultKind};

    fn answered(status: u16, took_ms: u64) -> AttemptResult {
        let answer = Answer { status, excerpt: Bytes::new(), retry_after: None };
        AttemptResult { reply: Ok(answer), took: Duration::from_millis(took_ms) }
    }

    proptest! {
        #[test]
        fn stored_fields_give_the_counts_back(
            delivered in 0_u64..9, skipped in 0_u64..9, failed: [u16; 7], attempts: [u16; 4], took: [u16; 22],
        ) {
            let counts = Counts {
                delivered,
                skipped,
                failed: failed.map(u64::from),
                attempts: attempts.map(u64::from),
                took: took.map(u64::from),
                ..Counts::default()
            };
            let mut read = Counts::default();
            counts.fields().for_each(|(name, count)| read.take_field(&name, count));
            prop_assert_eq!(read, counts);
        }

        #[test]
        fn a_percentile_lies_in_the_bucket_of_the_exact_one(
            mut times in proptest::collection::vec(0_u64..40_000, 1..200), share in 0.01_f64..1.0,
        ) {
            let mut counts = Counts::default();
            for took in &times {
                counts.attempt(UnixMillis(1), Outcome::Delivered, &answered(200, *took));
            }
            times.sort_unstable();
            let rank = (share * times.len() as f64).ceil().max(1.0) as usize;
            let exact = bucket_of(u32::try_from(times[rank - 1]).unwrap());
            let shown = counts.percentile_ms(share).unwrap();
            let low = exact.checked_sub(1).map_or(0, |lower| u64::from(BUCKET_BOUNDS_MS[lower]));
            let high = BUCKET_BOUNDS_MS.get(exact).map_or(low, |bound| u64::from(*bound));
            prop_assert!((low..=high).contains(&shown), "{shown} is not in {low}..={high}");
        }
    }

    #[test]
    fn the_newest_failure_is_kept_with_its_reason() {
        let mut counts = Counts::default();
        assert_eq!(counts.percentile_ms(0.5), None);
        let fault = Fault::new(FaultKind::Timeout, "no answer within 30 s");
        let timeout = AttemptResult { reply: Err(fault), took: Duration::from_secs(30) };
        counts.attempt(UnixMillis(1_000), Outcome::Retryable, &timeout);
        counts.attempt(UnixMillis(2_000), Outcome::Refused, &answered(404, 5));
        counts.attempt(UnixMillis(3_000), Outcome::Delivered, &answered(200, 5));
        let (at, failure) = counts.last_failure.clone().unwrap();
        assert_eq!((at, failure.to_string()), (UnixMillis(31_000), "timeout: no answer within 30 s".into()));
        assert_eq!(counts.last_success_at, Some(UnixMillis(3_005)));
        assert_eq!((counts.attempts_made(), counts.attempts), (3, [1, 0, 1, 1]));
    }
}
