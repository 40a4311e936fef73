//! `/metrics`: who shows what, and how much of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postrider::domain::ids::{ConfigId, ConfigSequence};
use postrider::redis::keys::Keys;
use serde_json::json;

use crate::arrivals::Reply;
use crate::serving::{ORGANISATION, Serve};
use crate::stage::{EVENT, Stage};
use crate::support::{RedisServer, wait_within};

/// The series of a scrape, by metric.
fn series(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, _) = line.rsplit_once(' ').expect("a value");
        let metric = name.split('{').next().expect("a name").to_owned();
        found.entry(metric).or_default().push(name.to_owned());
    }
    found
}

/// Whether a replica shows what one of them reads for all.
fn samples(serve: &Serve) -> bool {
    series(&serve.metrics_text()).contains_key("postrider_oldest_undelivered_seconds")
}

#[test]
fn one_replica_shows_what_redis_says_and_another_takes_over_when_it_dies() {
    let server = RedisServer::start(&[]);
    let mut stage = Stage::on(&server.url(), "sampled", &["--workers", "2"]);
    let paused = stage.config("/paused", json!({}), |_| Reply::ok());
    stage.change(&paused.id, json!({"active": false}));
    let other = Serve::start(&server.url(), "sampled", &["--workers", "2"]);
    let limit = Duration::from_secs(30);
    wait_within(limit, "one of them to sample", || samples(stage.serve()) || samples(&other));
    assert!(samples(stage.serve()) && !samples(&other), "the first one took the lease");
    let shown = series(&stage.serve().metrics_text());
    for metric in ["postrider_redis_memory_bytes", "postrider_backlog_deliveries", "postrider_breakers_open"]
    {
        assert_eq!(shown[metric].len(), 1, "{metric}");
    }
    assert!(stage.serve().sample("postrider_configs", "paused") >= 1.0);
    assert_eq!(stage.serve().metrics_text().matches("postrider_redis_persistence_failing{").count(), 3);

    stage.take_serve().kill();
    wait_within(limit, "the other one to take over", || samples(&other));
    assert!(other.metric("postrider_redis_memory_bytes") > 0.0);

    // One that stops hands over at once.
    stage.start_serve(&["--workers", "2"]);
    assert!(!samples(stage.serve()));
    assert!(other.terminate().success());
    wait_within(Duration::from_secs(10), "the gauges to be handed over", || samples(stage.serve()));
}

#[test]
fn the_gauges_of_a_replica_that_lost_redis_disappear() {
    let server = RedisServer::start(&[]);
    let stage = Stage::on(&server.url(), "away", &["--workers", "1"]);
    wait_within(Duration::from_secs(20), "samples", || samples(stage.serve()));
    drop(server);
    wait_within(Duration::from_secs(25), "stale gauges to disappear", || !samples(stage.serve()));
    let text = stage.serve().metrics_text();
    assert!(text.contains("postrider_ready{condition=\"redis\"} 0"), "{text}");
}

#[test]
fn ten_thousand_failing_configs_make_a_bounded_number_of_series() {
    let server = RedisServer::start(&[]);
    // Stored as the admin API stores them: an organisation gets no ten thousand there.
    let mut raw = redis::Client::open(server.url()).expect("a url").get_connection().expect("a connection");
    let configs = Keys::new("many").expect("a namespace").configs();
    let mut pipeline = redis::pipe();
    for number in 1..=10_000_u32 {
        let id = ConfigId::new([7; 8], ConfigSequence(number)).to_string();
        // Nobody listens on port 1: each attempt fails at once.
        let config = json!({
            "kind": "config", "id": id, "organisation": ORGANISATION, "version": 1, "headers": {},
            "url": format!("http://127.0.0.1:1/{number}"), "events": [EVENT], "secret": "whsec_of_many_configs",
            "active": true, "maxRetries": 3, "createdAt": 1, "updatedAt": 1,
        });
        pipeline.cmd("HSET").arg(&configs).arg(id).arg(config.to_string()).ignore();
    }
    pipeline.query::<()>(&mut raw).expect("HSET");
    let stage = Stage::on(&server.url(), "many", &["--workers", "2", "--log-level", "error"]);
    let before: usize = series(&stage.serve().metrics_text()).values().map(Vec::len).sum();
    let wanted = 10_000.0;
    wait_within(Duration::from_secs(30), "the configs to be known", || {
        stage.serve().sample("postrider_configs", "active") >= wanted
    });
    stage.add(&[]);
    wait_within(Duration::from_secs(60), "every config to have failed", || {
        stage.serve().metric("postrider_config_failed_attempts") >= wanted
    });
    let text = stage.serve().metrics_text();
    let shown = series(&text);
    let by_config: BTreeSet<&String> = shown.keys().filter(|name| name.contains("_config_")).collect();
    assert!(by_config.len() >= 4, "{by_config:?}");
    for name in by_config {
        assert!(shown[name].len() <= 51, "{name} has {} series", shown[name].len());
    }
    assert_eq!(shown["postrider_config_failed_attempts"].len(), 51);
    let total: usize = shown.values().map(Vec::len).sum();
    println!("{before} series without configs, {total} with 10,000 that fail; {} bytes", text.len());
    assert!(total <= before + 5 * 51 + 20, "{total} series, {before} before");
    assert!(total < 700, "{total} series");
}
