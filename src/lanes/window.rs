//! How many attempts of a lane may be in flight at once: grows while the endpoint keeps up, shrinks when it does
//! not. Pure: time comes in with each observation.
//!
//! | what is seen | what follows |
//! |---|---|
//! | success, below the threshold | + 1: doubles with each round (slow start; there is no threshold at first) |
//! | success, above it | + 1 / window: one more with each round; of that an eighth just below what was too much last |
//! | timeout, 429, 503 or 504 | halved, at most once per round; the threshold becomes 7/8 of what it was |
//! | a round's mean time above 2 x the least one + 50 ms | halved; the threshold becomes the half |
//! | an attempt over 1 s old, nothing succeeded since it began | at most the start |
//! | the lane's breaker has closed | 1 |
//!
//! It grows only while at least half of it is used, so that it stands for what the endpoint has shown to bear. A
//! round is over when the attempts under way at the last halving are: what began before it says nothing about the
//! smaller window. 7/8 of the window that was too much is nearly always bearable, so growth is fast up to there
//! and careful beyond. Halvings in a row without a success keep the threshold: an endpoint that is down says
//! nothing about how much it bears when it is up.
//!
//! **The latency rule cannot starve an endpoint at its natural limit.** One that serves C requests a second, each
//! in L when idle, is busy with C x L in flight; with W in flight, a request takes W / C. The rule fires when that
//! is above 2 L + 50 ms, so at W above 2 C L, and half of this still keeps it busy. Where the mean does not fall
//! after such a halving by a fifth at least, time does not depend on the window: the endpoint has become slower by
//! itself, its present time is the new measure, and the window grows back fast.

use std::time::Duration;

/// Attempts in flight before anything is known of an endpoint, and while it does not answer.
pub(super) const WINDOW_START: u32 = 8;

/// How much of a window that was too much is grown to quickly.
const REGROWN: f64 = 0.875;

/// How much slower it grows where the next one in flight was too much last time.
const CAREFUL: f64 = 0.125;

/// The latency rule's slack: so much is noise.
const SLACK: Duration = Duration::from_millis(50);

/// A round in which the window grew by more than this says nothing about the window at its end.
const STEADY: f64 = 1.25;

/// Successes in a round of the latency rule, at least: a mean of fewer is noise.
const ROUND_MIN: u32 = 16;

/// A window.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    threshold: f64,
    /// What was too much last.
    too_much: f64,
    halved_at: Duration,
    /// Something has succeeded since the last halving.
    succeeded: bool,
    /// Successes that this round counts, the window that it began with, and its sums.
    round: u32,
    began_with: f64,
    count: u32,
    sum: Duration,
    /// The least mean of a round.
    least: Option<Duration>,
    /// The mean for which the last round's end halved the window, and what it was then.
    too_long: Option<(Duration, f64)>,
}

/// What an attempt says about its endpoint's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Delivered.
    Success,
    /// A failure that says nothing about load.
    Other,
    /// Timeout, 429, 503, 504.
    Overload,
}

/// One attempt that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When it ended, since any fixed moment.
    pub(super) at: Duration,
    /// How long it took.
    pub(super) took: Duration,
    /// What it says.
    pub(super) signal: Signal,
    /// Attempts in flight, itself included.
    pub(super) in_flight: u32,
    /// What the window may not grow beyond.
    pub(super) max: u32,
}

// === impl Window ===

impl Window {
    pub(super) fn new() -> Self {
        Self {
            size: f64::from(WINDOW_START),
            threshold: f64::INFINITY,
            too_much: f64::INFINITY,
            halved_at: Duration::ZERO,
            succeeded: false,
            round: ROUND_MIN,
            began_with: f64::from(WINDOW_START),
            count: 0,
            sum: Duration::ZERO,
            least: None,
            too_long: None,
        }
    }

    /// Attempts that may be in flight, at least 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 1 and a u32.
    pub(super) fn size(&self) -> u32 {
        self.size as u32
    }

    pub(super) fn observe(&mut self, seen: Seen) {
        // Began after the last halving, so it was sent within the present window.
        let current = seen.at.saturating_sub(seen.took) >= self.halved_at;
        match seen.signal {
            Signal::Success => {
                self.succeeded = true;
                if current {
                    self.grow(seen);
                    self.count_in(seen);
                }
            }
            Signal::Other => {}
            Signal::Overload if current => {
                self.too_much = self.size;
                self.halve(seen.at, REGROWN);
            }
            Signal::Overload => {}
        }
    }

