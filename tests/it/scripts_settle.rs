//! The settle script: who may decide, what each fate leaves, and what a second application does.

use std::rc::Rc;

use postrider::domain::delivery::{FailReason, Standing};
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId};
use postrider::domain::log::{LogRow, PackedPage, PageBuilder, PageKey, Status};
use postrider::redis::deliveries::{Claim, bodies, have_records, queued, records, unpack};
use postrider::redis::events;
use postrider::redis::fates::{Applied, Fate, Proof, Step};
use redis::Commands;

use crate::script_world::{
    CLAIM, CONSUMER, LARGE, SMALL, Walk, config, fail, hand_off, lines, queue, record, weight,
};

/// Where the delivery stands, and what its settler believes to prove.
#[derive(Clone, Copy, Debug)]
enum Given {
    /// Its event is pending for the settler.
    Read,
    /// Its event is pending for another consumer.
    TakenOver,
    /// Its event was acknowledged.
    Acknowledged,
    /// The group is gone.
    NoGroup,
    /// Its event is pending for the settler, and an earlier owner had queued it.
    Known,
    /// Its event is pending for the settler, and its key holds another config's record.
    Foreign,
    /// Its event is pending for the settler, and its config's queue is full by count or by bytes.
    FullByCount,
    FullByBytes,
    /// It is claimed by the settler; and that while the queue's cap is passed.
    Claimed,
    ClaimedFull,
    /// It was claimed by the settler, and meanwhile by another.
    ClaimLost,
    /// It is claimed by the settler, but its record is gone, or is another config's.
    ClaimedEmpty,
    ClaimedForeign,
}

/// What the other config of the same event holds, which no step of the first one may touch.
const NEIGHBOUR: [&str; 3] =
    ["failed:c2 d2.7@~0s", "delivery:d2.7 c2 refused next=0 inline=10", "size:c2 failedBytes={small}"];

const EVENTS: &str = "events 7-0 group reader.0[7-0x1]";
const QUEUED: [&str; 4] = [
    "queue:c1 d1.7@~100s",
    "due c1@~300s",
    "delivery:d1.7 c1 waiting next=~100s inline=10",
    "size:c1 queueBytes={small}",
];
const HANDED_OFF: [&str; 4] = [
    "queue:c1 d1.7@~200s",
    "due c1@~200s",
    "delivery:d1.7 c1 waiting next=~0s inline=10",
    "size:c1 queueBytes={small}",
];
const FAILED: [&str; 3] =
    ["failed:c1 d1.7@~0s", "delivery:d1.7 c1 refused next=0 inline=10", "size:c1 failedBytes={small}"];

/// What a delivery that is finished under a claim leaves while its event is pending.
const MARK: [&str; 1] = ["delivery:d1.7 c1 mark ttl"];

fn word(applied: Applied) -> &'static str {
    match applied {
        Applied::Now(_) => "now",
        Applied::Before(_) => "before",
        Applied::QueueFull => "full",
        Applied::Lost => "lost",
    }
}

fn step(action: char, first: bool) -> Step {
    match action {
        'q' => queue(config(1), SMALL, first),
        'h' => hand_off(config(1), SMALL),
        'f' => fail(config(1), SMALL, first),
        _ => Step::Finish,
    }
}

