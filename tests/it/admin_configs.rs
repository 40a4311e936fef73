//! `GET` and `PUT /webhooks/configs`, callers and the error envelope, on a real socket and a real Redis.

use hyper::Method;
use postrider::domain::clock::UnixMillis;
use postrider::domain::token::Role;
use postrider::redis::configs::Disabling;
use postrider::redis::tokens::revoke_token;
use serde_json::{Value, json};

use crate::support::{TestSpace, eventually};
use crate::support_http::{AdminServer, CONFIGS};

const GET: &str = "getWebhookConfigs";
const PUT: &str = "updateWebhookConfigs";

fn body(url: &str) -> Value {
    json!({"url": url, "events": ["reward.earned"]})
}

/// Everything in the control part of the keyspace that a change may touch.
fn control(space: &TestSpace) -> Vec<redis::Value> {
    let mut raw = space.raw();
    let mut fields: Vec<redis::Value> = Vec::new();
    for (command, name) in
        [("HGETALL", "configs"), ("HGETALL", "meta"), ("XLEN", "changes"), ("XLEN", "audit:org_1")]
    {
        let key = format!("{}:{{control}}:{name}", space.namespace);
        let value: redis::Value = redis::cmd(command).arg(key).query(&mut raw).unwrap();
        fields.push(match value {
            redis::Value::Array(mut items) => {
                items.sort_by_key(|item| format!("{item:?}"));
                redis::Value::Array(items)
            }
            other => other,
        });
    }
    fields
}

#[tokio::test]
async fn a_single_object_is_made_changed_and_shown() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let made = admin.put(CONFIGS, &body("https://a.example/x")).await.ok(200);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 70, "{made}");
    assert_eq!(
        (&made["active"], &made["isEnabled"], &made["maxRetries"]),
        (&json!(true), &json!(true), &json!(3))
    );

    // Read your writes: the very next GET knows it, masked.
    let listed = admin.get(CONFIGS).await.ok(200);
    let mut masked = made.clone();
    masked["secret"] = format!("whsec_****{}", &secret[66..]).into();
    assert_eq!(listed, json!([masked]));

    // The same URL is the same config; what is left out stays.
    let mut change = body("https://a.example/x");
    change["maxRetries"] = 0.into();
    change["headers"] = json!({"X-Key": "credential"});
    let changed = admin.put(CONFIGS, &change).await.ok(200);
    assert_eq!((&changed["id"], &changed["maxRetries"]), (&made["id"], &json!(0)));
    assert_eq!(changed["secret"], masked["secret"]);
    assert_eq!(changed["headers"], json!({"X-Key": "****"}));
    assert_ne!(changed["updatedAt"], json!(null));

    // By id, the URL can be changed, and a second config stays beside it.
    let other = admin.put(CONFIGS, &body("https://b.example/")).await.ok(200);
    let mut moved = changed.clone();
    moved["url"] = "https://c.example/".into();
    moved["headers"] = json!({"X-Key": "credential"});
    let moved = admin.put(CONFIGS, &moved).await.ok(200);
    assert_eq!((&moved["id"], &moved["headers"]), (&made["id"], &json!({"X-Key": "****"})));
    let listed = admin.get(CONFIGS).await.ok(200);
    let ids: Vec<&Value> = listed.as_array().unwrap().iter().map(|config| &config["id"]).collect();
    assert_eq!(ids, [&made["id"], &other["id"]]);

    // A masked header kept its value in the store; the secret is the first one.
    let stored: String = redis::cmd("HGET")
        .arg(format!("{}:{{control}}:configs", space.namespace))
        .arg(made["id"].as_str().unwrap())
        .query(&mut space.raw())
        .unwrap();
    assert!(stored.contains("\"credential\"") && stored.contains(secret), "{stored}");

    // What was changed, and by whom, is written down without secrets.
    let audit: redis::Value = redis::cmd("XRANGE")
        .arg(format!("{}:{{control}}:audit:org_1", space.namespace))
        .arg("-")
        .arg("+")
        .query(&mut space.raw())
        .unwrap();
    let audit = format!("{audit:?}");
    assert!(audit.contains("configs: 1 created, 0 changed, 0 deleted"), "{audit}");
    assert!(!audit.contains(&secret[6..]) && !audit.contains("credential"), "{audit}");

    // Two configs cannot share a URL, for the URL is what finds them.
    let mut clash = body("https://c.example/");
    clash["id"] = other["id"].clone();
    let message = admin.put(CONFIGS, &clash).await.refused(409, "CONFLICT", PUT);
    assert!(message.contains("body.url"), "{message}");
}

