//! `POST /webhooks/events`: one script, each nonce once, all or nothing.

use hyper::Method;
use postrider::domain::event::{EventFields, JsonScratch};
use postrider::domain::ids::{OrganisationId, ShardNumber};
use postrider::domain::token::Role;
use postrider::redis::publish::{Item, publish};
use postrider::settings::Settings;
use serde_json::{Value, json};

use crate::support::{RedisServer, TestSpace, eventually};
use crate::support_http::{AdminServer, Api, CONFIGS, EVENTS};

const PROCEDURE: &str = "publishWebhookEvents";

fn event(nonce: &str) -> Value {
    json!({"event": "reward.earned", "data": {"n": 1}, "nonce": nonce})
}

/// Every entry of the stream, and every nonce key with its value, sorted.
fn shard(space: &TestSpace) -> (Vec<redis::Value>, Vec<(String, String)>) {
    let mut raw = space.raw();
    let entries = redis::cmd("XRANGE")
        .arg(format!("{}:{{0}}:events", space.namespace))
        .arg("-")
        .arg("+")
        .query(&mut raw);
    let pattern = format!("{}:{{0}}:nonce:*", space.namespace);
    let mut keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut raw).unwrap();
    keys.sort();
    let nonces = keys
        .into_iter()
        .map(|key| {
            let ttl: i64 = redis::cmd("TTL").arg(&key).query(&mut raw).unwrap();
            assert!((86_000..=86_400).contains(&ttl), "{key} lives {ttl} s");
            let id = redis::cmd("GET").arg(&key).query(&mut raw).unwrap();
            (key, id)
        })
        .collect();
    (entries.unwrap(), nonces)
}

async fn publisher(space: &TestSpace) -> (AdminServer, Api) {
    let server = AdminServer::start(space).await;
    let api = server.caller("org_1", Role::Publisher).await;
    (server, api)
}

#[tokio::test]
async fn a_nonce_is_published_once_and_answers_its_first_id() {
    let space = TestSpace::new();
    let (_server, api) = publisher(&space).await;
    assert_eq!(shard(&space), (vec![], vec![]));
    let body = json!([event("n1"), {"event": "a.b", "data": {}}, event("n1"), event("n2")]);
    let first = api.post(EVENTS, &body).await.ok(202);
    let events = first["events"].as_array().unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!((&events[2]["id"], &events[2]["duplicate"]), (&events[0]["id"], &json!(true)));
    assert_eq!(events[1]["nonce"], format!("evt_0_{}", events[1]["id"].as_str().unwrap()));
    let (entries, nonces) = shard(&space);
    assert_eq!(entries.len(), 3);
    assert_eq!(nonces.len(), 2);
    assert_eq!(nonces[0].0, format!("{}:{{0}}:nonce:org_1:n1", space.namespace));
    assert_eq!(nonces[0].1, events[0]["id"].as_str().unwrap());

    // Again: the one without a nonce is a new event, the others are not.
    let second = api.post(EVENTS, &body).await.ok(202);
    for (index, same) in [(0, true), (1, false), (2, true), (3, true)] {
        assert_eq!(second["events"][index]["id"] == first["events"][index]["id"], same, "{index}");
    }
    let (entries, again) = shard(&space);
    assert_eq!(entries.len(), 4);
    assert_eq!(again, nonces);

    // Another organisation's nonce is another nonce.
    let other = _server.caller("org_2", Role::Admin).await.post(EVENTS, &event("n1")).await.ok(202);
    assert_eq!(other["events"][0].get("duplicate"), None);
}

