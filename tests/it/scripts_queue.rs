//! The scripts of waiting and failed deliveries: claim, put_back, evict_failed, and what is read beside them.

use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::Standing;
use postrider::domain::ids::{ConfigId, ConfigSequence, DeliveryId, EventId};
use postrider::redis::deliveries::{BATCH_MAX, Claim, ClaimRequest, DuePage, due_configs, put_back};
use postrider::redis::failed::{evict_failed, failed_over};
use postrider::redis::fates::Step;
use redis::Commands;

use crate::script_world::{
    CLAIM, CONSUMER, LARGE, SMALL, Walk, config, fail, lines, queue, record, seconds, weight,
};

/// Three deliveries of config 1: two are overdue, one is due in 100 s; all acknowledged.
async fn three(walk: &mut Walk) -> Vec<DeliveryId> {
    let mut ids = Vec::new();
    for ms in [7, 8, 9] {
        let event = walk.read_event(ms, CONSUMER).await;
        walk.settle(config(1), event, Walk::pending(event), queue(config(1), SMALL, true)).await;
        ids.push(event.delivery(ConfigSequence(1)));
    }
    for (id, score) in [(ids[0], 1_000), (ids[1], 2_000)] {
        let _: u64 = walk.raw.zadd(walk.keys.queue(config(1)), id.to_string(), score).unwrap();
    }
    let _: u64 = walk.raw.del(walk.keys.events()).unwrap();
    ids
}

/// What claims and put_backs never touch.
const RECORDS: [&str; 3] = [
    "delivery:d1.7 c1 waiting next=~100s inline=10",
    "delivery:d1.8 c1 waiting next=~100s inline=10",
    "delivery:d1.9 c1 waiting next=~100s inline=10",
];

fn state(queue: &str, due: &str) -> Vec<String> {
    let size = format!("size:c1 queueBytes={}", 3 * weight(SMALL));
    lines(&[&[queue, due][..], &RECORDS, &[size.as_str()]].concat())
}

#[tokio::test]
async fn a_claim_takes_what_is_due_and_no_more_than_asked() {
    let waits = "queue:c1 d1.7@1000 d1.8@2000 d1.9@~100s";
    for (what, request, count, queue, due, next_seconds) in [
        ("only a look", ClaimRequest { max: 0, ..CLAIM }, 0, waits, "due c1@~300s", 300),
        (
            "the earliest",
            ClaimRequest { max: 1, ..CLAIM },
            1,
            "queue:c1 d1.7@~1000s d1.8@2000 d1.9@~100s",
            "due c1@~300s",
            300,
        ),
        ("all that is due", CLAIM, 2, "queue:c1 d1.7@~1000s d1.8@~1000s d1.9@~100s", "due c1@~300s", 300),
        (
            "no hold",
            ClaimRequest { hold: Duration::ZERO, ..CLAIM },
            2,
            "queue:c1 d1.7@~1000s d1.8@~1000s d1.9@~100s",
            "due c1@~100s",
            100,
        ),
        (
            "what is long overdue",
            ClaimRequest { overdue_by: seconds(1_700_000_000), ..CLAIM },
            2,
            "queue:c1 d1.7@~1000s d1.8@~1000s d1.9@~100s",
            "due c1@~300s",
            300,
        ),
        (
            "nothing that old",
            ClaimRequest { overdue_by: seconds(3_000_000_000), ..CLAIM },
            0,
            waits,
            "due c1@~300s",
            300,
        ),
    ] {
        let mut walk = Walk::new().await;
        let ids = three(&mut walk).await;
        assert_eq!(walk.state(), state(waits, "due c1@~300s"), "{what}");
        let now = walk.now();
        let claimed = walk.claim(config(1), request).await;
        assert_eq!(claimed.ids, ids[..count], "{what}");
        assert!((claimed.claim.0 - now - 1_000_000).abs() < 50_000, "{what}");
        let next = i64::try_from(claimed.next.expect(what).0).unwrap();
        assert!((next - now - next_seconds * 1_000).abs() < 50_000, "{what}: {next} at {now}");
        assert_eq!(walk.state(), state(queue, due), "{what}");
        if count > 0 {
            let score: f64 = walk.raw.zscore(walk.keys.queue(config(1)), ids[0].to_string()).unwrap();
            assert_eq!(claimed.claim, Claim(score as i64), "the score is the token");
        }
        // What is claimed is not claimed again.
        if request.max > 2 {
            assert_eq!(walk.claim(config(1), request).await.ids, []);
            assert_eq!(walk.state(), state(queue, due), "{what}");
        }
    }
}

#[tokio::test]
async fn a_config_leaves_due_when_its_queue_is_empty() {
    let mut walk = Walk::new().await;
    let _: u64 = walk.raw.zadd(walk.keys.due(), config(1).to_string(), 1_000).unwrap();
    let _: u64 = walk.raw.zadd(walk.keys.due(), config(2).to_string(), 1_000).unwrap();
    for _ in 0..2 {
        let claimed = walk.claim(config(1), CLAIM).await;
        assert_eq!((claimed.next, claimed.ids), (None, vec![]));
        assert_eq!(walk.state(), ["due c2@1000"]);
    }
}

