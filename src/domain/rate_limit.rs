//! How many requests a second a config lets through (docs/WIRE.md section 6).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Highest `perSecond` and `burst`.
pub const RATE_MAX: u32 = 100_000;

/// A token bucket over all replicas: `burst` tokens at most, refilled at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Requests a second, 1 to [`RATE_MAX`].
    #[schema(minimum = 1, maximum = 100_000)]
    pub per_second: u32,
    /// Requests at once after a pause, 1 to [`RATE_MAX`].
    #[schema(minimum = 1, maximum = 100_000)]
    pub burst: u32,
}

// === impl RateLimit ===

impl RateLimit {
    /// `burst` is `per_second` unless given: a second's worth. `None` where one of them is out of bounds.
    #[must_use]
    pub fn new(per_second: u64, burst: Option<u64>) -> Option<Self> {
        let fits = |value: u64| u32::try_from(value).ok().filter(|value| (1..=RATE_MAX).contains(value));
        Some(Self { per_second: fits(per_second)?, burst: fits(burst.unwrap_or(per_second))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_seconds_worth_unless_given() {
        assert_eq!(RateLimit::new(20, None), Some(RateLimit { per_second: 20, burst: 20 }));
        assert_eq!(RateLimit::new(20, Some(1)), Some(RateLimit { per_second: 20, burst: 1 }));
        for (per_second, burst) in [(0, None), (1, Some(0)), (100_001, Some(1)), (1, Some(100_001))] {
            assert_eq!(RateLimit::new(per_second, burst), None);
        }
    }
}
