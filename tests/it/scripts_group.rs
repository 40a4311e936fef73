//! The scripts of the consumer group: leases, taking over, leaving, the group itself and its floor.

use postrider::redis::events::{self, Floor, ensure_group, raise_floor};
use postrider::redis::leases::{LeaseEnd, Reclaimed, Renewal, count, leave, observe, reclaim, renew};
use redis::Commands;

use crate::script_world::{Walk, lines, seconds};

const NOTHING: [&str; 0] = [];

async fn take(walk: &Walk, held: Option<LeaseEnd>) -> Renewal {
    renew(&walk.link, &walk.keys, "a.0", seconds(300), held).await.unwrap()
}

#[tokio::test]
async fn a_lease_is_taken_once_and_renewed_by_its_holder() {
    let mut walk = Walk::new().await;
    let now = walk.now();
    let first = take(&walk, None).await;
    assert!((now..now + 30_000).contains(&i64::try_from(first.now.0).unwrap()));
    let end = first.end.expect("nobody holds it");
    assert_eq!(end.0, i64::try_from(first.now.0).unwrap() + 300_000);
    assert_eq!(walk.state(), ["replicas a.0@~300s"]);
    // The name is in use.
    assert_eq!(take(&walk, None).await.end, None);
    assert_eq!(
        (walk.state(), count(&walk.link, &walk.keys).await.unwrap()),
        (vec!["replicas a.0@~300s".into()], 1)
    );
    // Renewed; and renewed with the score before, as after an answer that was lost.
    assert!(take(&walk, Some(end)).await.end.is_some_and(|next| next.0 >= end.0));
    assert!(take(&walk, Some(end)).await.end.is_some_and(|next| next.0 >= end.0));
    // One that is past, because Redis was away, comes back; not so once a takeover has begun.
    let _: u64 = walk.raw.zadd(walk.keys.replicas(), "a.0", 1_000).unwrap();
    assert!(take(&walk, Some(LeaseEnd(1_000))).await.end.is_some());
    assert_eq!(walk.state(), ["replicas a.0@~300s"]);
    let _: u64 = walk.raw.zadd(walk.keys.replicas(), "a.0", 0).unwrap();
    assert_eq!(take(&walk, Some(end)).await.end, None);
    assert_eq!(walk.state(), ["replicas a.0@0"]);
    let _: u64 = walk.raw.zrem(walk.keys.replicas(), "a.0").unwrap();
    assert_eq!(take(&walk, Some(end)).await.end, None, "the takeover is over");
    assert_eq!(walk.state(), NOTHING);
}

/// `dead.0` has read 7-0 and 8-0; its lease ends at `score`.
async fn two_read(walk: &mut Walk, score: Option<i64>) {
    for ms in [7, 8] {
        walk.read_event(ms, "dead.0").await;
    }
    if let Some(score) = score {
        let _: u64 = walk.raw.zadd(walk.keys.replicas(), "dead.0", score).unwrap();
    }
}

#[tokio::test]
async fn only_a_consumer_that_was_seen_dead_for_a_lease_is_taken_over() {
    let far = i64::from(u32::MAX) * 1_000;
    for (what, score, observed, dead) in [
        ("past and unchanged", Some(1_000), Some(1_000), true),
        ("no member, and none was seen", None, None, true),
        ("the member is gone meanwhile", None, Some(1_000), true),
        ("another has begun", Some(0), Some(1_000), true),
        ("renewed since", Some(1_001), Some(1_000), false),
        ("not past yet", Some(far), Some(far), false),
        ("a member came since", Some(1_000), None, false),
    ] {
        let mut walk = Walk::new().await;
        two_read(&mut walk, score).await;
        let before = walk.state();
        let observed = observed.map(LeaseEnd);
        let answers = if dead {
            [Reclaimed::Moved(2), Reclaimed::Gone, Reclaimed::Gone]
        } else {
            [Reclaimed::Alive; 3]
        };
        for (n, answer) in answers.into_iter().enumerate() {
            let found = reclaim(&walk.link, &walk.keys, "dead.0", observed, Some("live.0")).await.unwrap();
            assert_eq!(found, answer, "{what} {n}");
            let moved = "events 7-0 8-0 group dead.0[] live.0[7-0x2,8-0x2]".to_owned();
            let gone = "events 7-0 8-0 group live.0[7-0x2,8-0x2]".to_owned();
            let expected = match (dead, n) {
                (false, _) => before.clone(),
                (true, 0) => {
                    std::iter::once(moved).chain(score.map(|_| "replicas dead.0@0".to_owned())).collect()
                }
                (true, _) => vec![gone],
            };
            assert_eq!(walk.state(), expected, "{what} {n}");
        }
    }
}