#[tokio::test]
async fn data_is_appended_byte_for_byte_with_the_callers_organisation() {
    let space = TestSpace::new();
    let (_server, api) = publisher(&space).await;
    let data = "{ \"n\" : 123456789012345678901234567890, \"e\":1e400,\"s\":\"\\u00e9\\/\" }";
    let config = "0123456789abcdef00000001";
    let body = format!(
        r#"{{"event":"a.b","data":{data},"timestamp":"2026-05-01T09:00:00Z","configId":"{config}","colour":1}}"#
    );
    let answer = api.send(Method::POST, EVENTS, body.into()).await;
    assert_eq!(answer.headers["x-postrider-ignored"], "colour");
    answer.ok(202);
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(format!("{}:{{0}}:events", space.namespace))
        .arg("-")
        .arg("+")
        .query(&mut space.raw())
        .unwrap();
    let wanted = [
        "organisationId",
        "org_1",
        "event",
        "a.b",
        "data",
        data,
        "timestamp",
        "2026-05-01T09:00:00Z",
        "configId",
        config,
    ];
    assert_eq!(entries[0].1, wanted);
}

#[tokio::test]
async fn one_bad_item_refuses_all_and_limits_hold() {
    let space = TestSpace::new();
    let (server, api) = publisher(&space).await;
    let body = json!([event("n1"), event("n2"), {"event": "Bad", "data": {}}]);
    let message = api.post(EVENTS, &body).await.refused(400, "BAD_REQUEST", PROCEDURE);
    assert!(message.starts_with("body[2].event: "), "{message}");
    let many: Vec<Value> = (0..1_001).map(|n| event(&format!("n{n}"))).collect();
    api.post(EVENTS, &many.into()).await.refused(400, "BAD_REQUEST", PROCEDURE);
    let large = json!({"event": "a", "data": {"x": "x".repeat(262_144)}});
    api.post(EVENTS, &large).await.refused(413, "PAYLOAD_TOO_LARGE", PROCEDURE);
    let chunk = json!({"event": "a", "data": {"x": "x".repeat(250_000)}});
    api.post(EVENTS, &vec![chunk; 18].into()).await.refused(413, "PAYLOAD_TOO_LARGE", PROCEDURE);
    for hostile in ["", "[", "null", "[null]", "{\"event\":\"a\",\"data\":{\"a\":[}}"] {
        api.send(Method::POST, EVENTS, hostile.into()).await.refused(400, "BAD_REQUEST", PROCEDURE);
    }
    let foreign = json!({"event": "a", "data": {}, "organisationId": "org_2"});
    api.post(EVENTS, &foreign).await.refused(400, "BAD_REQUEST", PROCEDURE);
    for role in [Role::Viewer, Role::Manager] {
        let caller = server.caller("org_1", role).await;
        caller.post(EVENTS, &event("n1")).await.refused(403, "FORBIDDEN", PROCEDURE);
    }
    api.get(EVENTS).await.refused(405, "METHOD_NOT_SUPPORTED", "unknown");
    assert_eq!(shard(&space), (vec![], vec![]));
    let thousand: Vec<Value> = (0..1_000).map(|n| event(&format!("n{n}"))).collect();
    let answer = api.post(EVENTS, &thousand.into()).await.ok(202);
    assert_eq!(answer["events"].as_array().unwrap().len(), 1_000);
}

