//! Breakers over two replicas, disabling after nothing but failures, and the events about it (docs/ARCHITECTURE.md,
//! "Breakers"; docs/WIRE.md sections 4 and 5).

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::arrivals::{READY_EVENT, Reply};
use crate::serving::{BINARY, ORGANISATION, Serve};
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

const OPERATOR: &str = "org_operator";

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

/// The config as the API shows it.
fn shown(stage: &Stage, config: &Put) -> Value {
    let all = stage.serve().get(&stage.token, "/configs");
    all.as_array().unwrap().iter().find(|one| one["id"] == config.id.as_str()).cloned().unwrap()
}

fn stored_health(stage: &Stage, config: &Put) -> Option<Value> {
    let key = format!("{}:{{control}}:health", stage.namespace);
    let raw: Option<String> = stage.redis(&["HGET", &key, &config.id]);
    raw.map(|text| serde_json::from_str(&text).unwrap())
}

/// An endpoint that fails until it is healed, and when each request came.
#[derive(Clone, Default)]
struct Endpoint {
    healed: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Instant>>>,
}

impl Endpoint {
    fn config(&self, stage: &Stage, path: &str, more: Value, after: Duration) -> Put {
        let me = self.clone();
        stage.config(path, more, move |_| {
            me.times.lock().unwrap().push(Instant::now());
            if me.healed.load(Ordering::Relaxed) { Reply::ok().after(after) } else { Reply::status(503) }
        })
    }

    fn count(&self) -> usize {
        self.times.lock().unwrap().len()
    }

    fn heal(&self) -> Instant {
        self.healed.store(true, Ordering::Relaxed);
        Instant::now()
    }

    fn since(&self, from: Instant) -> Vec<Instant> {
        self.times.lock().unwrap().iter().copied().filter(|at| *at >= from).collect()
    }
}

#[test]
fn an_endpoint_that_fails_is_left_alone_and_one_probe_of_two_replicas_finds_it_healed() {
    let settings = [
        "--retry-schedule",
        "100ms",
        "--breaker-failures",
        "5",
        "--breaker-delay",
        "1s",
        "--breaker-delay-max",
        "2s",
    ];
    let stage = stage(&settings);
    let second = Serve::start(&stage.url, &stage.namespace, &settings);
    let endpoint = Endpoint::default();
    let answer_after = Duration::from_millis(300);
    let config = endpoint.config(&stage, "/a", json!({ "maxRetries": 10 }), answer_after);
    let healthy = stage.config("/b", json!({}), |_| Reply::ok());
    stage.add_many(200);
    wait_for("the breaker to open", || shown(&stage, &config)["health"]["state"] == "open");
    stage.wait_arrived(&healthy, 200);
    stage.wait_acked();
    for serve in [stage.serve(), &second] {
        wait_for("every replica to know", || {
            let configs = serve.get(&stage.token, "/configs");
            let of = configs.as_array().unwrap().iter().find(|one| one["id"] == config.id.as_str()).cloned();
            of.is_some_and(|one| one["health"]["state"] == "open")
        });
    }
    wait_for("one of them to show it", || {
        [stage.serve(), &second].iter().map(|serve| serve.metric("postrider_breakers_open")).sum::<f64>()
            >= 1.0
    });
    let opened = endpoint.count();
    assert!(opened <= 160, "two replicas, a second's failures and what was under way: {opened}");
    let health = shown(&stage, &config)["health"].clone();
    assert_eq!(health["reason"], "HTTP 503");
    assert!(health["failingSince"].is_string() && health["since"].is_string(), "{health}");

    // Delays of 1, 2, 2 s: at most four probes in six seconds, each of one delivery.
    wait_for("a probe", || endpoint.count() > opened);
    wait_for("two further probes", || endpoint.count() >= opened + 3);
    assert!(endpoint.count() <= opened + 4);
    let all = stage.logs(&format!("&webhookConfigId={}", config.id));
    assert!(all.iter().all(|one| one["attempts"].as_u64().unwrap() <= 6), "parking counts no attempt");

    let healed = endpoint.heal();
    wait_within(Duration::from_secs(60), "everything to be delivered", || {
        let nonces: std::collections::HashSet<String> =
            stage.arrivals.at("/a").into_iter().map(|arrival| arrival.nonce).collect();
        nonces.len() == 200 && stored_health(&stage, &config).is_none()
    });
    let times = endpoint.since(healed);
    assert!(times[1] - times[0] >= answer_after, "the probe is alone until it is answered");
    let tail = format!("&webhookConfigId={}&status=failed", config.id);
    assert!(stage.logs(&tail).is_empty(), "no delivery used up its retries");
    assert_eq!(shown(&stage, &config).get("health"), None);
    wait_for("the queue to be empty", || stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0);
    let moved =
        stage.serve().metric("breaker_transitions_total") + second.metric("breaker_transitions_total");
    assert!(moved >= 5.0, "open, half-open, open..., ramping, closed: {moved}");
}