#[tokio::test]
async fn a_take_over_moves_64_at_a_time_and_drops_what_the_stream_lost() {
    let mut walk = Walk::new().await;
    for ms in 1..=70 {
        walk.read_event(ms, "dead.0").await;
    }
    let _: u64 = walk.raw.xdel(walk.keys.events(), &["1-0"]).unwrap();
    for answer in [Reclaimed::Moved(64), Reclaimed::Moved(6), Reclaimed::Gone] {
        assert_eq!(reclaim(&walk.link, &walk.keys, "dead.0", None, Some("live.0")).await.unwrap(), answer);
    }
    let own = events::own_pending(&walk.link, &walk.keys, "live.0", None, 100).await.unwrap();
    assert_eq!(own.len(), 69);
    assert!(own.iter().all(|entry| entry.deliveries == 2));
}

#[tokio::test]
async fn a_consumer_leaves_only_when_it_owns_nothing() {
    let mut walk = Walk::new().await;
    two_read(&mut walk, Some(1_000)).await;
    let before = ["events 7-0 8-0 group dead.0[7-0x1,8-0x1]", "replicas dead.0@1000"];
    for _ in 0..2 {
        assert!(!leave(&walk.link, &walk.keys, "dead.0").await.unwrap());
        assert_eq!(walk.state(), before);
    }
    let observed = observe(&walk.link, &walk.keys).await.unwrap();
    assert_eq!(observed, [("dead.0".to_owned(), Some(LeaseEnd(1_000)))]);
    for entry in events::own_pending(&walk.link, &walk.keys, "dead.0", None, 10).await.unwrap() {
        events::acknowledge(&walk.link, &walk.keys, entry.id).await.unwrap();
    }
    for _ in 0..2 {
        assert!(leave(&walk.link, &walk.keys, "dead.0").await.unwrap());
        assert_eq!(walk.state(), ["events 7-0 8-0 group"]);
    }
    // Without a stream there is nothing that it could own.
    let _: u64 = walk.raw.del(walk.keys.events()).unwrap();
    let _: u64 = walk.raw.zadd(walk.keys.replicas(), "dead.0", 1_000).unwrap();
    assert!(leave(&walk.link, &walk.keys, "dead.0").await.unwrap());
    assert_eq!(walk.state(), NOTHING);
    let reclaimed = reclaim(&walk.link, &walk.keys, "dead.0", None, Some("live.0")).await;
    assert_eq!(reclaimed.unwrap_err().code(), Some("NOGROUP"));
    assert_eq!(observe(&walk.link, &walk.keys).await.unwrap_err().code(), Some("ERR"), "no such key");
}

#[tokio::test]
async fn a_consumer_without_a_lease_is_observed_too() {
    let mut walk = Walk::new().await;
    two_read(&mut walk, None).await;
    let _: u64 = walk.raw.zadd(walk.keys.replicas(), "other.0", 2_000).unwrap();
    let observed = observe(&walk.link, &walk.keys).await.unwrap();
    assert_eq!(observed, [("other.0".to_owned(), Some(LeaseEnd(2_000))), ("dead.0".to_owned(), None)]);
}

