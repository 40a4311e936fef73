//! Permits: how many attempts may be in flight, for a config and for the whole replica. All workers share them,
//! so they are atomics; nothing else of a lane crosses cores.
//!
//! Hanging endpoints must not eat the replica's permits, be they one or a thousand. So permits are counted that
//! are held in doubt: by lanes that are not known to answer. A lane takes its first permit, or more of them:
//!
//! | a lane that | its first | more |
//! |---|---|---|
//! | answers | always | while an eighth of all is free; from eight on, while a quarter is |
//! | is new, or was idle for a second | while under three quarters of all are in doubt | under a quarter |
//! | hangs: its oldest attempt is 250 ms old and nothing was answered since | under a half | under an eighth |

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::ids::ConfigId;
use crate::settings::limits::LimitSettings;

/// Attempts that a lane may have in flight before anything is known of its endpoint, and while it does not
/// answer.
const WINDOW_START: u32 = 8;

/// A lane hangs when its oldest attempt is this old and nothing was answered since that began.
const HANGS_AFTER: Duration = Duration::from_millis(250);

/// What is known of a lane that has nothing in flight is forgotten after this.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// An attempt that ended sooner shows that its endpoint does not hang, whatever it gave.
const QUICK: Duration = Duration::from_secs(1);

/// The permits of a replica.
#[derive(Debug)]
pub struct Permits {
    lanes: Mutex<HashMap<ConfigId, Arc<LanePermits>>>,
    in_flight: AtomicU32,
    /// Those of them that are held in doubt.
    in_doubt: AtomicU32,
    in_flight_max: u32,
    config_max: u32,
    epoch: Instant,
}

/// The permits of one config.
#[derive(Debug)]
pub struct LanePermits {
    in_flight: AtomicU32,
    /// Something was answered since the lane was last seen hanging.
    answers: AtomicBool,
    hangs: AtomicBool,
    last_answer_ms: AtomicU64,
    window: AtomicU32,
    mean_us: AtomicU64,
    last_success_ms: AtomicU64,
}

/// Leave to make one attempt; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    lane: Arc<LanePermits>,
    in_doubt: Cell<bool>,
}

// === impl Permits ===

impl Permits {
    /// No attempt is in flight.
    #[must_use]
    pub fn new(limits: &LimitSettings) -> Arc<Self> {
        Arc::new(Self {
            lanes: Mutex::default(),
            in_flight: AtomicU32::new(0),
            in_doubt: AtomicU32::new(0),
            in_flight_max: limits.in_flight_max.max(1),
            config_max: limits.config_in_flight_max.max(1),
            epoch: Instant::now(),
        })
    }

