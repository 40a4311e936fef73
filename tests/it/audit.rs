//! The audit: who changed what, before and after, without secrets, for one's own organisation.

use postrider::domain::token::Role;
use postrider::redis::tokens::revoke_token;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::stage::Stage;
use crate::support::{TestSpace, wait_for};
use crate::support_http::{AdminServer, CONFIGS};

const AUDIT: &str = "/api/v2/admin/webhooks/audit";

fn edges(answer: &Value) -> &[Value] {
    answer["edges"].as_array().unwrap()
}

#[tokio::test]
async fn a_change_of_configs_is_told_with_before_and_after_and_without_secrets() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let made = json!({ "url": "https://a.example/", "events": ["a.b"], "secret": "whsec_first_one",
        "headers": { "authorization": "Bearer credential" } });
    let id = admin.put(CONFIGS, &made).await.ok(200)["id"].clone();
    let mut changed = made.clone();
    changed["secret"] = json!("whsec_second_one");
    changed["maxRetries"] = json!(7);
    admin.put(CONFIGS, &changed).await.ok(200);
    admin.put(CONFIGS, &json!([])).await.ok(200);

    let answer = admin.get(AUDIT).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    for secret in ["first_one", "second_one", "credential"] {
        assert!(!text.contains(secret), "{text}");
    }
    let answer = answer.ok(200);
    let [deleted, changed, created, token] = edges(&answer) else { panic!("{answer}") };
    for entry in [deleted, changed, created] {
        assert_eq!((&entry["action"], &entry["target"]), (&json!("updateWebhookConfigs"), &id));
        assert_eq!((&entry["by"]["kind"], &entry["by"]["tokenName"]), (&json!("token"), &json!("test")));
    }
    assert_eq!((&created["before"], &created["after"]["headers"]), (&Value::Null, &json!(["authorization"])));
    assert_eq!((&changed["before"]["maxRetries"], &changed["after"]["maxRetries"]), (&json!(3), &json!(7)));
    assert_eq!(changed["before"]["secret"], "whsec_****_one");
    let times = ["createdAt", "updatedAt"].map(|name| &deleted["before"][name]);
    assert!(times.iter().all(|time| time.as_str().is_some_and(|text| text.ends_with('Z'))), "{deleted}");
    assert_eq!(deleted["before"], changed["after"]);
    assert_eq!(deleted["after"], Value::Null);
    assert_eq!((&token["action"], &token["by"]["kind"]), (&json!("createToken"), &json!("cli")));
    assert_eq!(token["after"]["role"], "admin");

    // A refused change and one that changes nothing leave no trace.
    admin.put(CONFIGS, &json!({ "url": "no" })).await.refused(400, "BAD_REQUEST", "updateWebhookConfigs");
    admin.put(CONFIGS, &json!([])).await.ok(200);
    assert_eq!(edges(&admin.get(AUDIT).await.ok(200)).len(), 4);
}

#[tokio::test]
async fn it_is_paged_filtered_and_ones_own() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let configs: Vec<Value> =
        (0..9).map(|n| json!({ "url": format!("https://a.example/{n}"), "events": ["a.b"] })).collect();
    admin.put(CONFIGS, &Value::Array(configs)).await.ok(200);
    let revoked = server.caller("org_1", Role::Viewer).await;
    revoke_token(&server.state.redis, revoked.token()).await.unwrap().unwrap();
    // The admin's token, nine configs, the viewer's token made and revoked.
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{AUDIT}?limit=5{cursor}")).await.ok(200);
        found.extend(edges(&page).to_vec());
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let actions: Vec<&str> = found.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let mut wanted = vec!["revokeToken", "createToken"];
    wanted.extend(["updateWebhookConfigs"; 9]);
    wanted.push("createToken");
    assert_eq!(actions, wanted);
    let ids: std::collections::BTreeSet<&str> =
        found.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 12);

    let target = found[4]["target"].as_str().unwrap();
    let one = admin.get(&format!("{AUDIT}?target={target}&action=updateWebhookConfigs")).await.ok(200);
    assert_eq!(edges(&one), &found[4..5]);
    let at = found[0]["at"].as_str().unwrap();
    let later = admin.get(&format!("{AUDIT}?limit=100&since={at}")).await.ok(200);
    assert!(edges(&later).iter().all(|entry| entry["at"].as_str().unwrap() >= at));
    let earlier = admin.get(&format!("{AUDIT}?limit=100&until={at}")).await.ok(200);
    assert_eq!(edges(&later).len() + edges(&earlier).len(), 12);

    let told = admin.get(&format!("{AUDIT}?since=now&cursor=1&limit=1000")).await;
    let told = told.refused(400, "BAD_REQUEST", "getWebhookAudit");
    assert!(["query.since", "query.cursor", "query.limit"].iter().all(|name| told.contains(name)), "{told}");
    let other = server.caller("org_2", Role::Admin).await;
    assert_eq!(edges(&other.get(AUDIT).await.ok(200)).len(), 1);
    for role in [Role::Viewer, Role::Publisher, Role::Manager] {
        server.caller("org_1", role).await.get(AUDIT).await.refused(403, "FORBIDDEN", "getWebhookAudit");
    }
    let operator = server.caller("platform", Role::Operator).await;
    operator.get(AUDIT).await.refused(400, "BAD_REQUEST", "getWebhookAudit");
    let named = operator.with("x-organisation-id", "org_1").get(&format!("{AUDIT}?limit=100")).await.ok(200);
    assert_eq!(edges(&named).len(), 15);
}

#[test]
fn what_postrider_itself_disables_is_told_as_the_systems() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let gone = |arrival: &crate::arrivals::Arrival| Reply::status(if arrival.nth == 1 { 410 } else { 200 });
    let config = stage.config("/gone", json!({}), gone);
    stage.add(&[]);
    let query = "/audit?action=disableWebhookConfig";
    wait_for("the 410 to be audited", || !edges(&stage.serve().get(&stage.token, query)).is_empty());
    let answer = stage.serve().get(&stage.token, query);
    let [entry] = edges(&answer) else { panic!("{answer}") };
    assert_eq!((&entry["target"], &entry["by"]["kind"]), (&json!(config.id), &json!("system")));
    assert_eq!((&entry["before"]["active"], &entry["after"]["active"]), (&json!(true), &json!(false)));
    assert_eq!(entry["what"], "disabled: its receiver answered 410");
}
