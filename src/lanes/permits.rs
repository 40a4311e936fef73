//! Permits: how many attempts may be in flight, for a config and for the whole replica. All workers share them,
//! so they are atomics; nothing else of a lane crosses cores.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::gate::Gate;
use crate::domain::ids::ConfigId;
use crate::settings::limits::LimitSettings;

/// Attempts that a lane may have in flight before anything is known of its endpoint, and while it does not
/// answer.
const WINDOW_START: u32 = 8;

/// The permits of a replica.
#[derive(Debug)]
pub struct Permits {
    lanes: Mutex<HashMap<ConfigId, Arc<LanePermits>>>,
    in_flight: AtomicU32,
    in_flight_max: u32,
    config_max: u32,
    epoch: Instant,
}

/// The permits of one config.
#[derive(Debug)]
pub struct LanePermits {
    /// Whether it may send at all.
    pub gate: Gate,
    in_flight: AtomicU32,
    window: AtomicU32,
    mean_us: AtomicU64,
    last_success_ms: AtomicU64,
}

/// Leave to make one attempt; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    lane: Arc<LanePermits>,
}

// === impl Permits ===

impl Permits {
    /// No attempt is in flight.
    #[must_use]
    pub fn new(limits: &LimitSettings) -> Arc<Self> {
        Arc::new(Self {
            lanes: Mutex::default(),
            in_flight: AtomicU32::new(0),
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
                gate: Gate::default(),
                in_flight: AtomicU32::new(0),
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

    /// A permit for `lane`, if its gate is open and both it and the replica have one left.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: &Arc<LanePermits>) -> Option<Permit> {
        if lane.gate.shut_for(Instant::now()).is_some() || !take_one(&self.in_flight, self.in_flight_max) {
            return None;
        }
        if !take_one(&lane.in_flight, lane.window.load(Ordering::Relaxed)) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { permits: Arc::clone(self), lane: Arc::clone(lane) })
    }

    /// An attempt of `lane` took `took` and succeeded or not. Success widens the window by one, which doubles it
    /// with every full round.
    pub fn observe(&self, lane: &LanePermits, took: Duration, success: bool) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = lane.mean_us.load(Ordering::Relaxed);
        // A moving average over about eight attempts; races between workers cost a sample, no more.
        let next = if mean == 0 { took } else { mean - mean / 8 + took / 8 };
        lane.mean_us.store(next.max(1), Ordering::Relaxed);
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

    /// The recent attempts' mean time; `None` before the first.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        match self.mean_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
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

    #[test]
    fn the_replicas_limit_holds_over_all_lanes() {
        let permits = permits(10, 100);
        let first = permits.lane(ConfigId::from_bytes([1; 12]));
        let second = permits.lane(ConfigId::from_bytes([2; 12]));
        let taken = take_all(&permits, &first);
        assert_eq!((taken.len(), take_all(&permits, &second).len()), (8, 2));
        drop(taken);
        drop(first);
        permits.forget_unused();
        assert_eq!(permits.lanes.lock().unwrap().len(), 1);
    }
}
