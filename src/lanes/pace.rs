//! The pace of a lane: a receiver that answers `Retry-After` slows everything that is sent to it, not only the
//! delivery that it answered; and a config's own rate limit, as a token bucket that holds this replica's part.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::retry_policy::DELAY_MAX;

/// A lane whose tokens are spent is looked at again when the tokens of this time have come: a high rate is spent
/// in portions, and a thousand limited lanes do not cost a look per token.
const PORTION: Duration = Duration::from_millis(100);

/// And no sooner than after this, where a small burst allows only small portions.
const LOOK_MIN: Duration = Duration::from_millis(5);

/// A new bucket holds what comes in this time: a lane is forgotten after as long without work, and its bucket must
/// not be fuller for that.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// When a lane may send again. Shared by the replica's workers.
#[derive(Debug, Default)]
pub struct Pace {
    /// Nothing was asked for and no rate is set: then nobody asks for the lock, which is every attempt otherwise.
    bound: AtomicBool,
    state: Mutex<State>,
}

/// This replica's part of a rate limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: f64,
    /// Most tokens at once; 0 where other replicas hold the limit.
    pub burst: u32,
}

#[derive(Debug, Default)]
struct State {
    not_before: Option<Instant>,
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

// === impl Pace ===

impl Pace {
    /// The receiver asked for no request within `asked`; never shortens what was asked before.
    pub fn hold(&self, asked: Duration) {
        let until = Instant::now() + asked.min(DELAY_MAX);
        let mut state = self.state();
        state.not_before = Some(state.not_before.map_or(until, |known| known.max(until)));
        self.bound.store(true, Ordering::Relaxed);
    }

    /// How long the lane may not send from `now` on because the receiver asked for it; `None` when it may.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        if !self.bound.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        let left = state.not_before?.saturating_duration_since(now);
        if left.is_zero() {
            state.not_before = None;
            self.bound.store(state.bucket.is_some(), Ordering::Relaxed);
        }
        Some(left).filter(|left| !left.is_zero())
    }

    /// Sets the rate, or takes it away. A new bucket is full, or holds a minute's tokens where that is less; an old
    /// one keeps its tokens.
    pub fn set_rate(&self, rate: Option<Rate>, now: Instant) {
        let mut state = self.state();
        state.bucket = match (rate, state.bucket.take()) {
            (None, _) => None,
            (Some(rate), None) => {
                let minute = rate.per_second * FORGOTTEN_AFTER.as_secs_f64();
                Some(Bucket { rate, tokens: minute.min(f64::from(rate.burst)), at: now })
            }
            (Some(rate), Some(mut known)) => {
                known.fill(now);
                let tokens = known.tokens.min(f64::from(rate.burst));
                Some(Bucket { rate, tokens, ..known })
            }
        };
        self.bound.store(state.bucket.is_some() || state.not_before.is_some(), Ordering::Relaxed);
    }

    /// Takes a token; true where none is needed.
    #[must_use]
    pub fn take(&self, now: Instant) -> bool {
        if !self.bound.load(Ordering::Relaxed) {
            return true;
        }
        let mut state = self.state();
        let Some(bucket) = &mut state.bucket else { return true };
        bucket.fill(now);
        let taken = bucket.tokens >= 1.0;
        if taken {
            bucket.tokens -= 1.0;
        }
        taken
    }

    /// Gives back a token for which nothing was sent.
    pub fn give_back(&self) {
        if !self.bound.load(Ordering::Relaxed) {
            return;
        }
        if let Some(bucket) = &mut self.state().bucket {
            bucket.tokens = (bucket.tokens + 1.0).min(f64::from(bucket.rate.burst));
        }
    }

