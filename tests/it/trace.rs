//! Where is my event? Every place that it can be in.

use postrider::domain::config::StoredConfig;
use postrider::domain::log::Status;
use postrider::domain::token::Role;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::log_world::{T0, World, delivery, failed, row, waiting};
use crate::serving::{BINARY, ORGANISATION};
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, wait_for};

async fn traced(world: &World, query: &str) -> Value {
    world.get(&format!("/../trace?{query}")).await
}

/// `XADD`s an event of `org_1` at `T0 + ms`.
fn add(world: &mut World, ms: u64, more: &[(&str, &str)]) -> String {
    let mut command = redis::cmd("XADD");
    command.arg(world.keys(0).events()).arg(format!("{}-0", T0 + ms));
    command.arg(&[("organisationId", "org_1"), ("event", "reward.earned"), ("data", "{}")]).arg(more);
    command.query(&mut world.raw).unwrap()
}

fn read_all(world: &mut World, acknowledge: bool) {
    let events = world.keys(0).events();
    let mut made = redis::cmd("XGROUP");
    made.arg("CREATE").arg(&events).arg("dispatchers").arg("0");
    let _: Result<(), _> = made.query(&mut world.raw);
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg("dispatchers").arg("somebody");
    if acknowledge {
        read.arg("NOACK");
    }
    read.arg("STREAMS").arg(&events).arg(">");
    let _: Value = read.query::<redis::Value>(&mut world.raw).map(|_| Value::Null).unwrap();
}

#[tokio::test]
async fn an_entry_is_followed_from_the_stream_to_its_deliveries() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let id = add(&mut world, 5, &[("nonce", "order-1")]);
    for query in ["nonce=order-1".to_owned(), format!("id={id}"), format!("nonce=evt_0_{id}")] {
        let answer = traced(&world, &query).await;
        assert_eq!((&answer["state"], &answer["event"]["id"]), (&json!("unread"), &json!(id)), "{answer}");
        assert_eq!((&answer["event"]["nonce"], &answer["deliveries"]), (&json!("order-1"), &json!([])));
        let without = json!([{ "webhookConfigId": config.to_string(), "reason": "waiting" }]);
        assert_eq!(answer["withoutDelivery"], without);
    }
    read_all(&mut world, false);
    assert_eq!(traced(&world, "nonce=order-1").await["state"], "inProgress");

    let shown = delivery(config, 5);
    world.record(shown, &waiting(config, shown, 1, 30));
    world.page(config, 40, &[row(shown, Status::Retrying, 1, 30)]);
    let answer = traced(&world, &format!("id={shown}")).await;
    let one = &answer["deliveries"][0];
    assert_eq!((&one["deliveryId"], &one["status"]), (&json!(shown.to_string()), &json!("retrying")));
    assert!(one["nextAttemptAt"].is_string() && one["attemptLog"].as_array().unwrap().len() == 1);
    assert_eq!(answer["withoutDelivery"], json!([]));
}

