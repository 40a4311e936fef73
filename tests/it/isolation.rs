//! No endpoint slows another: bounds of what is in flight and in memory, and what hangs or waits beside them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{Delivery, DeliveryRecord, Standing, Tried};
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId, ShardNumber, StreamId};
use postrider::redis::keys::Keys;
use serde_json::json;

use crate::arrivals::{Arrival, Arrivals, Reply};
use crate::serving::ORGANISATION;
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

/// When each request of some endpoints arrived; they answer after `takes`.
#[derive(Clone)]
struct Overlap {
    takes: Duration,
    began: Arc<Mutex<Vec<Instant>>>,
}

// === impl Overlap ===

impl Overlap {
    fn new(takes: Duration) -> Self {
        Self { takes, began: Arc::default() }
    }

    fn answer(&self) -> impl Fn(&Arrival) -> Reply + Send + Sync + 'static {
        let this = self.clone();
        move |_| {
            this.began.lock().unwrap().push(Instant::now());
            Reply::ok().after(this.takes)
        }
    }

    /// The most requests that were under way at once.
    fn most(&self) -> usize {
        let began = self.began.lock().unwrap();
        let at_once = |at: &Instant| {
            began.iter().filter(|other| **other <= *at && at.duration_since(**other) < self.takes).count()
        };
        began.iter().map(at_once).max().unwrap_or(0)
    }
}

/// Writes a config as the server stores it.
fn put_config(
    raw: &mut redis::Connection,
    namespace: &str,
    number: u32,
    url: &str,
    active: bool,
) -> ConfigId {
    let id = ConfigId::new([7; 8], ConfigSequence(number));
    let config = json!({
        "kind": "config", "id": id, "organisation": ORGANISATION, "version": 1, "url": url,
        "events": ["points.awarded"], "secret": "whsec_of_many", "active": active, "maxRetries": 3, "headers": {},
        "createdAt": 1, "updatedAt": 1,
    });
    let key = Keys::new(namespace).unwrap().configs();
    redis::cmd("HSET").arg(key).arg(id.to_string()).arg(config.to_string()).exec(raw).unwrap();
    id
}

/// Queues `count` deliveries that were due a minute ago.
fn put_backlog(raw: &mut redis::Connection, namespace: &str, config: ConfigId, count: u64) {
    let keys = Keys::new(namespace).unwrap().shard(ShardNumber(0));
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query(raw).unwrap();
    let due = (seconds - 60) * 1_000;
    let mut pipeline = redis::pipe();
    for seq in 0..count {
        let event = EventId::new(ShardNumber(0), StreamId { ms: due - 1_000, seq }).unwrap();
        let delivery = Delivery {
            id: event.delivery(config.sequence()),
            config,
            event_type: "points.awarded".into(),
            traceparent: None,
            body: Bytes::from_static(br#"{"nonce":"of the backlog"}"#),
            created_at: UnixMillis(due),
            tried: Tried::default(),
        };
        let mut record = DeliveryRecord::of(&delivery, Tried::default(), Standing::Waiting);
        record.next_attempt_at = UnixMillis(due);
        pipeline.cmd("SET").arg(keys.delivery(delivery.id)).arg(record.encode()).ignore();
        pipeline.cmd("ZADD").arg(keys.queue(config)).arg(due).arg(delivery.id.to_string()).ignore();
    }
    pipeline.cmd("ZADD").arg(keys.due()).arg(due).arg(config.to_string()).ignore();
    pipeline.query::<()>(raw).unwrap();
}

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

/// Adds an event for one config, with the nonce `nonce`.
fn add_for(stage: &Stage, config: &Put, nonce: &str) {
    stage.add(&[("configId", &config.id), ("nonce", nonce)]);
}

#[test]
fn in_flight_never_passes_its_limits() {
    let stage = stage(&["--in-flight-max", "12", "--config-in-flight-max", "5", "--workers", "2"]);
    let all = Overlap::new(Duration::from_millis(50));
    let own: Vec<Overlap> = (0..3).map(|_| Overlap::new(Duration::from_millis(50))).collect();
    for (number, own) in own.iter().enumerate() {
        let (all, own) = (all.answer(), own.answer());
        stage.config(&format!("/{number}"), json!({}), move |arrival| {
            all(arrival);
            own(arrival)
        });
    }
    stage.add_many(100);
    wait_for("every delivery", || stage.arrivals.tally().deliveries == 300);
    let most: Vec<usize> = own.iter().map(Overlap::most).collect();
    assert!(most.iter().all(|most| (4..=5).contains(most)), "{most:?} at once at one endpoint");
    assert!((8..=12).contains(&all.most()), "{} at once", all.most());
    stage.wait_acked();
    assert_eq!(stage.arrivals.tally().requests, 300);
}

#[test]
fn intake_stops_at_the_credit_and_goes_on_as_it_comes_back() {
    for (limit, most, note) in [
        (["--deliveries-max", "40"], 41.0, 10),
        // Six bodies of 100 KB and the one that passed the limit.
        (["--delivery-bytes-max", "512KiB"], 7.0, 100_000),
    ] {
        let stage = stage(&[limit[0], limit[1], "--workers", "1", "--read-count-max", "10"]);
        let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(10)));
        let data = format!("{{\"note\":\"{}\"}}", "x".repeat(note));
        for number in 0..300 {
            stage.add(&[("nonce", &format!("n-{number}")), ("data", &data)]);
        }
        let mut seen = (0.0_f64, 0, 0);
        wait_for("every delivery", || {
            let memory = stage.serve().metric("deliveries_in_memory");
            seen = (seen.0.max(memory), seen.1.max(stage.pending()), seen.2 + stage.unread());
            stage.arrivals.at(&config.path).len() == 300
        });
        assert!(seen.0 <= most, "{limit:?}: {} in memory", seen.0);
        assert!(seen.1 <= 60, "{limit:?}: {} pending", seen.1);
        assert!(seen.2 > 0, "{limit:?}: the stream was never ahead of what is in memory");
        stage.wait_acked();
        assert_eq!(stage.arrivals.tally().requests, 300);
    }
}