/// A caller that dies while it sends: an announced length that never comes, and a chunk without its end.
#[tokio::test]
async fn a_body_that_breaks_off_is_refused_and_nothing_is_stored() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let space = TestSpace::new();
    let (server, publisher) = publisher(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let event = r#"{"event":"reward.earned","data":{}}"#;
    for (api, method, path) in [(&publisher, "POST", EVENTS), (&admin, "PUT", CONFIGS)] {
        for framing in ["content-length: 4000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n23\r\n"] {
            let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
            let token = api.token();
            let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n");
            stream.write_all(format!("{head}{framing}{event}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{method} {framing}: {answer:?}");
            assert!(answer.contains(r#""message":"body: ended early""#), "{answer}");
        }
    }
    assert_eq!(shard(&space), (vec![], vec![]));
    assert_eq!(admin.get(CONFIGS).await.ok(200), json!([]));
}

#[tokio::test]
async fn waiting_for_replicas_that_do_not_exist_is_told() {
    let space = TestSpace::new();
    let (_server, api) = publisher(&space).await;
    let path = format!("{EVENTS}?wait=1");
    let answer = api.post(&path, &event("n1")).await;
    assert!(answer.headers.contains_key("retry-after"));
    let message = answer.refused(503, "SERVICE_UNAVAILABLE", PROCEDURE);
    assert!(message.contains("0 of 1"), "{message}");
    // It was published, and the same request without the wish finds it.
    let again = api.post(&format!("{EVENTS}?wait=0"), &event("n1")).await.ok(202);
    assert_eq!(again["events"][0]["duplicate"], true);
    for wrong in ["wait=x", "wait=-1", "wait=17", "wait="] {
        api.post(&format!("{EVENTS}?{wrong}"), &event("n1")).await.refused(400, "BAD_REQUEST", PROCEDURE);
    }
}

#[tokio::test]
async fn a_full_redis_refuses_whole_requests() {
    let server = RedisServer::start(&[]);
    let space = TestSpace { url: server.url(), namespace: "full".into() };
    let redis = space.redis();
    let admin = AdminServer::start_with(redis.clone(), Settings::default()).await;
    let api = admin.caller("org_1", Role::Publisher).await;
    api.post(EVENTS, &event("n1")).await.ok(202);
    let before = shard(&space);
    let limit = |bytes: u64| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(&mut space.raw()).unwrap();
    };

    // Past the limit the script is refused before its first write, and so is the request.
    limit(1);
    let organisation = OrganisationId::new("org_1").unwrap();
    let items: Vec<Item> = (0..3).map(|n| item(&organisation, &format!("full{n}"))).collect();
    let shards = [redis.keys().shard(ShardNumber(0))];
    let error = publish(&redis, &shards, &organisation, &items, None).await.unwrap_err();
    assert_eq!(error.code(), Some("OOM"));
    let answer = api.post(EVENTS, &json!([event("n8"), event("n9")])).await;
    assert!(answer.headers.contains_key("retry-after"));
    let message = answer.refused(503, "SERVICE_UNAVAILABLE", PROCEDURE);
    assert!(message.contains("full"), "{message}");
    assert_eq!(shard(&space), before);

    // Configs can still be changed and tokens made: a full Redis must drain.
    let manager = admin.caller("org_1", Role::Admin).await;
    let config = json!({"url": "https://a.example/", "events": ["a.b"]});
    manager.put(crate::support_http::CONFIGS, &config).await.ok(200);

    // At 85 % the endpoint stops, while a producer's own XADD does not.
    limit(0);
    eventually("room again", async || api.post(EVENTS, &event("n8")).await.status == 202).await;
    let info: String = redis::cmd("INFO").arg("memory").query(&mut space.raw()).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    limit(used.trim().parse::<u64>().unwrap() * 100 / 93);
    eventually("the 85 % rule", async || {
        let answer = api.post(EVENTS, &event("n8")).await;
        answer.status == 503 && answer.json()["message"].as_str().unwrap().contains("nearly full")
    })
    .await;
    publish(&redis, &shards, &organisation, &items, None).await.unwrap();
}

#[tokio::test]
async fn redis_away_is_told_and_passes() {
    let redis = RedisServer::start(&[]);
    let space = TestSpace { url: redis.url(), namespace: "away".into() };
    let (_server, api) = publisher(&space).await;
    api.post(EVENTS, &event("n1")).await.ok(202);
    let (data, port) = redis.kill();
    let answer = api.post(EVENTS, &event("n2")).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.refused(503, "SERVICE_UNAVAILABLE", PROCEDURE);
    // A new server knows no scripts: they are loaded again.
    let _redis = RedisServer::start_in(data, port, &[]);
    eventually("an answer", async || api.post(EVENTS, &event("n2")).await.status == 202).await;
}

fn item(organisation: &OrganisationId, nonce: &str) -> Item {
    let mut fields = EventFields::default();
    fields.set(b"event", b"a.b".to_vec());
    fields.set(b"data", b"{}".to_vec());
    fields.set(b"nonce", nonce.as_bytes().to_vec());
    Item::new(organisation, fields, &mut JsonScratch::default()).unwrap()
}
