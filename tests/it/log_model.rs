//! The log's answers against a model: what happened to many deliveries of several configs and shards, of which a cap
//! evicted the oldest rows, and what the log must show of it, by first pages, by walks and by filters.

use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::DeliveryRecord;
use postrider::domain::ids::{ConfigId, DeliveryId};
use postrider::domain::log::{LogRow, Status};
use redis::Commands;
use serde_json::{Value, json};

use crate::log_world::{T0, World, delivery_in, failed, row, waiting};
use crate::paging::quietly;

const CONFIGS: u32 = 3;
const SHARDS: u16 = 2;
/// Of each config in each shard.
const DELIVERIES: u64 = 40;
/// A page takes the rows of so many milliseconds.
const PAGE_MS: u64 = 250;

/// Numbers that a seed determines (SplitMix64).
struct Numbers(u64);

/// A delivery as the log must show it.
#[derive(Clone, Debug)]
struct Shown {
    id: DeliveryId,
    config: ConfigId,
    status: Status,
    /// Its place: the page's time and the row in it, or the time of its last attempt.
    place: (u64, usize),
    /// When it failed.
    failed_ms: u64,
}

/// One delivery's rows, oldest first, and what is left of it.
struct Life {
    id: DeliveryId,
    rows: Vec<LogRow>,
    record: Option<(DeliveryRecord, u64)>,
    /// The attempts in its mark.
    mark: Option<u32>,
}

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What may happen to a delivery; times are ms after `T0`.
fn life(numbers: &mut Numbers, shard: u16, config: ConfigId, number: u64) -> Life {
    let id = delivery_in(shard, config, number * 50);
    let first = number * 50 + numbers.below(200);
    let second = first + 1 + numbers.below(3_000);
    let third = second + 1 + numbers.below(1_000);
    let at = |status, attempt, ms| row(id, status, attempt, ms);
    let (rows, record) = match numbers.below(20) {
        0..12 => (vec![at(Status::Delivered, 1, first)], None),
        12..14 => (vec![at(Status::Retrying, 1, first), at(Status::Delivered, 2, second)], None),
        14..17 => {
            let rows = vec![at(Status::Retrying, 1, first), at(Status::Failed, 2, second)];
            let kept = numbers.below(4) > 0;
            (rows, kept.then(|| (failed(config, id, 2, second), second)))
        }
        17 => (vec![at(Status::Retrying, 1, first)], Some((waiting(config, id, 1, first), first))),
        // Failed, and delivered when it was tried again by hand.
        18 => (vec![at(Status::Failed, 1, first), at(Status::Delivered, 2, third)], None),
        // Its record was lost: it is not shown.
        _ => (vec![at(Status::Retrying, 1, first)], None),
    };
    let mark = (rows.len() == 2 && rows[0].is_final()).then_some(2);
    Life { id, rows, record, mark }
}

const fn page_of(ms: u64) -> u64 {
    (ms / PAGE_MS + 1) * PAGE_MS
}

