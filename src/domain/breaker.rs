//! The breaker of a config, and what is known of its endpoint's health: a pure state machine over one record that
//! all replicas share (docs/REDIS.md, "Health").
//!
//! While open, nothing is sent: deliveries wait in Redis and keep their attempts. A *failure* is a retryable
//! outcome, a *refusal* a final answer that is no success: it shows that something answers, and that it does not
//! work. `threshold` is [`Policy::failures`]; a replica reports failures in a row only once they have lasted for a
//! second, or are five times as many, so that an endpoint which refuses a burst, and succeeds beside it, is not taken for one that is down.
//!
//! | state | meaning | event | next state |
//! |---|---|---|---|
//! | closed | sends | `threshold` failures in a row, no success between | open for the first delay |
//! | closed | | anything else | closed |
//! | open | sends nothing until its time | outcomes of attempts that were under way | open; they are counted |
//! | open | | a probe is asked for, its time is past | half-open, for the asker, until the lease's end |
//! | open | | a probe is asked for before | open; refused |
//! | half-open | one replica sends one delivery | the probe succeeds, or is refused | ramping |
//! | half-open | | the probe fails | open for twice the last delay |
//! | half-open | | there was nothing to send | open; its time stays past |
//! | half-open | | a probe is asked for, the lease is past | half-open, for the asker |
//! | half-open | | a probe is asked for before, or a holder ends that lost its lease | half-open; refused, counted |
//! | ramping | sends, from one at a time on | [`RAMP_SUCCESSES`] successes | closed; the delays begin anew |
//! | ramping | | [`RAMP_FAILURES`] failures in a row (or `threshold`, where that is less) | open for twice the last delay |
//! | any | | the config is written (re-enabled, corrected) | closed, and nothing known |
//!
//! A delay is doubled up to [`Policy::delay_max`], gets up to a fifth of jitter on top, and is never shorter than
//! the `Retry-After` that came with the failures.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::UnixMillis;
use super::retry_policy::DELAY_MAX;

/// Successes after which a ramping breaker is closed.
pub const RAMP_SUCCESSES: u32 = 10;

/// Failures in a row that reopen a ramping breaker.
pub const RAMP_FAILURES: u32 = 3;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum BreakerState {
    /// Deliveries are sent.
    #[default]
    Closed,
    /// Nothing is sent.
    Open,
    /// One delivery is sent, by one replica.
    HalfOpen,
    /// Deliveries are sent again, one at a time at first.
    Ramping,
}

/// What is known of a config's endpoint while it is not simply healthy; a value of the hash `health`. The default
/// stands for a field that is not there: closed, no failure since the last success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// The breaker's state.
    pub state: BreakerState,
    /// Since when it has that state.
    pub since: UnixMillis,
    /// Open: when a probe may be made. Half-open: when the probe's lease ends. Else 0.
    pub until: UnixMillis,
    /// Half-open: whose probe it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub holder: String,
    /// How often it opened since it was closed: the delays grow with it.
    pub openings: u32,
    /// Failures in a row.
    pub streak: u32,
    /// Successes since it began to ramp.
    pub ramped: u32,
    /// The first failure or refusal since the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<UnixMillis>,
    /// Failures and refusals since the last success.
    pub failures: u64,
    /// The last success that was told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<UnixMillis>,
    /// The last failure or refusal that was told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_at: Option<UnixMillis>,
    /// What it was: `HTTP 503`, or a fault's text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How many warnings of disabling were sent since the last success.
    pub warned: u8,
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Failures in a row that open it; 0 never opens.
    pub failures: u32,
    /// How long it is open at first.
    pub delay: Duration,
    /// How long it is open at most, without jitter and `Retry-After`.
    pub delay_max: Duration,
    /// How long a probe is waited for.
    pub probe_lease: Duration,
}

/// Outcomes that one replica has gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whether there was a success; the other fields tell what came after the last one.
    pub success: bool,
    /// How many successes there were.
    pub successes: u32,
    /// Failures since.
    pub failures: u32,
    /// Refusals since.
    pub refusals: u32,
    /// What the last of them was.
    pub reason: String,
    /// The longest `Retry-After` among the failures.
    pub asked: Option<Duration>,
}

/// How one attempt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Delivered.
    Success,
    /// A final answer that is no success.
    Refusal,
    /// Retryable.
    Failure,
}

/// What happens to a breaker.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Outcomes of attempts that were no probe.
    Report(&'a Tally),
    /// `holder` asks to make a probe.
    TakeProbe {
        /// Names the probe, not only who makes it.
        holder: &'a str,
    },
    /// The probe of `holder` ended so; `tally` holds its outcome.
    ProbeEnded {
        /// The name that it was taken under.
        holder: &'a str,
        /// How it ended.
        sign: Sign,
        /// Its outcome, and others that were gathered with it.
        tally: &'a Tally,
    },
    /// `holder` found nothing to send.
    ProbeUnused {
        /// The name that it was taken under.
        holder: &'a str,
    },
    /// So many warnings were sent.
    Warned(u8),
}

// === impl BreakerState ===

impl BreakerState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::HalfOpen, Self::Ramping];

    /// The word in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "halfOpen",
            Self::Ramping => "ramping",
        }
    }

    /// Whether deliveries may not be sent but for a probe.
    #[must_use]
    pub const fn is_shut(self) -> bool {
        matches!(self, Self::Open | Self::HalfOpen)
    }
}

// === impl Tally ===

