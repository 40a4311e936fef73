//! The script behind a retry by hand: what each state before leaves, and what a second application does.

use postrider::domain::clock::UnixMillis;
use postrider::domain::config::{StoredConfig, Tombstone};
use postrider::domain::delivery::FailReason;
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId, OrganisationId};
use postrider::domain::log::Status;
use postrider::domain::log_view::DeliveryView;
use postrider::domain::owned_config::OwnedConfig;
use postrider::redis::by_hand::{Retried, retry};
use postrider::redis::connection::Redis;
use postrider::redis::deliveries::{records, unpack};
use postrider::redis::failed::evict_failed;
use postrider::redis::fates::{Applied, Proof, Step};
use postrider::redis::log_search::DeliveryDetail;
use redis::Commands;

use crate::script_world::{CLAIM, CONSUMER, LARGE, SMALL, Walk, body, config, fail, lines, queue};
use crate::support::TestSpace;

/// Attempts behind a delivery that failed.
const ATTEMPTS: u32 = 4;

const EVENTS: &str = "events 7-0 group reader.0[7-0x1]";
const FAILED: [&str; 3] =
    ["failed:c1 d1.7@~0s", "delivery:d1.7 c1 refused next=0 inline=10", "size:c1 failedBytes={small}"];
const QUEUED: [&str; 4] = [
    "queue:c1 d1.7@~0s",
    "due c1@~0s",
    "delivery:d1.7 c1 waiting next=~0s inline=10",
    "size:c1 queueBytes={small}",
];

/// A walk, and the pool beside it that the admin API would use.
struct World {
    walk: Walk,
    redis: Redis,
    event: EventId,
}

impl World {
    async fn new() -> Self {
        let space = TestSpace::new();
        let mut walk = Walk::on(&space, TestSpace::redis).await;
        let event = walk.read_event(7, CONSUMER).await;
        Self { walk, redis: space.redis(), event }
    }

    /// One whose delivery has failed.
    async fn failed(len: usize) -> Self {
        let world = Self::new().await;
        let proof = Walk::pending(world.event);
        let Step::Fail { mut record, apart } = fail(config(1), len, true) else { unreachable!() };
        record[16..20].copy_from_slice(&ATTEMPTS.to_be_bytes());
        let step = Step::Fail { record, apart };
        let applied = world.walk.settle(config(1), world.event, proof, step).await;
        assert!(matches!(applied, Applied::Now(_)));
        world
    }

    /// What its caller saw.
    fn seen(&self, status: Status, attempts: u32, len: usize, recorded: bool) -> DeliveryDetail {
        let view = DeliveryView {
            delivery: self.event.delivery(ConfigSequence(1)),
            config: config(1),
            event_type: "reward.earned".into(),
            url: None,
            status,
            attempts,
            last_attempt_at: None,
            next_attempt_at: None,
            response_status: None,
            excerpt: Default::default(),
            error: None,
            reason: (status == Status::Failed).then_some(FailReason::Refused),
            created_at: UnixMillis(5),
            trace: None,
            attempt_log: Vec::new(),
        };
        DeliveryDetail { view, payload: Some(body(len)), recorded, urls: [].into(), traceparent: None }
    }

    async fn retry(&self, seen: &DeliveryDetail) -> Retried {
        self.retry_of(config(1), seen).await.unwrap()
    }

    async fn retry_of(
        &self,
        config: ConfigId,
        seen: &DeliveryDetail,
    ) -> Result<Retried, postrider::redis::connection::RedisError> {
        let organisation = OrganisationId::new("org_1").unwrap();
        let stored = StoredConfig::Tombstone(Tombstone {
            id: config,
            organisation: organisation.clone(),
            deleted_at: UnixMillis(1),
            log_payloads: true,
        });
        let owned = OwnedConfig::prove(&stored, &organisation).unwrap();
        let shards = [self.walk.keys.clone()];
        retry(&self.redis, &shards, &owned, seen, &self.walk.retention).await
    }

    /// Attempts, and those by hand.
    async fn counted(&self) -> (u32, u32) {
        let id = self.event.delivery(ConfigSequence(1));
        let found = records(&self.walk.link, &self.walk.keys, &[id]).await.unwrap().remove(0).unwrap();
        let record = unpack(&found, config(1)).unwrap();
        (record.tried.attempts, record.tried.by_hand)
    }
}

#[tokio::test]
async fn a_failed_delivery_moves_to_its_queue_once() {
    let mut world = World::failed(SMALL).await;
    let seen = world.seen(Status::Failed, ATTEMPTS, SMALL, true);
    assert_eq!(world.walk.state(), lines(&[&[EVENTS][..], &FAILED].concat()));
    assert_eq!(world.retry(&seen).await, Retried::Queued);
    let after = lines(&[&[EVENTS][..], &QUEUED].concat());
    assert_eq!(world.walk.state(), after);
    assert_eq!(world.counted().await, (ATTEMPTS, 1));
    // A second application, as after a lost answer, and while a worker has it claimed.
    assert_eq!(world.retry(&seen).await, Retried::Waiting);
    assert_eq!(world.walk.state(), after);
    let claimed = world.walk.claim(config(1), CLAIM).await;
    assert_eq!(claimed.ids.len(), 1);
    let claimed_state = world.walk.state();
    assert_eq!(world.retry(&seen).await, Retried::Waiting);
    assert_eq!(world.walk.state(), claimed_state);
    // The caps of the failed set do not take what waits.
    assert_eq!(evict_failed(&world.walk.link, &world.walk.keys, config(1), None, 64).await.unwrap(), 0);
    // The worker that claimed it decides, and nobody else.
    let (event, keys) = (world.event, world.walk.keys.clone());
    let applied = world.walk.settle(config(1), event, Proof::Claimed(claimed.claim), Step::Finish).await;
    assert!(matches!(applied, Applied::Now(_)));
    let mark: Vec<u8> = world.walk.raw.get(keys.delivery(event.delivery(ConfigSequence(1)))).unwrap();
    assert_eq!(mark[16..], (ATTEMPTS + 1).to_be_bytes(), "the mark tells the attempts");
    let left: i64 = world.walk.raw.pttl(keys.delivery(event.delivery(ConfigSequence(1)))).unwrap();
    assert!(left > 29 * 86_400_000, "as long as the log may hold the row of its earlier end: {left}");
    assert_eq!(world.walk.state(), lines(&[EVENTS, "delivery:d1.7 c1 mark ttl"]));
}

