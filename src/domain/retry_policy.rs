//! When a delivery is tried again: a pure function of the attempts made (docs/WIRE.md section 4).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

/// When a config's deliveries are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RetryPolicy {
    /// As the installation's schedule says: the curve, unless `--retry-schedule` replaces it.
    #[default]
    Exponential,
    /// Always after the same delay, whatever the installation's schedule is.
    Fixed {
        /// Seconds, 1 to 86,400.
        #[schema(rename = "delaySeconds", minimum = 1, maximum = 86_400)]
        delay_seconds: u32,
    },
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// A fixed delay; `None` when it is not 1 s to 24 h.
    #[must_use]
    pub fn fixed(delay_seconds: u64) -> Option<Self> {
        let delay_seconds = u32::try_from(delay_seconds).ok()?;
        (1..=86_400).contains(&delay_seconds).then_some(Self::Fixed { delay_seconds })
    }

    /// Whether nothing was chosen.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        matches!(self, Self::Exponential)
    }

    /// The delay before retry number `retry`; see [`Schedule::delay`]. What the config chose itself wins over
    /// `schedule`, the installation's.
    #[must_use]
    pub fn delay(self, schedule: &Schedule, retry: u32, at_least: Option<Duration>, random: f64) -> Duration {
        match self {
            Self::Exponential => schedule.delay(retry, at_least, random),
            Self::Fixed { delay_seconds } => {
                delayed(Duration::from_secs(delay_seconds.into()), at_least, random)
            }
        }
    }
}

// === impl Schedule ===

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
        delayed(self.base_delay(retry), at_least, random)
    }
}

fn delayed(base: Duration, at_least: Option<Duration>, random: f64) -> Duration {
    let asked = at_least.map_or(Duration::ZERO, |d| d.clamp(Duration::from_secs(1), DELAY_MAX));
    let floor = base.max(asked);
    floor + floor.mul_f64(0.1 * random.clamp(0.0, 1.0))
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

    #[test]
    fn a_configs_own_delay_wins_over_the_installations_schedule() {
        let schedule = Schedule::fixed(vec![Duration::from_secs(1)]).unwrap();
        let seconds = |policy: RetryPolicy, asked| policy.delay(&schedule, 2, asked, 0.0).as_secs();
        let fixed = RetryPolicy::fixed(7).unwrap();
        assert_eq!((seconds(RetryPolicy::Exponential, None), seconds(fixed, None)), (1, 7));
        assert_eq!(seconds(fixed, Some(Duration::from_secs(60))), 60);
        assert_eq!([0, 86_401, u64::MAX].map(RetryPolicy::fixed), [None; 3]);
        let json = serde_json::to_string(&fixed).unwrap();
        assert_eq!(json, r#"{"mode":"fixed","delaySeconds":7}"#);
        assert_eq!(serde_json::from_str::<RetryPolicy>(&json).unwrap(), fixed);
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
