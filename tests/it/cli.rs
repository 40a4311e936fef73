//! The real program: exit codes, what it says and where, settings, and each command against real parts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{RedisServer, TestSpace, file_with, free_port, signal};

/// The program with nothing of this process's environment that could change its settings.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("POSTRIDER_")) {
        command.env_remove(name);
    }
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program runs")
}

/// Runs a command against a test's namespace.
fn on(space: &TestSpace, arguments: &[&str]) -> Output {
    let reach = ["--redis-url", &space.url, "--namespace", &space.namespace];
    run(&[arguments, &reach].concat())
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON of a command that did what it was asked to.
fn json(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", err(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", out(output)))
}

fn entries(space: &TestSpace) -> Vec<Vec<(String, String)>> {
    let key = format!("{}:{{0}}:events", space.namespace);
    let entries: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut space.raw()).expect("a stream");
    entries.into_iter().map(|(_, fields)| fields).collect()
}

#[test]
fn help_names_every_command_and_usage_errors_exit_with_2() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    for command in ["serve", "publish", "receive", "token", "configs", "logs", "shards", "doctor", "settings"]
    {
        assert!(out(&help).contains(&format!("\n  {command}")), "{command} is not in\n{}", out(&help));
    }
    assert_eq!(code(&run(&["serve", "--help"])), 0);
    assert_eq!(code(&run(&["--version"])), 0);
    for wrong in [
        &["ride"][..],
        &["serve", "--no-such-flag"],
        &["token", "create", "--organisation", "o", "--role", "queen"],
        &["publish", "--organisation", "o"],
        &["publish", "--organisation", "o", "--event", "a.b"],
        &["receive"],
        &["receive", "--secret", "s", "--fail-rate", "2"],
        &["logs", "list", "--status", "lost"],
        &["configs", "list"],
        &[],
    ] {
        assert_eq!(code(&run(wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn all_mistakes_in_settings_are_told_at_once_with_exit_code_64() {
    let (_directory, file) = file_with("[redis]\nlease = \"soon\"\n[delivery]\nretry-schedul = \"1s\"\n");
    for command in [&["serve"][..], &["settings", "print"]] {
        let flags = ["--settings", file.to_str().unwrap(), "--connect-timeout", "1h"];
        let output = program(&[command, &flags].concat()).env("POSTRIDER_SHARDS", "0").output().unwrap();
        assert_eq!(code(&output), 64, "{}", err(&output));
        let said = err(&output);
        for part in [
            "4 mistakes in the settings",
            "[redis] lease: \"soon\"",
            "did you mean retry-schedule?",
            "environment POSTRIDER_SHARDS: is 0; expected 1 to 64",
            "flag --connect-timeout: is 1h; expected at most request-timeout",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert_eq!(out(&output), "");
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let (_directory, file) = file_with(
        "[redis]\nnamespace = \"file\"\nlease = \"11s\"\nshards = 2\n[process]\nlog-level = \"warn\"",
    );
    let output = program(&["settings", "print", "--output", "json", "--lease", "13s", "--allow-http"])
        .args(["--allow-target", "10.0.0.0/8", "--allow-target", "::1/128", "--log-format", "json"])
        .args(["--redis-url", "redis://u:hunter2@localhost/1"])
        .env("POSTRIDER_SETTINGS", &file)
        .env("POSTRIDER_LEASE", "12s")
        .env("POSTRIDER_SHARDS", "3")
        .output()
        .unwrap();
    let printed = json(&output);
    let rows = printed["settings"].as_array().unwrap();
    let row = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    for (name, value, source) in [
        ("lease", "13s", "flag"),
        ("shards", "3", "environment"),
        ("namespace", "file", "file"),
        ("listen", "127.0.0.1:8080", "default"),
        ("allow-target", "10.0.0.0/8,::1/128", "flag"),
        ("allow-http", "true", "flag"),
        ("log-format", "json", "flag"),
        ("log-level", "warn", "file"),
        ("redis-url", "redis://u:****@localhost/1", "flag"),
        ("drain-timeout", "35s", "default"),
    ] {
        assert_eq!(row(name), (value.to_owned(), source.to_owned()), "{name}");
    }
}

#[test]
fn settings_print_shows_every_setting_whole() {
    use postrider::settings::table::TABLE;
    let printed = json(&run(&["settings", "print", "--output", "json"]));
    let rows = printed["settings"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, TABLE.iter().map(|setting| setting.name).collect::<Vec<_>>());
    for row in rows {
        for field in ["default", "value", "source", "unit", "reason", "flag", "environment", "section"] {
            assert!(row[field].is_string(), "{field} of {row}");
        }
    }
    let text = out(&run(&["settings", "print"]));
    for setting in TABLE {
        assert!(text.contains(&format!("\n{} = ", setting.name)), "{} is not in\n{text}", setting.name);
        assert!(text.contains(setting.reason));
    }
}

#[test]
fn tokens_are_created_listed_and_revoked() {
    let space = TestSpace::new();
    let create = |name, role| {
        let flags = ["token", "create", "--organisation", "org_1", "--role", role, "--name", name];
        on(&space, &[&flags[..], &["--output", "json"]].concat())
    };
    let admin = json(&create("first", "admin"));
    json(&create("second", "viewer"));
    let text = admin["token"].as_str().unwrap();
    assert!(text.starts_with("prt_") && text.len() == 68);
    assert_eq!(
        (&admin["organisation"], &admin["role"], &admin["name"]),
        (&"org_1".into(), &"admin".into(), &"first".into())
    );

    let listed = on(&space, &["token", "list", "--output", "json"]);
    assert!(!out(&listed).contains(text), "a listed token shows its secret");
    let names = |listed: &Value| {
        let tokens = listed["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&json(&listed)), ["first", "second"]);
    let other = on(&space, &["token", "list", "--organisation", "org_2", "--output", "json"]);
    assert!(names(&json(&other)).is_empty());

    let id = admin["id"].as_str().unwrap();
    assert_eq!(code(&on(&space, &["token", "revoke", id])), 0);
    assert_eq!(names(&json(&on(&space, &["token", "list", "--output", "json"]))), ["second"]);
    let again = on(&space, &["token", "revoke", id]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("no such token"), "{}", err(&again));

    let plain = on(&space, &["token", "create", "--organisation", "o", "--role", "operator"]);
    assert_eq!(code(&plain), 0);
    assert_eq!(out(&plain).trim_end().len(), 68, "stdout holds the token alone");

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program(&["token", "create", "--organisation", "o", "--role", "admin"]);
    command.args(["--redis-url", &space.url, "--namespace", &space.namespace]);
    let unseen = command.stdout(full).output().unwrap();
    assert_eq!(code(&unseen), 1);
    assert!(err(&unseen).contains("revoke it: postrider token revoke "), "{}", err(&unseen));
}

#[test]
fn a_redis_that_cannot_be_reached_is_named_without_its_password() {
    let url = format!("redis://u:hunter2@127.0.0.1:{}/0", free_port());
    for command in [
        &["token", "list"][..],
        &["doctor"],
        &["shards", "list"],
        &["publish", "--organisation", "o", "--event", "a.b", "--data", "{}"],
    ] {
        let output = run(&[command, &["--redis-url", &url]].concat());
        let said = err(&output);
        assert_eq!(code(&output), 1, "{command:?}: {said}");
        assert!(said.contains("cannot reach Redis at redis://u:****@127.0.0.1"), "{command:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let empty = tempfile::tempdir().unwrap();
    let output = run(&["token", "list", "--data-dir", empty.path().to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("no embedded Redis runs in"), "{}", err(&output));
    assert!(err(&output).contains("name a Redis with --redis-url"), "{}", err(&output));
}

#[test]
fn commands_without_a_url_use_the_embedded_servers_socket() {
    let server = RedisServer::start(&[]);
    let data_dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(server.directory.path(), data_dir.path().join("redis")).unwrap();
    let output = run(&["token", "list", "--output", "json", "--data-dir", data_dir.path().to_str().unwrap()]);
    assert_eq!(json(&output)["tokens"], Value::Array(Vec::new()));

    // A killed server leaves its socket behind.
    let (_data, _port) = server.kill();
    let leftover = tempfile::tempdir().unwrap();
    std::fs::create_dir(leftover.path().join("redis")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(leftover.path().join("redis/redis.sock")).unwrap());
    let output = run(&["token", "list", "--data-dir", leftover.path().to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("the embedded Redis does not answer"), "{}", err(&output));
}

#[test]
fn doctor_passes_a_good_redis_and_says_what_to_change_about_a_bad_one() {
    let good = RedisServer::start(&["--maxmemory", "256mb"]);
    let url = good.url();
    let report = json(&run(&["doctor", "--redis-url", &url, "--output", "json"]));
    assert_eq!((&report["errors"], &report["warnings"]), (&0.into(), &0.into()), "{report:#}");

    let mut raw = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let future = "99999999999999-0";
    let add = |raw: &mut redis::Connection| {
        redis::cmd("XADD").arg("postrider:{0}:events").arg(future).arg("a").arg(1).query::<String>(raw)
    };
    add(&mut raw).unwrap();
    let text = run(&["doctor", "--redis-url", &url]);
    assert_eq!(code(&text), 0, "warnings are no failure: {}", out(&text));
    for part in ["ahead of Redis's clock", "XSETID postrider:{0}:events", "nobody ever read it"] {
        assert!(out(&text).contains(part), "{part:?} is not in\n{}", out(&text));
    }

    let bad = RedisServer::start(&["--maxmemory-policy", "allkeys-lru", "--appendonly", "no"]);
    let output = run(&["doctor", "--redis-url", &bad.url(), "--output", "json"]);
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "error");
    let errors: Vec<(&str, &str)> =
        errors.map(|f| (f["check"].as_str().unwrap(), f["change"].as_str().unwrap())).collect();
    assert_eq!(errors.len(), 2, "{report:#}");
    assert!(errors.iter().any(|(check, change)| *check == "eviction" && change.contains("noeviction")));
    assert!(errors.iter().any(|(check, change)| *check == "persistence" && change.contains("appendonly")));
}

#[test]
fn shards_are_listed_as_the_keyspace_or_the_setting_says() {
    let space = TestSpace::new();
    let list = |more: &[&str]| {
        let listed = json(&on(&space, &[&["shards", "list", "--output", "json"], more].concat()));
        let shards = listed["shards"].as_array().unwrap().iter();
        shards.map(|shard| shard["events"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let key = |tag: &str| format!("{}:{{{tag}}}:events", space.namespace);
    assert_eq!(list(&[]), [key("0")]);
    assert_eq!(list(&["--shards", "2"]), [key("0"), key("1ac")]);
    let meta = format!("{}:{{control}}:meta", space.namespace);
    let mut command = redis::cmd("HSET");
    command.arg(meta).arg("keyspaceVersion").arg(1).arg("shards").arg(3);
    command.query::<i64>(&mut space.raw()).unwrap();
    assert_eq!(list(&["--shards", "2"]), [key("0"), key("1ac"), key("2fb")]);
}

#[test]
fn one_event_is_published_byte_for_byte_and_once_per_nonce() {
    let space = TestSpace::new();
    let data = r#"{ "n" : 1e400 }"#;
    let flags = ["publish", "--organisation", "org_1", "--event", "reward.earned", "--data", data];
    let flags = [&flags[..], &["--nonce", "n-1", "--output", "json"]].concat();
    let first = json(&on(&space, &flags));
    let second = json(&on(&space, &flags));
    assert_eq!(first["events"][0]["duplicate"], false);
    assert_eq!(second["events"][0]["duplicate"], true);
    assert_eq!(first["events"][0]["id"], second["events"][0]["id"]);
    let expected =
        [("organisationId", "org_1"), ("event", "reward.earned"), ("data", data), ("nonce", "n-1")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    assert_eq!(entries(&space), [expected]);

    let bad = on(&space, &["publish", "--organisation", "o", "--event", "a.b", "--data", "[]"]);
    assert_eq!(code(&bad), 1);
    assert!(err(&bad).contains("data: expected a JSON object"), "{}", err(&bad));
    assert_eq!(entries(&space).len(), 1);
}

#[test]
fn bad_lines_of_a_file_are_named_and_do_not_stop_the_rest() {
    let space = TestSpace::new();
    let mut text = String::new();
    for n in 0..2_500 {
        text.push_str(&format!("{{\"event\":\"a.b\",\"data\":{{\"n\":{n}}},\"nonce\":\"n{n}\"}}\n"));
    }
    text.push_str("{\"event\":\"a.b\"}\n\nnot json\n{\"event\":\"a.b\",\"data\":{},\"nonce\":\"n1\"}\n");
    let (_directory, file) = file_with(&text);
    let rejects = file.with_extension("rejects");
    let flags = ["publish", "--organisation", "org_1", "--file", file.to_str().unwrap(), "--output", "json"];
    let output = on(&space, &[&flags[..], &["--rejects", rejects.to_str().unwrap()]].concat());
    assert_eq!(code(&output), 1);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({ "published": 2500, "duplicates": 1, "rejected": 2, "lines": 2504 });
    assert_eq!(summary, expected);
    let said = err(&output);
    assert!(said.contains("line 2501: missing field `data`") && said.contains("line 2503: "), "{said}");
    assert!(!said.contains("not json"), "what a line holds is for the rejects only: {said}");
    let kept = std::fs::read_to_string(&rejects).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((kept.len(), &kept[1]["text"], &kept[1]["line"]), (2, &"not json".into(), &2503.into()));
    let published = entries(&space);
    assert_eq!(published.len(), 2_500);
    assert!(
        published[2_499].contains(&("data".to_owned(), "{\"n\":2499}".to_owned())),
        "the order is the file's"
    );
}

#[test]
fn lines_from_stdin_are_published_before_the_last_one_is_written() {
    let space = TestSpace::new();
    let mut child = program(&["publish", "--organisation", "o", "--file", "-"])
        .args(["--redis-url", &space.url, "--namespace", &space.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"event\":\"a.b\",\"data\":{}}\n").unwrap();
    crate::support::wait_for("the first line's event", || entries(&space).len() == 1);
    stdin.write_all(b"{\"event\":\"a.c\",\"data\":{}}").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(out(&output).contains("2 lines: 2 published"), "{}", out(&output));
    assert_eq!(entries(&space).len(), 2);
}

#[test]
fn a_full_redis_ends_publishing_and_says_how_far_it_came() {
    let server = RedisServer::start(&["--maxmemory", "8mb"]);
    let line = format!("{{\"event\":\"a.b\",\"data\":{{\"x\":\"{}\"}}}}\n", "x".repeat(2_000));
    let (_directory, file) = file_with(&line.repeat(10_000));
    let url = server.url();
    let output =
        run(&["publish", "--organisation", "o", "--file", file.to_str().unwrap(), "--redis-url", &url]);
    assert_eq!(code(&output), 1, "{}", err(&output));
    let said = err(&output);
    assert!(said.contains("stopped at line ") && said.contains(" published: "), "{said}");
    let mut raw = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let length: u64 = redis::cmd("XLEN").arg("postrider:{0}:events").query(&mut raw).unwrap();
    assert!(length > 0 && length < 10_000);
    assert!(said.contains(&format!(", {length} published: ")), "{length}: {said}");
}

#[test]
fn the_receiver_says_where_it_listens_and_counts_when_it_ends() {
    let mut child = program(&["receive", "--listen", "127.0.0.1:0", "--secret", "whsec_x"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let address = line.trim_end().strip_prefix("receiving on http://").expect("the address").to_owned();
    assert!(std::net::TcpStream::connect(&address).is_ok());
    signal(child.id(), "INT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(rest.contains("received 0, processed 0"), "{rest}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["receive", "--listen", &address, "--secret", "whsec_x"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains(&format!("receive on {address}: ")), "{}", err(&output));
}