#[tokio::test]
async fn the_group_begins_at_the_floor_and_never_at_the_end() {
    for (floor, read) in [(None, vec![7, 8, 9]), (Some("7-0"), vec![8, 9]), (Some("9-0"), vec![])] {
        let mut walk = Walk::new().await;
        for ms in [7, 8, 9] {
            let _: String = walk.raw.xadd(walk.keys.events(), format!("{ms}-0"), &[("a", "b")]).unwrap();
        }
        if let Some(floor) = floor {
            let _: () = walk.raw.set(walk.keys.floor(), floor).unwrap();
        }
        let rest: Vec<String> = floor.map(|floor| format!("floor {floor}")).into_iter().collect();
        let state = |events: &str| [vec![format!("events 7-0 8-0 9-0 {events}")], rest.clone()].concat();
        assert_eq!(walk.state(), state("no group"));
        for made in [true, false] {
            assert_eq!(ensure_group(&walk.link, &walk.keys).await.unwrap(), made);
            assert_eq!(walk.state(), state("group"));
        }
        let found = events::read(&walk.link, &walk.keys, "a.0", 10, None).await.unwrap();
        assert_eq!(found.iter().map(|entry| entry.id.ms).collect::<Vec<_>>(), read);
    }
    let mut walk = Walk::new().await;
    assert!(ensure_group(&walk.link, &walk.keys).await.unwrap());
    assert_eq!(walk.state(), ["events group"], "the stream is made with its group");
    let mut walk = Walk::new().await;
    let _: () = walk.raw.set(walk.keys.floor(), "no id").unwrap();
    assert!(ensure_group(&walk.link, &walk.keys).await.is_err());
    assert_eq!(walk.state(), ["floor no id"]);
}

#[tokio::test]
async fn there_is_no_floor_without_a_group() {
    let mut walk = Walk::new().await;
    let none = Floor { floor: None, pending: 0 };
    assert_eq!(raise_floor(&walk.link, &walk.keys).await.unwrap(), none);
    assert_eq!(walk.state(), NOTHING);
    let _: String = walk.raw.xadd(walk.keys.events(), "7-0", &[("a", "b")]).unwrap();
    assert_eq!(raise_floor(&walk.link, &walk.keys).await.unwrap(), none);
    let _: () = walk.raw.set(walk.keys.floor(), "3-0").unwrap();
    let kept = Floor { floor: Some("3-0".into()), pending: 0 };
    assert_eq!(raise_floor(&walk.link, &walk.keys).await.unwrap(), kept);
    assert_eq!(walk.state(), ["events 7-0 no group", "floor 3-0"]);
    ensure_group(&walk.link, &walk.keys).await.unwrap();
    assert_eq!(raise_floor(&walk.link, &walk.keys).await.unwrap(), kept, "nothing was read");
}