#[tokio::test]
async fn due_configs_are_those_whose_look_is_past_and_the_next_one() {
    let mut walk = Walk::new().await;
    let due = walk.keys.due();
    assert_eq!(
        due_configs(&walk.link, &walk.keys, DuePage { now: UnixMillis(5_000), skip: 0, max: 1 })
            .await
            .unwrap(),
        (vec![], None)
    );
    for (number, score) in [(1, 2_000), (2, 1_000), (3, 7_000), (4, 6_000)] {
        let _: u64 = walk.raw.zadd(&due, config(number).to_string(), score).unwrap();
    }
    assert_eq!(
        due_configs(&walk.link, &walk.keys, DuePage { now: UnixMillis(5_000), skip: 0, max: 1 })
            .await
            .unwrap(),
        (vec![config(2)], None),
        "the next one is due too"
    );
    assert_eq!(
        due_configs(&walk.link, &walk.keys, DuePage { now: UnixMillis(5_000), skip: 0, max: 2 })
            .await
            .unwrap(),
        (vec![config(2), config(1)], Some(UnixMillis(6_000)))
    );
    let all = due_configs(&walk.link, &walk.keys, DuePage { now: UnixMillis(7_000), skip: 0, max: 9 })
        .await
        .unwrap();
    assert_eq!(all, (vec![config(2), config(1), config(4), config(3)], None));
}

#[tokio::test]
async fn one_call_claims_and_puts_back_a_batch_of_64() {
    let mut walk = Walk::new().await;
    let all: Vec<String> = (0..70_u64).map(|n| id(n).to_string()).collect();
    for member in &all {
        let _: u64 = walk.raw.zadd(walk.keys.queue(config(1)), member, 1_000).unwrap();
    }
    let claimed = walk.claim(config(1), ClaimRequest { max: 1_000, ..CLAIM }).await;
    assert_eq!(claimed.ids.len(), BATCH_MAX);
    let rest = walk.claim(config(1), ClaimRequest { max: 1_000, ..CLAIM }).await;
    assert_eq!(rest.ids.len(), 6);
    let mut held: Vec<_> = claimed.ids.iter().map(|id| (*id, claimed.claim)).collect();
    held.extend(rest.ids.iter().map(|id| (*id, rest.claim)));
    for expected in [70, 0] {
        let count = put_back(&walk.link, &walk.keys, config(1), &held, Duration::ZERO).await.unwrap();
        assert_eq!(count, expected);
    }
    let again = walk.claim(config(1), ClaimRequest { max: 1_000, ..CLAIM }).await;
    assert_eq!(again.ids.len(), BATCH_MAX, "they are due at once");
}

fn id(ms: u64) -> DeliveryId {
    use postrider::domain::ids::{ShardNumber, StreamId};
    EventId::new(ShardNumber(0), StreamId { ms, seq: 0 }).unwrap().delivery(ConfigSequence(1))
}

#[tokio::test]
async fn only_the_holder_of_a_claim_puts_a_delivery_back() {
    let mut walk = Walk::new().await;
    let ids = three(&mut walk).await;
    let claimed = walk.claim(config(1), CLAIM).await;
    let held = "queue:c1 d1.7@~1000s d1.8@~1000s d1.9@~100s";
    assert_eq!(walk.state(), state(held, "due c1@~300s"));
    // Another claim's score, a delivery that nobody claimed, one that is not there: nothing changes.
    let strangers = [(ids[0], Claim(claimed.claim.0 + 1)), (ids[2], claimed.claim), (id(99), claimed.claim)];
    let count = put_back(&walk.link, &walk.keys, config(1), &strangers, Duration::ZERO).await.unwrap();
    assert_eq!((count, walk.state()), (0, state(held, "due c1@~300s")));
    let own = [(ids[0], claimed.claim), strangers[1]];
    for expected in [1, 0] {
        let count = put_back(&walk.link, &walk.keys, config(1), &own, seconds(100)).await.unwrap();
        let back = "queue:c1 d1.7@~0s d1.8@~1000s d1.9@~100s";
        assert_eq!((count, walk.state()), (expected, state(back, "due c1@~100s")));
    }
    // A later look never moves due back.
    let later = put_back(&walk.link, &walk.keys, config(1), &[(ids[1], claimed.claim)], seconds(900)).await;
    assert_eq!(later.unwrap(), 1);
    assert_eq!(walk.state(), state("queue:c1 d1.7@~0s d1.8@~0s d1.9@~100s", "due c1@~100s"));
    let none = put_back(&walk.link, &walk.keys, config(1), &[], Duration::ZERO).await.unwrap();
    assert_eq!(none, 0);
}

async fn failed(walk: &mut Walk, config: ConfigId, ms: u64, len: usize) {
    let event = walk.read_event(ms, CONSUMER).await;
    walk.settle(config, event, Walk::pending(event), fail(config, len, true)).await;
    let member = event.delivery(config.sequence()).to_string();
    let _: u64 = walk.raw.zadd(walk.keys.failed(config), member, ms * 1_000).unwrap();
    let _: u64 = walk.raw.del(walk.keys.events()).unwrap();
}

