//! A config's stats: what the walk counts arrives in Redis and in the answer.

use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::log_world::{T0, World, delivery, failed, waiting};
use crate::serving::Serve;
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_for};
use postrider::domain::token::Role;

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

fn stats(stage: &Stage, serve: &Serve, config: &Put) -> Value {
    serve.get(&stage.token, &format!("/configs/{}/stats", config.id))
}

#[test]
fn outcomes_latencies_and_the_last_failure_are_counted() {
    let stage = stage(&["--retry-schedule", "50ms"]);
    let config = stage.config("/a", json!({ "maxRetries": 1 }), |arrival| match arrival.nonce.as_str() {
        "bad" => Reply::status(404),
        "worse" => Reply::status(503),
        _ => Reply::ok(),
    });
    // The events that showed the config to be in effect were delivered too.
    let ready = stage.arrivals.at("/a").len();
    stage.add_many(7);
    stage.add(&[("nonce", "bad")]);
    stage.add(&[("nonce", "worse")]);
    stage.wait_logged(&config, "failed", 2);
    stage.wait_logged(&config, "delivered", 7);
    let mut answer = Value::Null;
    wait_for("the stats to be told", || {
        answer = stats(&stage, stage.serve(), &config);
        answer["lastDay"]["deliveries"]["delivered"].as_u64() >= Some(7 + 1)
            && answer["lastDay"]["deliveries"]["failed"] == 2
    });
    assert!(ready <= 1_000);
    for span in ["lastHour", "lastDay"] {
        let span = &answer[span];
        assert_eq!(span["deliveries"]["failedByReason"], json!({ "refused": 1, "exhausted": 1 }));
        assert_eq!((&span["attempts"]["refused"], &span["attempts"]["retryable"]), (&json!(1), &json!(2)));
        assert_eq!(span["attempts"]["delivered"], span["deliveries"]["delivered"]);
        let rate = span["deliveries"]["successRate"].as_f64().unwrap();
        let delivered = span["deliveries"]["delivered"].as_f64().unwrap();
        assert!((rate - delivered / (delivered + 2.0)).abs() < 1e-9, "{span}");
        let latency = |name: &str| span["latencyMs"][name].as_u64().unwrap();
        assert!(latency("p50") <= latency("p95") && latency("p95") <= latency("p99"), "{span}");
        assert_eq!(span["skipped"], 0);
    }
    let reason = answer["lastFailure"]["reason"].as_str().unwrap();
    assert!(["HTTP 503", "HTTP 404"].contains(&reason), "{answer}");
    assert!(answer["lastSuccessAt"].is_string());
    assert_eq!((&answer["active"], &answer["failed"]["deliveries"]), (&json!(true), &json!(2)));
    assert!(answer["failed"]["bytes"].as_u64() > Some(0));
    assert_eq!((&answer["backlog"]["deliveries"], &answer["backlog"]["oldestAt"]), (&json!(0), &Value::Null));
}

#[test]
fn what_a_paused_config_misses_is_counted_and_a_drain_tells_all() {
    let mut stage = stage(&[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    stage.change(&config.id, json!({ "active": false }));
    // A config that is put later is in effect, so the change is, too.
    stage.config("/later", json!({}), |_| Reply::ok());
    stage.add(&[("configId", &config.id)]);
    stage.add(&[("configId", &config.id)]);
    stage.wait_acked();
    // What was counted and not told yet is told before the server ends.
    assert!(stage.take_serve().terminate().success());
    stage.start_serve(&[]);
    let answer = stats(&stage, stage.serve(), &config);
    assert!(answer["lastHour"]["skipped"].as_u64() >= Some(2), "{answer}");
    assert_eq!((&answer["active"], &answer["breaker"]["state"]), (&json!(false), &json!("closed")));
}

#[tokio::test]
async fn what_waits_is_shown_with_its_age_and_strangers_see_nothing() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    for n in [5, 3, 9] {
        let id = delivery(config, n);
        world.record(id, &waiting(config, id, 1, 10 * n));
    }
    let dead = delivery(config, 20);
    world.record(dead, &failed(config, dead, 4, 300));
    let key = world.keys(0).size(config);
    let _: () =
        redis::Commands::hset_multiple(&mut world.raw, key, &[("queueBytes", 777), ("failedBytes", 99)])
            .unwrap();
    let path = format!("/../configs/{config}/stats");
    let answer = world.get(&path).await;
    let backlog = &answer["backlog"];
    assert_eq!((&backlog["deliveries"], &backlog["bytes"]), (&json!(3), &json!(777)));
    assert_eq!((&backlog["oldestAt"], &backlog["oldestIsBound"]), (&json!(iso(3)), &json!(false)));
    assert!(backlog["oldestAgeSeconds"].as_u64().is_some());
    assert_eq!(answer["failed"], json!({ "deliveries": 1, "bytes": 99 }));
    let span = &answer["lastHour"];
    assert_eq!((&span["deliveries"]["successRate"], &span["latencyMs"]["p99"]), (&Value::Null, &Value::Null));
    assert_eq!((&answer["lastSuccessAt"], &answer["lastFailure"]), (&Value::Null, &Value::Null));

    let stranger = world.token_of("org_2", Role::Admin).await;
    let (status, body) = world.get_as(&stranger, &path).await;
    assert_eq!((status, &body["data"]["path"]), (404, &json!("getWebhookStats")));
    let unknown = world.get_as(&stranger, "/../configs/0123456789abcdef00000007/stats").await;
    assert_eq!((status, body), unknown);
    assert_eq!(world.get_as(&world.token, "/../configs/12/stats").await.0, 400);
    let publisher = world.token_of("org_1", Role::Publisher).await;
    assert_eq!(world.get_as(&publisher, &path).await.0, 403);
    let viewer = world.token_of("org_1", Role::Viewer).await;
    assert_eq!(world.get_as(&viewer, &path).await.0, 200);
}

fn iso(ms: u64) -> String {
    postrider::domain::clock::UnixMillis(T0 + ms).to_string()
}
