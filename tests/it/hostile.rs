//! Another organisation's ids and tokens on every route: nothing is told, nothing is changed.

use std::collections::BTreeSet;

use http::Method;
use postrider::admin::BASE_PATH;
use postrider::admin::access::{Scope, TABLE};
use postrider::domain::token::Role;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::log_world::{CONFIG_URL, ROW_URL, World, one_of_each};
use crate::support::eventually;
use crate::support_http::Api;

/// What the victim has.
struct Victim {
    config: String,
    delivery: String,
    token: String,
}

/// How a route is tried with the victim's ids, and what an attacker may get.
struct Probe {
    procedure: &'static str,
    /// Behind the path: a query with the victim's ids.
    query: fn(&Victim) -> String,
    body: fn(&Victim) -> Value,
    /// The only status that is no leak.
    wanted: u16,
}

const fn no_query(_: &Victim) -> String {
    String::new()
}

fn no_body(_: &Victim) -> Value {
    json!({})
}

/// One line a route; of a route with ids in its query or body there may be several.
#[rustfmt::skip]
const PROBES: &[Probe] = &[
    Probe { procedure: "getWebhookConfigs", query: no_query, body: no_body, wanted: 200 },
    Probe { procedure: "updateWebhookConfigs", query: no_query, wanted: 404,
            body: |of| json!({"id": of.config, "url": "https://evil.example/", "events": ["reward.earned"]}) },
    Probe { procedure: "updateWebhookConfigs", query: no_query, wanted: 404,
            body: |of| json!([{"id": of.config, "url": CONFIG_URL, "events": ["reward.earned"], "active": false}]) },
    Probe { procedure: "updateWebhookConfigs", query: no_query, wanted: 200, body: |_| json!([]) },
    Probe { procedure: "getWebhookLogs", query: no_query, body: no_body, wanted: 200 },
    Probe { procedure: "getWebhookLogs", query: |of| format!("?webhookConfigId={}", of.config), body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookLog", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "publishWebhookEvents", query: no_query, wanted: 400,
            body: |_| json!({"event": "reward.earned", "data": {}, "organisationId": "org_1"}) },
    Probe { procedure: "publishWebhookEvents", query: no_query, wanted: 202,
            body: |of| json!({"event": "reward.earned", "data": {}, "configId": of.config}) },
    Probe { procedure: "getTokens", query: no_query, body: no_body, wanted: 200 },
    Probe { procedure: "createToken", query: no_query, wanted: 201,
            body: |_| json!({"name": "evil", "role": "admin", "organisation": "org_1", "organisationId": "org_1"}) },
    Probe { procedure: "revokeToken", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookConfig", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "deleteWebhookConfig", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "pauseWebhookConfig", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "resumeWebhookConfig", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "rotateWebhookSecret", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "recoverWebhookConfig", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookStats", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookLogCurl", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookTrace", query: |of| format!("?id={}", of.delivery), body: no_body, wanted: 200 },
    Probe { procedure: "getWebhookEventTypes", query: no_query, body: no_body, wanted: 200 },
    Probe { procedure: "getWebhookJobs", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookJob", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "cancelWebhookJob", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "retryWebhookDelivery", query: no_query, body: no_body, wanted: 404 },
    Probe { procedure: "getWebhookAudit", query: no_query, body: no_body, wanted: 200 },
    Probe { procedure: "getRejectedEvents", query: no_query, body: no_body, wanted: 403 },
    Probe { procedure: "getRejectedEvent", query: no_query, body: no_body, wanted: 403 },
    Probe { procedure: "deleteRejectedEvent", query: no_query, body: no_body, wanted: 403 },
    Probe { procedure: "requeueRejectedEvent", query: no_query, body: no_body, wanted: 403 },
    Probe { procedure: "testWebhookConfig", query: no_query, body: |_| json!({"event": "reward.earned"}), wanted: 404 },
    Probe { procedure: "replayWebhookConfig", query: no_query, body: |_| json!({"since": "2026-01-01T00:00:00Z"}), wanted: 404 },
    Probe { procedure: "streamWebhookLogs", query: |of| format!("?webhookConfigId={}", of.config), body: no_body, wanted: 404 },
];

/// The route's path with the victim's ids in it.
fn path(template: &str, of: &Victim) -> String {
    let fill = |part: &str| match part {
        "{deliveryId}" => of.delivery.clone(),
        "{tokenId}" => of.token.clone(),
        "{jobId}" => "job_0000000000000001".to_owned(),
        _ if part.starts_with('{') => of.config.clone(),
        _ => part.to_owned(),
    };
    format!("{BASE_PATH}{}", template.split('/').map(fill).collect::<Vec<_>>().join("/"))
}

/// The world of the log's tests, with a follower: `org_1` is the victim.
async fn victim() -> (World, Victim, Api, watch::Sender<bool>) {
    let mut world = World::new().await;
    let (config, [delivery, ..]) = one_of_each(&mut world).await;
    let (stop, stopped) = watch::channel(false);
    let (directory, redis) = (world.state.directory.clone(), world.state.redis.clone());
    let reads = directory.full_reads();
    tokio::spawn(async move { directory.follow(&redis, stopped).await });
    eventually("the follower", async || world.state.directory.full_reads() > reads).await;
    let owner = api(&world, &world.token);
    let tokens = owner.get(&format!("{BASE_PATH}/auth-config/tokens")).await.ok(200);
    let token = tokens["tokens"][0]["id"].as_str().unwrap().to_owned();
    let victim = Victim { config: config.to_string(), delivery: delivery.to_string(), token };
    (world, victim, owner, stop)
}

fn api(world: &World, token: &str) -> Api {
    let headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
    Api { address: world.address, headers }
}

/// Everything that the victim can see of its own.
async fn state(owner: &Api) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["/webhooks/configs", "/webhooks/logs?limit=100", "/auth-config/tokens"] {
        all.push(owner.get(&format!("{BASE_PATH}{path}")).await.ok(200));
    }
    all
}

