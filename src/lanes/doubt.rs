//! Permits held in doubt: by lanes that are not known to answer. Hanging endpoints must not eat the replica's
//! permits, be they one or a thousand, so what lanes in doubt hold together is bounded. A lane takes its first
//! permit, or more of them:
//!
//! | a lane that | its first | more |
//! |---|---|---|
//! | answers | always | while an eighth of all is free; from eight on, while a quarter is |
//! | is new, or was idle for a second | while under three quarters of all are in doubt | under a quarter |
//! | hangs: its oldest attempt is 250 ms old and nothing was answered since | under a half | under an eighth |
//!
//! All workers share this, through atomics. A race between them lets a permit more through, and costs no count.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Permits that a lane that answers may hold before it leaves a quarter of all to others.
const FEW: u32 = 8;

/// A lane hangs when its oldest attempt is this old and nothing was answered since that began.
const HANGS_AFTER: Duration = Duration::from_millis(250);

/// What is known of a lane that has nothing in flight is forgotten after this.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// An attempt that ended sooner shows that its endpoint does not hang, whatever it gave.
const QUICK: Duration = Duration::from_secs(1);

/// The permits of a replica that are in doubt.
#[derive(Debug)]
pub(super) struct Doubt {
    held: AtomicU32,
    all: u32,
    epoch: Instant,
}

/// What is known of one lane's endpoint.
#[derive(Debug, Default)]
pub(super) struct Answering {
    answers: AtomicBool,
    hangs: AtomicBool,
    last_answer_ms: AtomicU64,
}

// === impl Doubt ===

impl Doubt {
    /// None of `all` permits is held.
    pub(super) fn new(all: u32) -> Self {
        Self { held: AtomicU32::new(0), all, epoch: Instant::now() }
    }

