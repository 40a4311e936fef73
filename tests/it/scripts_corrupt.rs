//! What must not be there: members that are no ids, ids without a record, records that cannot be read. None of them
//! may keep the others from going on.

use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::ids::ConfigSequence;
use postrider::redis::deliveries::{BATCH_MAX, Claim, DuePage, clear, due_configs, queued};
use postrider::redis::failed::evict_failed;
use redis::Commands;

use crate::script_world::{CLAIM, CONSUMER, SMALL, Walk, config, fail, lines, queue};

/// Members that no program wrote, the first ones of a sorted set.
fn spoil(walk: &mut Walk, key: &str) {
    for member in [&b"no id"[..], b"", b"dlv_zz", b"\xff\xfe"] {
        let _: u64 = walk.raw.zadd(key, member, 1).unwrap();
    }
}

#[tokio::test]
async fn members_that_are_no_ids_are_removed_and_the_others_found() {
    let mut walk = Walk::new().await;
    let one = config(1);
    let event = walk.read_event(7, CONSUMER).await;
    let id = event.delivery(ConfigSequence(1));
    walk.settle(one, event, Walk::pending(event), queue(one, SMALL, true)).await;
    walk.make_due(one, id);
    let clean = walk.state();

    let (due, waiting) = (walk.keys.due(), walk.keys.queue(one));
    spoil(&mut walk, &due);
    let (found, later) =
        due_configs(&walk.link, &walk.keys, DuePage { now: UnixMillis(5_000), skip: 0, max: 64 })
            .await
            .unwrap();
    assert!(found.is_empty() && later.is_some());
    assert_eq!(walk.state(), clean);

    spoil(&mut walk, &waiting);
    assert_eq!(queued(&walk.link, &walk.keys, one).await.unwrap(), [(id, Claim(1_000))]);
    assert_eq!(walk.state(), clean);

    spoil(&mut walk, &waiting);
    assert_eq!(walk.claim(one, CLAIM).await.ids, [id]);
    let members: Vec<Vec<u8>> = walk.raw.zrange(&waiting, 0, -1).unwrap();
    assert_eq!(members, [id.to_string().into_bytes()]);

    let (two, failed) = (config(2), walk.keys.failed(config(2)));
    walk.settle(two, event, Walk::pending(event), fail(two, SMALL, true)).await;
    spoil(&mut walk, &failed);
    assert_eq!(evict_failed(&walk.link, &walk.keys, two, None, BATCH_MAX).await.unwrap(), 1);
    let left: u64 = walk.raw.zcard(&failed).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_id_without_a_record_goes_and_an_unreadable_record_waits() {
    let mut walk = Walk::new().await;
    let one = config(1);
    let mut ids = Vec::new();
    for ms in [7, 8, 9] {
        let event = walk.read_event(ms, CONSUMER).await;
        walk.settle(one, event, Walk::pending(event), queue(one, SMALL, true)).await;
        ids.push(event.delivery(ConfigSequence(1)));
        walk.make_due(one, ids[ids.len() - 1]);
    }
    let claimed = walk.claim(one, CLAIM).await;
    assert_eq!(claimed.ids, ids);
    let _: () = walk.raw.del(walk.keys.delivery(ids[0])).unwrap();
    // The last one was claimed by somebody else meanwhile.
    let known = [(ids[0], claimed.claim), (ids[1], claimed.claim), (ids[2], Claim(5))];
    for answer in [(1, 1), (0, 0)] {
        assert_eq!(clear(&walk.link, &walk.keys, one, &known).await.unwrap(), answer);
        let scores: Vec<(String, f64)> = walk.raw.zrange_withscores(walk.keys.queue(one), 0, -1).unwrap();
        let month = Duration::from_secs(30 * 24 * 3_600).as_millis() as f64;
        assert_eq!(scores.len(), 2);
        assert_eq!(scores[0], (ids[2].to_string(), claimed.claim.0 as f64));
        assert!((scores[1].1 - walk.now() as f64 - month).abs() < 60_000.0, "{scores:?}");
    }
}

#[tokio::test]
async fn the_last_id_without_a_record_takes_its_queue_with_it() {
    let mut walk = Walk::new().await;
    let one = config(1);
    let event = walk.read_event(7, CONSUMER).await;
    let id = event.delivery(ConfigSequence(1));
    let claim = walk.claimed(one, event, SMALL).await;
    let _: () = walk.raw.del(walk.keys.delivery(id)).unwrap();
    assert_eq!(clear(&walk.link, &walk.keys, one, &[(id, claim)]).await.unwrap(), (1, 0));
    assert_eq!(walk.state(), lines(&["events 7-0 group reader.0[7-0x1]"]));
}
