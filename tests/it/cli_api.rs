//! The command line against a live server and its receiver: configs, tests, jobs, logs, the tail, the audit, forwarding
//! to a local server; what scripts read, and how each fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::arrivals::{Arrivals, Reply};
use crate::serving::{BINARY, Serve};
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, signal, wait_for};

/// A command that goes on; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits for its end: its exit code, what is left of its stdout, and its stderr.
    pub(crate) fn finish(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut said) = (String::new(), String::new());
        self.lines.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), out, said)
    }

    /// Ctrl-C; what it said on stderr.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        signal(self.child.id(), "INT");
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(url: &str, token: &str, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(words).env("POSTRIDER_URL", url).env("POSTRIDER_TOKEN", token).stdin(Stdio::null());
    command.env_remove("POSTRIDER_ORGANISATION").env_remove("POSTRIDER_RECEIVE_SECRET");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Stage {
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        command(&self.serve().url(), &self.token, words).output().unwrap()
    }

    /// A success; its stdout.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let said = self.says(&[words, &["--output", "json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{words:?}: {said:?}: {error}"))
    }

    /// A failure with `code`; its stderr.
    fn fails(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    pub(crate) fn begin(&self, words: &[&str]) -> Running {
        let mut command = command(&self.serve().url(), &self.token, words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }
}

/// A stage whose endpoint answers what the test says.
fn stage(extra: &[&str], status: u16) -> (Stage, Put, Arc<AtomicU16>) {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, extra);
    let answer = Arc::new(AtomicU16::new(status));
    let shared = Arc::clone(&answer);
    let config = stage.config("/a", json!({}), move |_: &_| Reply::status(shared.load(Ordering::Relaxed)));
    (stage, config, answer)
}

const NOBODY: &str = "0123456789abcdef00000063";