/// The state before, and the settler's proof.
async fn given(walk: &mut Walk, given: Given) -> (EventId, Proof) {
    let one = config(1);
    let other_reader = matches!(given, Given::TakenOver);
    let event = walk.read_event(7, if other_reader { "other.0" } else { CONSUMER }).await;
    let neighbour = Fate {
        id: event.delivery(ConfigSequence(2)),
        proof: Proof::Pending {
            event: event.stream_id(),
            consumer: Rc::from(if other_reader { "other.0" } else { CONSUMER }),
        },
        step: fail(config(2), SMALL, true),
    };
    walk.settle_all(config(2), &[neighbour], None).await;
    let foreign = ConfigId::new([9; 8], ConfigSequence(1));
    walk.name(foreign, "c9");
    let key = walk.keys.delivery(event.delivery(ConfigSequence(1)));
    let mut proof = Walk::pending(event);
    match given {
        Given::Read | Given::TakenOver => {}
        Given::Acknowledged => events::acknowledge(&walk.link, &walk.keys, event.stream_id()).await.unwrap(),
        Given::NoGroup => {
            let command =
                redis::cmd("XGROUP").arg("DESTROY").arg(walk.keys.events()).arg("dispatchers").to_owned();
            command.exec(&mut walk.raw).unwrap();
        }
        Given::Known => {
            let step = queue(one, SMALL, true);
            assert_eq!(word(walk.settle(one, event, Walk::pending(event), step).await), "now");
        }
        Given::Foreign => {
            let _: () = walk.raw.set(&key, record(foreign, SMALL, Standing::Waiting)).unwrap();
        }
        Given::FullByCount => walk.retention.queue_max = 0,
        Given::FullByBytes => walk.retention.queue_bytes_max = weight(SMALL) as u64 - 1,
        Given::Claimed | Given::ClaimedFull | Given::ClaimLost => {
            proof = Proof::Claimed(walk.claimed(one, event, SMALL).await);
            if matches!(given, Given::ClaimLost) {
                walk.make_due(one, event.delivery(ConfigSequence(1)));
                assert_eq!(walk.claim(one, CLAIM).await.ids.len(), 1);
                let stale = Claim(1_000);
                proof = Proof::Claimed(stale);
            }
            if matches!(given, Given::ClaimedFull) {
                (walk.retention.queue_max, walk.retention.queue_bytes_max) = (0, 0);
            }
        }
        Given::ClaimedEmpty | Given::ClaimedForeign => {
            proof = Proof::Claimed(walk.claimed(one, event, SMALL).await);
            let _: () = walk.raw.del(&key).unwrap();
            let _: () = walk.raw.hdel(walk.keys.size(one), "queueBytes").unwrap();
            if matches!(given, Given::ClaimedForeign) {
                let _: () = walk.raw.set(&key, record(foreign, SMALL, Standing::Waiting)).unwrap();
            }
        }
    }
    (event, proof)
}

/// Applies `action` twice, and gives both answers; `after` is the state after each, and before when it is `None`.
async fn check(case: Given, action: char, answers: [&str; 2], after: Option<&[&str]>) {
    let mut walk = Walk::new().await;
    let (event, proof) = given(&mut walk, case).await;
    let first = matches!(proof, Proof::Pending { .. });
    let before = walk.state();
    let expected = after.map_or_else(|| before.clone(), |after| lines(&[&NEIGHBOUR, after].concat()));
    for answer in answers {
        let applied = walk.settle(config(1), event, proof.clone(), step(action, first)).await;
        assert_eq!(word(applied), answer, "{case:?} {action}");
        assert_eq!(walk.state(), expected, "{case:?} {action} from {before:#?}");
    }
}

#[tokio::test]
async fn the_reader_of_an_event_decides_once() {
    for (action, answers, after) in [
        ('q', ["now", "before"], &QUEUED[..]),
        ('h', ["now", "before"], &HANDED_OFF),
        ('f', ["now", "before"], &FAILED),
        ('d', ["now", "now"], &[]),
    ] {
        check(Given::Read, action, answers, Some(&[&[EVENTS], after].concat())).await;
    }
}

#[tokio::test]
async fn the_holder_of_a_claim_decides_once() {
    for given in [Given::Claimed, Given::ClaimedFull] {
        for (action, after) in [('q', &QUEUED[..]), ('h', &HANDED_OFF), ('f', &FAILED), ('d', &MARK)] {
            check(given, action, ["now", "lost"], Some(&[&[EVENTS], after].concat())).await;
        }
    }
}