#[tokio::test]
async fn a_nonce_is_found_in_records_and_payloads_after_the_stream_was_trimmed() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let [queued, dead, done] = [5, 6, 7].map(|n| delivery(config, n));
    let body = |nonce: &str| {
        format!(r#"{{"event":"a.b","timestamp":"x","nonce":"{nonce}","id":"{nonce}","data":{{}}}}"#)
    };
    let record = |nonce: &str, record| postrider::domain::delivery::DeliveryRecord {
        body: postrider::domain::delivery::RecordBody::Inline(body(nonce).into()),
        ..record
    };
    world.record(queued, &record("waits", waiting(config, queued, 1, 10)));
    world.record(dead, &record("dead", failed(config, dead, 4, 10)));
    world.page_in(
        0,
        config,
        90,
        &[(row(done, Status::Delivered, 1, 80), Some(body("it's \\\"done\\\"").as_bytes()))],
    );
    for (nonce, id, status) in
        [("waits", queued, "retrying"), ("dead", dead, "failed"), ("it%27s%20%22done%22", done, "delivered")]
    {
        let answer = traced(&world, &format!("nonce={nonce}")).await;
        assert_eq!(
            (&answer["state"], &answer["event"]["inStream"]),
            (&json!("routed"), &json!(false)),
            "{answer}"
        );
        let one = &answer["deliveries"][0];
        assert_eq!((&one["deliveryId"], &one["status"]), (&json!(id.to_string()), &json!(status)));
    }
    let answer = traced(&world, "nonce=nowhere").await;
    assert_eq!((&answer["state"], &answer["event"]), (&json!("notFound"), &Value::Null));
    assert!(answer["searched"].as_array().unwrap().len() >= 4, "{answer}");
    assert!(!answer["notSearched"].as_array().unwrap().is_empty());

    // Another organisation finds none of it, by whatever name, and cannot tell it from what never was.
    let stranger = world.token_of("org_2", Role::Admin).await;
    let never = world.get_as(&stranger, "/../trace?id=9-9").await.1;
    let id = add(&mut world, 50, &[("nonce", "mine")]);
    for query in [format!("id={id}"), format!("id={done}"), format!("id={queued}"), "nonce=dead".into()] {
        let (status, body) = world.get_as(&stranger, &format!("/../trace?{query}")).await;
        assert_eq!((status, &body["state"], &body["event"]), (200, &never["state"], &Value::Null), "{query}");
        assert_eq!((&body["deliveries"], &body["withoutDelivery"]), (&json!([]), &json!([])));
    }
}

#[tokio::test]
async fn a_replay_hides_nothing_of_the_event_that_it_brought_again() {
    let mut world = World::new().await;
    let [first, second] = [world.config("org_1", 1).await, world.config("org_1", 2).await];
    let original = add(&mut world, 5, &[("nonce", "order-1")]);
    let only_second = second.to_string();
    let copy = [("nonce", "order-1"), ("configId", only_second.as_str()), ("replayOf", original.as_str())];
    let again = add(&mut world, 20, &copy);
    read_all(&mut world, true);
    let [of_event, of_replay] = [delivery(first, 5), delivery(second, 20)];
    world.page(first, 30, &[row(of_event, Status::Delivered, 1, 6)]);
    world.page(second, 31, &[row(of_replay, Status::Delivered, 1, 21)]);
    let shown = |answer: &Value| -> Vec<String> {
        let all = answer["deliveries"].as_array().unwrap();
        all.iter().map(|one| one["deliveryId"].as_str().unwrap().to_owned()).collect()
    };
    let key = world.keys(0).nonce(&postrider::domain::ids::OrganisationId::new("org_1").unwrap(), "order-1");
    for is_published in [false, true] {
        if is_published {
            let _: () = redis::Commands::set(&mut world.raw, &key, &original).unwrap();
        }
        let answer = traced(&world, "nonce=order-1").await;
        assert_eq!(
            (&answer["state"], &answer["event"]["id"]),
            (&json!("routed"), &json!(original)),
            "{answer}"
        );
        assert_eq!(shown(&answer), [of_event.to_string(), of_replay.to_string()]);
        assert_eq!(answer["withoutDelivery"], json!([]), "{answer}");
    }
    // By its id the replay's entry is told alone; and it stands for an event of which nothing is left.
    let answer = traced(&world, &format!("id={again}")).await;
    assert_eq!((&answer["event"]["id"], shown(&answer)), (&json!(again), vec![of_replay.to_string()]));
    let log = world.keys(0).log(first);
    let _: () = redis::Commands::del(&mut world.raw, (&key, log)).unwrap();
    let events = world.keys(0).events();
    let mut trim = redis::cmd("XDEL");
    let _: i64 = trim.arg(events).arg(&original).query(&mut world.raw).unwrap();
    let answer = traced(&world, "nonce=order-1").await;
    assert_eq!((&answer["event"]["id"], shown(&answer)), (&json!(again), vec![of_replay.to_string()]));
}