#[tokio::test]
async fn a_whole_set_is_replaced_and_answered_in_its_own_shape() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let set = json!([body("https://a.example/"), body("https://b.example/")]);
    let made = admin.put(CONFIGS, &set).await.ok(200);
    assert_eq!(made.as_array().unwrap().len(), 2);

    // GET, edit, PUT: ids and secrets survive, nothing is written where nothing changed.
    let listed = admin.get(CONFIGS).await.ok(200);
    let before = control(&space);
    assert_eq!(admin.put(CONFIGS, &listed).await.ok(200), listed);
    assert_eq!(admin.put(CONFIGS, &json!({"configs": listed})).await.ok(200), json!({"configs": listed}));
    assert_eq!(control(&space), before);

    let mut third = body("https://c.example/");
    third["secret"] = "whsec_mine".into();
    let wrapped = json!({"configs": [third, body("https://b.example/")]});
    let answer = admin.put(CONFIGS, &wrapped).await.ok(200);
    let configs = answer["configs"].as_array().unwrap();
    assert_eq!(configs[0]["secret"], "whsec_mine");
    assert_eq!(configs[1]["id"], made[1]["id"]);
    let listed = admin.get(CONFIGS).await.ok(200);
    assert_eq!(listed.as_array().unwrap().len(), 2);

    // The removed one left a tombstone, so that its queue can end.
    let id = made[0]["id"].as_str().unwrap().parse().unwrap();
    let stored = server.state.directory.configs().by_id[&id].clone();
    assert!(matches!(*stored, postrider::domain::config::StoredConfig::Tombstone(_)));
    let mut back = body("https://d.example/");
    back["id"] = made[0]["id"].clone();
    admin.put(CONFIGS, &back).await.refused(404, "NOT_FOUND", PUT);

    assert_eq!(admin.put(CONFIGS, &json!([])).await.ok(200), json!([]));
    assert_eq!(admin.get(CONFIGS).await.ok(200), json!([]));
}

#[tokio::test]
async fn a_refused_body_changes_nothing_and_names_every_mistake() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let made = admin.put(CONFIGS, &body("https://a.example/")).await.ok(200);
    let before = control(&space);

    let mut bad = body("http://b.example/");
    bad["isEnabled"] = false.into();
    bad["active"] = true.into();
    let message = admin.put(CONFIGS, &json!([body("https://new.example/"), bad])).await.refused(
        400,
        "BAD_REQUEST",
        PUT,
    );
    assert!(message.contains("body[1].url: ") && message.contains("body[1].active: "), "{message}");

    let mut masked = body("https://new.example/");
    masked["secret"] = made["secret"].as_str().unwrap().replacen("whsec_", "whsec_****", 1).into();
    masked["headers"] = json!({"X-Key": "****"});
    let message = admin.put(CONFIGS, &masked).await.refused(400, "BAD_REQUEST", PUT);
    assert!(message.contains("body.secret: ") && message.contains("body.headers.X-Key: "), "{message}");

    let twice = json!([body("https://x.example"), body("https://X.example/")]);
    let message = admin.put(CONFIGS, &twice).await.refused(400, "BAD_REQUEST", PUT);
    assert!(message.contains("body[1].url: the same as body[0].url"), "{message}");

    for hostile in ["", "{", "null", "[[]]", "\"x\"", "{\"url\":\"https://a\\u0000\",\"events\":[\"a\"]}"] {
        admin.send(Method::PUT, CONFIGS, hostile.into()).await.refused(400, "BAD_REQUEST", PUT);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    admin.send(Method::PUT, CONFIGS, deep.into()).await.refused(400, "BAD_REQUEST", PUT);
    admin.send(Method::PUT, CONFIGS, vec![0xff; 64]).await.refused(400, "BAD_REQUEST", PUT);
    let many: Vec<Value> = (0..1_001).map(|n| body(&format!("https://h{n}.example/"))).collect();
    admin.put(CONFIGS, &many.into()).await.refused(400, "BAD_REQUEST", PUT);
    admin.send(Method::PUT, CONFIGS, vec![b' '; 5 << 20]).await.refused(413, "PAYLOAD_TOO_LARGE", PUT);
    assert_eq!(control(&space), before);
}