#[test]
fn one_config_is_looked_at_paused_resumed_rotated_tested_and_deleted() {
    let (stage, config, answer) = stage(&[], 200);
    let id = config.id.as_str();
    assert_eq!(stage.json(&["configs", "get", id])["id"], id);
    assert!(stage.says(&["configs", "get", id]).contains("secret: whsec_****"));

    let tested = stage.json(&["configs", "test", id, "--event", "a.b"]);
    assert_eq!((&tested["status"], &tested["event"]), (&json!("delivered"), &json!("a.b")));
    assert!(stage.says(&["configs", "test", id]).starts_with("delivered: 200 in "));
    answer.store(400, Ordering::Relaxed);
    let output = stage.run(&["configs", "test", id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("failed: 400"), "{}", text(&output.stdout));

    assert_eq!(stage.json(&["configs", "pause", id])["active"], false);
    let told = stage.fails(&["configs", "test", id], 1);
    assert!(told.contains("the server answered 409: ") && told.contains("paused"), "{told}");
    assert!(stage.fails(&["configs", "recover", id], 1).contains("409"));
    assert_eq!(stage.json(&["configs", "resume", id])["active"], true);
    let stats = stage.json(&["configs", "stats", id]);
    assert_eq!(stats["webhookConfigId"], id);
    let shown = stage.says(&["configs", "stats", id]);
    assert!(shown.contains("LAST HOUR") && shown.contains("breaker: closed\n"), "{shown}");

    let rotated = stage.run(&["configs", "rotate", id, "--overlap", "1h"]);
    let secret = text(&rotated.stdout);
    let secret = secret.trim().strip_prefix("secret: whsec_").unwrap();
    assert_eq!(secret.len(), 64);
    assert!(text(&rotated.stderr).contains("the old secret signs too until 20"));
    let given = stage.run(&["configs", "rotate", id, "--secret", "whsec_of_my_own", "--overlap", "0s"]);
    assert!(!text(&given.stdout).contains("of_my_own"), "who gave it knows it");
    assert!(text(&given.stderr).contains("signs no more"), "{}", text(&given.stderr));

    let listed = stage.json(&["audit", "list", "--target", id, "--action", "pauseWebhookConfig"]);
    assert_eq!(listed["edges"].as_array().unwrap().len(), 1);
    let shown = stage.says(&["audit", "list", "--all"]);
    assert!(shown.contains("rotateWebhookSecret") && !shown.contains(secret), "{shown}");

    // Nobody is asked where stdin is no terminal.
    assert_eq!(stage.json(&["configs", "delete", id]), json!({ "deleted": id }));
    for words in [&["configs", "get"][..], &["configs", "delete", "--yes"], &["configs", "resume"]] {
        let told = stage.fails(&[words, &[id]].concat(), 1);
        assert!(told.contains("the server answered 404"), "{told}");
    }
    assert!(stage.fails(&["configs", "test", NOBODY], 1).contains("404"));
    assert_eq!(stage.run(&["configs", "get", "x"]).status.code(), Some(2));
    let output = command(&stage.serve().url(), "", &["configs", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no token"));
    for wrong in ["ftp://127.0.0.1", "localhost:8080"] {
        let output = command(wrong, "prt_x", &["configs", "list"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains("expected an http or https URL"), "{output:?}");
    }
    let output = command(&stage.serve().url(), "prt_wrong", &["audit", "list"]).output().unwrap();
    let told = text(&output.stderr);
    assert!(told.contains("401") && !told.contains("prt_wrong"), "{told}");
}

#[test]
fn failed_deliveries_are_recovered_with_their_progress_and_retried_by_one() {
    let (stage, config, answer) = stage(&[], 400);
    let id = config.id.as_str();
    stage.add_many(30);
    let failed = stage.wait_logged(&config, "failed", 30);
    let delivery = failed[0]["deliveryId"].as_str().unwrap();
    assert_eq!(stage.json(&["configs", "recover", id, "--dry-run"])["count"], 30);
    assert_eq!(
        stage.says(&["configs", "recover", id, "--dry-run", "--event", "a.b"]),
        "0 failed deliveries\n"
    );

    answer.store(200, Ordering::Relaxed);
    assert_eq!(stage.json(&["logs", "retry", delivery])["deliveryId"], delivery);
    wait_for("it to be delivered", || stage.log_count(&config, "delivered") == 1);
    let done = stage.json(&["configs", "recover", id, "--wait", "--rate", "100"]);
    assert_eq!((&done["state"], &done["moved"]), (&json!("done"), &json!(29)));
    wait_for("all to be delivered", || stage.log_count(&config, "delivered") == 30);

    let job = done["id"].as_str().unwrap();
    assert_eq!(stage.json(&["configs", "jobs", "list", id])["jobs"][0]["id"], job);
    assert!(stage.says(&["configs", "jobs", "show", id, job]).contains("done, 29 of 29 moved"));
    assert!(stage.fails(&["configs", "jobs", "cancel", id, job], 1).contains("409"));
    assert!(stage.fails(&["configs", "jobs", "show", id, "job_0000000000000000"], 1).contains("404"));
    assert_eq!(stage.run(&["configs", "replay", id]).status.code(), Some(2), "--since is missing");
    assert!(stage.fails(&["configs", "replay", id, "--since", "1h"], 1).contains("events-age"));

    // Ctrl-C ends the looking, not the job.
    answer.store(400, Ordering::Relaxed);
    stage.add_some(30..60);
    stage.wait_logged(&config, "failed", 30);
    let waiting = stage.begin(&["configs", "recover", id, "--wait", "--rate", "1"]);
    wait_for("a second job", || {
        stage.json(&["configs", "jobs", "list", id])["jobs"].as_array().unwrap().len() == 2
    });
    let mut waiting = Some(waiting);
    wait_for("some progress", || {
        stage.json(&["configs", "jobs", "list", id])["jobs"][0]["moved"].as_u64().unwrap() > 0
    });
    let (code, said) = waiting.take().unwrap().interrupt();
    assert_eq!(code, Some(1));
    assert!(said.contains("the job goes on"), "{said}");
    let jobs = stage.json(&["configs", "jobs", "list", id]);
    assert_eq!(jobs["jobs"][0]["state"], "running");
    let job = jobs["jobs"][0]["id"].as_str().unwrap();
    assert!(stage.says(&["configs", "jobs", "cancel", id, job]).contains("cancelled"));
}

#[test]
fn the_log_is_paged_followed_and_repeated_by_curl() {
    let (stage, config, _) = stage(&[], 200);
    let id = config.id.as_str();
    let mut tail = stage.begin(&["logs", "list", "--follow", "--event", EVENT, "--output", "json"]);
    wait_for("the tail to be open", || stage.serve().metric("postrider_log_streams") >= 1.0);
    stage.add_many(120);
    stage.wait_logged(&config, "delivered", 100);
    wait_for("all to be logged", || stage.log_count(&config, "delivered") == 120);
    let mut tailed: Vec<String> =
        (0..120).map(|_| tail.line()["deliveryId"].as_str().unwrap().to_owned()).collect();
    let of = |page: &Value| -> Vec<String> {
        let edges = page["edges"].as_array().unwrap();
        edges.iter().map(|edge| edge["deliveryId"].as_str().unwrap().to_owned()).collect()
    };
    let filter = ["logs", "list", "--config", id, "--event", EVENT];
    let mut all = of(&stage.json(&[&filter[..], &["--all"]].concat()));
    let first = stage.json(&[&filter[..], &["--limit", "50"]].concat());
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = stage.json(&[&filter[..], &["--all", "--cursor", cursor]].concat());
    let mut pages = [of(&first), of(&rest)].concat();
    [&mut tailed, &mut all, &mut pages].into_iter().for_each(|list| list.sort());
    assert_eq!((all.len(), &all, &all), (120, &pages, &tailed));
    let output = stage.run(&[&filter[..], &["--all"]].concat());
    assert!(text(&output.stderr).contains("120 of 120 deliveries"), "{}", text(&output.stderr));

    let script = stage.says(&["logs", "curl", &all[0], "--attempt", "1"]);
    assert!(script.contains("curl") && script.contains("WEBHOOK_SECRET") && !script.contains("whsec_of"));
    assert!(stage.fails(&["logs", "curl", &all[0], "--attempt", "9"], 1).contains("404"));
    assert!(stage.fails(&["logs", "retry", &all[0].replace("dlv_0", "dlv_1")], 1).contains("404"));
    assert!(stage.fails(&["logs", "follow", "--config", NOBODY], 1).contains("404"));
    assert_eq!(tail.interrupt().0, Some(0));
}

#[test]
fn a_tail_goes_on_at_another_server_where_it_was() {
    let (mut stage, config, _) = stage(&[], 200);
    let port = stage.serve().admin_port();
    let mut tail = stage.begin(&["logs", "follow", "--event", EVENT, "--output", "json"]);
    wait_for("the tail to be open", || stage.serve().metric("postrider_log_streams") >= 1.0);
    stage.add_many(3);
    let mut seen: Vec<Value> = (0..3).map(|_| tail.line()["deliveryId"].clone()).collect();
    assert!(stage.take_serve().terminate().success());
    stage.start_serve(&[]);
    stage.add_some(3..6);
    stage.wait_logged(&config, "delivered", 6);
    // The same address as before leads to the new server.
    relay(port, stage.serve());
    seen.extend((0..3).map(|_| tail.line()["deliveryId"].clone()));
    let mut different = seen.clone();
    different.sort_by_key(Value::to_string);
    different.dedup();
    assert_eq!(different.len(), 6, "{seen:?}");
    assert!(tail.interrupt().1.contains("connecting again"));
}

/// Passes connections to `port` on to the server.
fn relay(port: u16, serve: &Serve) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let to = serve.admin_port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let Ok(mut server) = std::net::TcpStream::connect(("127.0.0.1", to)) else { return };
            let (mut back, mut there) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut there, &mut back));
            std::thread::spawn(move || std::io::copy(&mut client, &mut server));
        }
    });
}

