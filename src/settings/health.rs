//! When an endpoint that fails is left alone for a while, and when for good.

use std::time::Duration;

use crate::domain::breaker::Policy;
use crate::domain::ids::OrganisationId;

/// A probe is waited for this much longer than its request's deadline.
const PROBE_MARGIN: Duration = Duration::from_secs(10);

/// Settings of breakers and of disabling.
#[derive(Clone, Debug)]
pub struct HealthSettings {
    /// Retryable failures in a row that open a config's breaker; 0 never.
    pub breaker_failures: u32,
    /// How long it is open at first.
    pub breaker_delay: Duration,
    /// How long it is open at most.
    pub breaker_delay_max: Duration,
    /// Nothing but failures for this long disables a config; zero never.
    pub disable_after: Duration,
    /// Failed attempts that this takes at least.
    pub disable_attempts: u64,
    /// The organisation that is told of every organisation's disabled and failing configs.
    pub operator_organisation: Option<OrganisationId>,
}

// === impl HealthSettings ===

impl HealthSettings {
    /// The breakers' policy; `request_timeout` bounds a probe.
    #[must_use]
    pub fn policy(&self, request_timeout: Duration) -> Policy {
        Policy {
            failures: self.breaker_failures,
            delay: self.breaker_delay,
            delay_max: self.breaker_delay_max,
            probe_lease: request_timeout + PROBE_MARGIN,
        }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            breaker_failures: 10,
            breaker_delay: Duration::from_secs(5),
            breaker_delay_max: Duration::from_secs(300),
            disable_after: Duration::from_secs(5 * 86_400),
            disable_attempts: 20,
            operator_organisation: None,
        }
    }
}