#[tokio::test]
async fn an_organisations_configs_have_a_limit_in_bytes_by_which_they_do_not_grow() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let ids: Vec<String> = (0..5_000).map(|n| format!("{n:0245}")).collect();
    let large = |n: u32| {
        let mut large = body(&format!("https://h{n}.example/"));
        large["entityFilters"] = json!({ "reward.earned": ids });
        large
    };
    for n in 0..3 {
        admin.put(CONFIGS, &large(n)).await.ok(200);
    }
    let before = control(&space);
    let message = admin.put(CONFIGS, &large(3)).await.refused(400, "BAD_REQUEST", PUT);
    assert!(
        message.starts_with("body: all configs of an organisation take at most 4194304 bytes"),
        "{message}"
    );
    assert_eq!(control(&space), before);
    // Another organisation's have their own, and what is there can be changed and deleted.
    server.caller("org_2", Role::Admin).await.put(CONFIGS, &large(0)).await.ok(200);
    let mut same = large(0);
    same["maxRetries"] = json!(1);
    admin.put(CONFIGS, &same).await.ok(200);
    assert_eq!(admin.put(CONFIGS, &json!([large(0), large(1)])).await.ok(200).as_array().unwrap().len(), 2);
    admin.put(CONFIGS, &large(3)).await.ok(200);
}

#[tokio::test]
async fn who_deleted_ten_thousand_configs_of_late_makes_no_more() {
    let space = TestSpace::new();
    let mut raw = space.raw();
    let mut command = redis::cmd("HSET");
    command.arg(format!("{}:{{control}}:configs", space.namespace));
    for n in 1..=10_000_u32 {
        let id = format!("00000000000000aa{n:08x}");
        let stone = json!({ "kind": "tombstone", "id": id, "organisation": "org_1", "deletedAt": 1, "logPayloads": true });
        command.arg(id).arg(stone.to_string());
    }
    let _: u64 = command.query(&mut raw).unwrap();
    let mut sequence = redis::cmd("HSET");
    sequence.arg(format!("{}:{{control}}:meta", space.namespace)).arg("configSequence").arg(10_000);
    let _: u64 = sequence.query(&mut raw).unwrap();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let message = admin.put(CONFIGS, &body("https://a.example/")).await.refused(409, "CONFLICT", PUT);
    assert!(message.starts_with("body: 10000 deleted configs"), "{message}");
    assert_eq!(admin.put(CONFIGS, &json!([])).await.ok(200), json!([]));
    let other = server.caller("org_2", Role::Admin).await;
    other.put(CONFIGS, &body("https://a.example/")).await.ok(200);
}

#[tokio::test]
async fn unknown_fields_are_named() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let mut config = body("https://a.example/");
    config["colour"] = "red".into();
    config["httpMethod"] = "POST".into();
    config["entityFilters"] = json!({});
    let answer = admin.put(CONFIGS, &config).await;
    assert_eq!(answer.headers["x-postrider-ignored"], "colour");
    answer.ok(200);
}