    /// The permits of `config`, made at the first use.
    #[must_use]
    pub fn lane(&self, config: ConfigId) -> Arc<LanePermits> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            Arc::new(LanePermits {
                in_flight: AtomicU32::new(0),
                answers: AtomicBool::new(false),
                hangs: AtomicBool::new(false),
                last_answer_ms: AtomicU64::new(0),
                window: AtomicU32::new(WINDOW_START.min(self.config_max)),
                mean_us: AtomicU64::new(0),
                last_success_ms: AtomicU64::new(0),
            })
        };
        Arc::clone(lanes.entry(config).or_insert_with(made))
    }

    /// Forgets configs that no worker keeps a lane for.
    pub fn forget_unused(&self) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
    }

    /// A permit for `lane`, if both it and the replica have one left.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: &Arc<LanePermits>) -> Option<Permit> {
        let held = lane.in_flight.load(Ordering::Relaxed);
        let in_doubt = lane.is_in_doubt() || (held == 0 && self.was_idle(lane));
        if in_doubt && self.in_doubt.load(Ordering::Relaxed) >= self.doubt_max(lane, held) {
            return None;
        }
        let all = self.in_flight_max;
        let max = match held {
            0 => all,
            1..WINDOW_START => all - all / 8,
            _ => all - all / 4,
        };
        if !take_one(&self.in_flight, max) {
            return None;
        }
        if !take_one(&lane.in_flight, lane.window.load(Ordering::Relaxed)) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let permit = Permit { permits: Arc::clone(self), lane: Arc::clone(lane), in_doubt: Cell::new(false) };
        permit.set_in_doubt(in_doubt);
        Some(permit)
    }

    /// Whether a lane that has nothing in flight was answered too long ago for that to say anything; it is then
    /// as good as new.
    fn was_idle(&self, lane: &LanePermits) -> bool {
        let since = self.now_ms().saturating_sub(lane.last_answer_ms.load(Ordering::Relaxed));
        let idle = Duration::from_millis(since) >= KNOWN_FOR;
        if idle {
            lane.answers.store(false, Ordering::Relaxed);
        }
        idle
    }

    /// Permits in doubt under which a lane that is not known to answer, and holds `held`, takes another.
    fn doubt_max(&self, lane: &LanePermits, held: u32) -> u32 {
        let all = self.in_flight_max;
        let max = match (lane.hangs(), held) {
            (false, 0) => all - all / 4,
            (false, _) => all / 4,
            (true, 0) => all / 2,
            (true, _) => all / 8,
        };
        max.max(1)
    }

    /// An attempt of `lane` took `took` and succeeded or not. Success widens the window by one, which doubles it
    /// with every full round.
    pub fn observe(&self, lane: &LanePermits, took: Duration, success: bool) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = lane.mean_us.load(Ordering::Relaxed);
        // A moving average over about eight attempts; races between workers cost a sample, no more.
        let next = if mean == 0 { took } else { mean - mean / 8 + took / 8 };
        lane.mean_us.store(next.max(1), Ordering::Relaxed);
        if success || took < u64::try_from(QUICK.as_micros()).unwrap_or(u64::MAX) {
            lane.last_answer_ms.store(self.now_ms(), Ordering::Relaxed);
            lane.answers.store(true, Ordering::Relaxed);
            lane.hangs.store(false, Ordering::Relaxed);
        }
        if success {
            lane.last_success_ms.store(self.now_ms(), Ordering::Relaxed);
            if lane.window.load(Ordering::Relaxed) < self.config_max {
                lane.window.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// An attempt of `lane` that began `age` ago has not ended: where nothing has succeeded since it began, the
    /// window falls back to its start.
    pub fn observe_hanging(&self, lane: &LanePermits, age: Duration) {
        let began = self.now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if lane.last_success_ms.load(Ordering::Relaxed) <= began {
            lane.window.store(WINDOW_START.min(self.config_max), Ordering::Relaxed);
        }
    }

    /// The oldest attempt of `lane` began `age` ago and has not ended: where that is long, and nothing has been
    /// answered since it began, the lane hangs. True when that is so.
    pub fn look(&self, lane: &LanePermits, age: Duration) -> bool {
        if age < HANGS_AFTER {
            return lane.hangs();
        }
        let began = self.now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if lane.last_answer_ms.load(Ordering::Relaxed) <= began {
            lane.hangs.store(true, Ordering::Relaxed);
            lane.answers.store(false, Ordering::Relaxed);
        }
        lane.hangs()
    }

    /// Attempts in flight of lanes that are not known to answer.
    #[must_use]
    pub fn in_doubt(&self) -> u32 {
        self.in_doubt.load(Ordering::Relaxed)
    }

    /// Attempts in flight over all configs.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        // Above zero, so that zero can stand for "never".
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn take_one(count: &AtomicU32, max: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1))
        .is_ok()
}

// === impl LanePermits ===

