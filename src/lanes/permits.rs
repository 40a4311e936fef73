//! Permits: how many attempts may be in flight, for a config and for the whole replica. All workers share them,
//! so they are atomics; what an attempt means for its lane's window is decided under a short lock, once per attempt.
//! Nothing else of a lane crosses cores.
//!
//! A config's limits hold over all replicas: each has its part (`domain::shares`), recomputed whenever the live
//! replicas change.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::Breakers;
use super::doubt::{Answering, Doubt};
use super::gate::Gate;
use super::pace::Rate;
use super::window::{Seen, Signal, WINDOW_START, Window};
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::outcome::{AttemptResult, FaultKind};
use crate::domain::rate_limit::RateLimit;
use crate::domain::shares::Replicas;
use crate::settings::limits::LimitSettings;

/// Answers that mean: too much at once.
const OVERLOADED: [u16; 3] = [429, 503, 504];

/// A delivery that was parked longer ago than this lies in its queue, and its config's look is due.
const PARKED_LATELY_MS: u64 = 1_000;

/// The permits of a replica.
#[derive(Debug)]
pub struct Permits {
    /// The breakers of the lanes.
    pub breakers: Arc<Breakers>,
    state: Mutex<State>,
    in_flight: AtomicU32,
    doubt: Doubt,
    config_max: u32,
    epoch: Instant,
}

#[derive(Debug)]
struct State {
    lanes: HashMap<ConfigId, Known>,
    replicas: Replicas,
}

/// A lane and the limit of its config over all replicas.
#[derive(Debug)]
struct Known {
    lane: Arc<LanePermits>,
    rate: Option<RateLimit>,
}

/// The permits of one config.
#[derive(Debug)]
pub struct LanePermits {
    /// Whether it may send at all.
    pub gate: Gate,
    answering: Answering,
    in_flight: AtomicU32,
    window: Mutex<Window>,
    /// The window's size, to be read without its lock.
    window_size: AtomicU32,
    /// This replica's part of the config's limit.
    share: AtomicU32,
    /// Shards in whose queues deliveries of the config are due, as far as this replica knows, a bit each.
    backlog: AtomicU64,
    parked_ms: AtomicU64,
    epoch: Instant,
    mean_us: AtomicU64,
    last_success_ms: AtomicU64,
}

/// Leave to make one attempt; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    lane: Arc<LanePermits>,
    /// It holds a token of the lane's rate, for which nothing was sent yet.
    token: bool,
    in_doubt: Cell<bool>,
}

// === impl Permits ===

impl Permits {
    /// No attempt is in flight; no other replica is known. `own` is this replica's name.
    #[must_use]
    pub fn new(limits: &LimitSettings, breakers: Arc<Breakers>, own: &str) -> Arc<Self> {
        let state = State { lanes: HashMap::new(), replicas: Replicas::alone(own) };
        Arc::new(Self {
            breakers,
            state: Mutex::new(state),
            in_flight: AtomicU32::new(0),
            doubt: Doubt::new(limits.in_flight_max.max(1)),
            config_max: limits.config_in_flight_max.max(1),
            epoch: Instant::now(),
        })
    }

    /// The permits of `config`, made at the first use; `rate` is then asked for the config's rate limit.
    #[must_use]
    pub fn lane(&self, config: ConfigId, rate: impl FnOnce() -> Option<RateLimit>) -> Arc<LanePermits> {
        let State { lanes, replicas } = &mut *self.state();
        let made = || {
            let lane = Arc::new(LanePermits {
                gate: Gate::new(self.breakers.of(config)),
                answering: Answering::default(),
                in_flight: AtomicU32::new(0),
                window: Mutex::new(Window::new()),
                window_size: AtomicU32::new(WINDOW_START),
                share: AtomicU32::new(0),
                backlog: AtomicU64::new(0),
                parked_ms: AtomicU64::new(0),
                epoch: self.epoch,
                mean_us: AtomicU64::new(0),
                last_success_ms: AtomicU64::new(0),
            });
            let known = Known { lane, rate: rate() };
            known.divide(config, self.config_max, replicas);
            known
        };
        Arc::clone(&lanes.entry(config).or_insert_with(made).lane)
    }

