//! Tokens over HTTP: made, listed, revoked, limited; on one replica and on two.

use std::time::{Duration, Instant};

use http::Method;
use postrider::domain::ids::OrganisationId;
use postrider::domain::token::{Role, TokenText};
use postrider::settings::Settings;
use redis::Commands;
use serde_json::{Value, json};

use crate::serving::{Serve, call, create_token};
use crate::support::{RedisServer, TestSpace, wait_within};
use crate::support_http::{AdminServer, Api, CONFIGS, EVENTS};

const TOKENS: &str = "/api/v2/admin/auth-config/tokens";

fn revoke_path(id: &Value) -> String {
    format!("{TOKENS}/{}/revoke", id.as_str().unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["tokens"].as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap()).collect()
}

fn bearer(server: &AdminServer, token: &str) -> Api {
    server.nobody().with("authorization", &format!("Bearer {token}"))
}

#[tokio::test]
async fn a_token_is_shown_once_works_and_can_be_revoked() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let made = admin.post(TOKENS, &json!({"name": "ci", "role": "viewer", "colour": "red"})).await;
    assert_eq!(made.headers["x-postrider-ignored"], "colour");
    let made = made.ok(201);
    let text = made["token"].as_str().unwrap().to_owned();
    assert_eq!((&made["name"], &made["role"]), (&json!("ci"), &json!("viewer")));

    let listed = admin.get(TOKENS).await.ok(200);
    assert_eq!(names(&listed), ["test", "ci"]);
    assert_eq!(listed["tokens"][1]["id"], made["id"]);
    assert!(listed["tokens"][1].get("token").is_none() && !listed.to_string().contains(&text));
    bearer(&server, &text).get(CONFIGS).await.ok(200);

    // Redis has its hash and nothing else of it.
    let mut raw = space.raw();
    let keys = server.state.redis.keys();
    let stored: Vec<(String, String)> = raw.hgetall(keys.tokens()).unwrap();
    assert!(stored.iter().any(|(field, _)| field == TokenText::received(&text).hash().as_str()));
    assert!(!format!("{stored:?}").contains(&text) && !format!("{stored:?}").contains(&text[4..]));
    let audit: redis::streams::StreamRangeReply =
        raw.xrange_all(keys.audit(&OrganisationId::new("org_1").unwrap())).unwrap();
    let audit = format!("{audit:?}");
    assert!(audit.contains("createToken") && !audit.contains(&text[4..]), "{audit}");

    let revoked = admin.post(&revoke_path(&made["id"]), &json!({})).await.ok(200);
    assert_eq!(revoked["id"], made["id"]);
    assert_eq!(names(&admin.get(TOKENS).await.ok(200)), ["test"]);
    bearer(&server, &text).get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    admin.post(&revoke_path(&made["id"]), &json!({})).await.refused(404, "NOT_FOUND", "revokeToken");
}

#[tokio::test]
async fn nobody_makes_or_touches_a_role_above_the_own() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let operator = server.caller("org_1", Role::Operator).await.with("x-organisation-id", "org_1");
    let wanted = json!({"name": "boss", "role": "operator"});
    admin.post(TOKENS, &wanted).await.refused(403, "FORBIDDEN", "createToken");
    let made = operator.post(TOKENS, &wanted).await.ok(201);
    assert_eq!(names(&admin.get(TOKENS).await.ok(200)), ["test"]);
    assert_eq!(names(&operator.get(TOKENS).await.ok(200)), ["test", "test", "boss"]);
    admin.post(&revoke_path(&made["id"]), &json!({})).await.refused(404, "NOT_FOUND", "revokeToken");
    for role in ["viewer", "publisher", "manager", "admin"] {
        let made = admin.post(TOKENS, &json!({"name": role, "role": role})).await.ok(201);
        let caller = bearer(&server, made["token"].as_str().unwrap());
        let allowed = matches!(role, "admin");
        let answer = caller.post(TOKENS, &json!({"name": "more", "role": "viewer"})).await;
        assert_eq!(answer.status, if allowed { 201 } else { 403 }, "{role}");
    }
    operator.post(&revoke_path(&made["id"]), &json!({})).await.ok(200);
}

#[tokio::test]
async fn a_bad_body_names_every_mistake() {
    let server = AdminServer::start(&TestSpace::new()).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let message = admin.post(TOKENS, &json!({"name": "", "role": "queen"})).await;
    let message = message.refused(400, "BAD_REQUEST", "createToken");
    assert!(message.contains("body.name: expected") && message.contains("body.role: expected"), "{message}");
    admin.post(TOKENS, &json!([])).await.refused(400, "BAD_REQUEST", "createToken");
    assert_eq!(names(&admin.get(TOKENS).await.ok(200)), ["test"]);
}

#[tokio::test]
async fn both_headers_carry_a_token_with_or_without_its_scheme() {
    let server = AdminServer::start(&TestSpace::new()).await;
    let token = server.caller("org_1", Role::Admin).await.token().to_owned();
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        ("Authorization", format!("bearer   {token}")),
        ("authorization", token.clone()),
        ("x-api-token", token.clone()),
        ("X-Api-Token", format!("Bearer {token}")),
    ] {
        let caller = server.nobody().with(name, &value);
        caller.get(CONFIGS).await.ok(200);
        let elsewhere = caller.with("x-api-domain", "https://other.example/api/v2/admin");
        elsewhere.get(CONFIGS).await.ok(200);
    }
    let both = server.nobody().with("authorization", "Bearer nonsense").with("x-api-token", &token);
    both.get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    for bad in ["Bearer", "Bearer ", "", &token[1..], &token.to_uppercase(), &format!("Basic {token}")] {
        let caller = server.nobody().with("authorization", bad);
        let answer = caller.get(CONFIGS).await;
        assert!(matches!(answer.status.as_u16(), 401 | 429), "{bad}: {answer:?}");
    }
}