#[test]
fn deliveries_are_forwarded_to_a_local_server_as_they_are_sent() {
    let (stage, config, _) = stage(&[], 200);
    let more = json!({ "httpMethod": "PUT", "standardWebhooks": true });
    let other = stage.config("/b", more, |_: &_| Reply::ok());
    let local = Arrivals::start();
    let hooks = local.endpoint("/hooks", "whsec_local", |_: &_| Reply::status(202));
    let flags = ["--event", EVENT, "--header", "X-Key: k", "--secret", "whsec_local", "--output", "json"];
    let mut listen = stage.begin(&[&["listen", "--forward", &hooks][..], &flags].concat());
    assert_eq!(listen.line(), json!({ "forwardingTo": hooks, "secret": null }));
    stage.add(&[("nonce", "once"), ("data", r#"{"n": 123456789012345678901234567890 }"#)]);
    for _ in 0..2 {
        let line = listen.line();
        assert_eq!((&line["localStatus"], &line["error"]), (&json!(202), &Value::Null), "{line}");
    }
    let came = local.at("/hooks");
    assert_eq!(came.len(), 2);
    for (sent, method) in
        [(stage.wait_arrived(&config, 1).remove(0), "POST"), (stage.wait_arrived(&other, 1).remove(0), "PUT")]
    {
        let copy = came.iter().find(|copy| copy.delivery == sent.delivery).expect("a copy of each");
        assert!(copy.verified, "signed with the local secret");
        assert_eq!((&copy.body, copy.method.as_str(), copy.header("x-key")), (&sent.body, method, "k"));
        let names = |of: &crate::arrivals::Arrival| {
            let mut names: Vec<String> = of.headers.keys().map(ToString::to_string).collect();
            names.retain(|name| name != "x-key");
            names.sort();
            names
        };
        assert_eq!(names(copy), names(&sent));
        for name in ["x-nudj-event", "content-type", "user-agent", "webhook-id"] {
            assert_eq!(copy.header(name), sent.header(name), "{name}");
        }
    }
    let (code, said) = listen.interrupt();
    assert_eq!(code, Some(0));
    assert!(said.contains("2 deliveries were forwarded"), "{said}");

    // A local server that is not there is told, and the secret that was made is shown once.
    let mut listen = stage.begin(&["listen", "--forward", "http://127.0.0.1:1/", "--output", "json"]);
    let hello = listen.line();
    assert!(hello["secret"].as_str().unwrap().starts_with("whsec_"));
    stage.add(&[]);
    let line = listen.line();
    assert!(line["error"].as_str().unwrap().contains("refused") && line["localStatus"].is_null(), "{line}");
    assert_eq!(stage.run(&["listen", "--forward", "file:///x"]).status.code(), Some(2));
}

#[test]
fn a_signature_is_verified_and_its_trouble_named() {
    let verify = |body: &str, words: &[&str]| {
        let mut command = command("http://127.0.0.1:1", "", &["verify", "--secret", "whsec_test_secret"]);
        let command = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let body = r#"{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"evt_example","data":{"user":{"id":"u1"}}}"#;
    let right = "sha256=66fd83446109192d3bb148d9fbbaba9755d39e463d5f59c9aacf2861acb7f364";
    let output = verify(body, &["--signature", right]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "ok: the signature is right\n")
    );
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(body).unwrap()).unwrap();
    for (body, signature, verdict) in [
        (format!("{body}\n"), right, "body"),
        (body.replace(',', ", "), right, "body"),
        (body.to_owned(), &right[7..], "signatureForm"),
        (pretty, &right.replace('6', "7"), "unknown"),
    ] {
        let output = verify(&body, &["--signature", signature, "--output", "json"]);
        assert_eq!(output.status.code(), Some(1));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&said["ok"], &said["verdict"]), (&json!(false), &json!(verdict)), "{said}");
        assert!(!said["reasons"].as_array().unwrap().is_empty());
    }
    let output = verify(body, &["--signature", "v1,AAAA"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--timestamp"));
}
