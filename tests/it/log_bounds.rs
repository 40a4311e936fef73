//! What a question to the attempt log reads is bounded, and what it cannot read is counted.

use postrider::domain::ids::{ConfigId, ConfigSequence, DeliveryId};
use postrider::domain::log::{LogRow, Status};
use redis::Commands;
use serde_json::json;

use crate::log_world::{T0, World, delivery, one_of_each, row, texts, waiting};
use crate::support::{RedisServer, TestSpace};

#[tokio::test]
async fn what_cannot_be_understood_is_skipped_and_counted() {
    let mut world = World::new().await;
    let (config, _) = one_of_each(&mut world).await;
    let key = world.keys(0).log(config);
    for broken in [b"\x01short".as_slice(), b"", b"\xff"] {
        let _: String = world.raw.xadd(&key, "*", &[("p", broken)]).unwrap();
    }
    let _: String = world.raw.xadd(&key, "*", &[("other", "field")]).unwrap();
    let queue = world.keys(0).queue(config);
    let unreadable = delivery(config, 99);
    let _: () = world.raw.zadd(&queue, "not a delivery", 1).unwrap();
    let _: () = world.raw.zadd(&queue, unreadable.to_string(), 1).unwrap();
    let _: () = world.raw.set(world.keys(0).delivery(unreadable), "x").unwrap();
    let body = world.get("").await;
    assert_eq!((&body["totalCount"], &body["totalCountIsFloor"]), (&json!(5), &json!(true)));
    assert_eq!(body["unreadable"], 6);
    assert_eq!(world.get(&format!("/{}", delivery(config, 5))).await["status"], "delivered");
}

#[tokio::test]
async fn what_is_read_is_bounded_and_the_count_says_so() {
    let mut world = World::new().await;
    let configs = [world.config("org_1", 1).await, world.config("org_1", 2).await];
    for page in 0..200_u64 {
        for config in configs {
            let rows: Vec<LogRow> = (0..64)
                .map(|n| row(delivery(config, page * 64 + n), Status::Delivered, 1, page * 100))
                .collect();
            world.page(config, page * 100, &rows);
        }
    }
    let body = world.get("?limit=1").await;
    let total = body["totalCount"].as_u64().unwrap();
    assert_eq!(body["totalCountIsFloor"], true);
    assert!((16_000..25_600).contains(&total), "{total}");
    // One config's count is exact, and what lies deep is still reached.
    let body = world.get(&format!("?webhookConfigId={}&limit=1", configs[0])).await;
    assert_eq!((&body["totalCount"], &body["totalCountIsFloor"]), (&json!(12_800), &json!(false)));
    assert_eq!(world.ids("?skip=10000&limit=2").await.len(), 2);
    let oldest = format!("?webhookConfigId={}&skip=10000&limit=100", configs[0]);
    assert_eq!(world.ids(&oldest).await.len(), 100);
}

#[tokio::test]
async fn a_deep_page_waits_for_the_log_that_was_read_less_far() {
    let mut world = World::new().await;
    let (old, new) = (world.config("org_1", 1).await, world.config("org_1", 2).await);
    for page in 0..200_u64 {
        for (config, ms) in [(old, page * 1_000), (new, 1_000_000 + page)] {
            let rows: Vec<LogRow> =
                (0..64).map(|n| row(delivery(config, page * 64 + n), Status::Delivered, 1, ms)).collect();
            world.page(config, ms, &rows);
        }
    }
    // The newest 12,800 are the new config's, although a first read takes as many pages of both.
    for skip in [0, 8_500, 10_000] {
        let body = world.get(&format!("?skip={skip}&limit=100")).await;
        let edges = body["edges"].as_array().unwrap();
        assert_eq!(edges.len(), 100);
        assert!(edges.iter().all(|edge| edge["webhookConfigId"] == new.to_string()), "{skip}");
    }
}

#[tokio::test]
async fn a_large_backlog_shows_its_newest_and_says_that_there_is_more() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let key = world.keys(0).queue(config);
    let mut backlog = redis::pipe();
    for n in 0..10_050_u64 {
        let id = delivery(config, n);
        backlog.zadd(&key, id.to_string(), T0 + 100_000 + n).ignore();
        let record = waiting(config, id, 1, n).encode();
        backlog.set(world.keys(0).delivery(id), record).ignore();
    }
    let () = backlog.query(&mut world.raw).unwrap();
    // Due first, so the last that the queue's own order would give; but tried last.
    let newest = delivery(config, 20_000);
    world.page(config, 90_000, &[row(newest, Status::Retrying, 1, 89_000)]);
    world.record(newest, &waiting(config, newest, 1, 60_000));
    for query in ["?limit=1", "?status=retrying&limit=1"] {
        let body = world.get(query).await;
        assert_eq!(body["edges"][0]["deliveryId"], newest.to_string(), "{query}");
        assert_eq!(body["totalCountIsFloor"], true);
        assert!(body["totalCount"].as_u64().unwrap() >= 10_000);
    }
}

#[tokio::test]
async fn a_hundred_configs_are_one_quick_question() {
    let server = RedisServer::start(&[]);
    let space = TestSpace { url: server.url(), namespace: "alone".into() };
    let mut world = World::on(space, 1).await;
    for sequence in 1..=100_u32 {
        let config = world.config("org_1", sequence).await;
        let page: Vec<LogRow> = (0..20)
            .map(|n| row(delivery(config, n), Status::Delivered, 1, u64::from(sequence) * 10 + n))
            .collect();
        world.page(config, u64::from(sequence) * 10, &page);
    }
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut world.raw).unwrap();
    let body = world.get("").await;
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut world.raw).unwrap();
    for (command, calls) in [("xrevrange", "calls=100,"), ("zcard", "calls=200,")] {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:"))).unwrap();
        assert!(line.contains(calls), "{line}");
    }
    assert!(!stats.contains("cmdstat_get") && !stats.contains("cmdstat_xrange"), "{stats}");
    assert_eq!((&body["totalCount"], &body["totalCountIsFloor"]), (&json!(2_000), &json!(false)));
    let newest = ConfigId::new([7; 8], ConfigSequence(100));
    let wanted: Vec<DeliveryId> = (10..20).rev().map(|n| delivery(newest, n)).collect();
    assert_eq!(world.ids("").await, texts(&wanted));
}