#[test]
fn every_route_is_tried() {
    let routes: BTreeSet<&str> =
        TABLE.iter().filter(|row| row.scope != Scope::Public).map(|row| row.procedure).collect();
    let tried: BTreeSet<&str> = PROBES.iter().map(|probe| probe.procedure).collect();
    assert_eq!(tried, routes, "left: procedures with a probe, right: those of the table of access");
}

#[tokio::test]
async fn another_organisations_ids_give_nothing_and_change_nothing() {
    let (world, victim, owner, _stop) = victim().await;
    let before = state(&owner).await;
    assert!(before[0].as_array().unwrap().len() == 1 && before[1]["totalCount"] == 5);
    let secrets = [&victim.config, &victim.delivery, &victim.token, CONFIG_URL, ROW_URL, "upstream busy"];
    let admin = world.token_of("org_2", Role::Admin).await;
    // Who is no operator cannot name another organisation.
    let attackers = [api(&world, &admin), api(&world, &admin).with("x-organisation-id", "org_1")];
    for attacker in &attackers {
        for probe in PROBES {
            for row in TABLE.iter().filter(|row| row.procedure == probe.procedure) {
                let path = format!("{}{}", path(row.path, &victim), (probe.query)(&victim));
                let body = match row.method {
                    "GET" => Vec::new(),
                    _ => (probe.body)(&victim).to_string().into_bytes(),
                };
                let answer = attacker.send(row.method.parse::<Method>().unwrap(), &path, body).await;
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(answer.status, probe.wanted, "{} {path}: {text}", row.method);
                // A message may repeat what the attacker wrote; only successes could tell more.
                if answer.status.is_success() {
                    for secret in secrets {
                        assert!(!text.contains(secret), "{} {path} tells {secret}: {text}", row.method);
                    }
                }
            }
        }
    }
    assert_eq!(state(&owner).await, before);
}

#[tokio::test]
async fn an_id_of_nobody_and_one_of_another_organisation_look_the_same() {
    let (world, victim, _owner, _stop) = victim().await;
    let attacker = api(&world, &world.token_of("org_2", Role::Admin).await);
    let nobodys = Victim {
        config: "9b1d04c57ea2f3180000002f".into(),
        delivery: "dlv_000000001f06fbnfev40000000".into(),
        token: "0123456789ab".into(),
    };
    for probe in PROBES.iter().filter(|probe| probe.wanted == 404) {
        for row in TABLE.iter().filter(|row| row.procedure == probe.procedure) {
            let mut told = Vec::new();
            for of in [&victim, &nobodys] {
                let path = format!("{}{}", path(row.path, of), (probe.query)(of));
                let body = (probe.body)(of).to_string().into_bytes();
                let answer = attacker.send(row.method.parse::<Method>().unwrap(), &path, body).await;
                let text = String::from_utf8_lossy(&answer.body).replace(&of.config, "ID");
                told.push((answer.status, text));
            }
            assert_eq!(told[0], told[1], "{} {}", row.method, row.path);
        }
    }
}

#[tokio::test]
async fn a_revoked_token_opens_no_route() {
    let (world, victim, owner, _stop) = victim().await;
    let fired = world.token_of("org_1", Role::Admin).await;
    let id = postrider::domain::token::TokenText::received(&fired).hash().id();
    owner.post(&format!("{BASE_PATH}/auth-config/tokens/{id}/revoke"), &json!({})).await.ok(200);
    let fired = api(&world, &fired);
    for row in TABLE.iter().filter(|row| row.scope != Scope::Public) {
        let answer =
            fired.send(row.method.parse::<Method>().unwrap(), &path(row.path, &victim), Vec::new()).await;
        assert!(matches!(answer.status.as_u16(), 401 | 429), "{}: {answer:?}", row.path);
    }
}