#[test]
fn hanging_endpoints_do_not_take_the_permits_or_the_credit_of_the_others() {
    // 24 endpoints that hang could take 8 each of 64 permits, and all of the credit of 128.
    let limits = ["--in-flight-max", "64", "--config-in-flight-max", "32", "--deliveries-max", "128"];
    let stage = stage(&[&limits[..], &["--workers", "2", "--request-timeout", "20s"]].concat());
    let good = stage.config("/good", json!({}), |_| Reply::ok());
    let bad: Vec<Put> = (0..24)
        .map(|number| {
            stage.config(&format!("/bad{number}"), json!({}), |_| Reply::ok().after(Duration::from_secs(60)))
        })
        .collect();
    add_for(&stage, &good, "first");
    stage.wait_arrived(&good, 1);
    for round in 0..10 {
        for config in &bad {
            add_for(&stage, config, &format!("bad-{round}"));
        }
    }
    wait_for("many to hang", || stage.serve().metric("attempts_in_flight") >= 20.0);
    let mut longest = Duration::ZERO;
    for number in 0..200 {
        let began = Instant::now();
        add_for(&stage, &good, &format!("good-{number}"));
        if number % 10 == 0 {
            add_for(&stage, &bad[number / 10], &format!("more-{number}"));
        }
        stage.wait_arrived(&good, number + 2);
        longest = longest.max(began.elapsed());
    }
    println!("the slowest of 200 beside 24 that hang took {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // A new endpoint, of which nothing is known, gets its first permit too.
    let new = stage.config("/new", json!({}), |_| Reply::ok());
    let began = Instant::now();
    add_for(&stage, &new, "new");
    stage.wait_arrived(&new, 1);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(stage.serve().metric("attempts_in_flight") <= 64.0);
}

#[test]
fn what_cannot_be_served_does_not_hold_up_what_is_due() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    for number in 1..=200 {
        let config = put_config(&mut raw, &space.namespace, number, "http://127.0.0.1:1/", false);
        put_backlog(&mut raw, &space.namespace, config, 3);
    }
    let stage = Stage::on(&space.url, &space.namespace, &["--retry-schedule", "1s"]);
    let active =
        stage.config("/a", json!({}), |arrival| Reply::status(if arrival.nth == 1 { 503 } else { 200 }));
    let mut worst = Duration::ZERO;
    for number in 0..5 {
        let began = Instant::now();
        stage.add(&[("nonce", &format!("n-{number}"))]);
        stage.wait_arrived(&active, 2 * number + 2);
        worst = worst.max(began.elapsed());
    }
    println!("a retry after 1 s came {worst:?} after its event at the latest");
    assert!(worst < Duration::from_millis(2_300), "{worst:?}");
    let waiting = || stage.redis::<usize>(&["ZCARD", &stage.keys.due()]);
    wait_for("the active one to have nothing left, while the paused ones wait on", || waiting() == 200);
    assert_eq!(stage.arrivals.at("/a").len(), 10);
}

#[test]
fn backlogs_of_dead_endpoints_cost_the_others_nothing() {
    let space = TestSpace::new();
    let dead = Arrivals::start();
    let hanging = dead.endpoint("/dead", "whsec_of_many", |_| Reply::ok().after(Duration::from_secs(60)));
    let mut raw = space.raw();
    let configs: Vec<ConfigId> =
        (1..=10).map(|number| put_config(&mut raw, &space.namespace, number, &hanging, true)).collect();
    for config in &configs {
        put_backlog(&mut raw, &space.namespace, *config, 2_000);
    }
    let stage = Stage::on(&space.url, &space.namespace, &["--request-timeout", "20s"]);
    wait_within(Duration::from_secs(10), "attempts at the dead ones", || dead.tally().requests >= 20);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let began = Instant::now();
    stage.add_many(2_000);
    wait_for("every delivery", || stage.arrivals.at(&config.path).len() == 2_000);
    println!("2,000 deliveries beside 20,000 that wait took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.wait_acked();
    // Claims are bounded by permits: what waits stays in Redis.
    let waiting: usize =
        configs.iter().map(|id| stage.redis::<usize>(&["ZCARD", &stage.keys.queue(*id)])).sum();
    assert_eq!(waiting, 20_000);
    assert!(dead.tally().requests <= 10 * 16, "{} attempts at the dead", dead.tally().requests);
}