#[tokio::test]
async fn a_claim_without_a_record_is_settled_too() {
    for (action, after) in [('q', &QUEUED[..]), ('h', &HANDED_OFF), ('f', &FAILED), ('d', &MARK)] {
        check(Given::ClaimedEmpty, action, ["now", "lost"], Some(&[&[EVENTS], after].concat())).await;
    }
}

#[tokio::test]
async fn whoever_is_not_the_owner_changes_nothing() {
    use Given::{Acknowledged, ClaimLost, ClaimedForeign, Foreign, NoGroup, TakenOver};
    for given in [TakenOver, Acknowledged, NoGroup, Foreign, ClaimLost, ClaimedForeign] {
        for action in ['q', 'h', 'f', 'd'] {
            check(given, action, ["lost", "lost"], None).await;
        }
    }
}

#[tokio::test]
async fn a_fate_that_is_durable_is_not_given_again() {
    for action in ['q', 'h', 'f', 'd'] {
        check(Given::Known, action, ["before", "before"], None).await;
    }
}

#[tokio::test]
async fn a_full_queue_takes_nothing_and_lets_the_rest_through() {
    for given in [Given::FullByCount, Given::FullByBytes] {
        for action in ['q', 'h'] {
            check(given, action, ["full", "full"], None).await;
        }
        check(given, 'f', ["now", "before"], Some(&[&[EVENTS], &FAILED[..]].concat())).await;
    }
}

fn page(event: EventId, payload: Option<&[u8]>) -> PackedPage {
    let mut builder = PageBuilder::new(PageKey([3; 8]));
    let row = LogRow {
        delivery: event.delivery(ConfigSequence(1)),
        event_type: "reward.earned".into(),
        url: "https://hooks.example.org/".into(),
        status: Status::Failed,
        attempt: 1,
        at: postrider::domain::clock::UnixMillis(9),
        created_at: postrider::domain::clock::UnixMillis(7),
        next_attempt_at: None,
        response_status: Some(404),
        excerpt: bytes::Bytes::new(),
        error: None,
        reason: Some(FailReason::Refused),
        took_ms: 3,
        history: Vec::new(),
        trace: None,
    };
    builder.push(&row, payload);
    builder.finish().unwrap()
}

#[tokio::test]
async fn the_log_page_is_written_whoever_owns_the_delivery() {
    let mut walk = Walk::new().await;
    let event = walk.read_event(7, CONSUMER).await;
    let fate =
        |proof| Fate { id: event.delivery(ConfigSequence(1)), proof, step: fail(config(1), SMALL, true) };
    let page = page(event, Some(b"{}"));
    let settled = walk.settle_all(config(1), &[fate(Proof::Claimed(Claim(5)))], Some(&page)).await;
    assert_eq!((settled.applied, settled.failed_count, settled.failed_bytes), (vec![Applied::Lost], 0, 0));
    assert_eq!(walk.state(), lines(&[EVENTS, "log:c1 rows=1", "bodies:c1 payloads=1"]));
    let settled = walk.settle_all(config(1), &[fate(Walk::pending(event))], Some(&page)).await;
    assert_eq!((settled.failed_count, settled.failed_bytes), (1, weight(SMALL) as u64));
    let logged = [EVENTS, "log:c1 rows=1 rows=1", "bodies:c1 payloads=1 payloads=1"];
    assert_eq!(walk.state(), lines(&[&logged[..], &FAILED].concat()));
}

/// The lines of one delivery whose body lies apart.
const LARGE_BODY: &str = "body:7-0 owners=1 bytes=5000";