#[tokio::test]
async fn organisations_do_not_meet() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let one = server.caller("org_1", Role::Admin).await;
    let two = server.caller("org_2", Role::Admin).await;
    let made = one.put(CONFIGS, &body("https://a.example/")).await.ok(200);
    let before = control(&space);
    let mut stolen = body("https://evil.example/");
    stolen["id"] = made["id"].clone();
    two.put(CONFIGS, &stolen).await.refused(404, "NOT_FOUND", PUT);
    two.put(CONFIGS, &json!([stolen])).await.refused(404, "NOT_FOUND", PUT);
    let mut unknown = stolen.clone();
    unknown["id"] = "0123456789abcdef01234567".into();
    assert_eq!(
        two.put(CONFIGS, &stolen).await.body,
        two.put(CONFIGS, &unknown).await.body,
        "the answer does not tell a foreign id from an unknown one"
    );
    assert_eq!(two.get(CONFIGS).await.ok(200), json!([]));
    assert_eq!(two.put(CONFIGS, &json!([])).await.ok(200), json!([]));
    assert_eq!(control(&space), before);
    // The same URL in another organisation is another config.
    let other = two.put(CONFIGS, &body("https://a.example/")).await.ok(200);
    assert_ne!(other["id"], made["id"]);
    assert_eq!(one.get(CONFIGS).await.ok(200)[0]["id"], made["id"]);
}

#[tokio::test]
async fn callers_are_known_by_either_header_and_held_to_their_role() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let nobody = server.nobody();
    admin.put(CONFIGS, &body("https://a.example/")).await.ok(200);
    for header in ["authorization", "x-api-token", "X-Api-Token"] {
        for value in
            [format!("Bearer {}", admin.token()), admin.token().into(), format!("bearer  {}", admin.token())]
        {
            let listed =
                nobody.with(header, &value).with("x-api-domain", "https://x").get(CONFIGS).await.ok(200);
            assert_eq!(listed.as_array().unwrap().len(), 1);
        }
    }
    let both = admin.with("x-api-token", "prt_wrong");
    both.get(CONFIGS).await.ok(200);
    let wrong = nobody.with("authorization", "Bearer prt_wrong").with("x-api-token", admin.token());
    wrong.get(CONFIGS).await.refused(401, "UNAUTHORIZED", GET);
    for value in ["", "Bearer", "Bearer ", "prt_"] {
        nobody.with("authorization", value).get(CONFIGS).await.refused(401, "UNAUTHORIZED", GET);
    }
    nobody.get(CONFIGS).await.refused(401, "UNAUTHORIZED", GET);
    nobody.put(CONFIGS, &body("https://b.example/")).await.refused(401, "UNAUTHORIZED", PUT);

    for role in [Role::Viewer, Role::Manager] {
        let caller = server.caller("org_1", role).await;
        caller.get(CONFIGS).await.ok(200);
        caller.put(CONFIGS, &json!([])).await.refused(403, "FORBIDDEN", PUT);
    }
    let publisher = server.caller("org_1", Role::Publisher).await;
    publisher.get(CONFIGS).await.refused(403, "FORBIDDEN", GET);

    let operator = server.caller("ops", Role::Operator).await;
    operator.get(CONFIGS).await.refused(400, "BAD_REQUEST", GET);
    operator.with("x-organisation-id", "a:b").get(CONFIGS).await.refused(400, "BAD_REQUEST", GET);
    let acting = operator.with("x-organisation-id", "org_1");
    assert_eq!(acting.get(CONFIGS).await.ok(200).as_array().unwrap().len(), 1);

    let revoked = revoke_token(&server.state.redis, admin.token()).await.unwrap().unwrap();
    assert_eq!(revoked.role, Role::Admin);
    assert!(revoke_token(&server.state.redis, &revoked.id).await.unwrap().is_none());
    eventually("the token to be gone", async || admin.get(CONFIGS).await.status == 401).await;
}