    /// The config's rate limit has changed, or may have.
    pub fn set_rate(&self, config: ConfigId, rate: Option<RateLimit>) {
        let State { lanes, replicas } = &mut *self.state();
        if let Some(known) = lanes.get_mut(&config).filter(|known| known.rate != rate) {
            known.rate = rate;
            known.divide(config, self.config_max, replicas);
        }
    }

    /// These consumers, `<replica>.<worker>`, hold leases: the limits over all replicas are divided among theirs.
    /// Answers how many replicas there are, where that is new.
    pub fn set_consumers<'a>(&self, consumers: impl IntoIterator<Item = &'a str>) -> Option<usize> {
        let State { lanes, replicas } = &mut *self.state();
        let seen = replicas.with(consumers);
        if seen == *replicas {
            return None;
        }
        *replicas = seen;
        lanes.iter().for_each(|(config, known)| known.divide(*config, self.config_max, replicas));
        Some(replicas.count())
    }

    /// Forgets configs that no worker keeps a lane for, unless their gate is shut: it would open by that.
    pub fn forget_unused(&self) {
        let now = Instant::now();
        self.state()
            .lanes
            .retain(|_, known| Arc::strong_count(&known.lane) > 1 || known.lane.gate.shut_for(now).is_some());
    }

    /// A permit for `lane`, if its gate is open, both it and the replica have one left, and its rate a token.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: &Arc<LanePermits>) -> Option<Permit> {
        let now = Instant::now();
        if lane.gate.shut_for(now).is_some() {
            return None;
        }
        if lane.gate.breaker.take_restart() {
            lane.change_window(Window::restart);
        }
        self.take_unshut(lane, now)
    }

    /// A probe's permit: as [`Self::take`], whatever the breaker says.
    #[must_use]
    pub fn take_probe(self: &Arc<Self>, lane: &Arc<LanePermits>) -> Option<Permit> {
        let now = Instant::now();
        if lane.gate.pace.shut_for(now).is_some() { None } else { self.take_unshut(lane, now) }
    }

    fn take_unshut(self: &Arc<Self>, lane: &Arc<LanePermits>, now: Instant) -> Option<Permit> {
        let (in_doubt, before) =
            self.doubt.admits(&lane.answering, lane.in_flight.load(Ordering::Relaxed))?;
        if !take_one(&self.in_flight, before) {
            return None;
        }
        if !take_one(&lane.in_flight, lane.limit()) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (permits, lane) = (Arc::clone(self), Arc::clone(lane));
        let mut permit = Permit { permits, lane, token: false, in_doubt: Cell::new(false) };
        permit.set_in_doubt(in_doubt);
        permit.token = permit.lane.gate.pace.take(now);
        permit.token.then_some(permit)
    }

    /// An attempt of `lane` is over: what it means for the lane's window and for the time that attempts take.
    pub fn observe(&self, lane: &LanePermits, result: &AttemptResult) {
        let signal = Signal::of(result);
        self.doubt.ended(&lane.answering, result.took, signal == Signal::Success);
        let took = u64::try_from(result.took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = lane.mean_us.load(Ordering::Relaxed);
        // A moving average over about eight attempts; races between workers cost a sample, no more.
        let next = if mean == 0 { took } else { mean - mean / 8 + took / 8 };
        lane.mean_us.store(next.max(1), Ordering::Relaxed);
        if signal == Signal::Success {
            lane.last_success_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        let seen = Seen {
            at: self.epoch.elapsed(),
            took: result.took,
            signal,
            in_flight: lane.in_flight.load(Ordering::Relaxed),
            max: lane.share.load(Ordering::Relaxed),
        };
        lane.change_window(|window| window.observe(seen));
    }

    /// An attempt of `lane` that began `age` ago has not ended: where nothing has succeeded since it began, the
    /// window falls back to its start.
    pub fn observe_hanging(&self, lane: &LanePermits, age: Duration) {
        let began = self.now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if lane.last_success_ms.load(Ordering::Relaxed) <= began {
            lane.change_window(Window::hang);
        }
    }

    /// The oldest attempt of `lane` began `age` ago and is not over. True when the endpoint hangs.
    pub(super) fn look(&self, lane: &LanePermits, age: Duration) -> bool {
        self.doubt.look(&lane.answering, age)
    }

    /// Permits held by lanes that are not known to answer.
    #[must_use]
    pub fn in_doubt(&self) -> u32 {
        self.doubt.held()
    }

    /// Attempts in flight over all configs.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        ms_since(self.epoch)
    }
}