#[tokio::test]
async fn a_body_apart_stays_as_long_as_a_delivery_needs_it() {
    let mut walk = Walk::new().await;
    let (one, two) = (config(1), config(2));
    let event = walk.read_event(7, CONSUMER).await;
    assert_eq!(
        walk.settle(two, event, Walk::pending(event), fail(two, LARGE, true)).await,
        Applied::Now(Claim(walk.failed_at(two, event)))
    );
    let failed =
        ["failed:c2 d2.7@~0s", "delivery:d2.7 c2 refused next=0 apart=5000", "size:c2 failedBytes={large}"];
    assert_eq!(walk.state(), lines(&[&[EVENTS, LARGE_BODY][..], &failed].concat()));

    // The second delivery shares it; a second application counts nobody twice.
    let claim = walk.claimed(one, event, LARGE).await;
    let again = walk.settle(one, event, Walk::pending(event), queue(one, LARGE, true)).await;
    assert_eq!(again, Applied::Before(claim), "with the score that an answer was lost of");
    let shared = [
        EVENTS,
        "body:7-0 owners=2 bytes=5000",
        "queue:c1 d1.7@~1000s",
        "due c1@~1000s",
        "delivery:d1.7 c1 waiting next=~100s apart=5000",
        "size:c1 queueBytes={large}",
    ];
    assert_eq!(walk.state(), lines(&[&shared[..], &failed].concat()));
    let found = bodies(&walk.link, &walk.keys, &[event.stream_id()]).await.unwrap();
    assert_eq!(found[0].as_deref(), Some(&[b'x'; LARGE][..]));

    // Queued again and failed again it keeps its share.
    let Applied::Now(claim) = walk.settle(one, event, Proof::Claimed(claim), hand_off(one, LARGE)).await
    else {
        panic!("the claim holds")
    };
    assert_eq!(walk.state()[0], "body:7-0 owners=2 bytes=5000");
    // Delivered it needs it no longer; the other one still does.
    for answer in ["now", "lost"] {
        assert_eq!(word(walk.settle(one, event, Proof::Claimed(claim), Step::Finish).await), answer);
        assert_eq!(walk.state(), lines(&[&[EVENTS, LARGE_BODY][..], &MARK, &failed].concat()));
    }
}

#[tokio::test]
async fn the_last_delivery_takes_the_body_with_it_and_the_sizes_are_gone() {
    let mut walk = Walk::new().await;
    let event = walk.read_event(7, CONSUMER).await;
    for number in [1, 2] {
        let claim = walk.claimed(config(number), event, LARGE).await;
        let proof = Proof::Claimed(claim);
        assert_eq!(word(walk.settle(config(number), event, proof, Step::Finish).await), "now");
    }
    assert_eq!(walk.state(), lines(&[EVENTS, MARK[0], "delivery:d2.7 c2 mark ttl"]));
}

/// A park whose answer was lost was applied again after another worker had claimed and delivered the delivery: it
/// was queued, and sent, a second time.
#[tokio::test]
async fn a_delivered_delivery_is_not_queued_again_by_its_reader() {
    for action in ['q', 'h', 'f'] {
        let mut walk = Walk::new().await;
        let (event, proof) = given(&mut walk, Given::Claimed).await;
        assert_eq!(word(walk.settle(config(1), event, proof, Step::Finish).await), "now");
        let before = walk.state();
        let applied = walk.settle(config(1), event, Walk::pending(event), step(action, true)).await;
        assert_eq!(applied, Applied::Before(Claim(0)), "{action}");
        assert_eq!(walk.state(), before);
        // Whoever takes the event over does not make the delivery anew.
        let ids = [event.delivery(ConfigSequence(1))];
        assert_eq!(have_records(&walk.link, &walk.keys, &ids).await.unwrap(), [true]);
    }
}

#[tokio::test]
async fn a_delivered_delivery_of_an_acknowledged_event_leaves_nothing() {
    let mut walk = Walk::new().await;
    let (event, proof) = given(&mut walk, Given::Claimed).await;
    events::acknowledge(&walk.link, &walk.keys, event.stream_id()).await.unwrap();
    assert_eq!(word(walk.settle(config(1), event, proof, Step::Finish).await), "now");
    assert_eq!(walk.state(), lines(&[&NEIGHBOUR[..], &["events 7-0 group reader.0[]"]].concat()));
}

