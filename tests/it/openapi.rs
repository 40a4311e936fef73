//! The description of the admin API (docs/openapi.json): that it is the code's, that it names every route, that real
//! answers are as it says, and that a change breaks nobody.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use hyper::Method;
use postrider::domain::token::Role;
use postrider::settings::Settings;
use serde_json::{Value, json};

use crate::openapi_changes::{breaking_changes, operations, resolve};
use crate::support::TestSpace;
use crate::support_http::{AdminServer, CONFIGS, EVENTS};

const BASE: &str = "/api/v2/admin";
const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

fn committed() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON")
}

/// A value for each parameter of a path; what they name does not exist.
fn filled(path: &str) -> String {
    let mut filled = String::new();
    for part in path.split_inclusive('/') {
        let bare = part.trim_end_matches('/');
        let value = match bare {
            "{deliveryId}" => "dlv_000000001f06fbnfev40000000",
            "{id}" | "{configId}" => "9b1d04c57ea2f3180000002f",
            "{jobId}" => "job_0b61f8a09c2d4e57",
            other if other.starts_with('{') => "0123456789ab",
            other => other,
        };
        filled.push_str(value);
        filled.push_str(&part[bare.len()..]);
    }
    format!("{BASE}{filled}")
}

/// Every route of the sources, as `GET /path`.
fn routes_of(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, opening) in source.match_indices(".route(") {
        let rest = source[at + opening.len()..].trim_start();
        let path = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let (path, rest) = path.unwrap_or_else(|| panic!("write the path here, for this test: {:.60}", rest));
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let calls = &rest[..end.expect("a closing parenthesis")];
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let methods: Vec<&str> = METHODS
            .into_iter()
            .filter(|method| {
                let call = format!("{method}(");
                calls.match_indices(&call).any(|(at, _)| !calls[..at].ends_with(word))
            })
            .collect();
        assert!(!methods.is_empty(), "no method is found in {calls}");
        found.extend(methods.iter().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if !entry.ends_with("ops.rs") {
            // The operator's listener is another server, and no part of this API.
            found.push(std::fs::read_to_string(&entry).unwrap());
        }
    }
}

#[test]
fn the_committed_description_is_the_codes() {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider")).arg("openapi").stdin(Stdio::null()).output();
    let printed = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        printed == include_str!("../../docs/openapi.json"),
        "docs/openapi.json is stale: run make openapi"
    );
}

#[test]
fn every_route_has_an_operation_and_every_operation_a_route() {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin"), &mut texts);
    let routes: BTreeSet<String> = texts.iter().flat_map(|text| routes_of(text)).collect();
    let described: BTreeSet<String> = operations(&committed()).into_keys().collect();
    assert_eq!(routes, described, "routes of src/admin, and operations of the description");
    let some = "x.route(\n  \"/a/{id}\", get(one).put(two)).route(\"/b\", axum::routing::post(get_it))";
    let wanted = ["GET /a/{id}", "POST /b", "PUT /a/{id}"];
    assert_eq!(routes_of(some), wanted.map(str::to_owned).into());
}

#[test]
fn every_operation_says_who_may_call_and_what_can_go_wrong() {
    let document = committed();
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: its id is taken");
        assert!(operation["summary"].is_string(), "{name} has no summary");
        assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{name}: {}", operation["tags"]);
        // Nobody has looked at the token yet, nor at the route.
        let head = resolve(&document, &operation["responses"]["431"]);
        assert!(head["description"].is_string() && head.get("content").is_none(), "{name} 431");
        if operation["operationId"] == "getOpenApi" {
            continue;
        }
        assert_eq!(operation["security"].as_array().unwrap().len(), 4, "{name}");
        for status in ["400", "401", "403", "429", "500", "503"] {
            let answer = resolve(&document, &operation["responses"][status]);
            let schema = &answer["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Error", "{name} {status}");
            assert_eq!(answer["headers"].get("Retry-After").is_some(), matches!(status, "429" | "503"));
        }
        let changes = !operation["requestBody"].is_null();
        assert!(!changes || operation["responses"].get("413").is_some(), "{name}");
    }
}