    /// Whether a rate is set.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bound.load(Ordering::Relaxed) && self.state().bucket.is_some()
    }

    /// How long until `count` tokens have come; zero where they are there, or none are needed. `None` where none
    /// will come: other replicas hold the limit.
    #[must_use]
    pub fn wait_for(&self, count: u32, now: Instant) -> Option<Duration> {
        if !self.bound.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let mut state = self.state();
        let Some(bucket) = &mut state.bucket else { return Some(Duration::ZERO) };
        bucket.fill(now);
        let missing = f64::from(count) - bucket.tokens;
        if missing <= 0.0 {
            Some(Duration::ZERO)
        } else if bucket.rate.burst == 0 || bucket.rate.per_second <= 0.0 {
            None
        } else {
            Some(Duration::from_secs_f64(missing / bucket.rate.per_second))
        }
    }

    /// When to look again at a lane whose tokens are spent; `None` when one is there.
    #[must_use]
    pub fn next_token(&self, now: Instant) -> Option<Duration> {
        self.wait_for(1, now).filter(|wait| !wait.is_zero())?;
        let wait = self.wait_for(self.portion(), now)?;
        Some(wait.max(LOOK_MIN))
    }

    /// How many tokens are worth a look, at least 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Within 1 and the burst.
    fn portion(&self) -> u32 {
        let state = self.state();
        let Some(Bucket { rate, .. }) = &state.bucket else { return 1 };
        let tokens = rate.per_second * PORTION.as_secs_f64();
        tokens.clamp(1.0, f64::from(rate.burst.max(1))) as u32
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Bucket ===

impl Bucket {
    fn fill(&mut self, now: Instant) {
        // Workers' moments may be out of order by a little.
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate.per_second).min(f64::from(self.rate.burst));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

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

    #[test]
    fn tokens_are_spent_come_back_and_are_given_back() {
        let pace = Pace::default();
        let now = Instant::now();
        assert!(pace.take(now) && !pace.is_limited());
        pace.set_rate(Some(Rate { per_second: 10.0, burst: 2 }), now);
        assert_eq!([0, 0, 0].map(|_| pace.take(now)), [true, true, false]);
        assert_eq!((pace.next_token(now), pace.wait_for(3, now)), (Some(ms(100)), Some(ms(300))));
        pace.give_back();
        assert_eq!(pace.next_token(now), None);
        assert!(pace.take(now) && !pace.take(now + ms(90)) && pace.take(now + ms(101)));
        let later = now + Duration::from_secs(60);
        assert_eq!([0, 0, 0].map(|_| pace.take(later)), [true, true, false], "no more than the burst");
        pace.set_rate(Some(Rate { per_second: 0.0, burst: 0 }), later);
        assert!(!pace.take(later + ms(60_000)));
        assert_eq!((pace.wait_for(1, later), pace.next_token(later)), (None, None));
        pace.set_rate(None, later);
        assert!(pace.take(later));
    }

    #[test]
    fn a_spent_lane_is_looked_at_for_a_portion_of_tokens() {
        let look = |per_second: f64, burst: u32| {
            let (pace, now) = (Pace::default(), Instant::now());
            pace.set_rate(Some(Rate { per_second, burst }), now);
            while pace.take(now) {}
            pace.next_token(now).map(|wait| wait.as_millis())
        };
        assert_eq!(look(1_000.0, 1_000), Some(100));
        assert_eq!(look(1_000.0, 20), Some(20), "a small burst is not wasted by waiting");
        assert_eq!(look(1_000.0, 1), Some(5));
        assert_eq!(look(4.0, 4), Some(250));
        assert_eq!(look(1.0, 0), None);
    }

    proptest! {
        #[test]
        fn no_span_of_time_gets_more_than_its_tokens_and_a_burst(
            rate in 1_u32..1_000, burst in 1_u32..50, steps in proptest::collection::vec(0_u64..40, 1..300),
        ) {
            let pace = Pace::default();
            let begin = Instant::now();
            pace.set_rate(Some(Rate { per_second: f64::from(rate), burst }), begin);
            let (mut now, mut taken) = (begin, 0_u32);
            for step in steps {
                now += ms(step);
                taken += u32::from(pace.take(now));
                let allowed = f64::from(burst) + (now - begin).as_secs_f64() * f64::from(rate);
                prop_assert!(f64::from(taken) <= allowed + 0.001);
            }
        }
    }
}
