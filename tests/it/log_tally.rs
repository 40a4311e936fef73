//! Appending as a producer does, and a whole log added up.

use postrider::domain::clock::UnixMillis;
use postrider::domain::config::StoredConfig;
use postrider::domain::config::Tombstone;
use postrider::domain::delivery::FailReason;
use postrider::domain::ids::{
    ConfigId, ConfigSequence, DeliveryId, EventId, OrganisationId, ShardNumber, StreamId,
};
use postrider::domain::log::{LogRow, PageBuilder, PageKey, Status};
use postrider::redis::append::append;
use postrider::redis::log_tally::tally;

use crate::support::TestSpace;

fn delivery(number: u64) -> DeliveryId {
    let id = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000 + number, seq: 0 }).unwrap();
    id.delivery(ConfigSequence(1))
}

fn row(number: u64, attempt: u32, status: Status, reason: Option<FailReason>) -> LogRow {
    LogRow {
        delivery: delivery(number),
        event_type: "reward.earned".into(),
        url: "http://127.0.0.1/".into(),
        status,
        attempt,
        at: UnixMillis(1_777_626_000_000),
        created_at: UnixMillis(1_777_626_000_000),
        next_attempt_at: None,
        response_status: None,
        excerpt: Default::default(),
        error: None,
        reason,
        took_ms: 1,
        history: Vec::new(),
        trace: None,
    }
}

#[tokio::test]
async fn each_delivery_counts_once_by_its_final_row_and_only_for_its_organisation() {
    let space = TestSpace::new();
    let redis = space.redis();
    let link = redis.link();
    let shard = redis.keys().shard(ShardNumber(0));
    let config = ConfigId::new([7; 8], ConfigSequence(1));
    let [mine, other] = ["org_1", "org_2"].map(|id| OrganisationId::new(id).unwrap());
    let stored = StoredConfig::Tombstone(Tombstone {
        id: config,
        organisation: mine.clone(),
        deleted_at: UnixMillis(1),
        log_payloads: true,
    });
    let mut raw = space.raw();
    redis::cmd("HSET")
        .arg(redis.keys().configs())
        .arg(config.to_string())
        .arg(serde_json::to_string(&stored).unwrap())
        .exec(&mut raw)
        .unwrap();
    // More pages than one read takes, each delivery of the first 300 retried once on a later page.
    let mut pages: Vec<Vec<LogRow>> =
        (0..300).map(|number| vec![row(number, 1, Status::Retrying, None)]).collect();
    pages.push((0..40).map(|number| row(number, 2, Status::Delivered, None)).collect());
    pages.push((40..50).map(|number| row(number, 2, Status::Failed, Some(FailReason::Exhausted))).collect());
    pages.push(vec![
        row(900, 1, Status::Delivered, None),
        row(900, 1, Status::Delivered, None),
        row(901, 0, Status::Pending, None),
        row(901, 0, Status::Failed, Some(FailReason::Gone)),
    ]);
    for rows in &pages {
        let mut page = PageBuilder::new(PageKey([1; 8]));
        rows.iter().for_each(|row| page.push(row, None));
        let packed = page.finish().unwrap();
        redis::cmd("XADD").arg(shard.log(config)).arg("*").arg("p").arg(packed.log).exec(&mut raw).unwrap();
    }

    let shards = [shard];
    let sum = tally(&link, &shards, &mine, config).await.unwrap();
    assert_eq!((sum.delivered, sum.retried, sum.unfinished), (41, 50, 250));
    assert_eq!(sum.failed, [(FailReason::Exhausted, 10), (FailReason::Gone, 1)].into());
    assert_eq!(sum.attempts, 250 + 2 * 50 + 1);
    assert!(tally(&link, &shards, &other, config).await.is_err());
}

#[tokio::test]
async fn entries_are_appended_in_order_with_their_fields() {
    let space = TestSpace::new();
    let redis = space.redis();
    let shard = redis.keys().shard(ShardNumber(0));
    let entries = ["a", "b"].map(|data| vec![("event", b"x.y".to_vec()), ("data", data.into())]);
    append(&redis.link(), &shard, &entries).await.unwrap();
    let stream: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(shard.events()).arg("-").arg("+").query(&mut space.raw()).unwrap();
    let data: Vec<String> = stream.ids.iter().map(|entry| entry.get("data").unwrap()).collect();
    assert_eq!(data, ["a", "b"]);
}
