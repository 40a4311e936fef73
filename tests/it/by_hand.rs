//! Retries by hand and test events, on a running server: what the receiver gets, what the log says of it, and what
//! is left in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::serving::BINARY;
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for};

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

/// A status that the test changes while the endpoint answers it.
fn answering(
    status: u16,
) -> (Arc<AtomicU16>, impl Fn(&crate::arrivals::Arrival) -> Reply + Send + Sync + 'static) {
    let answer = Arc::new(AtomicU16::new(status));
    let shared = Arc::clone(&answer);
    (answer, move |_: &_| Reply::status(shared.load(Ordering::Relaxed)))
}

impl Stage {
    fn retry(&self, delivery: &Value) -> (u16, Value) {
        let path = format!("/logs/{}/retry", delivery.as_str().expect("an id"));
        self.serve().request(Method::POST, &self.token, &path, None)
    }

    fn post(&self, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.serve().request(Method::POST, &self.token, path, body)
    }

    /// What lies in Redis of a config's queue, failed set and sizes of both.
    fn left(&self, config: &Put) -> [String; 4] {
        let id = config.id.parse().expect("an id");
        let size = self.keys.size(id);
        let count = |key: &str| self.redis::<usize>(&["ZCARD", key]).to_string();
        let bytes = |field: &str| self.redis::<Option<String>>(&["HGET", &size, field]).unwrap_or_default();
        [count(&self.keys.queue(id)), count(&self.keys.failed(id)), bytes("queueBytes"), bytes("failedBytes")]
    }

    fn wait_nothing_left(&self, config: &Put) {
        wait_for("queue and failed set to be empty, and their sizes gone", || {
            self.left(config) == ["0", "0", "", ""]
        });
    }
}

fn message(answer: &(u16, Value)) -> &str {
    assert_eq!(answer.0, 409, "{answer:?}");
    assert_eq!(answer.1["data"]["path"], "retryWebhookDelivery");
    answer.1["message"].as_str().expect("a message")
}

