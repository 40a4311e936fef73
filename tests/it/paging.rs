//! Paging through the log by cursor: every delivery once, in one order, whatever is written meanwhile.

use std::collections::HashSet;

use postrider::domain::clock::{Clock, UnixMillis};
use postrider::domain::delivery::{DeliveryRecord, FailReason, Standing};
use postrider::domain::ids::{ConfigId, DeliveryId};
use postrider::domain::log::{LogRow, Status};
use redis::Commands;
use serde_json::{Value, json};

use crate::log_world::{T0, World, delivery, delivery_in, failed, ids_of, one_of_each, row, texts, waiting};

/// Follows `nextCursor` from the first page to the last; `between` is called before each later page.
async fn walk(world: &mut World, query: &str, mut between: impl AsyncFnMut(&mut World)) -> Vec<String> {
    let (mut ids, mut next, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let body = world.get(&format!("?{query}{next}")).await;
        ids.extend(ids_of(&body));
        let Some(cursor) = body["nextCursor"].as_str() else { return ids };
        next = format!("&cursor={cursor}");
        pages += 1;
        assert!(pages < 2_000, "the walk does not end");
        between(world).await;
    }
}

pub async fn quietly(world: &mut World, query: &str) -> Vec<String> {
    walk(world, query, async |_: &mut World| {}).await
}

/// Removes a delivery's record, as its end does.
fn forget(world: &mut World, config: ConfigId, id: DeliveryId) {
    let keys = world.keys(id.event().shard().0);
    let _: () = world.raw.del(keys.delivery(id)).unwrap();
    for set in [keys.queue(config), keys.failed(config)] {
        let _: () = world.raw.zrem(set, id.to_string()).unwrap();
    }
}

#[tokio::test]
async fn following_the_cursor_gives_what_skip_gives() {
    let mut world = World::with_shards(2).await;
    let configs = [world.config("org_1", 1).await, world.config("org_1", 2).await];
    let mut wanted = Vec::new();
    for n in 0..90_u64 {
        let (config, shard) = (configs[usize::from(n % 2 == 0)], u16::from(n % 3 == 0));
        let id = delivery_in(shard, config, n);
        let status = if n % 5 == 0 { Status::Failed } else { Status::Delivered };
        world.page_in(shard, config, n / 4 * 10, &[(row(id, status, 1, n), None)]);
        wanted.push(id);
    }
    let skipped = world.ids("?limit=100").await;
    assert_eq!(skipped.len(), wanted.len());
    for limit in [1, 7, 89, 90, 100] {
        assert_eq!(quietly(&mut world, &format!("limit={limit}")).await, skipped, "{limit}");
    }
    let one = format!("webhookConfigId={}&status=delivered", configs[0]);
    let skipped = world.ids(&format!("?limit=100&{one}")).await;
    assert_eq!(quietly(&mut world, &format!("limit=3&{one}")).await, skipped);
    // The count is the first page's, and the limit may change on the way.
    let first = world.get("?limit=5").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = world.get(&format!("?limit=100&cursor={cursor}")).await;
    assert_eq!((&second["totalCount"], &second["oldestAt"]), (&first["totalCount"], &first["oldestAt"]));
    assert_eq!(second["edges"].as_array().unwrap().len(), 85);
    assert_eq!(second["nextCursor"], Value::Null);
}

