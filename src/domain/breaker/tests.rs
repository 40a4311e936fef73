//! The state table row by row, and what must hold over any sequence of outcomes.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    failures: 4,
    delay: Duration::from_secs(5),
    delay_max: Duration::from_secs(300),
    probe_lease: Duration::from_secs(40),
};

fn tally(signs: &[Sign]) -> Tally {
    let mut tally = Tally::default();
    signs.iter().for_each(|sign| tally.add(*sign, || "HTTP 503".into(), None));
    tally
}

fn report(health: &Health, signs: &[Sign], now: u64) -> Health {
    health.after(Input::Report(&tally(signs)), UnixMillis(now), &POLICY, 0.0)
}

fn take(health: &Health, holder: &str, now: u64) -> Health {
    health.after(Input::TakeProbe { holder }, UnixMillis(now), &POLICY, 0.0)
}

fn end(health: &Health, holder: &str, sign: Sign, now: u64) -> Health {
    let tally = tally(&[sign]);
    health.after(Input::ProbeEnded { holder, sign, tally: &tally }, UnixMillis(now), &POLICY, 0.0)
}

use Sign::{Failure, Refusal, Success};

fn open() -> Health {
    report(&Health::default(), &[Failure; 4], 1_000)
}

#[test]
fn closed_opens_at_the_threshold_over_reports_and_not_across_a_success() {
    let three = report(&Health::default(), &[Failure; 3], 1_000);
    assert_eq!(
        (three.state, three.streak, three.failing_since),
        (BreakerState::Closed, 3, Some(UnixMillis(1_000)))
    );
    assert_eq!(report(&three, &[Success, Failure], 2_000).state, BreakerState::Closed);
    assert_eq!(report(&three, &[Refusal; 9], 2_000).state, BreakerState::Closed);
    let opened = report(&three, &[Failure], 2_000);
    assert_eq!((opened.state, opened.until, opened.openings), (BreakerState::Open, UnixMillis(7_000), 1));
    assert_eq!((opened.failures, opened.reason.as_str()), (4, "HTTP 503"));
    let never = Policy { failures: 0, ..POLICY };
    let health = Health::default().after(Input::Report(&tally(&[Failure; 99])), UnixMillis(1), &never, 0.0);
    assert_eq!(health.state, BreakerState::Closed);
    assert!(report(&three, &[Success], 2_000).is_unremarkable());
}

#[test]
fn open_gives_one_probe_when_its_time_is_past() {
    let open = open();
    assert_eq!(take(&open, "a", 5_999), open);
    assert_eq!(report(&open, &[Failure; 20], 2_000).until, open.until);
    assert_eq!(report(&open, &[Success; 20], 2_000).state, BreakerState::Open);
    let half = take(&open, "a", 6_000);
    assert!(half.is_held_by("a") && half.until == UnixMillis(46_000));
    assert_eq!(take(&half, "b", 45_999), half);
    assert_eq!(take(&half, "a", 45_999), half, "a probe's name is used once");
    let again = take(&half, "b", 46_000);
    assert!(again.is_held_by("b"));
    // The first holder's late end is counted and changes no state.
    assert!(end(&again, "a", Failure, 46_001).is_held_by("b"));
    let unused = again.after(Input::ProbeUnused { holder: "b" }, UnixMillis(47_000), &POLICY, 0.0);
    assert_eq!((unused.state, unused.until, unused.openings), (BreakerState::Open, UnixMillis(47_000), 1));
}

#[test]
fn a_probe_closes_by_way_of_the_ramp_or_reopens_for_twice_as_long() {
    let half = take(&open(), "a", 6_000);
    let reopened = end(&half, "a", Failure, 7_000);
    assert_eq!((reopened.state, reopened.until), (BreakerState::Open, UnixMillis(17_000)));
    let ramping = end(&take(&reopened, "b", 17_000), "b", Success, 18_000);
    assert_eq!((ramping.state, ramping.failing_since, ramping.ramped), (BreakerState::Ramping, None, 1));
    let again = report(&ramping, &[Failure; 3], 19_000);
    assert_eq!((again.state, again.until), (BreakerState::Open, UnixMillis(39_000)));
    assert_eq!(report(&ramping, &[Failure; 2], 19_000).state, BreakerState::Ramping);
    let closed = report(&report(&ramping, &[Success; 4], 19_000), &[Success; 5], 20_000);
    assert_eq!((closed.state, closed.openings), (BreakerState::Closed, 0));
    assert!(closed.is_unremarkable());
    let refused = end(&half, "a", Refusal, 7_000);
    assert_eq!((refused.state, refused.failing_since), (BreakerState::Ramping, half.failing_since));
}

#[test]
fn delays_double_up_to_the_cap_and_never_undercut_retry_after() {
    let mut health = open();
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        let half = take(&health, "a", health.until.0);
        health = end(&half, "a", Failure, half.since.0);
        assert_eq!(health.until.since(health.since).as_secs(), seconds);
    }
    let mut asked = tally(&[Failure; 4]);
    asked.asked = Some(Duration::from_secs(900));
    let health = Health::default().after(Input::Report(&asked), UnixMillis(0), &POLICY, 0.0);
    assert_eq!(health.until, UnixMillis(900_000));
    let jittered = Health::default().after(Input::Report(&tally(&[Failure; 4])), UnixMillis(0), &POLICY, 1.0);
    assert_eq!(jittered.until, UnixMillis(6_000));
}