    /// Permits that are held in doubt.
    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Another permit is held in doubt, or one less.
    pub(super) fn count(&self, more: bool) {
        if more {
            self.held.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a lane that holds `holds` permits may have another as far as doubt goes; with whether that one is
    /// in doubt, and how many of all permits may be in flight before it.
    pub(super) fn admits(&self, lane: &Answering, holds: u32) -> Option<(bool, u32)> {
        if holds == 0 && lane.since_answer(self.now_ms()) >= KNOWN_FOR {
            lane.answers.store(false, Ordering::Relaxed);
        }
        let all = self.all;
        if !lane.is_in_doubt() {
            let before = match holds {
                0 => all,
                1..FEW => all - all / 8,
                _ => all - all / 4,
            };
            return Some((false, before));
        }
        let under = match (lane.hangs(), holds) {
            (false, 0) => all - all / 4,
            (false, _) => all / 4,
            (true, 0) => all / 2,
            (true, _) => all / 8,
        };
        (self.held() < under.max(1)).then_some((true, all))
    }

    /// An attempt of `lane` is over after `took`.
    pub(super) fn ended(&self, lane: &Answering, took: Duration, success: bool) {
        if success || took < QUICK {
            lane.last_answer_ms.store(self.now_ms(), Ordering::Relaxed);
            lane.answers.store(true, Ordering::Relaxed);
            lane.hangs.store(false, Ordering::Relaxed);
        }
    }

    /// The oldest attempt of `lane` began `age` ago and is not over. True when the endpoint hangs.
    pub(super) fn look(&self, lane: &Answering, age: Duration) -> bool {
        if age >= HANGS_AFTER && lane.since_answer(self.now_ms()) >= age {
            lane.hangs.store(true, Ordering::Relaxed);
            lane.answers.store(false, Ordering::Relaxed);
        }
        lane.hangs()
    }

    fn now_ms(&self) -> u64 {
        // Above zero, so that zero can stand for "never".
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

// === impl Answering ===

impl Answering {
    /// Whether the endpoint was last seen hanging.
    pub(super) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// Whether nothing is known of the endpoint, or it hangs.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.answers.load(Ordering::Relaxed)
    }

    fn since_answer(&self, now_ms: u64) -> Duration {
        match self.last_answer_ms.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            at => Duration::from_millis(now_ms.saturating_sub(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes permits for the lane until no more are admitted, with `free` permits of all; gives how many.
    fn take_all(doubt: &Doubt, lane: &Answering, in_flight: &mut u32) -> u32 {
        let mut holds = 0;
        while let Some((in_doubt, before)) = doubt.admits(lane, holds)
            && *in_flight < before
            && holds < 1_000
        {
            if in_doubt {
                doubt.count(true);
            }
            holds += 1;
            *in_flight += 1;
        }
        holds
    }

    #[test]
    fn hanging_lanes_never_hold_all_permits_however_many_they_are() {
        let doubt = Doubt::new(64);
        let lanes: Vec<Answering> = (0..200).map(|_| Answering::default()).collect();
        let mut in_flight = 0;
        let held: Vec<u32> = lanes.iter().map(|lane| take_all(&doubt, lane, &mut in_flight)).collect();
        assert_eq!((held[0], held[1], held[32], held[33], doubt.held()), (16, 1, 1, 0, 48));
        let good = Answering::default();
        doubt.ended(&good, Duration::from_millis(5), true);
        assert_eq!(take_all(&doubt, &good, &mut in_flight), 8, "a lane that answers has room");
        assert!(lanes.iter().all(|lane| doubt.look(lane, Duration::from_secs(2))));
        (0..48).for_each(|_| doubt.count(false));
        in_flight = 0;
        let held: Vec<u32> = lanes.iter().map(|lane| take_all(&doubt, lane, &mut in_flight)).collect();
        assert_eq!((held[0], held[1], held[24], held[25], doubt.held()), (8, 1, 1, 0, 32));
        assert_eq!(take_all(&doubt, &Answering::default(), &mut in_flight), 1, "a new lane has its first");
    }

    #[test]
    fn lanes_that_answer_leave_room_for_each_other() {
        let doubt = Doubt::new(64);
        let lanes: Vec<Answering> = (0..4).map(|_| Answering::default()).collect();
        lanes.iter().for_each(|lane| doubt.ended(lane, Duration::from_millis(5), true));
        let mut in_flight = 0;
        let held: Vec<u32> = lanes.iter().map(|lane| take_all(&doubt, lane, &mut in_flight)).collect();
        assert_eq!(held, [48, 8, 1, 1], "three quarters, then a few each, then first ones");
    }

    #[test]
    fn a_lane_that_fails_quickly_or_answers_slowly_does_not_hang_and_a_timeout_is_no_answer() {
        let (doubt, lane) = (Doubt::new(64), Answering::default());
        assert!(lane.is_in_doubt() && !doubt.look(&lane, Duration::from_millis(249)));
        doubt.ended(&lane, Duration::from_millis(5), false);
        assert!(!lane.is_in_doubt());
        assert!(!doubt.look(&lane, Duration::from_secs(1)), "something was answered since");
        lane.last_answer_ms.store(0, Ordering::Relaxed);
        assert!(doubt.look(&lane, Duration::from_secs(1)) && lane.is_in_doubt());
        doubt.ended(&lane, Duration::from_secs(30), false);
        assert!(lane.hangs());
        doubt.ended(&lane, Duration::from_secs(3), true);
        assert!(!lane.hangs() && !lane.is_in_doubt());
    }

    #[test]
    fn what_is_known_of_an_idle_lane_is_forgotten() {
        let (doubt, lane) = (Doubt::new(64), Answering::default());
        doubt.ended(&lane, Duration::from_millis(5), true);
        assert_eq!(doubt.admits(&lane, 0), Some((false, 64)));
        lane.last_answer_ms.store(0, Ordering::Relaxed);
        assert_eq!(
            doubt.admits(&lane, 1),
            Some((false, 56)),
            "while it has something in flight it is not idle"
        );
        assert_eq!(doubt.admits(&lane, 0), Some((true, 64)));
    }
}