#[tokio::test]
async fn a_token_has_its_requests_a_minute_and_others_have_theirs() {
    let mut settings = Settings::default();
    settings.admin.rate_limit = 5;
    let server = AdminServer::start_with(TestSpace::new().redis(), settings).await;
    let (one, two) = (server.caller("org_1", Role::Admin).await, server.caller("org_1", Role::Admin).await);
    // A batch is one request.
    let events: Vec<Value> = (0..100).map(|_| json!({"event": "a.b", "data": {}})).collect();
    one.post(EVENTS, &json!(events)).await.ok(202);
    for _ in 0..4 {
        one.get(CONFIGS).await.ok(200);
    }
    let answer = one.get(CONFIGS).await;
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=12).contains(&wait), "{wait}");
    answer.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
    one.post(EVENTS, &json!(events)).await.refused(429, "TOO_MANY_REQUESTS", "publishWebhookEvents");
    two.get(CONFIGS).await.ok(200);
}

#[tokio::test]
async fn an_address_with_bad_tokens_is_slowed_and_its_good_ones_are_not() {
    let server = AdminServer::start(&TestSpace::new()).await;
    let good = server.caller("org_1", Role::Viewer).await;
    let bad = |number: usize| bearer(&server, &format!("prt_{number:064x}"));
    for number in 0..10 {
        // A header that anybody can write gives nobody a new address.
        let elsewhere = bad(number).with("x-forwarded-for", &format!("192.0.2.{number}"));
        elsewhere.get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    }
    let answer = bad(11).get(CONFIGS).await;
    assert_eq!(answer.headers["retry-after"], "1");
    answer.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
    server.nobody().get(CONFIGS).await.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
    good.get(CONFIGS).await.ok(200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_caller_has_its_own_address() {
    let mut settings = Settings::default();
    settings.admin.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    settings.admin.auth_failures_max = 2;
    let server = AdminServer::start_with(TestSpace::new().redis(), settings).await;
    let from = |address: &str| server.nobody().with("x-forwarded-for", address);
    for _ in 0..2 {
        from("192.0.2.1").get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    }
    from("192.0.2.1").get(CONFIGS).await.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
    from("9.9.9.9, 192.0.2.1").get(CONFIGS).await.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
    from("192.0.2.2").get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    for last in ["1", "2"] {
        let v6 = from(&format!("2001:db8:0:1::{last}"));
        v6.get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    }
    from("2001:db8:0:1::3").get(CONFIGS).await.refused(429, "TOO_MANY_REQUESTS", "getWebhookConfigs");
}

#[tokio::test]
async fn unknown_tokens_cost_redis_next_to_nothing() {
    let redis = RedisServer::start(&[]);
    let space = TestSpace { url: redis.url(), namespace: "flood".into() };
    let mut settings = Settings::default();
    settings.admin.auth_failures_max = 0;
    let server = AdminServer::start_with(space.redis(), settings).await;
    let searches = || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut space.raw()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hget:calls="));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    let (before, begun) = (searches(), Instant::now());
    for number in 0..300 {
        let caller = bearer(&server, &format!("prt_{number:064x}"));
        caller.get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    }
    let spent = searches() - before;
    let most = 20 * (2 + begun.elapsed().as_secs());
    assert!(spent <= most, "{spent} searches for 300 tokens in {:?}", begun.elapsed());
    let again = bearer(&server, &format!("prt_{:064x}", 0));
    let before = searches();
    again.get(CONFIGS).await.refused(401, "UNAUTHORIZED", "getWebhookConfigs");
    assert!(searches() - before <= 1);
}

/// Status of `GET configs` with a token.
fn status(serve: &Serve, token: &str) -> u16 {
    call(serve.admin_port(), Method::GET, CONFIGS, Some(token), None).expect("an answer").0
}

#[test]
fn on_another_process_a_token_counts_and_is_gone_within_100_ms() {
    let space = TestSpace::new();
    let quiet = ["--workers", "1", "--admin-auth-failures-max", "0"];
    let one = Serve::start(&space.url, &space.namespace, &quiet);
    let two = Serve::start(&space.url, &space.namespace, &quiet);
    let admin = create_token(&space.url, &space.namespace);
    let post = |path: &str, body: Value| {
        let answer = call(one.admin_port(), Method::POST, path, Some(&admin), Some(body.to_string()));
        let (status, text) = answer.expect("an answer");
        assert!(matches!(status, 200 | 201), "{path}: {text}");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let made = post(TOKENS, json!({"name": "short", "role": "viewer"}));
        let (token, begun) = (made["token"].as_str().unwrap(), Instant::now());
        assert_eq!(status(&two, token), 200, "a new token is never told that it is unknown");
        accepted.push(begun.elapsed());
        post(&revoke_path(&made["id"]), json!({}));
        let begun = Instant::now();
        wait_within(Duration::from_secs(5), "the other process to refuse", || status(&two, token) == 401);
        refused.push(begun.elapsed());
        assert_eq!(status(&one, token), 401);
    }
    accepted.sort_unstable();
    refused.sort_unstable();
    assert!(two.metric("admin_auth_failures_total") >= 9.0, "refusals are counted");
    println!("accepted after {accepted:?}, refused after {refused:?}");
    assert!(accepted[4] < Duration::from_millis(100), "{accepted:?}");
    assert!(refused[4] < Duration::from_millis(100), "{refused:?}");
}
