//! The breakers of a replica: what it gathers for the shared record of each config's health, and what that record
//! lets its lanes do. The states are those of [`crate::domain::breaker`]; `upkeep` carries both ways.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::breaker::{BreakerState, Health, Policy, RAMP_FAILURES, Sign, Tally};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::outcome::{AttemptResult, Outcome};
use crate::domain::retry_on::RetryOn;

/// A shut gate is looked at again no sooner than this: also where a probe may be made at once.
const LOOK_MIN: Duration = Duration::from_millis(1);

/// Failures in a row tell nothing until they have lasted for this long, or are many: an endpoint that bears only so
/// much at a time refuses a burst in a moment, and succeeds beside it.
const STREAK_MIN: Duration = Duration::from_secs(1);

/// So many times the threshold are no burst.
const STREAK_MANY: u32 = 5;

/// The breakers of a replica, by config.
#[derive(Debug)]
pub struct Breakers {
    breakers: Mutex<HashMap<ConfigId, Arc<Breaker>>>,
    desk: Arc<Desk>,
}

/// One config's breaker, as this replica knows it. Shared by the replica's workers.
#[derive(Debug)]
pub struct Breaker {
    config: ConfigId,
    desk: Arc<Desk>,
    /// A copy of the state, for those that only ask whether they may send.
    shut: AtomicBool,
    restart: AtomicBool,
    /// Nothing but successes, nothing remembered, no probe: a success then changes nothing, and asks for no lock.
    at_ease: AtomicBool,
    inner: Mutex<Inner>,
}

/// Where breakers lay down that they have something to tell.
#[derive(Debug, Default)]
struct Desk {
    policy_failures: u32,
    told: Mutex<HashSet<ConfigId>>,
    urgent: Notify,
}

#[derive(Debug)]
struct Inner {
    state: BreakerState,
    until: Instant,
    /// The shared record is there: a success is news.
    remembered: bool,
    /// The config's version that the tally is about.
    version: u64,
    tally: Tally,
    /// Failures in a row, whether told or not.
    streak: u32,
    /// When the first of them was.
    streak_since: Option<Instant>,
    probe: Option<Probe>,
    ended: Option<ProbeEnd>,
}

#[derive(Debug)]
struct Probe {
    holder: String,
    delivery: DeliveryId,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEnd {
    /// The name that it was taken under.
    pub holder: String,
    /// How it ended; `None`: no attempt was made.
    pub sign: Option<Sign>,
}

/// What a breaker has to tell the other replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The version of the config that the outcomes are about.
    pub version: u64,
    /// The outcomes.
    pub tally: Tally,
    /// The end of this replica's probe.
    pub probe: Option<ProbeEnd>,
}

// === impl Breakers ===

impl Breakers {
    /// Breakers that know of nothing.
    #[must_use]
    pub fn new(policy: &Policy) -> Arc<Self> {
        let desk = Desk { policy_failures: policy.failures, ..Desk::default() };
        Arc::new(Self { breakers: Mutex::default(), desk: Arc::new(desk) })
    }

    /// The breaker of `config`, made at the first use.
    #[must_use]
    pub fn of(&self, config: ConfigId) -> Arc<Breaker> {
        let made = || Arc::new(Breaker::new(config, Arc::clone(&self.desk)));
        Arc::clone(lock(&self.breakers).entry(config).or_insert_with(made))
    }

    /// Forgets breakers that nobody uses and that have nothing to remember.
    pub fn forget_unused(&self) {
        lock(&self.breakers).retain(|_, breaker| Arc::strong_count(breaker) > 1 || !breaker.is_at_rest());
    }

    /// The configs whose breakers have something to tell, each once.
    #[must_use]
    pub fn take_told(&self) -> Vec<ConfigId> {
        std::mem::take(&mut *lock(&self.desk.told)).into_iter().collect()
    }

    /// Waits until something has to be told at once.
    pub async fn urgent(&self) {
        self.desk.urgent.notified().await;
    }
}

// === impl Breaker ===

impl Breaker {
    fn new(config: ConfigId, desk: Arc<Desk>) -> Self {
        let inner = Inner {
            state: BreakerState::Closed,
            until: Instant::now(),
            remembered: false,
            version: 0,
            tally: Tally::default(),
            streak: 0,
            streak_since: None,
            probe: None,
            ended: None,
        };
        Self {
            config,
            desk,
            shut: AtomicBool::new(false),
            restart: AtomicBool::new(false),
            at_ease: AtomicBool::new(true),
            inner: Mutex::new(inner),
        }
    }