#[tokio::test]
async fn a_batch_is_judged_one_by_one_and_its_sizes_are_sums() {
    let mut walk = Walk::new().await;
    let one = config(1);
    let events = [
        walk.read_event(7, CONSUMER).await,
        walk.read_event(8, "other.0").await,
        walk.read_event(9, CONSUMER).await,
    ];
    walk.retention.queue_max = 1;
    let fate =
        |event: EventId, step| Fate { id: event.delivery(one.sequence()), proof: Walk::pending(event), step };
    let fates = [
        fate(events[0], queue(one, LARGE, true)),
        fate(events[0], queue(one, LARGE, true)),
        fate(events[1], queue(one, SMALL, true)),
        fate(events[2], queue(one, SMALL, true)),
        fate(events[2], fail(one, SMALL, true)),
    ];
    let settled = walk.settle_all(one, &fates, None).await;
    assert_eq!(
        settled.applied.iter().map(|applied| word(*applied)).collect::<Vec<_>>(),
        ["now", "before", "lost", "full", "now"]
    );
    assert_eq!((settled.failed_count, settled.failed_bytes), (1, weight(SMALL) as u64));
    let expected = [
        "events 7-0 8-0 9-0 group other.0[8-0x1] reader.0[7-0x1,9-0x1]",
        LARGE_BODY,
        "queue:c1 d1.7@~100s",
        "due c1@~300s",
        "delivery:d1.7 c1 waiting next=~100s apart=5000",
        "failed:c1 d1.9@~0s",
        "delivery:d1.9 c1 refused next=0 inline=10",
        "size:c1 failedBytes={small} queueBytes={large}",
    ];
    assert_eq!(walk.state(), lines(&expected));

    let ids = events.map(|event| event.delivery(one.sequence()));
    assert_eq!(have_records(&walk.link, &walk.keys, &ids).await.unwrap(), [true, false, true]);
    let found = records(&walk.link, &walk.keys, &ids).await.unwrap();
    assert_eq!(
        unpack(found[2].as_ref().unwrap(), one).unwrap().standing,
        Standing::Failed(FailReason::Refused)
    );
    assert!(unpack(found[2].as_ref().unwrap(), config(2)).is_err());
    let waiting = queued(&walk.link, &walk.keys, one).await.unwrap();
    let Applied::Now(score) = settled.applied[0] else { panic!("it was applied") };
    assert_eq!(waiting, [(ids[0], score)]);
}

#[tokio::test]
async fn a_failure_has_the_time_of_its_page_also_where_the_clock_was_set_back() {
    let mut walk = Walk::new().await;
    let (one, event) = (config(1), walk.read_event(7, CONSUMER).await);
    // The newest page is of the future, so the next one follows it there.
    let ahead = walk.now() + 3_600_000;
    let log = walk.keys.log(one);
    let _: String = walk.raw.xadd(&log, format!("{ahead}-0"), &[("p", "a page")]).unwrap();
    let fate = Fate {
        id: event.delivery(one.sequence()),
        proof: Walk::pending(event),
        step: fail(one, SMALL, true),
    };
    let settled = walk.settle_all(one, &[fate], Some(&page(event, None))).await;
    assert_eq!(settled.applied, [Applied::Now(Claim(ahead))]);
    assert_eq!(walk.failed_at(one, event), ahead);
    let newest: Vec<(String, Vec<Vec<u8>>)> =
        redis::cmd("XREVRANGE").arg(&log).arg("+").arg(format!("({ahead}-0")).query(&mut walk.raw).unwrap();
    assert_eq!(newest.len(), 1);
    assert!(newest[0].0.starts_with(&format!("{ahead}-")), "{}", newest[0].0);
}