/// Above zero, so that zero can stand for "never".
fn ms_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

fn take_one(count: &AtomicU32, max: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1))
        .is_ok()
}

// === impl Signal ===

impl Signal {
    fn of(result: &AttemptResult) -> Self {
        match &result.reply {
            Ok(answer) if (200..300).contains(&answer.status) => Self::Success,
            Ok(answer) if OVERLOADED.contains(&answer.status) => Self::Overload,
            Err(fault) if fault.kind == FaultKind::Timeout => Self::Overload,
            _ => Self::Other,
        }
    }
}

// === impl Known ===

impl Known {
    /// Gives the lane this replica's part of its limits.
    fn divide(&self, config: ConfigId, config_max: u32, replicas: &Replicas) {
        self.lane.share.store(replicas.part(config_max, config), Ordering::Relaxed);
        let rate = self.rate.map(|rate| {
            let burst = replicas.part(rate.burst, config);
            let per_second = f64::from(rate.per_second) * f64::from(burst) / f64::from(rate.burst.max(1));
            Rate { per_second, burst }
        });
        self.lane.gate.pace.set_rate(rate, Instant::now());
    }
}

// === impl LanePermits ===

impl LanePermits {
    /// Attempts that may be in flight now: what the endpoint bears, and this replica's part of the limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.window_size.load(Ordering::Relaxed).min(self.share.load(Ordering::Relaxed))
    }

    /// Whether the endpoint was last seen hanging.
    pub(super) fn hangs(&self) -> bool {
        self.answering.hangs()
    }

    /// Whether nothing is known of the endpoint, or it hangs.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.answering.is_in_doubt()
    }

    /// Whether this replica sends nothing to the config, because others hold a limit that is too small to divide.
    #[must_use]
    pub fn is_held_elsewhere(&self) -> bool {
        self.share.load(Ordering::Relaxed) == 0 || self.gate.pace.wait_for(1, Instant::now()).is_none()
    }

    /// Says whether deliveries of the config are due in the queue of `shard`. All workers share it: permits that
    /// come free on one worker serve what another has parked.
    pub(super) fn set_backlog(&self, shard: ShardNumber, more: bool) {
        let bit = 1 << (shard.0 % 64);
        if more {
            self.backlog.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.backlog.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// A delivery is on its way to its queue: a visit that does not find it yet proves nothing.
    pub(super) fn note_parked(&self) {
        self.parked_ms.store(ms_since(self.epoch), Ordering::Relaxed);
    }

    /// Whether deliveries are due in the queue of `shard`, or of any, or were parked a moment ago.
    pub(super) fn has_backlog(&self, shard: Option<ShardNumber>) -> bool {
        let wanted = shard.map_or(u64::MAX, |shard| 1 << (shard.0 % 64));
        let parked_ms = self.parked_ms.load(Ordering::Relaxed);
        self.backlog.load(Ordering::Relaxed) & wanted != 0
            || (parked_ms > 0 && ms_since(self.epoch) - parked_ms < PARKED_LATELY_MS)
    }

    fn change_window(&self, change: impl FnOnce(&mut Window)) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut window);
        self.window_size.store(window.size(), Ordering::Relaxed);
    }

    /// The recent attempts' mean time; `None` before the first.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        match self.mean_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Something is sent: its token is spent.
    pub(super) fn spend(&mut self) {
        self.token = false;
    }

    /// Counts it as held in doubt, or no longer.
    pub(super) fn set_in_doubt(&self, in_doubt: bool) {
        if self.in_doubt.replace(in_doubt) != in_doubt {
            self.permits.doubt.count(in_doubt);
        }
    }

    /// The same permit for the next attempt, where the lane may make one now: a window may have shrunk, a gate may
    /// have shut, and each attempt needs a token.
    pub(super) fn renew(mut self) -> Option<Self> {
        let now = Instant::now();
        let fits = self.lane.in_flight.load(Ordering::Relaxed) <= self.lane.limit();
        if !fits || self.lane.gate.shut_for(now).is_some() {
            return None;
        }
        self.token = self.token || self.lane.gate.pace.take(now);
        self.token.then_some(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.token {
            self.lane.gate.pace.give_back();
        }
        self.set_in_doubt(false);
        self.lane.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.permits.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::outcome::{Answer, Fault};
    use crate::settings::health::HealthSettings;

    const CONFIG: ConfigId = ConfigId::from_bytes([1; 12]);

    fn permits(in_flight_max: u32, config_in_flight_max: u32) -> Arc<Permits> {
        let limits = LimitSettings { in_flight_max, config_in_flight_max, ..LimitSettings::default() };
        let policy = HealthSettings::default().policy(Duration::ZERO);
        Permits::new(&limits, Breakers::new(&policy), "aa")
    }

    fn lane(permits: &Permits) -> Arc<LanePermits> {
        permits.lane(CONFIG, || None)
    }

    fn answered(status: u16) -> AttemptResult {
        let answer = Answer { status, excerpt: Bytes::new(), retry_after: None };
        AttemptResult { reply: Ok(answer), took: Duration::from_millis(1) }
    }

    fn take_all(permits: &Arc<Permits>, lane: &Arc<LanePermits>) -> Vec<Permit> {
        std::iter::from_fn(|| permits.take(lane)).collect()
    }

    #[test]
    fn a_lane_starts_at_eight_and_doubles_with_each_round_up_to_its_limit() {
        let permits = permits(1_000, 30);
        let lane = lane(&permits);
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let taken = take_all(&permits, &lane);
            rounds.push(taken.len());
            taken.iter().for_each(|_| permits.observe(&lane, &answered(200)));
        }
        assert_eq!(rounds, [8, 16, 30, 30]);
        assert_eq!(permits.in_flight(), 0);
    }

    #[test]
    fn failures_do_not_widen_overload_and_hanging_narrow() {
        let permits = permits(1_000, 100);
        let lane = lane(&permits);
        let taken = take_all(&permits, &lane);
        permits.observe(&lane, &answered(500));
        permits.observe(&lane, &answered(404));
        assert_eq!((lane.limit(), lane.mean()), (8, Some(Duration::from_millis(1))));
        (0..8).for_each(|_| permits.observe(&lane, &answered(200)));
        assert_eq!(lane.limit(), 16);
        permits.observe_hanging(&lane, Duration::from_secs(1));
        assert_eq!(lane.limit(), 16, "something has succeeded since that attempt began");
        permits.observe_hanging(&lane, Duration::ZERO);
        assert_eq!(lane.limit(), 8);
        permits.observe(&lane, &answered(503));
        assert_eq!(lane.limit(), 4);
        let timeout = Fault::new(FaultKind::Timeout, "x");
        let hung = AttemptResult { reply: Err(timeout), took: Duration::from_secs(3_600) };
        permits.observe(&lane, &hung);
        assert_eq!(lane.limit(), 4, "it began before the last halving");
        drop(taken);
    }

    #[test]
    fn the_replicas_limit_holds_over_all_lanes() {
        let permits = permits(10, 100);
        let first = lane(&permits);
        let second = permits.lane(ConfigId::from_bytes([2; 12]), || None);
        [&first, &second].into_iter().for_each(|lane| permits.observe(lane, &answered(500)));
        let taken = take_all(&permits, &first);
        assert_eq!(
            (taken.len(), take_all(&permits, &second).len()),
            (8, 1),
            "an eighth is for first permits"
        );
        assert_eq!(permits.in_doubt(), 0);
        drop(taken);
        let third = permits.lane(ConfigId::from_bytes([3; 12]), || None);
        let taken = take_all(&permits, &third);
        assert_eq!((taken.len(), permits.in_doubt()), (2, 2), "a quarter, while nothing is known of it");
        permits.observe(&third, &answered(500));
        taken.iter().for_each(|permit| permit.set_in_doubt(false));
        drop((taken, third));
        assert_eq!((permits.in_flight(), permits.in_doubt()), (0, 0));
        drop(first);
        permits.forget_unused();
        assert_eq!(permits.state().lanes.len(), 1);
        second.gate.pace.hold(Duration::from_secs(60));
        drop(second);
        permits.forget_unused();
        assert_eq!(permits.state().lanes.len(), 1, "what the receiver asked for is not forgotten");
    }

    #[test]
    fn a_limit_is_divided_among_the_live_replicas_and_comes_back() {
        let permits = permits(1_000, 6);
        let lane = lane(&permits);
        assert_eq!(take_all(&permits, &lane).len(), 6);
        assert_eq!(permits.set_consumers(["aa.0", "aa.1", "bb.0", "bb.1"]), Some(2));
        assert_eq!(permits.set_consumers(["aa.0", "bb.0"]), None, "the same replicas");
        assert_eq!(take_all(&permits, &lane).len(), 3);
        let taken = take_all(&permits, &lane);
        permits.set_consumers(["aa.0", "bb.0", "cc.0"]);
        let renewed = taken.into_iter().filter_map(Permit::renew).count();
        assert_eq!(renewed, 2, "a permit above the new part is not used again");
        permits.set_consumers(["aa.0"]);
        assert_eq!(take_all(&permits, &lane).len(), 6);
        assert!(!lane.is_held_elsewhere());
    }

    #[test]
    fn each_attempt_takes_a_token_and_an_unused_permit_gives_it_back() {
        let permits = permits(1_000, 100);
        let rate = RateLimit { per_second: 1, burst: 3 };
        let lane = permits.lane(CONFIG, || Some(rate));
        let mut taken = take_all(&permits, &lane);
        assert_eq!(taken.len(), 3);
        taken[0].spend();
        drop(taken);
        assert_eq!(permits.in_flight(), 0);
        let mut taken = take_all(&permits, &lane);
        assert_eq!(taken.len(), 2, "one was spent");
        taken.iter_mut().for_each(Permit::spend);
        assert!(taken.pop().and_then(Permit::renew).is_none(), "no token is left");
        permits.set_rate(CONFIG, None);
        assert_eq!(taken.into_iter().filter_map(Permit::renew).count(), 1);
    }

    #[test]
    fn a_shut_gate_gives_no_permit_and_renews_none() {
        let permits = permits(1_000, 100);
        let lane = lane(&permits);
        let permit = permits.take(&lane).unwrap();
        lane.gate.pace.hold(Duration::from_secs(60));
        assert!(permits.take(&lane).is_none());
        assert!(permit.renew().is_none());
        assert_eq!(permits.in_flight(), 0);
        drop(lane);
        permits.forget_unused();
        assert!(permits.take(&self::lane(&permits)).is_none(), "forgetting a lane must not open its gate");
    }
}