#[test]
fn the_stored_form_round_trips_and_missing_fields_are_the_defaults() {
    let half = take(&open(), "a", 6_000);
    let text = serde_json::to_string(&half).unwrap();
    assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), half);
    assert_eq!(serde_json::from_str::<Health>("{}").unwrap(), Health::default());
}

#[test]
fn tallies_gathered_one_after_the_other_are_one() {
    let signs = [Failure, Success, Refusal, Failure, Success, Success, Failure];
    for split in 0..signs.len() {
        let mut first = tally(&signs[..split]);
        first.then(tally(&signs[split..]));
        assert_eq!(first, tally(&signs), "{split}");
    }
}

#[derive(Clone, Debug)]
enum Move {
    Outcomes(Vec<Sign>, Option<u64>),
    Take(u8),
    End(u8, Sign),
    Unused(u8),
    Wait(u64),
    Written,
}

fn sign() -> impl Strategy<Value = Sign> {
    prop_oneof![4 => Just(Failure), 1 => Just(Refusal), 2 => Just(Success)]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (prop::collection::vec(sign(), 1..8), prop::option::of(1_u64..1_000)).prop_map(|(s, a)| Move::Outcomes(s, a)),
        3 => (0_u8..3).prop_map(Move::Take),
        3 => (0_u8..3, sign()).prop_map(|(who, sign)| Move::End(who, sign)),
        1 => (0_u8..3).prop_map(Move::Unused),
        4 => (1_u64..400_000).prop_map(Move::Wait),
        1 => Just(Move::Written),
    ];
    prop::collection::vec(one, 1..120)
}

proptest! {
    /// Three replicas, any order of outcomes and probes: two probes never hold at a time, an open breaker gives
    /// none before its time, a delay is never below what was asked, and health comes back by success alone.
    #[test]
    fn nothing_that_happens_breaks_the_table(moves in moves(), random in 0.0..1.0_f64) {
        let (mut health, mut now) = (Health::default(), 1_000_000_u64);
        // The name and the lease's end of each replica's probe, as the replica itself knows it.
        let mut probes: [Option<(String, u64)>; 3] = [None, None, None];
        let mut number = 0;
        for one in moves {
            let before = health.clone();
            let mut asked = None;
            match one {
                Move::Wait(ms) => now += ms,
                Move::Written => health = Health::default(),
                Move::Outcomes(signs, after) => {
                    let mut tally = tally(&signs);
                    asked = after.map(Duration::from_secs).filter(|_| tally.failures > 0);
                    tally.asked = asked;
                    health = health.after(Input::Report(&tally), UnixMillis(now), &POLICY, random);
                    prop_assert!(!before.state.is_shut() || (health.state, health.until) == (before.state, before.until));
                }
                Move::Take(who) => {
                    number += 1;
                    let holder = format!("{who}.{number}");
                    health = health.after(Input::TakeProbe { holder: &holder }, UnixMillis(now), &POLICY, random);
                    if health.is_held_by(&holder) {
                        prop_assert!(before.state.is_shut() && now >= before.until.0);
                        let live = probes.iter().flatten().filter(|(name, until)| *until > now && before.is_held_by(name));
                        prop_assert_eq!(live.count(), 0, "a second probe");
                        probes[usize::from(who)] = Some((holder, health.until.0));
                    } else {
                        prop_assert_eq!(&health, &before);
                    }
                }
                Move::End(who, sign) => if let Some((holder, _)) = probes[usize::from(who)].take() {
                    let own = before.is_held_by(&holder);
                    let tally = tally(&[sign]);
                    health = health.after(Input::ProbeEnded { holder: &holder, sign, tally: &tally }, UnixMillis(now), &POLICY, random);
                    if own {
                        let next = if sign == Failure { BreakerState::Open } else { BreakerState::Ramping };
                        prop_assert_eq!(health.state, next);
                    } else if before.state.is_shut() {
                        prop_assert_eq!(health.state, before.state);
                    }
                },
                Move::Unused(who) => if let Some((holder, _)) = probes[usize::from(who)].take() {
                    health = health.after(Input::ProbeUnused { holder: &holder }, UnixMillis(now), &POLICY, random);
                },
            }
            if health.state == BreakerState::Open && health.openings > before.openings {
                let delay = health.until.since(health.since);
                prop_assert!(delay >= POLICY.delay && delay >= asked.unwrap_or_default());
                prop_assert!(delay <= POLICY.delay_max.mul_f64(1.2).max(asked.unwrap_or_default()));
            }
            if health.failing_since.is_some() {
                prop_assert!(health.failures > 0 && health.failing_since <= health.last_failure_at);
            }
        }
        // Whatever happened: a probe that succeeds and ten successes close it.
        now = now.max(health.until.0);
        if health.state.is_shut() {
            health = end(&take(&health, "last", now), "last", Success, now);
        }
        health = report(&health, &[Success; 10], now);
        prop_assert!(health.is_unremarkable());
    }
}