impl LanePermits {
    /// Attempts that may be in flight now.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window.load(Ordering::Relaxed)
    }

    /// Whether its endpoint was last seen hanging.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// Whether nothing is known of its endpoint, or the endpoint hangs.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.answers.load(Ordering::Relaxed)
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
    /// Counts it as held in doubt, or no longer.
    pub fn set_in_doubt(&self, in_doubt: bool) {
        match (self.in_doubt.replace(in_doubt), in_doubt) {
            (false, true) => drop(self.permits.in_doubt.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.permits.in_doubt.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set_in_doubt(false);
        self.lane.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.permits.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(in_flight_max: u32, config_in_flight_max: u32) -> Arc<Permits> {
        Permits::new(&LimitSettings { in_flight_max, config_in_flight_max, ..LimitSettings::default() })
    }

    fn take_all(permits: &Arc<Permits>, lane: &Arc<LanePermits>) -> Vec<Permit> {
        std::iter::from_fn(|| permits.take(lane)).collect()
    }

    #[test]
    fn a_lane_starts_at_eight_and_doubles_with_each_round_up_to_its_limit() {
        let permits = permits(1_000, 30);
        let lane = permits.lane(ConfigId::from_bytes([1; 12]));
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let taken = take_all(&permits, &lane);
            rounds.push(taken.len());
            taken.iter().for_each(|_| permits.observe(&lane, Duration::from_millis(1), true));
        }
        assert_eq!(rounds, [8, 16, 30, 30]);
        assert_eq!(permits.in_flight(), 0);
    }

    #[test]
    fn failures_do_not_widen_and_hanging_narrows() {
        let permits = permits(1_000, 100);
        let lane = permits.lane(ConfigId::from_bytes([1; 12]));
        permits.observe(&lane, Duration::from_millis(5), false);
        assert_eq!((lane.window(), lane.mean()), (8, Some(Duration::from_millis(5))));
        (0..20).for_each(|_| permits.observe(&lane, Duration::from_millis(5), true));
        assert_eq!(lane.window(), 28);
        permits.observe_hanging(&lane, Duration::from_secs(1));
        assert_eq!(lane.window(), 28, "something has succeeded since that attempt began");
        permits.observe_hanging(&lane, Duration::ZERO);
        assert_eq!(lane.window(), 8);
    }

    fn lane(permits: &Arc<Permits>, number: u8) -> Arc<LanePermits> {
        permits.lane(ConfigId::from_bytes([number; 12]))
    }

    #[test]
    fn hanging_lanes_never_hold_all_permits_however_many_they_are() {
        let permits = permits(64, 64);
        let lanes: Vec<_> = (1..=200).map(|number| lane(&permits, number)).collect();
        // New ones, of which nothing is known: eight each up to a quarter, then one each.
        let held: Vec<Vec<Permit>> = lanes.iter().map(|lane| take_all(&permits, lane)).collect();
        assert_eq!((held[0].len(), held[5].len(), permits.in_doubt()), (8, 1, 48));
        let good = lane(&permits, 201);
        permits.observe(&good, Duration::from_millis(5), true);
        assert_eq!(take_all(&permits, &good).len(), 8, "a lane that answers gets what it needs");
        assert!(lanes.iter().all(|lane| permits.look(lane, Duration::from_secs(2))));
        drop(held);
        // Known to hang: one each up to a half, more only up to an eighth.
        let held: Vec<Vec<Permit>> = lanes.iter().map(|lane| take_all(&permits, lane)).collect();
        assert_eq!((held[0].len(), held[1].len(), held[24].len(), held[25].len()), (8, 1, 1, 0));
        assert_eq!(permits.in_doubt(), 32);
        assert_eq!(take_all(&permits, &lane(&permits, 202)).len(), 1, "a new lane still gets one");
    }

    #[test]
    fn many_that_answered_and_then_hang_leave_an_eighth_for_first_permits() {
        let permits = permits(64, 64);
        let busy: Vec<_> = (1..=4).map(|number| lane(&permits, number)).collect();
        for lane in &busy {
            (0..60).for_each(|_| permits.observe(lane, Duration::from_millis(1), true));
        }
        let held: Vec<Vec<Permit>> = busy.iter().map(|lane| take_all(&permits, lane)).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [48, 8, 1, 1], "three quarters, then up to eight each, then first ones");
        drop(held);
        let held = take_all(&permits, &busy[0]);
        assert_eq!(held.len(), 48);
        permits.look(&busy[0], Duration::from_secs(1));
        held.iter().for_each(|permit| permit.set_in_doubt(true));
        assert_eq!(permits.in_doubt(), 48);
        drop(held);
        assert_eq!((permits.in_doubt(), permits.in_flight()), (0, 0));
    }

    #[test]
    fn a_lane_that_fails_quickly_or_answers_slowly_does_not_hang() {
        let permits = permits(64, 64);
        let lane = lane(&permits, 1);
        permits.observe(&lane, Duration::from_millis(5), false);
        assert!(!lane.is_in_doubt());
        lane.last_answer_ms.store(0, Ordering::Relaxed);
        assert!(permits.look(&lane, Duration::from_secs(1)), "nothing since its oldest attempt began");
        permits.observe(&lane, Duration::from_secs(30), false);
        assert!(lane.hangs(), "a timeout is no answer");
        permits.observe(&lane, Duration::from_secs(3), true);
        assert!(!lane.hangs() && !lane.is_in_doubt());
        assert!(!permits.look(&lane, Duration::from_millis(100)));
    }

    #[test]
    fn the_replicas_limit_holds_over_all_lanes() {
        let permits = permits(10, 100);
        let first = permits.lane(ConfigId::from_bytes([1; 12]));
        let second = permits.lane(ConfigId::from_bytes([2; 12]));
        for lane in [&first, &second] {
            permits.observe(lane, Duration::from_millis(1), false);
        }
        let taken = take_all(&permits, &first);
        assert_eq!((taken.len(), take_all(&permits, &second).len()), (8, 1));
        drop(taken);
        drop(first);
        permits.forget_unused();
        assert_eq!(permits.lanes.lock().unwrap().len(), 1);
    }
}