    /// The endpoint does not answer: whatever it has borne, it gets no more than a new one until it does.
    pub(super) fn hang(&mut self) {
        self.size = self.size.min(f64::from(WINDOW_START));
    }

    /// The endpoint was left alone for a while: it begins with one attempt, and doubles from there.
    pub(super) fn restart(&mut self) {
        self.size = 1.0;
    }

    fn grow(&mut self, seen: Seen) {
        if self.size < f64::from(seen.max) && f64::from(seen.in_flight) * 2.0 >= self.size {
            let step = if self.size < self.threshold {
                1.0
            } else if (self.too_much.floor() - 1.0..=self.too_much).contains(&self.size) {
                CAREFUL / self.size
            } else {
                1.0 / self.size
            };
            self.size = (self.size + step).min(f64::from(seen.max));
        }
    }

    fn halve(&mut self, at: Duration, regrown: f64) {
        if self.succeeded || self.threshold.is_infinite() {
            self.threshold = (self.size * regrown).max(1.0);
        }
        self.size = (self.size / 2.0).max(1.0);
        self.halved_at = at;
        self.succeeded = false;
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.round = self.size().max(ROUND_MIN);
        self.began_with = self.size;
        (self.count, self.sum) = (0, Duration::ZERO);
    }

    fn count_in(&mut self, seen: Seen) {
        self.count += 1;
        self.sum += seen.took;
        if self.count < self.round {
            return;
        }
        let mean = self.sum / self.count;
        // While the window grows fast, a mean is of smaller windows than the present one: it proves nothing later.
        let steady = self.size < self.began_with * STEADY;
        self.begin_round();
        let least = self.least.map_or(mean, |least| least.min(mean));
        self.least = Some(least);
        if mean <= least * 2 + SLACK {
            self.too_long = None;
            return;
        }
        match self.too_long.take() {
            Some((before, size)) if mean > before.mul_f64(0.8) => {
                self.least = Some(mean);
                self.threshold = self.threshold.max(size);
            }
            _ => {
                self.too_long = steady.then_some((mean, self.size));
                self.halve(seen.at, 0.5);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000;

    /// A receiver that is always sent as much as the window allows: what it served, and the windows that it saw.
    struct Run {
        served: u32,
        refused: u32,
        windows: Vec<u32>,
    }

    /// `answer` is asked with the number in flight, this one included, and says how many µs it takes and what
    /// it means.
    fn run(window: &mut Window, from: u64, seconds: u64, answer: impl Fn(u64, u32) -> (u64, Signal)) -> Run {
        let mut heap: BinaryHeap<Reverse<(u64, u64, bool)>> = BinaryHeap::new();
        let (mut now, end) = (from, from + seconds * 1_000 * MS);
        let mut run = Run { served: 0, refused: 0, windows: Vec::new() };
        while now < end {
            while heap.len() < window.size() as usize {
                let (took, signal) = answer(now, heap.len() as u32 + 1);
                heap.push(Reverse((now + took, now, signal == Signal::Success)));
            }
            let Reverse((at, began, success)) = heap.pop().unwrap();
            now = at;
            let signal = if success { Signal::Success } else { Signal::Overload };
            *(if success { &mut run.served } else { &mut run.refused }) += 1;
            window.observe(Seen {
                at: Duration::from_micros(at),
                took: Duration::from_micros(at - began),
                signal,
                in_flight: heap.len() as u32 + 1,
                max: 1_024,
            });
            run.windows.push(window.size());
        }
        run
    }

    #[test]
    fn a_new_endpoint_doubles_with_each_round_to_the_limit_and_stays_there() {
        let mut window = Window::new();
        let run = run(&mut window, 0, 5, |_, _| (50 * MS, Signal::Success));
        assert_eq!(window.size(), 1_024);
        assert!(run.windows.iter().all(|size| *size >= 8), "time that does not rise never narrows");
        // The best is 1,024 every 50 ms; slow start takes seven rounds.
        assert!(f64::from(run.served) > 0.85 * 1_024.0 * 100.0, "{}", run.served);
    }

    #[test]
    fn one_that_bears_twenty_and_refuses_the_rest_settles_near_twenty() {
        let mut window = Window::new();
        let bears = |now: u64, in_flight: u32| {
            // 40 to 60 ms, so that attempts do not go in step.
            let mixed = (now + u64::from(in_flight)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let took = 40 * MS + mixed % (20 * MS);
            if in_flight <= 20 { (took, Signal::Success) } else { (MS, Signal::Overload) }
        };
        run(&mut window, 0, 2, bears);
        let run = run(&mut window, 2_000 * MS, 20, bears);
        let best = 20.0 * 20.0 * 20.0;
        assert!(f64::from(run.served) > 0.8 * best, "served {} of {best}", run.served);
        assert!(f64::from(run.refused) < 0.03 * best, "refused {}", run.refused);
        assert!(run.windows.iter().all(|size| (8..=22).contains(size)), "{:?}", run.windows.iter().max());
    }

    #[test]
    fn one_that_serves_in_turn_keeps_busy_without_a_long_line() {
        // 200 a second, 20 ms each when idle: 4 keep it busy. Time is the line's length.
        let mut window = Window::new();
        let line = |_: u64, in_flight: u32| ((u64::from(in_flight) * 5 * MS).max(20 * MS), Signal::Success);
        run(&mut window, 0, 10, line);
        let run = run(&mut window, 10_000 * MS, 20, line);
        let (least, most) = (run.windows.iter().min().unwrap(), run.windows.iter().max().unwrap());
        assert!(*least >= 4, "never idle: {least}");
        assert!(*most <= 64, "no long line: {most}");
    }

    #[test]
    fn one_that_has_become_slower_by_itself_is_not_narrowed_for_ever() {
        let mut window = Window::new();
        run(&mut window, 0, 2, |_, _| (10 * MS, Signal::Success));
        run(&mut window, 2_000 * MS, 30, |_, _| (300 * MS, Signal::Success));
        assert_eq!(window.size(), 1_024);
    }

    #[test]
    fn one_that_was_down_is_back_at_its_window_within_a_few_rounds() {
        let mut window = Window::new();
        let up = |_, in_flight| {
            if in_flight <= 100 { (50 * MS, Signal::Success) } else { (MS, Signal::Overload) }
        };
        run(&mut window, 0, 3, up);
        run(&mut window, 3_000 * MS, 3, |_, _| (20 * MS, Signal::Overload));
        assert_eq!(window.size(), 1);
        run(&mut window, 6_100 * MS, 1, up);
        assert!(window.size() >= 50, "{}", window.size());
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow_and_a_hanging_one_falls_to_the_start() {
        let mut window = Window::new();
        let at = Duration::from_secs(1);
        let seen =
            Seen { at, took: Duration::from_millis(5), signal: Signal::Success, in_flight: 3, max: 100 };
        (0..100).for_each(|_| window.observe(seen));
        assert_eq!(window.size(), 8);
        (0..100).for_each(|_| window.observe(Seen { in_flight: 100, ..seen }));
        assert_eq!(window.size(), 100);
        window.hang();
        assert_eq!(window.size(), 8);
        window.observe(Seen { signal: Signal::Other, ..seen });
        assert_eq!(window.size(), 8);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_is_halved_once_per_round(
            steps in proptest::collection::vec((0_u64..50, 0_u64..2_000, 0_u8..3, 0_u32..600), 1..500),
        ) {
            let mut window = Window::new();
            let (mut at, mut halved_at) = (0, 0);
            for (pause, took, kind, in_flight) in steps {
                at += pause;
                let before = window.size;
                let signal = [Signal::Success, Signal::Other, Signal::Overload][usize::from(kind)];
                window.observe(Seen {
                    at: Duration::from_millis(at), took: Duration::from_millis(took), signal, in_flight, max: 512,
                });
                prop_assert!((1.0..=512.0).contains(&window.size));
                prop_assert!(window.size >= before / 2.0 - 0.001);
                if window.size < before {
                    prop_assert!(at.saturating_sub(took) >= halved_at);
                    halved_at = at;
                }
            }
        }
    }
}