#[tokio::test]
async fn a_wrong_cursor_is_refused_by_name() {
    let mut world = World::new().await;
    let (config, _) = one_of_each(&mut world).await;
    let cursor = world.get("?limit=1").await["nextCursor"].as_str().unwrap().to_owned();
    let other = if cursor.ends_with('A') { 'B' } else { 'A' };
    let changed = format!("{}{other}", &cursor[..cursor.len() - 1]);
    for (query, named) in [
        ("cursor=".to_owned(), "query.cursor"),
        ("cursor=nonsense".to_owned(), "query.cursor"),
        (format!("cursor={}", &cursor[1..]), "query.cursor"),
        (format!("cursor={changed}"), "query.cursor"),
        (
            format!("cursor={cursor}&status=failed"),
            "query.cursor: expected one of an answer to the same filters",
        ),
        (format!("cursor={cursor}&webhookConfigId={config}"), "query.cursor"),
        (format!("cursor={cursor}&skip=1"), "query.skip"),
        (format!("cursor={cursor}&cursor={cursor}"), "query.cursor"),
    ] {
        let (status, body) = world.get_as(&world.token, &format!("?{query}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("BAD_REQUEST")), "{query}: {body}");
        assert!(body["message"].as_str().unwrap().contains(named), "{query}: {body}");
    }
    let stranger = world.token_of("org_2", postrider::domain::token::Role::Admin).await;
    assert_eq!(world.get_as(&stranger, &format!("?cursor={cursor}")).await.0, 400);
    assert_eq!(world.get_as(&world.token, &format!("?limit=1&cursor={cursor}")).await.0, 200);
}

#[tokio::test]
async fn a_delivery_whose_rows_were_evicted_is_met_once_below_the_log() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let mut wanted = Vec::new();
    for n in 0..40_u64 {
        let id = delivery(config, n);
        if n >= 20 {
            world.page(config, n * 1_000, &[row(id, Status::Delivered, 1, n * 1_000)]);
        } else if n % 2 == 0 {
            world.record(id, &waiting(config, id, 1, n * 1_000));
        } else {
            let record = failed(config, id, 4, n * 1_000);
            let record = DeliveryRecord { next_attempt_at: UnixMillis(T0 + n * 1_000 + 30), ..record };
            world.record(id, &record);
        }
        wanted.push(id);
    }
    wanted.reverse();
    assert_eq!(world.ids("?limit=100").await, texts(&wanted));
    for limit in [1, 3, 19, 20, 21] {
        assert_eq!(quietly(&mut world, &format!("limit={limit}")).await, texts(&wanted), "{limit}");
    }
}

#[tokio::test]
async fn failed_deliveries_are_walked_in_the_order_of_their_failures() {
    let mut world = World::with_shards(2).await;
    let config = world.config("org_1", 1).await;
    // Most of them in one millisecond, as when a queue ends with a 410.
    for n in 0..300_u64 {
        let id = delivery_in(u16::from(n % 2 == 0), config, n);
        let at = UnixMillis(T0 + 5_000 + n / 200);
        world.record(id, &DeliveryRecord { next_attempt_at: at, ..failed(config, id, 4, 4_000) });
    }
    let mut later = 1_000;
    for query in ["status=failed&limit=7", "status=failed&limit=7&event=reward.earned"] {
        let first = world.get(&format!("?{query}")).await;
        let total = first["totalCount"].as_u64().unwrap();
        assert_eq!(first["totalCountIsFloor"], false);
        let walked = walk(&mut world, query, async |world: &mut World| {
            later += 1;
            let id = delivery(config, later);
            let at = UnixMillis(T0 + 60_000 + later);
            world.record(id, &DeliveryRecord { next_attempt_at: at, ..failed(config, id, 4, 50_000) });
        })
        .await;
        let once: HashSet<&String> = walked.iter().collect();
        assert_eq!((walked.len() as u64, once.len() as u64), (total, total), "{query}");
    }
}

#[tokio::test]
async fn what_waits_is_walked_once_although_it_is_tried_meanwhile() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let ids: Vec<DeliveryId> = (0..50).map(|n| delivery(config, n)).collect();
    for (n, id) in ids.iter().enumerate() {
        world.record(*id, &waiting(config, *id, 1, n as u64));
    }
    let mut turn = 0;
    let walked = walk(&mut world, "status=retrying&limit=4", async |world: &mut World| {
        // One that was shown, and one that was not, are tried again.
        let now = Clock::default().now().0 + 1_000;
        for id in [ids[turn % 50], ids[49 - turn % 50]] {
            let mut record = waiting(config, id, 2, 0);
            record.tried.history[0].at = UnixMillis(T0 + id.event().stream_id().ms - T0);
            record.tried.history[1].at = UnixMillis(now);
            record.tried.last.as_mut().unwrap().at = UnixMillis(now);
            world.record(id, &record);
        }
        turn += 1;
    })
    .await;
    let once: HashSet<&String> = walked.iter().collect();
    assert_eq!((walked.len(), once.len()), (50, 50));
}