#[tokio::test]
async fn the_router_has_what_is_described_under_that_name_and_no_other_method() {
    // Every route is called without a token: an address is slowed for less.
    let mut settings = Settings::default();
    settings.admin.auth_failures_max = 0;
    let space = TestSpace::new();
    let server = AdminServer::start_with(space.redis(), settings).await;
    let nobody = server.nobody();
    let served = nobody.get(&format!("{BASE}/openapi.json")).await.ok(200);
    assert_eq!(served, committed());
    for (path, item) in served["paths"].as_object().unwrap() {
        for method in METHODS {
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = nobody.send(verb, &filled(path), b"{}".to_vec()).await;
            match item.get(method) {
                None => assert_eq!(answer.status, 405, "{method} {path}"),
                Some(operation) if operation["operationId"] == "getOpenApi" => {
                    assert_eq!(answer.status, 200);
                }
                Some(operation) => {
                    let procedure = operation["operationId"].as_str().unwrap();
                    answer.refused(401, "UNAUTHORIZED", procedure);
                }
            }
        }
    }
}

/// Asserts that `answer` is what the operation's answer with this status is said to be.
fn assert_described(document: &Value, operation: &str, status: &str, answer: &Value) {
    let described = &operations(document)[operation]["responses"][status];
    let schema = &resolve(document, described)["content"]["application/json"]["schema"];
    let whole = json!({"allOf": [schema], "components": document["components"]});
    let validator = jsonschema::options().should_validate_formats(true).build(&whole).expect("a schema");
    let faults: Vec<String> =
        validator.iter_errors(answer).map(|fault| format!("{} at {}", fault, fault.instance_path)).collect();
    assert!(faults.is_empty(), "{operation} {status}: {faults:#?} in {answer:#}");
}

#[tokio::test]
async fn real_answers_are_as_described() {
    let server = AdminServer::start(&TestSpace::new()).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let document = committed();
    let one = json!({"url": "https://a.example/x", "events": ["reward.earned"], "headers": {"X-Key": "v"},
        "retryPolicy": {"mode": "fixed", "delaySeconds": 9}, "retryOn": [429], "rateLimit": {"perSecond": 5}});
    let put = "PUT /webhooks/configs";
    let made = admin.put(CONFIGS, &one).await.ok(200);
    assert_described(&document, put, "200", &made);
    assert_described(&document, put, "200", &admin.put(CONFIGS, &json!([one])).await.ok(200));
    assert_described(&document, put, "200", &admin.put(CONFIGS, &json!({"configs": [one]})).await.ok(200));
    assert_described(&document, "GET /webhooks/configs", "200", &admin.get(CONFIGS).await.ok(200));
    let event = json!({"event": "reward.earned", "data": {}, "nonce": "n1"});
    for _ in 0..2 {
        let published = admin.post(EVENTS, &event).await.ok(202);
        assert_described(&document, "POST /webhooks/events", "202", &published);
    }
    let types = admin.get(&format!("{BASE}/webhooks/event-types")).await.ok(200);
    assert_described(&document, "GET /webhooks/event-types", "200", &types);
    let logs = admin.get(&format!("{BASE}/webhooks/logs")).await.ok(200);
    assert_described(&document, "GET /webhooks/logs", "200", &logs);
    let refused = admin.get(&format!("{BASE}/webhooks/logs?limit=0")).await;
    assert_described(&document, "GET /webhooks/logs", "400", &refused.json());
    // The other way round: what is no such answer is seen.
    let validator = jsonschema::validator_for(
        &json!({"$ref": "#/components/schemas/Config", "components": document["components"]}),
    );
    let mut wrong = made;
    wrong["maxRetries"] = 11.into();
    assert!(!validator.unwrap().is_valid(&wrong));
}

#[test]
fn nothing_that_was_released_is_broken() {
    let released: Value =
        serde_json::from_str(include_str!("../../docs/openapi.released.json")).expect("JSON");
    let broken = breaking_changes(&released, &committed());
    assert!(broken.is_empty(), "clients of the last release break:\n{}", broken.join("\n"));
}