#[tokio::test]
async fn the_oldest_failed_deliveries_go_with_their_records_and_their_share_of_a_body() {
    let mut walk = Walk::new().await;
    let one = config(1);
    // Both configs failed event 7, whose body lies apart.
    let event = walk.read_event(7, CONSUMER).await;
    for number in [1, 2] {
        let config = config(number);
        walk.settle(config, event, Walk::pending(event), fail(config, LARGE, true)).await;
        let member = event.delivery(config.sequence()).to_string();
        let _: u64 = walk.raw.zadd(walk.keys.failed(config), member, 7_000).unwrap();
    }
    let _: u64 = walk.raw.del(walk.keys.events()).unwrap();
    failed(&mut walk, one, 8, SMALL).await;
    failed(&mut walk, one, 9, SMALL).await;
    let neighbour =
        ["failed:c2 d2.7@7000", "delivery:d2.7 c2 refused next=0 apart=5000", "size:c2 failedBytes={large}"];
    let third =
        ["delivery:d1.9 c1 refused next=0 inline=10", "size:c1 failedBytes={small}", "failed:c1 d1.9@9000"];
    let size = format!("size:c1 failedBytes={}", weight(LARGE) + 2 * weight(SMALL));
    let all = [
        "failed:c1 d1.7@7000 d1.8@8000 d1.9@9000",
        "delivery:d1.7 c1 refused next=0 apart=5000",
        "delivery:d1.8 c1 refused next=0 inline=10",
        third[0],
        &size,
        "body:7-0 owners=2 bytes=5000",
    ];
    assert_eq!(walk.state(), lines(&[&all[..], &neighbour].concat()));
    let over = |count, bytes| failed_over(&walk.link, &walk.keys, one, count, bytes);
    assert_eq!(over(3, u64::MAX).await.unwrap(), 0);
    assert_eq!(over(1, u64::MAX).await.unwrap(), 2);
    assert_eq!(over(3, 1).await.unwrap(), 1);
    assert_eq!(failed_over(&walk.link, &walk.keys, config(3), 0, 0).await.unwrap(), 0);

    // Those that failed before 9 s: two, and no more the second time.
    for expected in [2, 0] {
        let before = Some(UnixMillis(9_000));
        assert_eq!(evict_failed(&walk.link, &walk.keys, one, before, 64).await.unwrap(), expected);
        let left = [&third[..], &neighbour, &["body:7-0 owners=1 bytes=5000"]].concat();
        assert_eq!(walk.state(), lines(&left));
    }
    // The last one goes, the size with it; and the body with its last delivery.
    assert_eq!(evict_failed(&walk.link, &walk.keys, one, None, 1).await.unwrap(), 1);
    assert_eq!(walk.state(), lines(&[&neighbour[..], &["body:7-0 owners=1 bytes=5000"]].concat()));
    assert_eq!(evict_failed(&walk.link, &walk.keys, config(2), None, 1_000).await.unwrap(), 1);
    assert_eq!(walk.state(), Vec::<String>::new());
}

#[tokio::test]
async fn only_a_record_that_failed_for_this_config_is_evicted() {
    let mut walk = Walk::new().await;
    for ms in [7, 8, 9] {
        failed(&mut walk, config(1), ms, SMALL).await;
    }
    // 7 lost its record, 8 is another config's, 9 waits again: a hand retried it.
    let key = |ms| walk.keys.delivery(id(ms));
    let keys = [key(7), key(8), key(9)];
    let other = ConfigId::new([9; 8], ConfigSequence(1));
    walk.name(other, "c9");
    let _: u64 = walk.raw.del(&keys[0]).unwrap();
    let _: () = walk.raw.set(&keys[1], record(other, SMALL, Standing::Waiting)).unwrap();
    let _: () = walk.raw.set(&keys[2], record(config(1), SMALL, Standing::Waiting)).unwrap();
    for expected in [3, 0] {
        assert_eq!(evict_failed(&walk.link, &walk.keys, config(1), None, 64).await.unwrap(), expected);
        let left = ["delivery:d1.8 c9 waiting next=0 inline=10", "delivery:d1.9 c1 waiting next=0 inline=10"];
        assert_eq!(walk.state(), lines(&left));
    }
}

#[tokio::test]
async fn a_queue_that_is_settled_empty_leaves_nothing() {
    let mut walk = Walk::new().await;
    let event = walk.read_event(7, CONSUMER).await;
    let claim = walk.claimed(config(1), event, SMALL).await;
    // A drift, as a crash of an older program could have left it, goes with the queue.
    let _: i64 = walk.raw.hincr(walk.keys.size(config(1)), "queueBytes", 11).unwrap();
    let proof = postrider::redis::fates::Proof::Claimed(claim);
    postrider::redis::events::acknowledge(&walk.link, &walk.keys, event.stream_id()).await.unwrap();
    walk.settle(config(1), event, proof, Step::Finish).await;
    assert_eq!(walk.state(), ["events 7-0 group reader.0[]"]);
}