/// A delivery of the storm, as the test knows it.
#[derive(Clone, Copy)]
struct Tracked {
    id: DeliveryId,
    attempts: u32,
    waits: bool,
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The next thing that happens to a delivery that waits: tried and retried, delivered, failed, or expired.
fn happen(world: &mut World, config: ConfigId, tracked: &mut Tracked, ms: u64, what: u64) -> LogRow {
    let id = tracked.id;
    let next = tracked.attempts + 1;
    forget(world, config, id);
    tracked.waits = what == 0;
    match what {
        0 => {
            world.record(id, &waiting(config, id, next, ms));
            tracked.attempts = next;
            row(id, Status::Retrying, next, ms)
        }
        1 => row(id, Status::Delivered, next, ms),
        2 => {
            world.record(id, &failed(config, id, next, ms));
            LogRow { reason: Some(FailReason::Exhausted), ..row(id, Status::Failed, next, ms) }
        }
        _ => {
            let standing = Standing::Failed(FailReason::Expired);
            world.record(id, &DeliveryRecord { standing, ..waiting(config, id, tracked.attempts, ms) });
            let fate = row(id, Status::Failed, tracked.attempts, ms);
            LogRow { reason: Some(FailReason::Expired), took_ms: 0, ..fate }
        }
    }
}

/// 80 deliveries with every kind of past.
fn pasts(world: &mut World, config: ConfigId, dice: &mut Dice) -> Vec<Tracked> {
    let mut all: Vec<Tracked> =
        (0..80).map(|n| Tracked { id: delivery(config, n), attempts: 0, waits: true }).collect();
    for round in 0..60_u64 {
        let mut rows = Vec::new();
        for _ in 0..=dice.roll(6) {
            let chosen = dice.roll(80) as usize;
            if all[chosen].waits {
                let what = [0, 0, 1, 2, 3][dice.roll(5) as usize];
                // What was never tried cannot have waited past its time unseen.
                let what = if what == 3 && all[chosen].attempts == 0 { 0 } else { what };
                rows.push(happen(world, config, &mut all[chosen], 1_000 + round, what));
            }
        }
        if !rows.is_empty() {
            world.page(config, 1_000 + round, &rows);
        }
    }
    for (n, tracked) in all.iter_mut().enumerate() {
        if tracked.waits && tracked.attempts == 0 {
            world.record(tracked.id, &waiting(config, tracked.id, 0, 0));
            world.page(config, 2_000 + n as u64, &[row(tracked.id, Status::Pending, 0, 0)]);
        }
    }
    all
}

/// A window over everything takes the way that reads each row; without it the rows are counted at a glance.
#[tokio::test]
async fn a_count_at_a_glance_is_the_count_of_what_is_read() {
    const EVER: &str = "since=2000-01-01T00:00:00Z";
    for seed in 100..112_u64 {
        let mut dice = Dice(seed);
        let mut world = World::new().await;
        let config = world.config("org_1", 1).await;
        let tracked = pasts(&mut world, config, &mut dice);
        // One that is tried again by hand after it was delivered, one whose rows are gone, one whose record is.
        let by_hand = tracked.iter().find(|one| !one.waits).unwrap();
        world.record(by_hand.id, &waiting(config, by_hand.id, by_hand.attempts, 1_500));
        let gone = delivery(config, 900);
        let failed_at = UnixMillis(T0 + 30);
        world.record(gone, &DeliveryRecord { next_attempt_at: failed_at, ..failed(config, gone, 4, 10) });
        let lost = delivery(config, 901);
        world.page(config, 4_000, &[row(lost, Status::Retrying, 1, 4_000)]);
        for query in ["limit=100", "limit=100&status=delivered", "limit=7&skip=5"] {
            let (glanced, read) =
                (world.get(&format!("?{query}")).await, world.get(&format!("?{query}&{EVER}")).await);
            for field in ["totalCount", "totalCountIsFloor", "edges"] {
                assert_eq!(glanced[field], read[field], "seed {seed}, {query}, {field}");
            }
        }
    }
}

#[tokio::test]
async fn a_walk_under_writes_neither_repeats_nor_skips_a_delivery() {
    for seed in 0..12_u64 {
        let mut dice = Dice(seed);
        let mut world = World::new().await;
        let config = world.config("org_1", 1).await;
        let mut tracked = pasts(&mut world, config, &mut dice);
        let before: HashSet<String> = tracked.iter().map(|one| one.id.to_string()).collect();
        let mut newer = 1_000;
        let limit = 1 + dice.roll(9);
        let query = match seed % 3 {
            0 => format!("limit={limit}&webhookConfigId={config}"),
            1 => format!("limit={limit}&event=reward.earned"),
            _ => format!("limit={limit}"),
        };
        let walked = walk(&mut world, &query, async |world: &mut World| {
            // Written after the first page was answered, so later than what it saw.
            let ms = Clock::default().now().0.max(T0 + 100_000) - T0;
            let mut rows = Vec::new();
            for _ in 0..dice.roll(8) {
                let chosen = dice.roll(tracked.len() as u64) as usize;
                if tracked[chosen].waits {
                    let what = dice.roll(4);
                    rows.push(happen(world, config, &mut tracked[chosen], ms, what));
                }
            }
            newer += 1;
            let new = delivery(config, newer);
            rows.push(row(new, Status::Delivered, 1, ms));
            let pages = if dice.roll(2) == 0 { rows.len() } else { 1 };
            for rows in rows.chunks(pages) {
                world.page(config, ms, rows);
            }
        })
        .await;
        let mut seen = HashSet::new();
        for id in &walked {
            assert!(seen.insert(id.clone()), "seed {seed}: {id} is repeated");
        }
        let skipped: Vec<&String> = before.iter().filter(|id| !seen.contains(*id)).collect();
        assert!(skipped.is_empty(), "seed {seed}: skipped {skipped:?} of {}", before.len());
    }
}