impl Tally {
    /// Counts one outcome.
    pub fn add(&mut self, sign: Sign, reason: impl FnOnce() -> String, asked: Option<Duration>) {
        match sign {
            Sign::Success => {
                let successes = self.successes.saturating_add(1);
                *self = Self { success: true, successes, ..Self::default() };
            }
            Sign::Refusal => {
                self.refusals = self.refusals.saturating_add(1);
                self.reason = reason();
            }
            Sign::Failure => {
                self.failures = self.failures.saturating_add(1);
                self.reason = reason();
                self.asked = self.asked.max(asked);
            }
        }
    }

    /// Adds what came after this.
    pub fn then(&mut self, later: Self) {
        if later.success {
            let successes = self.successes.saturating_add(later.successes);
            *self = Self { successes, ..later };
            return;
        }
        self.failures = self.failures.saturating_add(later.failures);
        self.refusals = self.refusals.saturating_add(later.refusals);
        self.asked = self.asked.max(later.asked);
        if !later.reason.is_empty() {
            self.reason = later.reason;
        }
    }

    /// Whether the last outcome was no success.
    #[must_use]
    pub const fn ends_badly(&self) -> bool {
        self.failures > 0 || self.refusals > 0
    }

    /// Whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.success && !self.ends_badly()
    }
}

// === impl Health ===

impl Health {
    /// Whether there is nothing to remember: the field is then removed.
    #[must_use]
    pub const fn is_unremarkable(&self) -> bool {
        matches!(self.state, BreakerState::Closed) && self.failing_since.is_none()
    }

    /// How long there has been nothing but failures, by the failures themselves: silence proves nothing.
    #[must_use]
    pub fn failing_for(&self) -> Duration {
        match (self.failing_since, self.last_failure_at) {
            (Some(since), Some(last)) => last.since(since),
            _ => Duration::ZERO,
        }
    }

    /// What becomes of it at `now` (Redis's time). `random` lies in 0..1.
    #[must_use]
    pub fn after(&self, input: Input<'_>, now: UnixMillis, policy: &Policy, random: f64) -> Self {
        let mut next = self.clone();
        match input {
            Input::Report(tally) => next.report(tally, now, policy, random),
            Input::TakeProbe { holder } => {
                if self.state.is_shut() && now >= self.until {
                    next.enter(BreakerState::HalfOpen, now, now.plus(policy.probe_lease));
                    holder.clone_into(&mut next.holder);
                }
            }
            Input::ProbeEnded { holder, sign, tally } if self.is_held_by(holder) => {
                next.count(tally, now);
                match sign {
                    Sign::Failure => next.open(tally.asked, now, policy, random),
                    Sign::Success | Sign::Refusal => {
                        next.enter(BreakerState::Ramping, now, UnixMillis::default());
                        next.ramped = u32::from(sign == Sign::Success);
                    }
                }
            }
            Input::ProbeEnded { tally, .. } => next.report(tally, now, policy, random),
            Input::ProbeUnused { holder } => {
                if self.is_held_by(holder) {
                    next.enter(BreakerState::Open, now, now);
                }
            }
            Input::Warned(count) => next.warned = next.warned.max(count),
        }
        next
    }

    /// Whether the probe under way is the one that was taken under this name.
    #[must_use]
    pub fn is_held_by(&self, holder: &str) -> bool {
        self.state == BreakerState::HalfOpen && self.holder == holder
    }

    fn report(&mut self, tally: &Tally, now: UnixMillis, policy: &Policy, random: f64) {
        self.count(tally, now);
        match self.state {
            BreakerState::Open | BreakerState::HalfOpen => {}
            BreakerState::Closed if policy.failures > 0 && self.streak >= policy.failures => {
                self.open(tally.asked, now, policy, random);
            }
            BreakerState::Ramping
                if policy.failures > 0 && self.streak >= RAMP_FAILURES.min(policy.failures) =>
            {
                self.open(tally.asked, now, policy, random);
            }
            BreakerState::Ramping => {
                self.ramped = self.ramped.saturating_add(tally.successes);
                if self.ramped >= RAMP_SUCCESSES {
                    self.enter(BreakerState::Closed, now, UnixMillis::default());
                    self.openings = 0;
                }
            }
            BreakerState::Closed => {}
        }
    }

    fn count(&mut self, tally: &Tally, now: UnixMillis) {
        if tally.success {
            self.last_success_at = Some(now);
            self.failing_since = None;
            (self.failures, self.streak, self.warned) = (0, 0, 0);
        }
        if tally.ends_badly() {
            self.failing_since.get_or_insert(now);
            self.last_failure_at = Some(now);
            self.failures = self
                .failures
                .saturating_add(u64::from(tally.failures))
                .saturating_add(u64::from(tally.refusals));
            self.streak = self.streak.saturating_add(tally.failures);
            self.reason.clone_from(&tally.reason);
        }
    }

    fn open(&mut self, asked: Option<Duration>, now: UnixMillis, policy: &Policy, random: f64) {
        let doubled = policy.delay.saturating_mul(1_u32.checked_shl(self.openings).unwrap_or(u32::MAX));
        let base = doubled.min(policy.delay_max.max(policy.delay));
        let delay = base + base.mul_f64(0.2 * random.clamp(0.0, 1.0));
        let delay = delay.max(asked.unwrap_or_default().min(DELAY_MAX));
        self.openings = self.openings.saturating_add(1);
        self.enter(BreakerState::Open, now, now.plus(delay));
    }

    fn enter(&mut self, state: BreakerState, now: UnixMillis, until: UnixMillis) {
        self.state = state;
        self.since = now;
        self.until = until;
        self.holder.clear();
        (self.streak, self.ramped) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