#[test]
fn a_probe_whose_holder_died_is_made_by_another_replica() {
    let settings = [
        "--retry-schedule",
        "100ms",
        "--breaker-failures",
        "3",
        "--breaker-delay",
        "300ms",
        "--request-timeout",
        "1s",
    ];
    let mut stage = stage(&settings);
    let endpoint = Endpoint::default();
    let config = endpoint.config(&stage, "/a", json!({ "maxRetries": 10 }), Duration::ZERO);
    stage.add_many(10);
    wait_for("the breaker to open", || stored_health(&stage, &config).is_some_and(|h| h["state"] == "open"));
    let other = Serve::start(&stage.url, &stage.namespace, &settings);
    stage.take_serve().kill();
    // As if the dead one had just taken the probe: nobody else may until its lease is past.
    let key = format!("{}:{{control}}:health", stage.namespace);
    let (seconds, _): (u64, u64) = stage.redis(&["TIME"]);
    let until = (seconds + 4) * 1_000;
    let mut held = stored_health(&stage, &config).unwrap();
    held["state"] = json!("halfOpen");
    held["holder"] = json!("dead");
    held["until"] = json!(until);
    stage.redis::<i64>(&["HSET", &key, &config.id, &held.to_string()]);
    let changes = format!("{}:{{control}}:changes", stage.namespace);
    stage.redis::<String>(&["XADD", &changes, "*", "kind", "health", "id", &config.id]);
    let healed = endpoint.heal();
    wait_for("everything to be delivered", || stored_health(&stage, &config).is_none());
    let (seconds, _): (u64, u64) = stage.redis(&["TIME"]);
    assert!(seconds * 1_000 + 1_000 >= until, "only after the lease");
    assert!(!endpoint.since(healed).is_empty());
    drop(other);
}

#[test]
fn a_config_that_only_fails_is_disabled_once_and_others_are_told() {
    let settings = [
        "--retry-schedule",
        "100ms",
        "--breaker-failures",
        "3",
        "--breaker-delay",
        "200ms",
        "--breaker-delay-max",
        "200ms",
        "--disable-after",
        "3s",
        "--disable-attempts",
        "5",
        "--operator-organisation",
        OPERATOR,
    ];
    let stage = stage(&settings);
    let second = Serve::start(&stage.url, &stage.namespace, &settings);
    let endpoint = Endpoint::default();
    let failing = endpoint.config(&stage, "/a", json!({ "maxRetries": 10 }), Duration::ZERO);
    let told = json!({ "events": ["webhook.config.disabled", "webhook.config.failing", READY_EVENT] });
    let watcher = stage.config("/own", told.clone(), |_| Reply::ok());
    let operator = operator_config(&stage, "/operator");
    for number in 0..20 {
        stage.add(&[("nonce", &format!("n-{number}")), ("configId", &failing.id)]);
    }
    wait_for("the config to be disabled", || shown(&stage, &failing)["active"] == false);
    let config = shown(&stage, &failing);
    assert_eq!(config["disabledReason"], "failing");
    assert!(config["disabledAt"].is_string() && config.get("health").is_none(), "{config}");

    for path in ["/own", operator.as_str()] {
        wait_told(&stage, path, &failing);
    }

    // What waited is held, and goes out when the config is active again; nothing of the failing is remembered.
    let waiting: usize = stage.redis(&["ZCARD", &stage.keys.queue(failing.id.parse().unwrap())]);
    assert!(waiting > 0);
    assert!(stage.logs(&format!("&webhookConfigId={}&status=failed", failing.id)).is_empty());
    let healed = endpoint.heal();
    stage.change(&failing.id, json!({ "active": true }));
    wait_for("the queue to go out", || endpoint.since(healed).len() >= waiting);
    wait_for("nothing to be remembered", || stored_health(&stage, &failing).is_none());
    assert_eq!(shown(&stage, &failing).get("disabledReason"), None);
    stage.wait_acked();
    let disabled = |put: &str| {
        let all = stage.arrivals.at(put);
        all.iter().filter(|arrival| arrival.header("x-nudj-event") == "webhook.config.disabled").count()
    };
    assert_eq!((disabled(&watcher.path), disabled(&operator)), (1, 1), "once, over two replicas");
    drop(second);
}

