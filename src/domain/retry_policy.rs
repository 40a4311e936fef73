//! When a delivery is tried again: a pure function of the attempts made (docs/WIRE.md section 4).

use std::time::Duration;

/// Longest delay between two attempts.
pub const DELAY_MAX: Duration = Duration::from_secs(86_400);

/// Most automatic retries that a config may ask for.
pub const MAX_RETRIES_LIMIT: u32 = 10;

/// The delays between attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// `min(24 h, e^(2.5 n) s)` before the n-th retry: 12 s, 2 min 28 s, 30 min 8 s, 6 h 7 min, then 24 h.
    Exponential,
    /// The n-th retry waits the n-th value; the last one repeats. Never empty.
    Fixed(Vec<Duration>),
}

impl Schedule {
    /// A list of delays, as `--retry-schedule` gives it. `None` when it is empty or a value is above 24 h.
    #[must_use]
    pub fn fixed(delays: Vec<Duration>) -> Option<Self> {
        let fits = !delays.is_empty() && delays.iter().all(|delay| *delay <= DELAY_MAX);
        fits.then_some(Self::Fixed(delays))
    }

    /// The delay before retry number `retry` (1 is the first), without jitter.
    #[must_use]
    pub fn base_delay(&self, retry: u32) -> Duration {
        let retry = retry.max(1);
        match self {
            Self::Exponential => {
                // Beyond n = 5 the exponent only overflows what is capped anyway.
                let seconds = (2.5 * f64::from(retry.min(5))).exp();
                Duration::from_secs_f64(seconds.min(DELAY_MAX.as_secs_f64()))
            }
            Self::Fixed(delays) => {
                let index = usize::try_from(retry - 1).unwrap_or(usize::MAX).min(delays.len() - 1);
                delays[index]
            }
        }
    }

    /// The delay before retry number `retry`: the base, raised to `at_least` (the receiver's `Retry-After`,
    /// clamped to 1 s..24 h), plus up to 10 % jitter. Never earlier than the base or than what was asked.
    ///
    /// `random` lies in 0..1.
    #[must_use]
    pub fn delay(&self, retry: u32, at_least: Option<Duration>, random: f64) -> Duration {
        let asked = at_least.map_or(Duration::ZERO, |d| d.clamp(Duration::from_secs(1), DELAY_MAX));
        let floor = self.base_delay(retry).max(asked);
        floor + floor.mul_f64(0.1 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_curve_is_the_contracts() {
        let seconds = |n| Schedule::Exponential.base_delay(n).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 6, 10].map(seconds), [12, 148, 1808, 22026, 86400, 86400, 86400]);
    }

    #[test]
    fn a_fixed_schedule_repeats_its_last_value() {
        let schedule = Schedule::fixed(vec![Duration::from_secs(1), Duration::from_secs(5)]).unwrap();
        let seconds = |n| schedule.base_delay(n).as_secs();
        assert_eq!([1, 2, 3, 10].map(seconds), [1, 5, 5, 5]);
        assert_eq!(Schedule::fixed(vec![]), None);
    }

    proptest! {
        #[test]
        fn a_delay_is_never_earlier_than_asked_and_bounded(
            retry in 0_u32..100, asked_ms in proptest::option::of(0_u64..200_000_000), random in 0.0_f64..1.0,
        ) {
            let asked = asked_ms.map(Duration::from_millis);
            let schedule = Schedule::Exponential;
            let delay = schedule.delay(retry, asked, random);
            prop_assert!(delay >= schedule.base_delay(retry));
            prop_assert!(delay >= asked.unwrap_or_default().min(DELAY_MAX));
            prop_assert!(delay <= DELAY_MAX.mul_f64(1.1));
        }
    }
}
