//! One answer names everything that is wrong with a body: what the body alone shows, and what only the stored things
//! show.

use postrider::domain::token::Role;
use postrider::redis::connection::Redis;
use postrider::settings::Settings;
use postrider::settings::redis::RedisSettings;
use serde_json::{Value, json};

use crate::support::{RedisServer, TestSpace};
use crate::support_http::{AdminServer, Api, CONFIGS};

const PUT: &str = "updateWebhookConfigs";
const NOBODYS: &str = "0123456789abcdef01234567";
const MASK: &str = "whsec_****abcd";

fn config(url: &str, more: &Value) -> Value {
    let mut config = json!({ "url": url, "events": ["a"] });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

async fn refused(api: &Api, status: u16, body: &Value) -> String {
    let code = if status == 404 { "NOT_FOUND" } else { "BAD_REQUEST" };
    api.put(CONFIGS, body).await.refused(status, code, PUT)
}

/// The places of a message, in its order.
fn places(message: &str) -> Vec<&str> {
    message.split("; body").map(|told| told.split(": ").next().unwrap().trim_start_matches("body")).collect()
}

#[tokio::test]
async fn what_the_stored_configs_show_is_told_with_what_the_body_shows() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let stored =
        config("https://a.example/", &json!({ "headers": { "X-Key": "k" }, "standardWebhooks": true }));
    let stored = admin.put(CONFIGS, &stored).await.ok(200);
    let before = admin.get(CONFIGS).await.ok(200);

    // An unknown id hides no mask, and is named beside it.
    let set = json!([
        config("https://n.example/a", &json!({ "secret": MASK })),
        config("https://n.example/b", &json!({ "id": NOBODYS })),
    ]);
    let told = refused(&admin, 400, &set).await;
    assert_eq!(places(&told), ["[0].secret", "[1].id"], "{told}");
    assert!(told.ends_with("body[1].id: no config has this id"), "{told}");

    // Nor does what the body alone shows: not in another item, not in the same one.
    let set = json!({ "configs": [
        config("https://n.example/a", &json!({ "headers": { "Host": "x", "X-Key": "****" }, "maxRetries": 11 })),
        config("https://n.example/b", &json!({ "secret": MASK, "events": [] })),
        config("https://c.example/", &json!({ "id": stored["id"], "bodyFormat": 1 })),
        config("https://n.example/d", &json!({ "id": NOBODYS, "url": "https://c.example/" })),
        { "id": stored["id"], "headers": { "webhook-id": "x", "X-New": "****" } },
        { "id": 7, "secret": MASK, "headers": { "webhook-id": "x" }, "standardWebhooks": true },
        7,
        config("https://n.example/f",
            &json!({ "clientCertificate": { "certificate": 7, "key": "****" }, "headers": [], "secret": MASK })),
    ]});
    let told = refused(&admin, 400, &set).await;
    let mut found = places(&told);
    found.sort_unstable();
    let mut wanted = [
        ".configs[0].headers.Host",
        ".configs[0].headers.X-Key",
        ".configs[0].maxRetries",
        ".configs[1].events",
        ".configs[1].secret",
        ".configs[2].bodyFormat",
        ".configs[2].headers.X-Key", // The url moves.
        ".configs[3].id",
        ".configs[3].url", // As item 2.
        ".configs[4].events",
        ".configs[4].headers.X-New",
        ".configs[4].headers.webhook-id",
        ".configs[4].id", // As item 2.
        ".configs[4].url",
        ".configs[5].events",
        ".configs[5].headers.webhook-id",
        ".configs[5].id",
        ".configs[5].url",
        ".configs[6]",
        ".configs[7].clientCertificate.certificate",
        ".configs[7].clientCertificate.key",
        ".configs[7].headers",
        ".configs[7].secret",
    ];
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{told}");

    assert_eq!(admin.get(CONFIGS).await.ok(200), before, "nothing was changed");
}

#[tokio::test]
async fn a_single_object_is_told_whose_url_it_has_with_the_rest() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    admin.put(CONFIGS, &config("https://a.example/", &json!({}))).await.ok(200);
    let other = admin.put(CONFIGS, &config("https://b.example/", &json!({}))).await.ok(200);
    let before = admin.get(CONFIGS).await.ok(200);
    let mut clash =
        json!({ "id": other["id"], "url": "https://a.example/", "events": [], "headers": { "X": "****" } });
    let told = refused(&admin, 400, &clash).await;
    assert_eq!(places(&told), [".events", ".headers.X", ".url"], "{told}");
    // Alone it is no mistake but a conflict.
    clash["events"] = json!(["a"]);
    clash["headers"] = json!({});
    let told = admin.put(CONFIGS, &clash).await.refused(409, "CONFLICT", PUT);
    assert_eq!(places(&told), [".url"], "{told}");
    assert_eq!(admin.get(CONFIGS).await.ok(200), before);
}