/// Writes the lives of one config in one shard, but for the rows in pages before `evicted`; gives what is shown.
fn write(world: &mut World, shard: u16, config: ConfigId, lives: Vec<Life>, evicted: u64) -> Vec<Shown> {
    let at = |row: &LogRow| row.at.0 - T0;
    let mut rows: Vec<LogRow> = lives.iter().flat_map(|life| life.rows.clone()).collect();
    rows.retain(|row| page_of(at(row)) >= evicted);
    rows.sort_by_key(at);
    let mut places: Vec<(DeliveryId, Status, (u64, usize))> = Vec::new();
    for page in rows.chunk_by(|one, other| page_of(at(one)) == page_of(at(other))) {
        let ms = page_of(at(&page[0]));
        let page: Vec<_> = page.iter().map(|row| (row.clone(), None)).collect();
        world.page_in(shard, config, ms, &page);
        places.extend(page.iter().enumerate().map(|(n, (row, _))| (row.delivery, row.status, (ms, n))));
    }
    let mut shown = Vec::new();
    for life in lives {
        if let Some(attempts) = life.mark {
            let mark = [&[0; 4][..], &config.bytes(), &attempts.to_be_bytes()].concat();
            let _: () = world.raw.set(world.keys(shard).delivery(life.id), mark).unwrap();
        }
        let mut of_it = places.iter().rev().filter(|(id, ..)| *id == life.id);
        if let Some((record, ms)) = life.record {
            let is_failed = record.next_attempt_at.0 == 0 || record != waiting(config, life.id, 1, ms);
            // What fails does so in the step that writes its page.
            let score = UnixMillis(T0 + if is_failed { page_of(ms) } else { ms + 60_000 });
            world.record(life.id, &DeliveryRecord { next_attempt_at: score, ..record });
            let status = if is_failed { Status::Failed } else { Status::Retrying };
            let place = of_it.next().map_or((ms, 0), |(.., place)| *place);
            shown.push(Shown { id: life.id, config, status, place, failed_ms: score.0 });
        } else if let Some((_, status, place)) =
            of_it.find(|(_, status, _)| matches!(status, Status::Delivered | Status::Failed))
        {
            shown.push(Shown { id: life.id, config, status: *status, place: *place, failed_ms: 0 });
        }
    }
    shown
}

/// Every page from the first to the last, behind the first page's count.
async fn walk(world: &mut World, query: &str) -> (Value, Vec<String>) {
    let count = world.get(&format!("?{query}")).await["totalCount"].clone();
    (count, quietly(world, query).await)
}

#[tokio::test]
async fn the_log_shows_what_happened_however_it_is_asked() {
    for seed in 0..7 {
        let mut world = World::with_shards(SHARDS).await;
        let mut numbers = Numbers(seed);
        let mut shown = Vec::new();
        for sequence in 1..=CONFIGS {
            let config = world.config("org_1", sequence).await;
            for shard in 0..SHARDS {
                let lives = (0..DELIVERIES).map(|n| life(&mut numbers, shard, config, n)).collect();
                let evicted = numbers.below(3_000);
                shown.extend(write(&mut world, shard, config, lives, evicted));
            }
        }
        shown.sort_by_key(|one| std::cmp::Reverse((one.place, one.id)));
        let one = shown[0].config;
        for (filter, wants) in [
            (String::new(), Box::new(|_: &Shown| true) as Box<dyn Fn(&Shown) -> bool>),
            (format!("&webhookConfigId={one}"), Box::new(move |delivery: &Shown| delivery.config == one)),
            ("&status=delivered".into(), Box::new(|delivery| delivery.status == Status::Delivered)),
            ("&success=false".into(), Box::new(|delivery| delivery.status != Status::Delivered)),
        ] {
            let wanted: Vec<String> =
                shown.iter().filter(|one| wants(one)).map(|one| one.id.to_string()).collect();
            assert!(wanted.len() > 10, "the model shows enough");
            let limits: &[u32] = if filter.is_empty() { &[1, 7, 100] } else { &[7, 100] };
            for limit in limits {
                let (count, walked) = walk(&mut world, &format!("limit={limit}{filter}")).await;
                assert_eq!(walked, wanted, "seed {seed}, limit {limit}, {filter:?}");
                assert_eq!(count, json!(wanted.len()), "seed {seed}, limit {limit}, {filter:?}");
            }
        }
        let mut failures: Vec<&Shown> = shown.iter().filter(|one| one.failed_ms > 0).collect();
        failures.retain(|one| one.status == Status::Failed);
        failures.sort_by_key(|one| std::cmp::Reverse((one.failed_ms, one.id)));
        let wanted: Vec<String> = failures.iter().map(|one| one.id.to_string()).collect();
        for limit in [1, 7, 100] {
            let (count, walked) = walk(&mut world, &format!("limit={limit}&status=failed")).await;
            assert_eq!((walked, count), (wanted.clone(), json!(wanted.len())), "seed {seed}, limit {limit}");
        }
    }
}