#[tokio::test]
async fn what_was_seen_before_an_attempt_asks_for_no_second_one() {
    let mut world = World::failed(SMALL).await;
    let seen = world.seen(Status::Failed, ATTEMPTS, SMALL, true);
    assert_eq!(world.retry(&seen).await, Retried::Queued);
    let claim = world.walk.claim(config(1), CLAIM).await.claim;
    world.walk.settle(config(1), world.event, Proof::Claimed(claim), Step::Finish).await;
    let after = world.walk.state();
    assert_eq!(world.retry(&seen).await, Retried::Changed, "it had a record");
    assert_eq!(
        world.retry(&world.seen(Status::Failed, ATTEMPTS, SMALL, false)).await,
        Retried::Changed,
        "or none"
    );
    assert_eq!(world.walk.state(), after);
    // Who saw that attempt may ask for one more.
    assert_eq!(world.retry(&world.seen(Status::Delivered, 5, SMALL, false)).await, Retried::Queued);
    assert_eq!(world.counted().await, (5, 5), "after a success every attempt before counts as by hand");
}

#[tokio::test]
async fn a_delivered_one_gets_a_record_and_its_body_a_share() {
    for (len, body) in [(SMALL, None), (LARGE, Some("body:7-0 owners=1 bytes=5000"))] {
        let mut world = World::new().await;
        let seen = world.seen(Status::Delivered, 3, len, false);
        assert_eq!(world.retry(&seen).await, Retried::Queued);
        assert_eq!(world.counted().await, (3, 3));
        let bodies: Vec<String> =
            world.walk.state().into_iter().filter(|line| line.starts_with("body:")).collect();
        assert_eq!(bodies.first().map(String::as_str), body);
        assert_eq!(world.retry(&seen).await, Retried::Waiting);
        let claim = world.walk.claim(config(1), CLAIM).await.claim;
        world.walk.settle(config(1), world.event, Proof::Claimed(claim), Step::Finish).await;
        assert_eq!(world.walk.state(), lines(&[EVENTS, "delivery:d1.7 c1 mark ttl"]), "and nothing is left");
    }
}

#[tokio::test]
async fn a_body_that_lies_apart_stays_with_its_record_or_is_missed() {
    let mut world = World::failed(LARGE).await;
    let seen = world.seen(Status::Failed, ATTEMPTS, LARGE, true);
    assert_eq!(world.retry(&seen).await, Retried::Queued);
    let queued = [
        "queue:c1 d1.7@~0s",
        "due c1@~0s",
        "delivery:d1.7 c1 waiting next=~0s apart=5000",
        "size:c1 queueBytes={large}",
        "body:7-0 owners=1 bytes=5000",
    ];
    assert_eq!(world.walk.state(), lines(&[&[EVENTS][..], &queued].concat()));

    let mut world = World::failed(LARGE).await;
    let _: u64 = world.walk.raw.del(world.walk.keys.body(world.event.stream_id())).unwrap();
    let before = world.walk.state();
    assert_eq!(world.retry(&seen_of(&world, LARGE)).await, Retried::PayloadGone);
    assert_eq!(world.walk.state(), before);
    let mut gone = seen_of(&world, LARGE);
    gone.payload = None;
    assert_eq!(world.retry(&gone).await, Retried::PayloadGone);
}

fn seen_of(world: &World, len: usize) -> DeliveryDetail {
    world.seen(Status::Failed, ATTEMPTS, len, true)
}

#[tokio::test]
async fn a_full_queue_and_another_configs_record_refuse_it() {
    let mut world = World::failed(SMALL).await;
    let before = world.walk.state();
    for (count, bytes) in [(0, u64::MAX >> 12), (1_000, 5)] {
        (world.walk.retention.queue_max, world.walk.retention.queue_bytes_max) = (count, bytes);
        assert_eq!(world.retry(&seen_of(&world, SMALL)).await, Retried::QueueFull);
        assert_eq!(world.walk.state(), before);
    }
    world.walk.retention = Default::default();
    let foreign = ConfigId::new([9; 8], ConfigSequence(1));
    assert!(world.retry_of(foreign, &seen_of(&world, SMALL)).await.is_err());
    assert_eq!(world.walk.state(), before);
    // One that was never tried: the attempt by hand is its first, and counts as such.
    let event = world.walk.read_event(9, CONSUMER).await;
    world.walk.settle(config(1), event, Walk::pending(event), fail(config(1), SMALL, true)).await;
    world.event = event;
    assert_eq!(world.retry(&world.seen(Status::Failed, 0, SMALL, true)).await, Retried::Queued);
    assert_eq!(world.counted().await, (0, 0));
    // What waits for its first attempt is nobody's to ask for.
    let event = world.walk.read_event(10, CONSUMER).await;
    world.walk.settle(config(1), event, Walk::pending(event), queue(config(1), SMALL, true)).await;
    world.event = event;
    assert_eq!(world.retry(&seen_of(&world, SMALL)).await, Retried::Waiting);
}