#[tokio::test]
async fn unknown_routes_and_methods_answer_in_the_envelope() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let nobody = server.nobody();
    for path in ["/", "/api/v2/admin", "/api/v2/admin/webhooks/nothing", "/api/v2/admin/webhooks/configs/"] {
        nobody.get(path).await.refused(404, "NOT_FOUND", "unknown");
    }
    let answer = nobody.send(Method::DELETE, CONFIGS, Vec::new()).await;
    let allowed = answer.headers["allow"].to_str().unwrap().to_owned();
    assert!(allowed.contains("GET") && allowed.contains("PUT"), "{allowed}");
    answer.refused(405, "METHOD_NOT_SUPPORTED", "unknown");
}

#[tokio::test]
async fn what_is_over_the_limit_of_requests_is_told_to_come_back() {
    let mut settings = postrider::settings::Settings::default();
    settings.limits.admin_requests_max = 0;
    let server = AdminServer::start_with(TestSpace::new().redis(), settings).await;
    let answer = server.nobody().get(CONFIGS).await;
    assert_eq!(answer.headers["retry-after"], "1");
    answer.refused(503, "SERVICE_UNAVAILABLE", "unknown");
}

#[tokio::test]
async fn a_410_disables_only_the_version_that_was_used_and_active_true_heals_it() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let made = admin.put(CONFIGS, &body("https://a.example/")).await.ok(200);
    let id = made["id"].as_str().unwrap().parse().unwrap();
    let link = space.redis().link();
    let at = UnixMillis(1_777_626_000_000);
    assert_eq!(link.disable_gone(id, 7, at).await.unwrap(), Disabling::VersionChanged);
    assert_eq!(link.disable_gone(id, 1, at).await.unwrap(), Disabling::Disabled);
    let before = control(&space);
    assert_eq!(link.disable_gone(id, 1, at).await.unwrap(), Disabling::AlreadyDisabled);
    assert_eq!(control(&space), before);
    let unknown = "0123456789abcdef01234567".parse().unwrap();
    assert_eq!(link.disable_gone(unknown, 1, at).await.unwrap(), Disabling::VersionChanged);
    eventually("the change to be followed", async || {
        admin.get(CONFIGS).await.ok(200)[0]["disabledReason"] == "gone"
    })
    .await;
    let mut shown = admin.get(CONFIGS).await.ok(200)[0].clone();
    assert_eq!(shown["disabledAt"], "2026-05-01T09:00:00.000Z");
    assert_eq!((&shown["active"], &shown["isEnabled"]), (&json!(false), &json!(false)));

    // Changing something else does not heal it; saying so does.
    let changed = admin.put(CONFIGS, &json!({"url": "https://a.example/", "events": ["a.b"]})).await.ok(200);
    assert_eq!((&changed["active"], &changed["disabledReason"]), (&json!(false), &json!("gone")));
    shown["active"] = true.into();
    shown["isEnabled"] = true.into();
    let healed = admin.put(CONFIGS, &shown).await.ok(200);
    assert_eq!((&healed["active"], healed.get("disabledReason")), (&json!(true), None));
}

#[tokio::test]
async fn replicas_that_change_at_once_lose_nothing() {
    let space = TestSpace::new();
    let (one, two) = (AdminServer::start(&space).await, AdminServer::start(&space).await);
    let admin = one.caller("org_1", Role::Admin).await;
    let mut beside = admin.clone();
    beside.address = two.address;
    eventually("both to know the token", async || beside.get(CONFIGS).await.status == 200).await;
    let puts = (0..24).map(|n| {
        let api = if n % 2 == 0 { admin.clone() } else { beside.clone() };
        tokio::spawn(async move { api.put(CONFIGS, &body(&format!("https://h{}.example/", n / 2))).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().ok(200);
    }
    // Each URL was put on both replicas: one config each, whoever was first.
    let listed = admin.get(CONFIGS).await.ok(200);
    assert_eq!(listed.as_array().unwrap().len(), 12);
    let sequence: u32 = redis::cmd("HGET")
        .arg(format!("{}:{{control}}:meta", space.namespace))
        .arg("configSequence")
        .query(&mut space.raw())
        .unwrap();
    assert_eq!(sequence, 12);
}
