//! Secrets at rest and in what the program says: sealed in Redis, opened for sending, in no log and no metric
//! (docs/REDIS.md, "Sealed values"; docs/OPERATIONS.md, "Secrets").

use std::process::Output;

use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::cli::{code, err, program};
use crate::serving::ORGANISATION;
use crate::stage::Stage;
use crate::support::{TestSpace, file_with};

const OLD: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const NEW: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const HEADER_VALUE: &str = "Bearer of-the-receiver";

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

fn secrets(stage: &Stage, word: &str, keys: &str) -> Output {
    let reach = ["--redis-url", &stage.url, "--namespace", &stage.namespace, "--secret-key", keys];
    program(&[&["secrets", word, "--output", "json"][..], &reach].concat()).output().expect("it runs")
}

fn answer(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", err(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Every value of `configs` and every entry of `audit` and `changes`, as one text.
fn stored(stage: &Stage) -> String {
    let key = |noun: &str| format!("{}:{{control}}:{noun}", stage.namespace);
    let configs: Vec<String> = stage.redis(&["HVALS", &key("configs")]);
    let streams = ["audit", "changes"].map(|noun| {
        let entries: redis::Value = stage.redis(&["XRANGE", &key(noun), "-", "+"]);
        format!("{entries:?}")
    });
    configs.into_iter().chain(streams).collect()
}

fn arrives_signed(stage: &Stage, path: &str) {
    let before = stage.arrivals.at(path).len();
    stage.add(&[]);
    stage.wait_acked();
    // The receiver counts only what is signed with the config's secret.
    let arrivals = stage.arrivals.at(path);
    assert_eq!(arrivals.len(), before + 1);
    assert_eq!(arrivals[before].header("authorization"), HEADER_VALUE);
}

#[test]
fn with_a_key_redis_holds_no_secret_and_deliveries_are_signed_all_the_same() {
    let mut stage = stage(&[]);
    let config =
        stage.config("/sealed", json!({"headers": {"Authorization": HEADER_VALUE}}), |_| Reply::ok());
    assert!(stored(&stage).contains("whsec_of_/sealed") && stored(&stage).contains(HEADER_VALUE));
    let status = answer(&secrets(&stage, "status", ""));
    assert_eq!((&status["configs"], &status["plain"]), (&json!(1), &json!(1)));

    let resealed = answer(&secrets(&stage, "reseal", OLD));
    assert_eq!(resealed, json!({"sealed": 1, "asItWas": 0, "unreadable": 0}));
    assert!(!stored(&stage).contains("whsec_of_/sealed") && !stored(&stage).contains(HEADER_VALUE));
    stage.take_serve().terminate();

    // Without the key a replica could sign nothing: it does not start, and says which key is missing.
    let id = answer(&secrets(&stage, "status", OLD))["sealedWith"][0].as_str().unwrap().to_owned();
    let reach = ["serve", "--redis-url", &stage.url, "--namespace", &stage.namespace];
    let ports = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let refused = program(&[&reach[..], &ports].concat()).output().expect("it runs");
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains(&id) && err(&refused).contains("POSTRIDER_SECRET_KEY"),
        "{}",
        err(&refused)
    );

    stage.start_serve(&["--secret-key", OLD]);
    arrives_signed(&stage, "/sealed");
    // A change through the API, and the masked secret echoed back, stay sealed.
    let shown = stage.change(&config.id, json!({"secret": "whsec_****aled", "maxRetries": 1}));
    assert_eq!(shown["maxRetries"], 1);
    assert!(!stored(&stage).contains("whsec_of_/sealed"));
    arrives_signed(&stage, "/sealed");
}

#[test]
fn keys_are_rotated_without_a_stop() {
    let (_folder, both) = file_with(&format!("{NEW} # seals\n{OLD}\n"));
    let mut stage = stage(&["--secret-key", OLD]);
    stage.config("/rotated", json!({"headers": {"Authorization": HEADER_VALUE}}), |_| Reply::ok());
    let old = answer(&secrets(&stage, "status", OLD))["sealedWith"].clone();
    stage.take_serve().terminate();
    stage.start_serve(&["--secret-key-file", both.to_str().unwrap()]);
    arrives_signed(&stage, "/rotated");

    let unreadable = secrets(&stage, "reseal", NEW);
    assert_eq!(code(&unreadable), 1, "the old key is missing: {}", err(&unreadable));
    assert_eq!(answer(&secrets(&stage, "status", OLD))["sealedWith"], old);
    let resealed = answer(&secrets(&stage, "reseal", &format!("{NEW},{OLD}")));
    assert_eq!(resealed["sealed"], 1);
    let again = answer(&secrets(&stage, "reseal", &format!("{NEW},{OLD}")));
    assert_eq!((&again["sealed"], &again["asItWas"]), (&json!(0), &json!(1)));
    arrives_signed(&stage, "/rotated");
    let status = answer(&secrets(&stage, "status", NEW));
    assert_eq!((&status["missing"], &status["plain"]), (&json!([]), &json!(0)));
    assert_ne!(status["sealedWith"], old);
    stage.take_serve().terminate();
    stage.start_serve(&["--secret-key", NEW]);
    arrives_signed(&stage, "/rotated");
}

#[test]
fn no_secret_token_or_body_is_in_the_log_or_the_metrics() {
    let mut stage = stage(&["--log-level", "trace", "--log-format", "json", "--secret-key", OLD]);
    let headers = json!({"headers": {"Authorization": HEADER_VALUE}, "maxRetries": 0});
    stage.config("/quiet", headers, |_| Reply::status(500));
    stage.add(&[("data", r#"{"card":"4000-0000-of-a-person"}"#)]);
    stage.wait_acked();
    // A wrong token, and a config with mistakes beside its secret.
    let key = format!("{}:{{control}}:configs", stage.namespace);
    let _: i64 =
        stage.redis(&["HSET", &key, "000000000000000000000009", r#"{"secret":"whsec_broken","x":1}"#]);
    let change = format!("{}:{{control}}:changes", stage.namespace);
    let _: String = stage.redis(&["XADD", &change, "*", "kind", "config", "id", "000000000000000000000009"]);
    stage.add(&[("organisationId", ORGANISATION), ("data", "[1,\"rejected-of-a-person\"]")]);
    stage.wait_acked();
    let metrics = stage.serve().metrics_text();
    let (log, status) = stage.take_serve().terminate_and_read();
    assert!(status.success());
    assert!(log.contains("a stored value does not parse"), "the broken config was met");
    for word in ["whsec_of_/quiet", "whsec_broken", HEADER_VALUE, &stage.token, OLD, "of-a-person"] {
        assert!(!log.contains(word), "the log holds {word:?}");
        assert!(!metrics.contains(word), "the metrics hold {word:?}");
    }
}