    /// How long the lane may not send from `now` on; `None` when it may. Where a probe may be made, a moment: the
    /// scheduler then comes for it.
    #[must_use]
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        if !self.shut.load(Ordering::Relaxed) {
            return None;
        }
        let inner = lock(&self.inner);
        inner.state.is_shut().then(|| inner.until.saturating_duration_since(now).max(LOOK_MIN))
    }

    /// Whether a probe may be asked for at `now`.
    #[must_use]
    pub fn probe_is_due(&self, now: Instant) -> bool {
        if !self.shut.load(Ordering::Relaxed) {
            return false;
        }
        let inner = lock(&self.inner);
        // A probe of its own whose lease is past is another replica's chance, and so its own too.
        inner.state.is_shut() && inner.until <= now && inner.ended.is_none()
    }

    /// Whether the lane's window has to begin anew, at one attempt at a time; asked for once.
    #[must_use]
    pub fn take_restart(&self) -> bool {
        self.restart.load(Ordering::Relaxed) && self.restart.swap(false, Ordering::Relaxed)
    }

    /// The attempt of `delivery` is this replica's probe.
    pub fn begin_probe(&self, holder: String, delivery: DeliveryId) {
        lock(&self.inner).probe = Some(Probe { holder, delivery });
        self.at_ease.store(false, Ordering::Relaxed);
    }

    /// No attempt was made of `delivery`: where it was the probe, another one is wanted.
    pub fn not_attempted(&self, delivery: DeliveryId) {
        let mut inner = lock(&self.inner);
        if let Some(probe) = inner.probe.take_if(|probe| probe.delivery == delivery) {
            inner.ended = Some(ProbeEnd { holder: probe.holder, sign: None });
            self.tell(true);
        }
    }

    /// An attempt of `delivery` under `version` of the config is over.
    pub fn observe(&self, delivery: DeliveryId, version: u64, result: &AttemptResult, retry_on: RetryOn) {
        let sign = sign_of(result, retry_on);
        if sign == Sign::Success && self.at_ease.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = lock(&self.inner);
        let probe = inner.probe.take_if(|probe| probe.delivery == delivery);
        if version < inner.version && probe.is_none() {
            return;
        }
        if version > inner.version {
            (inner.version, inner.streak, inner.tally) = (version, 0, Tally::default());
            inner.streak_since = None;
        }
        let asked = result.asked_to_wait(retry_on);
        inner.tally.add(sign, || reason_of(result), asked);
        match sign {
            Sign::Success => (inner.streak, inner.streak_since) = (0, None),
            Sign::Refusal => {}
            Sign::Failure => {
                inner.streak = inner.streak.saturating_add(1);
                inner.streak_since.get_or_insert_with(Instant::now);
            }
        }
        if let Some(probe) = probe {
            inner.ended = Some(ProbeEnd { holder: probe.holder, sign: Some(sign) });
            self.tell(true);
        } else if sign != Sign::Success || inner.remembered {
            self.tell(sign == Sign::Failure && inner.may_open(self.desk.policy_failures));
        } else {
            // Every success of a healthy endpoint comes through here: nothing is kept of it.
            inner.tally = Tally::default();
        }
        self.at_ease.store(inner.is_at_ease(), Ordering::Relaxed);
    }

    /// What there is to tell, taken. A stray failure between successes is nothing, and a moment's failures are not
    /// told before it is known what comes after them.
    #[must_use]
    pub fn take_report(&self) -> Option<Report> {
        let mut inner = lock(&self.inner);
        if inner.ended.is_none() && !inner.remembered && inner.is_momentary(self.desk.policy_failures) {
            self.tell(false);
            return None;
        }
        let tally = std::mem::take(&mut inner.tally);
        let probe = inner.ended.take();
        let news = probe.is_some() || tally.ends_badly() || inner.remembered && !tally.is_empty();
        news.then(|| Report { version: inner.version, tally, probe })
    }

    /// Gives back what could not be told: it goes before what has come since.
    pub fn return_report(&self, report: Report) {
        let mut inner = lock(&self.inner);
        if report.version == inner.version {
            let later = std::mem::replace(&mut inner.tally, report.tally);
            inner.tally.then(later);
        }
        if inner.ended.is_none() {
            inner.ended = report.probe;
        }
        self.tell(false);
    }

    /// Takes over what all replicas know; `None` where nothing has to be remembered. `now` is Redis's time.
    pub fn apply(&self, health: Option<&Health>, now: UnixMillis) {
        let mut inner = lock(&self.inner);
        let (state, until) = health.map_or_else(Default::default, |known| (known.state, known.until));
        inner.remembered = health.is_some();
        if inner.state.is_shut() && !state.is_shut() {
            // However it was before, it is found out anew what the endpoint bears.
            self.restart.store(true, Ordering::Relaxed);
            (inner.streak, inner.streak_since) = (0, None);
        }
        (inner.state, inner.until) = (state, Instant::now() + until.since(now));
        self.shut.store(state.is_shut(), Ordering::Relaxed);
        self.at_ease.store(inner.is_at_ease(), Ordering::Relaxed);
    }

    fn is_at_rest(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.remembered && inner.tally.is_empty() && inner.probe.is_none() && inner.ended.is_none()
    }

    fn tell(&self, at_once: bool) {
        lock(&self.desk.told).insert(self.config);
        if at_once {
            self.desk.urgent.notify_one();
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Whether the failures so far may be enough to open it: the shared record decides.
    fn may_open(&self, failures: u32) -> bool {
        let enough = match self.state {
            BreakerState::Closed => failures,
            BreakerState::Ramping => failures.min(RAMP_FAILURES),
            BreakerState::Open | BreakerState::HalfOpen => return false,
        };
        enough > 0 && self.streak >= enough && !self.is_momentary(enough)
    }

    /// Whether the failures in a row have not lasted for long, and are not many beside the threshold.
    fn is_momentary(&self, threshold: u32) -> bool {
        self.streak < threshold.saturating_mul(STREAK_MANY)
            && self.streak_since.is_some_and(|since| since.elapsed() < STREAK_MIN)
    }

    fn is_at_ease(&self) -> bool {
        !self.remembered
            && self.streak == 0
            && self.tally.is_empty()
            && self.probe.is_none()
            && self.ended.is_none()
            && !self.state.is_shut()
    }
}

fn sign_of(result: &AttemptResult, retry_on: RetryOn) -> Sign {
    match result.outcome_with(retry_on) {
        Outcome::Delivered => Sign::Success,
        Outcome::Gone | Outcome::Refused => Sign::Refusal,
        Outcome::Retryable => Sign::Failure,
    }
}

fn reason_of(result: &AttemptResult) -> String {
    match &result.reply {
        Ok(answer) => format!("HTTP {}", answer.status),
        Err(fault) => fault.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::outcome::Answer;

    fn answered(status: u16) -> AttemptResult {
        AttemptResult {
            reply: Ok(Answer { status, excerpt: Bytes::new(), retry_after: None }),
            took: Duration::ZERO,
        }
    }

    fn delivery(number: u8) -> DeliveryId {
        DeliveryId::from_bytes([number; 16])
    }

    fn fixture() -> (Arc<Breakers>, Arc<Breaker>) {
        let policy = Policy {
            failures: 3,
            delay: Duration::from_secs(5),
            delay_max: Duration::from_secs(300),
            probe_lease: Duration::from_secs(40),
        };
        let breakers = Breakers::new(&policy);
        let breaker = breakers.of(ConfigId::from_bytes([1; 12]));
        (breakers, breaker)
    }

    #[test]
    fn a_healthy_endpoint_has_nothing_to_tell_and_a_failing_one_does() {
        let (breakers, breaker) = fixture();
        breaker.observe(delivery(1), 1, &answered(200), RetryOn::NONE);
        assert!(breakers.take_told().is_empty());
        breaker.observe(delivery(1), 1, &answered(500), RetryOn::NONE);
        breaker.observe(delivery(2), 1, &answered(200), RetryOn::NONE);
        assert_eq!(breakers.take_told().len(), 1);
        assert_eq!(breaker.take_report(), None, "a stray failure");
        breaker.observe(delivery(1), 1, &answered(503), RetryOn::NONE);
        assert_eq!(
            (breaker.take_report(), breakers.take_told().len()),
            (None, 1),
            "a moment's failure is kept"
        );
        lock(&breaker.inner).streak_since = Instant::now().checked_sub(STREAK_MIN);
        let report = breaker.take_report().unwrap();
        assert_eq!((report.tally.failures, report.tally.reason.as_str()), (1, "HTTP 503"));
        breaker.return_report(report);
        breaker.observe(delivery(1), 1, &answered(503), RetryOn::NONE);
        assert_eq!(breaker.take_report().unwrap().tally.failures, 2);
        breaker.observe(delivery(1), 2, &answered(404), RetryOn::NONE);
        breaker.observe(delivery(1), 1, &answered(503), RetryOn::NONE);
        let report = breaker.take_report().unwrap();
        assert_eq!((report.version, report.tally.failures, report.tally.refusals), (2, 0, 1));
    }

    #[test]
    fn an_open_gate_asks_for_one_probe_and_restarts_its_window_when_it_closes() {
        let (breakers, breaker) = fixture();
        let now = UnixMillis(10_000);
        let mut health = Health { state: BreakerState::Open, until: UnixMillis(15_000), ..Health::default() };
        breaker.apply(Some(&health), now);
        assert!(breaker.shut_for(Instant::now()).is_some_and(|left| left > Duration::from_secs(4)));
        assert!(!breaker.probe_is_due(Instant::now()));
        health.until = now;
        breaker.apply(Some(&health), now);
        assert!(breaker.probe_is_due(Instant::now()) && breaker.shut_for(Instant::now()).is_some());
        health = Health { state: BreakerState::HalfOpen, until: UnixMillis(50_000), ..health };
        breaker.apply(Some(&health), now);
        breaker.begin_probe("a".into(), delivery(7));
        assert!(!breaker.probe_is_due(Instant::now()));
        breaker.observe(delivery(6), 1, &answered(500), RetryOn::NONE);
        assert_eq!(breaker.take_report().unwrap().probe, None);
        breaker.observe(delivery(7), 1, &answered(200), RetryOn::NONE);
        let end = ProbeEnd { holder: "a".into(), sign: Some(Sign::Success) };
        assert_eq!(breaker.take_report().unwrap().probe, Some(end));
        assert!(!breaker.take_restart());
        breaker.apply(None, now);
        assert!(breaker.take_restart() && !breaker.take_restart());
        assert_eq!(breaker.shut_for(Instant::now()), None);
        drop(breaker);
        breakers.forget_unused();
        assert!(lock(&breakers.breakers).is_empty());
    }
}
