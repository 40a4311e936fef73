//! A request that can be repeated: a shell reads the script back to the same bytes, and no secret is in it.

use std::process::Command;

use postrider::domain::curl::{Request, script};
use postrider::domain::log::{LogRow, Status};
use proptest::prelude::*;
use serde_json::json;

use crate::arrivals::Reply;
use crate::log_world::{World, delivery, row};
use crate::stage::Stage;
use crate::support::TestSpace;

/// Instead of curl: every argument, and what comes through the pipe, each behind its length.
const CURL: &str = "curl() { for a in \"$@\"; do printf '%s\\0' \"$a\"; done; printf '\\1'; cat; }\n";
/// Instead of openssl: a digest that needs neither the program nor the secret.
const OPENSSL: &str = "openssl() { cat >/dev/null; printf %064d 7; }\n";

/// What the script calls curl with, and the body that it pipes.
fn run(script: &str, variables: &[(&str, &str)]) -> (Vec<String>, Vec<u8>) {
    let output = Command::new("sh")
        .args(["-c", &format!("{CURL}{OPENSSL}{script}")])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.windows(2).position(|two| two == b"\0\x01").unwrap();
    let args = output.stdout[..end].split(|byte| *byte == 0);
    let args = args.map(|arg| String::from_utf8(arg.to_vec()).unwrap()).collect();
    (args, output.stdout[end + 2..].to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_shell_reads_the_same_request(
        body in "[^\\x00\\x01]{0,200}", path in "[!-~]{0,40}", value in "[ -~]{0,40}", event in "[a-z$`'\"\\\\]{1,20}",
        hidden in "[!#$%&'*+.^_`|~A-Za-z0-9-]{1,16}", secret in "[ -~]{1,20}",
    ) {
        let url = format!("https://a.example/{path}");
        let text = script(&Request {
            method: "POST",
            url: &url,
            headers: vec![("Content-Type", "application/json"), ("X-Nudj-Event", &event)],
            hidden: vec![&hidden],
            body: &body,
        });
        let variable = postrider::domain::curl::variable(&hidden);
        // An empty value counts as not given.
        let value = format!("v{value}");
        let (args, piped) = run(&text, &[("WEBHOOK_SECRET", &secret), (&variable, &value)]);
        prop_assert_eq!(piped, body.as_bytes());
        let wanted = [
            "--request", "POST", "--url", &url, "--header", "Content-Type: application/json",
            "--header", &format!("X-Nudj-Event: {event}"), "--header", &format!("{hidden}: {value}"),
            "--header", &format!("X-Nudj-Signature: sha256={:064}", 7), "--data-binary", "@-",
        ];
        prop_assert_eq!(args, wanted);
    }
}

#[test]
fn a_large_body_passes_and_a_missing_variable_stops_the_script() {
    let body = format!("{{\"a\":\"{}\"}}", "x'\n".repeat(80_000));
    let request =
        Request { method: "POST", url: "https://a.example/", headers: vec![], hidden: vec![], body: &body };
    let text = script(&request);
    // As a user would: from a file, for a command line is bounded.
    let (_directory, path) = crate::support::file_with(&format!("{CURL}{OPENSSL}{text}"));
    let shell = |secret: Option<&str>| {
        let mut command = Command::new("sh");
        command.arg(&path).env_remove("WEBHOOK_SECRET").envs(secret.map(|secret| ("WEBHOOK_SECRET", secret)));
        command.output().unwrap()
    };
    assert!(shell(Some("s")).stdout.ends_with(body.as_bytes()));
    let stopped = shell(None);
    assert!(!stopped.status.success() && stopped.stdout.is_empty());
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("WEBHOOK_SECRET"));
}

#[tokio::test]
async fn every_attempt_can_be_repeated_at_its_own_url_while_its_payload_is_kept() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let [twice, gone] = [1, 2].map(|n| delivery(config, n));
    let first = LogRow { url: "https://old.example/'a'".into(), ..row(twice, Status::Retrying, 1, 10) };
    world.page(config, 20, &[first]);
    let payload: &[u8] = br#"{"name":"it's","n":123456789012345678901234567890}"#;
    world.page_in(0, config, 30, &[(row(twice, Status::Delivered, 2, 25), Some(payload))]);
    world.page(config, 40, &[row(gone, Status::Delivered, 1, 35)]);
    let last = world.get(&format!("/{twice}/curl")).await;
    assert_eq!((&last["attempt"], &last["variables"]), (&json!(2), &json!(["WEBHOOK_SECRET"])));
    for (query, url) in [("", crate::log_world::ROW_URL), ("?attempt=1", "https://old.example/'a'")] {
        let answer = world.get(&format!("/{twice}/curl{query}")).await;
        let (args, piped) = run(answer["command"].as_str().unwrap(), &[("WEBHOOK_SECRET", "s")]);
        assert_eq!((args[3].as_str(), piped.as_slice()), (url, payload), "{query}");
        assert!(args.contains(&format!("X-Nudj-Delivery-Id: {twice}")));
    }
    for (path, status) in [
        (format!("/{gone}/curl"), 409),
        (format!("/{twice}/curl?attempt=3"), 404),
        (format!("/{twice}/curl?attempt=0"), 404),
        (format!("/{twice}/curl?attempt=x"), 400),
        (format!("/{twice}/curl?atempt=1"), 400),
        (format!("/{}/curl", delivery(config, 9)), 404),
        ("/dlv_1/curl?attempt=x".to_owned(), 400),
    ] {
        let (got, body) = world.get_as(&world.token, &path).await;
        assert_eq!((got, &body["data"]["path"]), (status, &json!("getWebhookLogCurl")), "{path}: {body}");
    }
    let (_, body) = world.get_as(&world.token, "/dlv_1/curl?attempt=x").await;
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("path.deliveryId") && message.contains("query.attempt"), "{message}");
    let stranger = world.token_of("org_2", postrider::domain::token::Role::Admin).await;
    assert_eq!(world.get_as(&stranger, &format!("/{twice}/curl")).await.0, 404);
}

#[test]
fn a_repeated_request_is_the_one_that_was_sent_but_for_what_is_hidden() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let headers = json!({ "headers": { "X-Api-Key": "hidden value" } });
    let config = stage.config("/a", headers, |_| Reply::ok());
    stage.add(&[("nonce", "n-1"), ("data", r#"{"a": "it's"}"#)]);
    let record = stage.wait_logged(&config, "delivered", 1).remove(0);
    let path = format!("/logs/{}/curl", record["deliveryId"].as_str().unwrap());
    let answer = stage.serve().get(&stage.token, &path);
    let command = answer["command"].as_str().unwrap();
    assert!(!command.contains("hidden value") && !command.contains("whsec_"), "{command}");
    assert_eq!(answer["variables"], json!(["WEBHOOK_SECRET", "HEADER_X_API_KEY"]));
    let variables = [("WEBHOOK_SECRET", "whsec_of_/a"), ("HEADER_X_API_KEY", "hidden value")];
    let (args, piped) = run(command, &variables);
    assert!(args.contains(&"X-Api-Key: hidden value".to_owned()), "{args:?}");
    let shown = stage.delivery(&record["deliveryId"]);
    assert_eq!(piped, shown["payloadRaw"].as_str().unwrap().as_bytes());
}