#[test]
fn a_failed_delivery_is_sent_again_and_a_delivered_one_too() {
    let stage = stage(&[]);
    let (answer, behaviour) = answering(500);
    let config = stage.config("/a", json!({ "maxRetries": 0 }), behaviour);
    stage.add(&[("nonce", "once"), ("data", r#"{"n": 123456789012345678901234567890 }"#)]);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!((&failed["failReason"], &failed["attempts"]), (&json!("exhausted"), &json!(1)));
    let before = stage.left(&config);
    assert_eq!((&before[0][..], &before[1][..], &before[2][..]), ("0", "1", ""));

    answer.store(204, Ordering::Relaxed);
    let (status, waiting) = stage.retry(&failed["deliveryId"]);
    assert_eq!(status, 202, "{waiting}");
    assert_eq!(waiting["deliveryId"], failed["deliveryId"]);
    let delivered = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!((&delivered["attempts"], &delivered["responseStatus"]), (&json!(2), &json!(204)));
    assert!(stage.logs("&status=failed").is_empty(), "its state is the newest");
    stage.wait_nothing_left(&config);

    // Delivered on its first attempt or not: again, and again.
    for attempts in [3, 4] {
        let answer = stage.retry(&failed["deliveryId"]);
        assert_eq!(answer.0, 202, "{answer:?}");
        wait_for("one attempt more", || stage.delivery(&failed["deliveryId"])["attempts"] == attempts);
        wait_for("its end", || stage.delivery(&failed["deliveryId"])["status"] == "delivered");
        stage.wait_nothing_left(&config);
    }
    let detail = stage.delivery(&failed["deliveryId"]);
    let numbers: Vec<_> =
        detail["attemptLog"].as_array().unwrap().iter().map(|line| &line["attempt"]).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let arrived = stage.wait_arrived(&config, 4);
    assert_eq!(arrived.len(), 4);
    for arrival in &arrived {
        assert_eq!((&arrival.body, &arrival.delivery), (&arrived[0].body, &arrived[0].delivery));
        assert!(arrival.verified);
    }
    assert_eq!(stage.log_count(&config, "delivered"), 1, "one delivery");
}

#[test]
fn a_walk_through_the_log_meets_what_was_retried_once() {
    let stage = stage(&[]);
    let (answer, behaviour) = answering(404);
    let config = stage.config("/a", json!({}), behaviour);
    let add = |count: usize| (0..count).for_each(|_| drop(stage.add(&[("data", "{}")])));
    add(3);
    let failed = stage.wait_logged(&config, "failed", 3);
    answer.store(200, Ordering::Relaxed);
    add(2);
    stage.wait_logged(&config, "delivered", 2);
    assert_eq!(stage.retry(&failed[1]["deliveryId"]).0, 202);
    stage.wait_logged(&config, "delivered", 3);
    add(2);
    stage.wait_logged(&config, "delivered", 5);
    let page = |query: &str| {
        let (status, page) =
            stage.serve().request(Method::GET, &stage.token, &format!("/logs?{query}"), None);
        assert_eq!(status, 200, "{page}");
        let ids = page["edges"].as_array().unwrap().iter().map(|edge| edge["deliveryId"].clone());
        (ids.collect::<Vec<Value>>(), page)
    };
    let (all, whole) = page("limit=100");
    let times = |id: &Value| all.iter().filter(|one| *one == id).count();
    assert_eq!(failed.iter().map(|one| times(&one["deliveryId"])).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(whole["totalCount"], all.len());
    let (mut walked, mut next) = (Vec::new(), String::new());
    loop {
        let (ids, one) = page(&format!("limit=1{next}"));
        walked.extend(ids);
        assert_eq!(one["totalCount"], all.len());
        let Some(cursor) = one["nextCursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    assert_eq!(walked, all);
}

#[test]
fn after_a_success_the_automatic_retries_begin_anew_and_after_the_last_one_they_do_not() {
    let stage = stage(&["--retry-schedule", "100ms", "--breaker-failures", "0"]);
    let (answer, behaviour) = answering(200);
    let config = stage.config("/a", json!({ "maxRetries": 2 }), behaviour);
    // Over 4 KiB: the body lies apart while the delivery waits.
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(6_000));
    stage.add(&[("data", &data)]);
    let id = stage.wait_logged(&config, "delivered", 1).remove(0)["deliveryId"].clone();

    answer.store(503, Ordering::Relaxed);
    assert_eq!(stage.retry(&id).0, 202);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    // The delivered one, the one by hand, and two retries.
    assert_eq!((&failed["attempts"], &failed["failReason"]), (&json!(4), &json!("exhausted")));
    assert_eq!(stage.retry(&id).0, 202);
    wait_for("the attempt by hand", || stage.delivery(&id)["attempts"] == 5);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!((&failed["attempts"], &failed["failReason"]), (&json!(5), &json!("exhausted")));

    answer.store(200, Ordering::Relaxed);
    assert_eq!(stage.retry(&id).0, 202);
    stage.wait_logged(&config, "delivered", 1);
    stage.wait_nothing_left(&config);
    let arrived = stage.arrivals.at("/a");
    assert_eq!(arrived.len(), 6);
    assert!(arrived.iter().all(|arrival| arrival.body == arrived[0].body && arrival.verified));
    let bodies: Vec<String> =
        stage.redis(&["KEYS", &stage.keys.body("1-1".parse().unwrap()).replace("1-1", "*")]);
    assert!(bodies.is_empty(), "{bodies:?}");
}

#[test]
fn it_goes_to_todays_url_with_todays_secret() {
    let stage = stage(&[]);
    let config = stage.config("/old", json!({ "maxRetries": 0 }), |_| Reply::status(404));
    stage.add(&[]);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    let url = stage.arrivals.endpoint("/new", "whsec_the_new_one", |_| Reply::ok());
    stage.change(&config.id, json!({ "url": url, "secret": "whsec_the_new_one" }));
    assert_eq!(stage.retry(&failed["deliveryId"]).0, 202);
    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!((&record["attempts"], &record["url"]), (&json!(2), &json!(url)));
    let (old, new) = (stage.arrivals.at("/old"), stage.arrivals.at("/new"));
    assert_eq!((old.len(), new.len()), (1, 1));
    assert!(new[0].verified && new[0].body == old[0].body && new[0].delivery == old[0].delivery);
}

#[test]
fn asked_for_twice_at_once_it_is_tried_once() {
    let stage = stage(&[]);
    let slow = |arrival: &crate::arrivals::Arrival| match arrival.nth {
        1 => Reply::status(400),
        _ => Reply::ok().after(Duration::from_secs(1)),
    };
    let config = stage.config("/a", json!({}), slow);
    stage.add(&[]);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    assert_eq!(failed["failReason"], "refused");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let path = format!("/logs/{}/retry", failed["deliveryId"].as_str().unwrap());
        let (serve, token) = (stage.serve(), &stage.token);
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                scope.spawn(move || serve.request(Method::POST, token, &path, None).0)
            })
            .collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [202, 409].contains(status)), "{statuses:?}");
    // While a worker has it claimed and tries it.
    stage.wait_arrived(&config, 2);
    assert_eq!(message(&stage.retry(&failed["deliveryId"])), "it waits for an attempt already");
    assert_eq!(stage.delivery(&failed["deliveryId"])["status"], "retrying");
    stage.wait_logged(&config, "delivered", 1);
    stage.wait_nothing_left(&config);
    assert_eq!(stage.arrivals.at("/a").len(), 2);
}

#[test]
fn what_cannot_be_retried_says_why() {
    let stage = stage(&[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(20_000));
    stage.add(&[("data", &large)]);
    let large = stage.wait_logged(&config, "delivered", 1).remove(0)["deliveryId"].clone();
    assert!(message(&stage.retry(&large)).contains("payloadOmitted"), "{large}");

    stage.add(&[]);
    let delivered = stage.wait_logged(&config, "delivered", 2);
    let small = delivered.iter().find(|one| one["deliveryId"] != large).unwrap()["deliveryId"].clone();
    let (status, paused) = stage.post(&format!("/configs/{}/pause", config.id), None);
    assert_eq!((status, &paused["active"]), (200, &json!(false)));
    assert!(message(&stage.retry(&small)).contains("paused"));
    let test = stage.post(&format!("/configs/{}/test", config.id), None);
    assert_eq!((test.0, &test.1["code"]), (409, &json!("CONFLICT")));
    assert!(test.1["message"].as_str().unwrap().contains("paused"));

    let other = other_token(&stage, "org_other", "admin");
    let unknown = "dlv_00000000000000000000000000";
    for id in [small.as_str().unwrap(), unknown] {
        let (status, answer) =
            stage.serve().request(Method::POST, &other, &format!("/logs/{id}/retry"), None);
        assert_eq!((status, &answer["message"]), (404, &json!("path.deliveryId: no such delivery")));
    }
    let manager = other_token(&stage, crate::serving::ORGANISATION, "manager");
    let path = format!("/logs/{}/retry", small.as_str().unwrap());
    assert_eq!(stage.serve().request(Method::POST, &manager, &path, None).0, 403);
    assert_eq!(stage.post("/logs/dlv_x/retry", None).0, 400);

    let deleted =
        stage.serve().request(Method::DELETE, &stage.token, &format!("/configs/{}", config.id), None);
    assert_eq!(deleted, (204, Value::Null));
    assert!(message(&stage.retry(&small)).contains("deleted"));
    assert_eq!(stage.delivery(&small)["status"], "delivered", "its log stays readable");
    assert_eq!(stage.arrivals.at("/a").len(), 2);
}

fn other_token(stage: &Stage, organisation: &str, role: &str) -> String {
    let output = std::process::Command::new(BINARY)
        .args(["token", "create", "--redis-url", &stage.url, "--namespace", &stage.namespace])
        .args(["--organisation", organisation, "--role", role, "--output", "json"])
        .output()
        .expect("postrider runs");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_retry_waits_while_nothing_runs_and_is_made_after_the_start() {
    let mut stage = stage(&[]);
    let (answer, behaviour) = answering(400);
    let config = stage.config("/a", json!({}), behaviour);
    stage.add(&[]);
    let failed = stage.wait_logged(&config, "failed", 1).remove(0);
    answer.store(200, Ordering::Relaxed);
    // The worker may begin at once or not at all before it is killed: the claim is past or was never made.
    assert_eq!(stage.retry(&failed["deliveryId"]).0, 202);
    stage.take_serve().kill();
    let id = config.id.parse().expect("an id");
    stage.redis::<()>(&["EVAL", FREE, "1", &stage.keys.queue(id)]);
    stage.start_serve(&[]);
    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    assert_eq!(record["attempts"], 2);
    stage.wait_nothing_left(&config);
}

/// Ends every claim of a queue, as time would.
const FREE: &str =
    "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, id) end";

#[test]
fn a_test_event_goes_to_one_config_whatever_it_subscribes_to_and_tells_the_result() {
    let stage = stage(&[]);
    let (answer, behaviour) = answering(200);
    let config = stage.config("/a", json!({}), behaviour);
    let other = stage.config("/b", json!({}), |_| Reply::ok());
    let path = format!("/configs/{}/test", config.id);
    let (status, tested) = stage.post(&path, None);
    assert_eq!(status, 200, "{tested}");
    assert_eq!((&tested["status"], &tested["event"]), (&json!("delivered"), &json!("webhook.test")));
    assert_eq!((&tested["attempts"], &tested["responseStatus"]), (&json!(1), &json!(200)));
    assert_eq!(tested["responseBody"], "answer 200");
    assert!(tested["durationMs"].is_u64(), "{tested}");
    let arrived = stage.wait_arrived(&config, 1).remove(0);
    assert!(arrived.verified);
    assert_eq!((&json!(arrived.delivery), &json!(arrived.nonce)), (&tested["deliveryId"], &tested["nonce"]));
    let body: Value = serde_json::from_slice(&arrived.body).unwrap();
    assert!(body["data"]["message"].is_string(), "{body}");

    answer.store(503, Ordering::Relaxed);
    let given = json!({ "event": EVENT, "data": { "user": { "id": "u9" } }, "Data": 1 });
    let (status, tested) = stage.post(&path, Some(&given));
    assert_eq!((status, &tested["status"], &tested["event"]), (200, &json!("retrying"), &json!(EVENT)));
    assert!(tested["nextAttemptAt"].is_string(), "it is retried as any other: {tested}");
    let arrived = stage.wait_arrived(&config, 2).remove(1);
    assert_eq!(serde_json::from_slice::<Value>(&arrived.body).unwrap()["data"], given["data"]);
    assert!(stage.arrivals.at(&other.path).is_empty());

    let wrong = json!({ "event": "No Type", "data": [] });
    for (path, body, words) in [
        (path.clone(), &wrong, "body.event"),
        (path.clone(), &json!({ "data": 1 }), "body.data"),
        (format!("{path}?wait=61"), &json!({}), "query.wait: expected an integer from 0 to 60"),
        (format!("{path}?waits=1"), &json!({}), "query.waits: unknown"),
    ] {
        let (status, answer) = stage.post(&path, Some(body));
        assert_eq!((status, &answer["code"]), (400, &json!("BAD_REQUEST")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
    let outsider = other_token(&stage, "org_other", "admin");
    assert_eq!(stage.serve().request(Method::POST, &outsider, &path, None).0, 404);
    let viewer = other_token(&stage, crate::serving::ORGANISATION, "viewer");
    assert_eq!(stage.serve().request(Method::POST, &viewer, &path, None).0, 403);
    assert_eq!(stage.arrivals.at("/a").len(), 2);
}

#[test]
fn a_test_whose_result_takes_longer_than_the_wait_names_its_delivery() {
    let stage = stage(&[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_secs(3)));
    let (status, tested) = stage.post(&format!("/configs/{}/test?wait=1", config.id), None);
    assert_eq!((status, &tested["status"], &tested["attempts"]), (202, &json!("pending"), &json!(0)));
    wait_for("the delivery to end", || {
        let path = format!("/logs/{}", tested["deliveryId"].as_str().unwrap());
        let (status, detail) = stage.serve().request(Method::GET, &stage.token, &path, None);
        status == 200 && detail["status"] == "delivered"
    });
}

#[test]
fn a_test_of_an_endpoint_that_hangs_tells_of_the_timeout_and_the_delivery_goes_on() {
    let stage = stage(&["--request-timeout", "1s", "--retry-schedule", "1s"]);
    let config = stage.config("/a", json!({}), |arrival| {
        if arrival.nth == 1 { Reply::ok().after(Duration::from_secs(20)) } else { Reply::ok() }
    });
    let (status, tested) = stage.post(&format!("/configs/{}/test", config.id), None);
    assert_eq!((status, &tested["status"], &tested["attempts"]), (200, &json!("retrying"), &json!(1)));
    assert!(tested["responseStatus"].is_null() && tested["nextAttemptAt"].is_string(), "{tested}");
    assert!(tested["error"].as_str().unwrap().contains("timeout"), "{tested}");
    assert!(tested["durationMs"].as_u64().unwrap() >= 1_000, "{tested}");
    wait_for("the second attempt to be told", || {
        let detail = stage.delivery(&tested["deliveryId"]);
        detail["status"] == "delivered" && detail["attempts"] == 2
    });
    assert_eq!(stage.arrivals.at("/a").len(), 2);
}

#[test]
fn a_test_never_waits_as_long_as_a_request_may_take_and_its_delivery_goes_on() {
    // 11 s for a request: a test waits for 8 of them at most, whatever it asks for.
    let stage = stage(&["--request-timeout", "1s", "--admin-request-timeout", "11s"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    stage.change(&config.id, json!({ "rateLimit": { "perSecond": 1, "burst": 1 } }));
    stage.config("/b", json!({}), |_| Reply::ok());
    stage.add_many(15);
    // Once it waits behind others, it has to go on waiting.
    wait_for("the endpoint to be at its rate", || {
        let waiting = stage.log_count(&config, "pending");
        waiting > 0 && stage.arrivals.at("/a").len() >= 2
    });
    let begun = std::time::Instant::now();
    let (status, tested) = stage.post(&format!("/configs/{}/test?wait=60", config.id), None);
    let took = begun.elapsed();
    assert_eq!((status, &tested["status"], &tested["attempts"]), (202, &json!("pending"), &json!(0)));
    assert!(took >= Duration::from_millis(7_900) && took < Duration::from_millis(10_900), "{took:?}");
    wait_for("the delivery to end", || stage.delivery(&tested["deliveryId"])["status"] == "delivered");
    assert_eq!(stage.delivery(&tested["deliveryId"])["attempts"], 1);
}