#[tokio::test]
async fn unknown_ids_alone_are_404_and_look_like_those_of_another_organisation() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let owner = server.caller("org_1", Role::Admin).await;
    let admin = server.caller("org_2", Role::Admin).await;
    let theirs =
        config("https://a.example/", &json!({ "headers": { "X-Key": "k" }, "standardWebhooks": true }));
    let foreign = owner.put(CONFIGS, &theirs).await.ok(200)["id"].as_str().unwrap().to_owned();
    let before = owner.get(CONFIGS).await.ok(200);
    let bodies = |id: &str| {
        let one = |more: Value| {
            let mut one = config("https://a.example/", &more);
            one["id"] = id.into();
            one
        };
        [
            (404, one(json!({}))),
            // What the foreign one has is no help: a mask, a header beside the standard ones, an origin that moves.
            (404, one(json!({ "secret": MASK, "headers": { "X-Key": "****", "webhook-id": "x" } }))),
            (
                404,
                json!([
                    one(json!({})),
                    config("https://b.example/", &json!({ "id": NOBODYS.replace('0', "1") }))
                ]),
            ),
            (400, one(json!({ "secret": MASK, "maxRetries": 11 }))),
            (
                400,
                json!([
                    one(json!({ "secret": MASK })),
                    config("https://b.example/", &json!({ "secret": MASK }))
                ]),
            ),
        ]
    };
    for ((status, of_another), (_, of_nobody)) in bodies(&foreign).into_iter().zip(bodies(NOBODYS)) {
        let told = refused(&admin, status, &of_another).await;
        assert_eq!(told, refused(&admin, status, &of_nobody).await);
        assert!(told.contains("id: no config has this id"), "{told}");
    }
    let both = json!([
        config("https://a.example/", &json!({ "id": foreign })),
        config("https://b.example/", &json!({ "id": NOBODYS })),
    ]);
    assert_eq!(places(&refused(&admin, 404, &both).await), ["[0].id", "[1].id"]);
    assert_eq!(owner.get(CONFIGS).await.ok(200), before);
    assert_eq!(admin.get(CONFIGS).await.ok(200), json!([]));
}

#[tokio::test]
async fn of_many_mistakes_of_both_kinds_a_hundred_are_told() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let masks: serde_json::Map<String, Value> = (0..32).map(|n| (format!("X-{n}"), json!("****"))).collect();
    let item = |n: usize| {
        config(
            &format!("https://n.example/{n}"),
            &json!({ "headers": masks, "secret": MASK, "maxRetries": 11 }),
        )
    };
    let set: Vec<Value> = (0..10).map(item).collect();
    let told = refused(&admin, 400, &set.into()).await;
    assert!(told.ends_with("; and 240 more"), "{told}");
    assert_eq!(told.matches("body[").count(), 100);
    let unknown: Vec<Value> = (0..150)
        .map(|n| config(&format!("https://n.example/{n}"), &json!({ "id": format!("{n:024x}") })))
        .collect();
    assert!(refused(&admin, 404, &unknown.into()).await.ends_with("; and 50 more"));
}

#[tokio::test]
async fn while_redis_is_away_a_body_is_still_told_its_own_mistakes() {
    let redis = RedisServer::start(&[]);
    let settings = RedisSettings { url: Some(redis.url()), ..RedisSettings::default() };
    let client = Redis::new(&redis.url(), &settings).unwrap();
    let server = AdminServer::start_with(client, Settings::default()).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let good = config("https://a.example/", &json!({}));
    admin.put(CONFIGS, &good).await.ok(200);
    let _data = redis.kill();
    let told = refused(&admin, 400, &json!([{ "url": "https://a.example/", "events": [] }])).await;
    assert_eq!(places(&told), ["[0].events"], "{told}");
    admin.put(CONFIGS, &good).await.refused(503, "SERVICE_UNAVAILABLE", PUT);
}

#[tokio::test]
async fn a_repair_is_told_wrong_types_with_wrong_values() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let operator = server.caller("platform", Role::Operator).await;
    let mut command = redis::cmd("XADD");
    command.arg(format!("{}:{{0}}:rejected", space.namespace)).arg("5-1");
    command.arg(&["_id", "77-1", "_field", "data", "_problem", "missing; it is required"]);
    command.arg(&["organisationId", "a:b", "data", "[]", "nonce", "n"]);
    command.exec(&mut space.raw()).unwrap();
    let path = |id: &str| format!("/api/v2/admin/webhooks/rejected/{id}/requeue");
    let refused = async |id: &str, status: u16, body: &Value| {
        let code = if status == 404 { "NOT_FOUND" } else { "BAD_REQUEST" };
        operator.post(&path(id), body).await.refused(status, code, "requeueRejectedEvent")
    };

    let told = refused("rej_0_5-1", 400, &json!({ "fields": { "data": [1], "event": "B" } })).await;
    let told = told.replace("; required", ""); // A problem may have a semicolon of its own.
    assert_eq!(places(&told), [".fields.data", ".fields.organisationId", ".fields.event"], "{told}");
    // A field of the wrong type is told once, also where the entry's own is wrong too; one that nobody knows beside.
    let wrong =
        json!({ "fields": { "organisationId": 7, "colour": "x", "nonce": "", "event": "a" }, "more": 1 });
    let told = refused("rej_0_5-1", 400, &wrong).await;
    for place in
        ["body.more: ", "fields.colour: ", "fields.organisationId: ", "fields.data: ", "fields.nonce: "]
    {
        assert_eq!(told.matches(place).count(), 1, "{place} in {told}");
    }
    assert!(!told.contains("fields.event"), "{told}");
    assert!(refused("rej_0_5-1", 400, &json!({ "fields": null })).await.starts_with("body.fields: expected"));

    // An entry that is gone is told beside the mistakes, and alone it is 404.
    let told = refused("rej_0_6-1", 400, &wrong).await;
    assert!(told.contains("fields.colour: ") && told.contains("path.id: no such entry"), "{told}");
    assert_eq!(refused("rej_0_6-1", 404, &json!({})).await, "path.id: no such entry");

    let good = json!({ "fields": { "organisationId": "org_1", "event": "a", "data": { "n": 1 } } });
    operator.post(&path("rej_0_5-1"), &good).await.ok(202);
}
