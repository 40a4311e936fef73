//! Both vocabularies of a config over HTTP: what is accepted, answered, kept and refused.

use postrider::domain::token::Role;
use serde_json::{Value, json};

use crate::support::TestSpace;
use crate::support_http::{AdminServer, Api, CONFIGS};

const PUT: &str = "updateWebhookConfigs";

async fn admin(space: &TestSpace) -> (AdminServer, Api) {
    let server = AdminServer::start(space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    (server, admin)
}

fn stored(space: &TestSpace, id: &Value) -> Value {
    let text: String = redis::cmd("HGET")
        .arg(format!("{}:{{control}}:configs", space.namespace))
        .arg(id.as_str().unwrap())
        .query(&mut space.raw())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The sample of the platform's developer guide, in all three shapes.
#[tokio::test]
async fn the_developer_guides_fields_are_taken_in_every_shape_and_answered_beside_the_others() {
    let space = TestSpace::new();
    let (_server, admin) = admin(&space).await;
    let sample = json!({
        "url": "https://hooks.example.org/nudj", "events": ["reward-claim", "challenge-completion"],
        "httpMethod": "PUT", "isEnabled": false, "maxRetries": 5, "headers": {"X-API-Key": "k"},
        "entityFilters": {"reward-claim": ["r1", "r2"]},
    });
    let wanted = json!({
        "url": "https://hooks.example.org/nudj", "events": ["reward-claim", "challenge-completion"],
        "httpMethod": "PUT", "isEnabled": false, "active": false, "maxRetries": 5,
        "headers": {"X-API-Key": "****"}, "entityFilters": {"reward-claim": ["r1", "r2"]},
        "bodyFormat": "standard", "standardWebhooks": false, "logPayloads": true,
    });
    let check = |answer: &Value| {
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&answer[name], value, "{name}");
        }
    };
    let single = admin.put(CONFIGS, &sample).await.ok(200);
    check(&single);
    assert!(single["secret"].as_str().unwrap().len() == 70, "a generated secret is shown once");
    let list = admin.put(CONFIGS, &json!([sample])).await.ok(200);
    check(&list[0]);
    let wrapped = admin.put(CONFIGS, &json!({"configs": [sample]})).await.ok(200);
    check(&wrapped["configs"][0]);
    assert_eq!(wrapped["configs"][0]["id"], single["id"], "all three are one config");
    let shown = admin.get(CONFIGS).await.ok(200);
    check(&shown[0]);

    // What is left out stays; what is emptied is empty.
    let less = json!({"url": sample["url"], "events": sample["events"]});
    check(&admin.put(CONFIGS, &less).await.ok(200));
    let mut emptied = less.clone();
    emptied["entityFilters"] = json!({});
    emptied["httpMethod"] = "POST".into();
    let emptied = admin.put(CONFIGS, &emptied).await.ok(200);
    assert_eq!((&emptied["entityFilters"], &emptied["httpMethod"]), (&json!({}), &json!("POST")));
    let kept = stored(&space, &single["id"]);
    assert_eq!((kept.get("entityFilters"), kept.get("httpMethod")), (None, None), "{kept}");
}

#[tokio::test]
async fn every_mistake_of_one_body_is_told_at_once_and_nothing_is_changed() {
    let space = TestSpace::new();
    let (_server, admin) = admin(&space).await;
    let made = admin.put(CONFIGS, &json!({"url": "https://a.example/", "events": ["*"]})).await.ok(200);
    let before = admin.get(CONFIGS).await.ok(200);
    let message = admin
        .put(
            CONFIGS,
            &json!([
                {"url": "https://a.example/", "events": ["reward*", "*.earned", "reward.*"], "httpMethod": "GET",
                 "bodyFormat": "b", "active": true, "isEnabled": false},
                {"url": "https://b.example/", "events": ["reward.earned"], "standardWebhooks": "yes",
                 "logPayloads": 0, "entityFilters": {"reward.earnd": ["r"], "reward.earned": [1]}},
            ]),
        )
        .await
        .refused(400, "BAD_REQUEST", PUT);
    for wanted in [
        "body[0].events[0]: expected a wildcard as '*' or 'reward.*'",
        "body[0].events[1]: ",
        "body[0].httpMethod: expected 'POST' or 'PUT'; a payload in a GET",
        "body[0].bodyFormat: ",
        "body[0].active: differs from isEnabled",
        "body[1].standardWebhooks: ",
        "body[1].logPayloads: ",
        "body[1].entityFilters.reward.earnd: this event type is not among 'events'",
        "body[1].entityFilters.reward.earned[0]: ",
    ] {
        assert!(message.contains(wanted), "{wanted} in {message}");
    }
    assert!(!message.contains("events[2]"), "{message}");
    assert_eq!(admin.get(CONFIGS).await.ok(200), before);
    assert_eq!(before[0]["id"], made["id"]);
}