/// Waits until the endpoint at `path` was told of the failing config, and looks at what it was told.
fn wait_told(stage: &Stage, path: &str, failing: &Put) {
    let of = |event: &str| -> Vec<Value> {
        let all = stage.arrivals.at(path);
        let some = all.iter().filter(|arrival| arrival.header("x-nudj-event") == event);
        some.map(|arrival| serde_json::from_slice(&arrival.body).unwrap()).collect()
    };
    wait_for("the event to arrive", || !of("webhook.config.disabled").is_empty());
    let warnings = of("webhook.config.failing");
    assert!((1..=2).contains(&warnings.len()), "{warnings:?}");
    assert_eq!(warnings[0]["data"]["reason"], "HTTP 503");
    let data = of("webhook.config.disabled").remove(0)["data"].clone();
    assert_eq!((&data["reason"], &data["organisationId"]), (&json!("failing"), &json!(ORGANISATION)));
    assert_eq!((&data["config"]["id"], &data["config"]["host"]), (&json!(failing.id), &json!("127.0.0.1")));
    assert!(data["attempts"].as_u64() >= Some(5), "{data}");
    assert!(!data.to_string().contains("whsec"), "{data}");
}

/// A config of the operator's organisation; gives its path.
fn operator_config(stage: &Stage, path: &str) -> String {
    let output = Command::new(BINARY)
        .args(["token", "create", "--redis-url", &stage.url, "--namespace", &stage.namespace])
        .args(["--organisation", OPERATOR, "--role", "admin", "--output", "json"])
        .output()
        .expect("postrider runs");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let token = answer["token"].as_str().expect("a token").to_owned();
    let url = stage.arrivals.endpoint(path, "whsec_o", |_| Reply::ok());
    let events = ["webhook.config.disabled", "webhook.config.failing"];
    stage.serve().put(&token, "/configs", &json!({ "url": url, "events": events, "secret": "whsec_o" }));
    path.to_owned()
}

#[test]
fn a_410_is_told_to_another_config() {
    let stage = stage(&[]);
    let gone = stage.config("/gone", json!({}), |_| Reply::status(410));
    let told = json!({ "events": ["webhook.config.disabled", READY_EVENT] });
    let watcher = stage.config("/own", told, |_| Reply::ok());
    stage.add(&[("event", EVENT)]);
    let arrival = stage.wait_arrived(&watcher, 1).remove(0);
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!((&body["data"]["reason"], &body["data"]["config"]["id"]), (&json!("gone"), &json!(gone.id)));
    assert_eq!(body["nonce"], format!("webhook.config.disabled-{}-2", gone.id));
    assert!(arrival.verified);
}

#[test]
fn a_paused_queue_holds_resumes_and_expires() {
    let stage = stage(&["--retry-schedule", "1s", "--overdue-max", "2s"]);
    let endpoint = Endpoint::default();
    let config = endpoint.config(&stage, "/a", json!({}), Duration::ZERO);
    stage.add(&[("nonce", "resumes")]);
    stage.wait_logged(&config, "retrying", 1);
    stage.change(&config.id, json!({ "active": false }));
    endpoint.heal();
    stage.change(&config.id, json!({ "active": true }));
    stage.wait_logged(&config, "delivered", 1);

    endpoint.healed.store(false, Ordering::Relaxed);
    stage.add(&[("nonce", "expires")]);
    stage.wait_logged(&config, "retrying", 1);
    stage.change(&config.id, json!({ "active": false }));
    let before = endpoint.count();
    let mut retries = 0_u64;
    // Each change of the config brings a visit.
    wait_for("the delivery to expire", || {
        retries += 1;
        stage.change(&config.id, json!({ "active": false, "maxRetries": retries % 5 }));
        !stage.logs(&format!("&webhookConfigId={}&status=failed", config.id)).is_empty()
    });
    assert_eq!(stage.wait_logged(&config, "failed", 1)[0]["failReason"], "expired");
    assert_eq!(endpoint.count(), before, "nothing is sent to a paused config");
}