#[tokio::test]
async fn the_floor_lies_just_before_the_smallest_pending_entry() {
    const LAST: &str = "18446744073709551615";
    for (pending, floor) in [
        ("7-5", "7-4"),
        ("7-1", "7-0"),
        ("7-10", "7-9"),
        ("7-10000000000", "7-9999999999"),
        ("7-4294967296", "7-4294967295"),
        ("7-9007199254740992", "7-9007199254740991"),
        ("7-9007199254740993", "7-9007199254740992"),
        ("7-18446744073709551615", "7-18446744073709551614"),
        ("7-18446744073709550000", "7-18446744073709549999"),
        ("7-0", &format!("6-{LAST}")),
        ("1-0", &format!("0-{LAST}")),
        ("1000-0", &format!("999-{LAST}")),
        ("9007199254740993-0", &format!("9007199254740992-{LAST}")),
        ("18446744073709551615-0", &format!("18446744073709551614-{LAST}")),
    ] {
        let mut walk = Walk::new().await;
        ensure_group(&walk.link, &walk.keys).await.unwrap();
        let events = walk.keys.events();
        let _: String = walk.raw.xadd(&events, pending, &[("a", "b")]).unwrap();
        let read = events::read(&walk.link, &walk.keys, "a.0", 1, None).await.unwrap();
        let expected =
            lines(&[&format!("events {pending} group a.0[{pending}x1]"), &format!("floor {floor}")]);
        for _ in 0..2 {
            let found = raise_floor(&walk.link, &walk.keys).await.unwrap();
            assert_eq!(found, Floor { floor: Some(floor.to_owned()), pending: 1 }, "{pending}");
            assert_eq!(walk.state(), expected);
        }
        // Even an exact trim behind the floor leaves what is pending.
        let trim = redis::cmd("XTRIM").arg(&events).arg("MINID").arg(floor).query::<u64>(&mut walk.raw);
        assert_eq!(trim.unwrap(), 0, "{pending}");
        events::acknowledge(&walk.link, &walk.keys, read[0].id).await.unwrap();
        let found = raise_floor(&walk.link, &walk.keys).await.unwrap();
        assert_eq!(found, Floor { floor: Some(pending.to_owned()), pending: 0 });
    }
}

#[tokio::test]
async fn the_floor_follows_a_group_that_was_set_back() {
    let mut walk = Walk::new().await;
    // An id far ahead of time was delivered; then doctor's remedy.
    let event = walk.read_event(9_000_000_000_000, "a.0").await;
    events::acknowledge(&walk.link, &walk.keys, event.stream_id()).await.unwrap();
    let ahead = raise_floor(&walk.link, &walk.keys).await.unwrap().floor;
    assert_eq!(ahead.as_deref(), Some("9000000000000-0"));
    let events = walk.keys.events();
    redis::cmd("XTRIM").arg(&events).arg("MAXLEN").arg(0).exec(&mut walk.raw).unwrap();
    redis::cmd("XSETID").arg(&events).arg("5000-0").exec(&mut walk.raw).unwrap();
    redis::cmd("XGROUP")
        .arg("SETID")
        .arg(&events)
        .arg("dispatchers")
        .arg("5000-0")
        .exec(&mut walk.raw)
        .unwrap();
    for ms in [6_000, 6_001] {
        let _: String = walk.raw.xadd(&events, format!("{ms}-0"), &[("a", "b")]).unwrap();
    }
    let floor = raise_floor(&walk.link, &walk.keys).await.unwrap().floor.unwrap();
    assert_eq!(floor, "5000-0");
    assert_eq!(events::trim(&walk.link, &walk.keys, &floor).await.unwrap(), 0);
    assert_eq!(events::read(&walk.link, &walk.keys, "a.0", 10, None).await.unwrap().len(), 2);
    let floor = raise_floor(&walk.link, &walk.keys).await.unwrap();
    assert_eq!(floor, Floor { floor: Some("5999-18446744073709551615".into()), pending: 2 });
}

#[tokio::test]
async fn who_cannot_take_entries_removes_only_consumers_without_any() {
    let mut walk = Walk::new().await;
    two_read(&mut walk, Some(1_000)).await;
    let before = walk.state();
    let observed = Some(LeaseEnd(1_000));
    let reclaimed = reclaim(&walk.link, &walk.keys, "dead.0", observed, None).await.unwrap();
    assert_eq!((reclaimed, walk.state()), (Reclaimed::Alive, before), "its lease is not closed either");
    for ms in [7, 8] {
        let id = postrider::domain::ids::StreamId { ms, seq: 0 };
        events::acknowledge(&walk.link, &walk.keys, id).await.unwrap();
    }
    let reclaimed = reclaim(&walk.link, &walk.keys, "dead.0", observed, None).await.unwrap();
    assert_eq!((reclaimed, walk.state()), (Reclaimed::Gone, lines(&["events 7-0 8-0 group"])));
}