#[tokio::test]
async fn a_config_that_was_deleted_before_the_event_is_not_asked_about() {
    let mut world = World::new().await;
    let times = [(1, 10), (2, 20)];
    for (sequence, ms) in times {
        let id = world.config("org_1", sequence).await;
        let tombstone = postrider::domain::config::Tombstone {
            id,
            organisation: postrider::domain::ids::OrganisationId::new("org_1").unwrap(),
            deleted_at: postrider::domain::clock::UnixMillis(T0 + ms),
            log_payloads: true,
        };
        world.store(&StoredConfig::Tombstone(tombstone)).await;
    }
    let id = add(&mut world, 15, &[]);
    let answer = traced(&world, &format!("id={id}")).await;
    let named = answer["withoutDelivery"].as_array().unwrap();
    assert_eq!(named.len(), 1, "{answer}");
    assert!(named[0]["webhookConfigId"].as_str().unwrap().ends_with('2'), "{answer}");
    assert_eq!(named[0]["reason"], "deleted");
}

#[tokio::test]
async fn who_got_none_is_told_why() {
    let mut world = World::new().await;
    let [plain, paused, other] = [1, 2, 3].map(|n| (n, n));
    let mut ids = Vec::new();
    for (sequence, _) in [plain, paused, other] {
        ids.push(world.config("org_1", sequence).await);
    }
    let stored: String =
        redis::Commands::hget(&mut world.raw, world.state.redis.keys().configs(), ids[1].to_string())
            .unwrap();
    let StoredConfig::Config(mut config) = serde_json::from_str(&stored).unwrap() else { panic!("a config") };
    config.active = false;
    world.store(&StoredConfig::Config(config.clone())).await;
    config.id = ids[2];
    config.active = true;
    config.events = vec![postrider::domain::config::Subscription::new("reward.expired").unwrap()];
    world.store(&StoredConfig::Config(config)).await;
    let id = add(&mut world, 5, &[]);
    read_all(&mut world, true);
    let answer = traced(&world, &format!("id={id}")).await;
    let reason = |id| {
        let all = answer["withoutDelivery"].as_array().unwrap();
        all.iter().find(|one| one["webhookConfigId"] == json!(format!("{id}"))).unwrap()["reason"].clone()
    };
    assert_eq!(answer["state"], "unrouted");
    assert_eq!(
        (reason(ids[0]), reason(ids[1]), reason(ids[2])),
        (json!("unknown"), json!("inactive"), json!("not subscribed"))
    );
    for (query, named) in
        [("", "query.nonce"), ("nonce=a&id=1-1", "query.id"), ("id=x", "query.id"), ("foo=1", "query.foo")]
    {
        let (status, body) = world.get_as(&world.token, &format!("/../trace?{query}")).await;
        assert_eq!((status, &body["data"]["path"]), (400, &json!("getWebhookTrace")), "{query}");
        assert!(body["message"].as_str().unwrap().contains(named), "{body}");
    }
    let viewer = world.token_of("org_1", Role::Viewer).await;
    assert_eq!(world.get_as(&viewer, "/../trace?nonce=a").await.0, 403);
}

#[test]
fn a_real_event_is_traced_by_the_command_line() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--retry-schedule", "1h"]);
    let config = stage.config("/a", json!({}), |_| Reply::status(503));
    let id = stage.add(&[("nonce", "n-1")]);
    stage.wait_logged(&config, "retrying", 1);
    let rejected = stage.add(&[("nonce", "n-2"), ("data", "no json")]);
    let trace = |args: &[&str]| {
        let port = stage.serve().admin_port();
        let output = std::process::Command::new(BINARY)
            .args(["trace", "--server", &format!("http://127.0.0.1:{port}"), "--token", &stage.token])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut answer = Value::Null;
    wait_for("the entry to be rejected", || {
        answer = serde_json::from_str(&trace(&["--output", "json", "--id", &rejected])).unwrap();
        answer["state"] == "rejected"
    });
    assert_eq!(answer["rejected"]["field"], "data");
    let text = trace(&[&format!("evt_0_{id}")]);
    assert!(text.starts_with("routed: ") && text.contains(&config.id) && text.contains("retrying"), "{text}");
    assert!(text.contains(EVENT) && !ORGANISATION.is_empty());
    let text = trace(&["nobody-sent-this"]);
    assert!(text.starts_with("notFound: "), "{text}");
}