/// A stored header value is a credential that no answer shows: whoever may change the URL must not have it sent
/// to a host of their own.
#[tokio::test]
async fn a_url_that_moves_to_another_origin_takes_no_stored_header_along() {
    let space = TestSpace::new();
    let (_server, admin) = admin(&space).await;
    let config = json!({
        "url": "https://a.example/x", "events": ["*"], "headers": {"X-Key": "credential", "X-Other": "o"},
    });
    let made = admin.put(CONFIGS, &config).await.ok(200);
    let mut shown = admin.get(CONFIGS).await.ok(200)[0].clone();

    // On the same origin the mask keeps the value, and so does leaving the headers out.
    shown["url"] = "https://A.example:443/y".into();
    admin.put(CONFIGS, &shown).await.ok(200);
    admin
        .put(CONFIGS, &json!({"id": made["id"], "url": "https://a.example/z", "events": ["*"]}))
        .await
        .ok(200);
    let kept = stored(&space, &made["id"]);
    assert_eq!(kept["headers"], config["headers"]);

    for url in ["https://evil.example/x", "https://a.example:8443/x", "https://a.example.evil.example/x"] {
        shown["url"] = url.into();
        for headers in [Some(json!({"X-Key": "****", "x-other": "****"})), None] {
            let mut moved = shown.clone();
            match &headers {
                Some(headers) => moved["headers"] = headers.clone(),
                None => drop(moved.as_object_mut().unwrap().remove("headers")),
            }
            let message = admin.put(CONFIGS, &moved).await.refused(400, "BAD_REQUEST", PUT);
            let names = ["body.headers.X-Key: ", "body.headers.X-Other: ", "body.headers.x-other: "];
            let told = names.iter().filter(|name| message.contains(**name)).count();
            assert_eq!(told, 2, "{url}: {message}");
            admin.put(CONFIGS, &json!([moved])).await.refused(400, "BAD_REQUEST", PUT);
        }
    }
    assert_eq!(stored(&space, &made["id"]), kept);

    // Sent whole, or without them, it moves.
    shown["headers"] = json!({"X-Key": "for the new one"});
    let moved = admin.put(CONFIGS, &shown).await.ok(200);
    assert_eq!((&moved["id"], &moved["headers"]), (&made["id"], &json!({"X-Key": "****"})));
    assert_eq!(stored(&space, &made["id"])["headers"], json!({"X-Key": "for the new one"}));
}

#[tokio::test]
async fn headers_of_standard_webhooks_belong_to_postrider_where_it_sends_them() {
    let space = TestSpace::new();
    let (_server, admin) = admin(&space).await;
    let mut config = json!({"url": "https://a.example/", "events": ["*"], "headers": {"Webhook-Id": "mine"}});
    let made = admin.put(CONFIGS, &config).await.ok(200);
    config["standardWebhooks"] = true.into();
    config["headers"] = json!({"Webhook-Id": "****", "webhook-signature": "x"});
    for body in [
        config.clone(),
        json!({"id": made["id"], "url": config["url"], "events": ["*"], "standardWebhooks": true}),
    ] {
        let message = admin.put(CONFIGS, &body).await.refused(400, "BAD_REQUEST", PUT);
        assert!(message.contains("body.headers.Webhook-Id: "), "{message}");
    }
    config["headers"] = json!({});
    assert_eq!(admin.put(CONFIGS, &config).await.ok(200)["standardWebhooks"], true);
}
