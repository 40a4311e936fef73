//! The catalogue of event types, over HTTP, on the command line, and as a document.

use std::process::{Command, Stdio};

use postrider::domain::catalogue;
use postrider::domain::token::Role;
use serde_json::Value;

use crate::support::TestSpace;
use crate::support_http::AdminServer;

const EVENT_TYPES: &str = "/api/v2/admin/webhooks/event-types";

fn events(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let output = command.arg("events").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn every_role_reads_the_catalogue_and_every_sample_fits_its_schema() {
    let server = AdminServer::start(&TestSpace::new()).await;
    server.nobody().get(EVENT_TYPES).await.refused(401, "UNAUTHORIZED", "getWebhookEventTypes");
    let mut answers = Vec::new();
    for role in Role::ALL {
        let caller = server.caller("org_1", role).await.with("x-organisation-id", "org_1");
        answers.push(caller.get(EVENT_TYPES).await.ok(200));
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]));
    let listed = answers[0]["eventTypes"].as_array().unwrap();
    assert_eq!(listed.len(), catalogue::ALL.len());
    for shown in listed {
        let validator = jsonschema::validator_for(&shown["schema"]).unwrap();
        assert!(validator.is_valid(&shown["sample"]), "{shown}");
        let sample: Value =
            serde_json::from_str(catalogue::sample(shown["event"].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!(shown["sample"], sample);
        assert!(!shown["category"].as_str().unwrap().is_empty() && shown["status"].is_string());
    }
    let claimed = listed.iter().find(|shown| shown["event"] == "reward.claimed").unwrap();
    assert_eq!(claimed["aliases"], serde_json::json!(["reward-claim"]));
}

#[test]
fn the_document_is_what_the_catalogue_says() {
    let committed = include_str!("../../docs/EVENTS.md");
    assert!(events(&["markdown"]) == committed, "docs/EVENTS.md is stale: run make events");
    for known in catalogue::ALL {
        assert!(committed.contains(&format!("\n### {}\n", known.name)), "{}", known.name);
    }
}

#[test]
fn the_command_line_lists_and_shows() {
    let listed = events(&["list"]);
    assert!(listed.contains("reward.earned") && listed.contains("reward-distribution"), "{listed}");
    let json: Value = serde_json::from_str(&events(&["list", "--output", "json"])).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), catalogue::ALL.len());
    let shown: Value = serde_json::from_str(&events(&["show", "reward-claim"])).unwrap();
    assert_eq!(shown["event"], "reward.claimed");
    assert_eq!(shown["schema"]["title"], "reward.claimed");
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let output = command.args(["events", "show", "reward.nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("reward.nothing"));
}
