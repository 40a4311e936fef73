//! What was rejected: listed over HTTP, mended, requeued and delivered, by a running server.

use std::process::Command;

use hyper::Method;
use postrider::domain::token::Role;
use postrider::settings::Settings;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::serving::BINARY;
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, wait_for};
use crate::support_http::AdminServer;

const REJECTED: &str = "/api/v2/admin/webhooks/rejected";

/// Runs a subcommand of `rejected` as an operator; the JSON it prints, or what it says on stderr.
fn rejected(stage: &Stage, token: &str, words: &[&str]) -> Result<Value, String> {
    let output = Command::new(BINARY)
        .arg("rejected")
        .args(words)
        .args(["--output", "json", "--server", &stage.serve().url(), "--token", token])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn operator(stage: &Stage) -> String {
    let output = Command::new(BINARY)
        .args(["token", "create", "--redis-url", &stage.url, "--namespace", &stage.namespace])
        .args(["--organisation", "platform", "--role", "operator"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_rejected_entry_is_mended_and_delivered_with_the_nonce_of_its_first_id() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/mended", json!({}), |_| Reply::status(200));
    let token = operator(&stage);
    let organisation = crate::serving::ORGANISATION;
    let first = stage.add_raw("*", &[("organisationId", organisation), ("event", EVENT), ("data", "{")]);
    wait_for("it to be set aside", || stage.redis::<usize>(&["XLEN", &stage.keys.rejected()]) == 1);
    stage.wait_acked();

    let listed = rejected(&stage, &token, &["list", "--reason", "malformed", "--of", organisation]).unwrap();
    let entry = &listed["edges"][0];
    assert_eq!((&entry["eventId"], &entry["field"]), (&json!(first), &json!("data")));
    assert!(entry["expected"].as_str().unwrap().starts_with("invalid JSON"), "{entry}");
    let id = entry["id"].as_str().unwrap().to_owned();

    // As wrong as before: told so, and still there.
    let told = rejected(&stage, &token, &["requeue", &id, "--set", "data=[]"]).unwrap_err();
    assert!(told.contains("body.fields.data: expected a JSON object"), "{told}");
    assert_eq!(stage.redis::<usize>(&["XLEN", &stage.keys.rejected()]), 1);

    let requeued = rejected(&stage, &token, &["requeue", &id, "--set", r#"data={"mended":1}"#]).unwrap();
    let nonce = format!("evt_0_{first}");
    assert_eq!(requeued["nonce"], nonce);
    assert_eq!(stage.redis::<usize>(&["EXISTS", &stage.keys.rejected(), &stage.keys.rejected_bytes()]), 0);
    let logged = stage.wait_logged(&config, "delivered", 1);
    let sent = stage.delivery(&logged[0]["deliveryId"])["payload"].clone();
    assert_eq!((&sent["nonce"], &sent["data"]), (&json!(nonce), &json!({ "mended": 1 })));

    let told = rejected(&stage, &token, &["requeue", &id]).unwrap_err();
    assert!(told.contains("404"), "{told}");
    // The organisation's admin sees who mended its event.
    let audit = stage.serve().get(&stage.token, "/audit?action=requeueRejectedEvent");
    assert_eq!(
        (&audit["edges"][0]["target"], &audit["edges"][0]["by"]["kind"]),
        (&json!(id), &json!("token"))
    );
    assert_eq!(audit["edges"][0]["before"]["eventId"], first);
}

#[test]
fn evictions_are_counted_by_shard() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &["--rejected-bytes-max", "1KiB"]);
    for number in 0..40 {
        stage.add_raw("*", &[("event", EVENT), ("nonce", &format!("n-{number}"))]);
    }
    stage.wait_acked();
    let kept: usize = stage.redis(&["XLEN", &stage.keys.rejected()]);
    assert!((1..20).contains(&kept), "{kept}");
    wait_for("all to be counted", || stage.serve().metric("events_rejected") >= 40.0);
    let counted = stage.serve().sample("rejected_evicted", r#"shard="0""#);
    assert_eq!(counted, (40 - kept) as f64);
}

/// Keeps an entry as intake would.
fn keep(space: &TestSpace, shard: &str, id: &str, fields: &[(&str, &[u8])]) {
    let mut command = redis::cmd("XADD");
    command.arg(format!("{}:{{{shard}}}:rejected", space.namespace)).arg(id);
    command.arg(&["_id", "77-1", "_field", "data", "_problem", "missing; it is required"]);
    for (name, value) in fields {
        command.arg(name).arg(*value);
    }
    command.exec(&mut space.raw()).unwrap();
}

#[tokio::test]
async fn entries_of_all_shards_come_newest_first_page_by_page() {
    let space = TestSpace::new();
    let server = AdminServer::start_on(space.redis(), Settings::default(), 2).await;
    let api = server.caller("platform", Role::Operator).await;
    let mut wanted = Vec::new();
    for ms in 100..130 {
        for (number, shard) in [(0, "0"), (1, "1ac")] {
            keep(&space, shard, &format!("{ms}-1"), &[("organisationId", b"org_1"), ("n", b"\xff")]);
            wanted.push(format!("rej_{number}_{ms}-1"));
        }
    }
    wanted.reverse();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{REJECTED}?limit=7{cursor}")).await.ok(200);
        found.extend(
            page["edges"].as_array().unwrap().iter().map(|edge| edge["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, wanted);
    let one = api.get(&format!("{REJECTED}/rej_1_105-1")).await.ok(200);
    assert_eq!((&one["reason"], &one["organisationId"]), (&json!("missing"), &json!("org_1")));
    assert_eq!(one["fields"][1], json!({ "name": "n", "value": "\u{fffd}", "base64": "/w==", "bytes": 1 }));
    let none = api.get(&format!("{REJECTED}?organisationId=org_2")).await.ok(200);
    assert_eq!(none, json!({ "edges": [], "nextCursor": null }));
}

#[tokio::test]
async fn only_an_operator_sees_them_and_bad_input_is_named() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let operator = server.caller("platform", Role::Operator).await;
    keep(&space, "0", "5-1", &[("organisationId", b"a:b"), ("data", b"[]")]);
    let path = format!("{REJECTED}/rej_0_5-1");
    admin.get(REJECTED).await.refused(403, "FORBIDDEN", "getRejectedEvents");
    admin.get(&path).await.refused(403, "FORBIDDEN", "getRejectedEvent");
    admin.send(Method::DELETE, &path, vec![]).await.refused(403, "FORBIDDEN", "deleteRejectedEvent");
    let requeue = format!("{path}/requeue");
    admin.post(&requeue, &json!({})).await.refused(403, "FORBIDDEN", "requeueRejectedEvent");

    let told = operator.get(&format!("{REJECTED}?reason=bad&limit=0&colour=1&cursor=x")).await;
    let told = told.refused(400, "BAD_REQUEST", "getRejectedEvents");
    for name in ["query.reason", "query.limit", "query.colour", "query.cursor"] {
        assert!(told.contains(name), "{told}");
    }
    operator.get(&format!("{REJECTED}/rej_0")).await.refused(400, "BAD_REQUEST", "getRejectedEvent");
    operator.get(&format!("{REJECTED}/rej_9_5-1")).await.refused(404, "NOT_FOUND", "getRejectedEvent");
    let told = operator.send(Method::POST, &requeue, vec![]).await;
    let told = told.refused(400, "BAD_REQUEST", "requeueRejectedEvent");
    for name in ["body.fields.organisationId", "body.fields.event: missing", "body.fields.data"] {
        assert!(told.contains(name), "{told}");
    }
    let deleted = operator.send(Method::DELETE, &path, vec![]).await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    operator.send(Method::DELETE, &path, vec![]).await.refused(404, "NOT_FOUND", "deleteRejectedEvent");
    // It named no organisation: the audit of the operator's own has it.
    let audit =
        operator.with("x-organisation-id", "platform").get("/api/v2/admin/webhooks/audit").await.ok(200);
    assert_eq!(audit["edges"][0]["action"], "deleteRejectedEvent");
}
