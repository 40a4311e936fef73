//! Style that a machine can check is a test, not a remark in a review. Every check is a function of a text
//! that answers complaints; below the repository is shown to have none, and bad input to have some.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use checks::{
    FILE_LINES_MAX, key_functions, metric_names, script_complaints, source_complaints, text_complaints,
};

#[path = "tidy/checks.rs"]
mod checks;

/// Who may use whom, a room a line, along the walk (docs/ARCHITECTURE.md, "Rooms"). A room always uses itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("settings", &["domain"]),
    ("metrics", &["domain"]),
    ("redis", &["domain", "settings", "metrics"]),
    ("intake", &["domain", "settings", "metrics", "redis", "routing", "lanes", "settle", "spans"]),
    ("routing", &["domain"]),
    ("lanes", &["domain", "settings", "metrics", "attempt", "settle", "spans"]),
    ("attempt", &["domain", "settings"]),
    ("settle", &["domain", "settings", "metrics", "redis"]),
    ("spans", &["domain", "metrics"]),
    ("retry", &["domain", "settings", "metrics", "redis", "lanes", "settle"]),
    ("upkeep", &["domain", "settings", "metrics", "redis", "intake", "lanes", "settle"]),
    (
        "worker",
        &[
            "domain", "settings", "metrics", "redis", "intake", "lanes", "attempt", "settle", "retry",
            "upkeep", "spans",
        ],
    ),
    ("admin", &["domain", "settings", "metrics", "redis"]),
    ("receiver", &["domain", "settings", "redis"]),
    (
        "app",
        &[
            "domain", "settings", "metrics", "redis", "intake", "routing", "lanes", "attempt", "settle",
            "retry", "upkeep", "worker", "admin", "receiver", "spans",
        ],
    ),
    ("cli", &["domain", "settings", "metrics", "redis", "app", "receiver"]),
    ("main", &["cli", "app", "settings"]),
];

// === the repository ===

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file that git keeps or would keep; in an unpacked archive, every file outside of `target`.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        _ => walk(&root()),
    };
    files.retain(|path| root().join(path).is_file());
    files
}

fn walk(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && !path.ends_with("target") && !path.ends_with("postrider-data") {
            found.extend(walk(&path));
        } else if path.is_file() {
            found.push(path.strip_prefix(root()).expect("inside the root").to_string_lossy().into_owned());
        }
    }
    found
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_source_file_keeps_to_its_room() {
    let mut complaints = Vec::new();
    let sources: Vec<String> =
        files().into_iter().filter(|path| path.starts_with("src/") && path.ends_with(".rs")).collect();
    assert!(sources.len() > 10, "the sources are found");
    for path in sources {
        complaints
            .extend(source_complaints(&path, &read(&path)).into_iter().map(|what| format!("{path} {what}")));
    }
    assert_none(&complaints);
}

#[test]
fn every_script_has_its_header_and_its_file() {
    let scripts = postrider::redis::scripts::ALL;
    let mut complaints = Vec::new();
    for (name, source, keys, args) in scripts {
        let found = script_complaints(name, source, *keys, *args);
        complaints.extend(found.into_iter().map(|what| format!("{name}.lua {what}")));
    }
    assert_none(&complaints);
    let in_folder: BTreeSet<String> =
        files().iter().filter_map(|path| Some(path.strip_prefix("src/redis/scripts/")?.to_owned())).collect();
    let registered: BTreeSet<String> = scripts.iter().map(|(name, ..)| format!("{name}.lua")).collect();
    assert_eq!(in_folder, registered, "files in src/redis/scripts, and those that scripts.rs registers");
}

#[test]
fn every_key_and_every_script_is_documented() {
    let document = read("docs/REDIS.md");
    let keys = key_functions(&read("src/redis/keys.rs"));
    assert!(keys.len() > 10, "the key functions are found");
    let scripts = postrider::redis::scripts::ALL.iter().map(|(name, ..)| (*name).to_owned());
    let missing: Vec<String> =
        keys.into_iter().chain(scripts).filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/REDIS.md does not mention {missing:?}");
}

/// Every metric's name, kind and meaning.
fn declared_metrics() -> Vec<(&'static str, &'static str, &'static str)> {
    use postrider::metrics::{COUNTERS, GAUGES, HISTOGRAMS};
    let kinds = [("counter", COUNTERS), ("gauge", GAUGES), ("histogram", HISTOGRAMS)];
    kinds
        .into_iter()
        .flat_map(|(kind, list)| list.iter().map(move |(name, meaning)| (*name, kind, *meaning)))
        .collect()
}

#[test]
fn every_metric_is_declared_used_and_documented() {
    let declared = declared_metrics();
    let document = read("docs/OPERATIONS.md");
    let row = |name: &str| document.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    for (name, kind, meaning) in &declared {
        let row = row(name).unwrap_or_else(|| panic!("docs/OPERATIONS.md has no row for {name}"));
        assert!(row.contains(&format!("| {kind}")), "{row}: it is a {kind}");
        assert!(row.contains(&format!("| {meaning} |")), "{row}: its meaning is {meaning:?}");
    }
    let known: BTreeSet<&str> = declared.iter().map(|(name, ..)| *name).collect();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `postrider_")?.split('`').next());
    let gone: Vec<&str> = rows.filter(|name| !known.contains(format!("postrider_{name}").as_str())).collect();
    assert!(gone.is_empty(), "docs/OPERATIONS.md has rows for {gone:?}, which are no metrics");

    // In the file that declares them, a name that is used stands there a second time.
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for path in files().iter().filter(|path| path.starts_with("src/") && path.ends_with(".rs")) {
        metric_names(&read(path)).into_iter().for_each(|name| *times.entry(name).or_default() += 1);
    }
    let undeclared: Vec<&String> = times.keys().filter(|name| !known.contains(name.as_str())).collect();
    assert!(undeclared.is_empty(), "not declared in src/metrics: {undeclared:?}");
    let idle: Vec<&&str> = known.iter().filter(|name| times.get(**name).is_none_or(|n| *n < 2)).collect();
    assert!(idle.is_empty(), "declared and never set: {idle:?}");
}

#[test]
fn no_file_holds_what_has_no_place_in_it() {
    let mut complaints = Vec::new();
    // Cargo writes its lock file, registry addresses included.
    for path in files().into_iter().filter(|path| path != "Cargo.lock") {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        complaints.extend(text_complaints(&text).into_iter().map(|what| format!("{path} {what}")));
    }
    assert_none(&complaints);
}

#[test]
fn changes_are_told_to_users() {
    assert!(read("CHANGELOG.md").contains("## [Unreleased]") || read("CHANGELOG.md").contains("## [0."));
}

// === the checks can fail ===

#[test]
fn a_room_that_uses_another_is_named() {
    let complaints = |path, code: &str| source_complaints(path, &format!("//! x\n{code}"));
    let wrong = [
        ("src/domain/a.rs", "use crate::settings::Settings;"),
        ("src/domain/mod.rs", "use super::redis::keys;"),
        ("src/attempt/pool.rs", "use crate::{domain::ids::{ConfigId, DeliveryId}, redis::keys::Keys};"),
        ("src/attempt/pool.rs", "fn f() { super::super::redis::keys::f() }"),
        ("src/settle/a/b.rs", "use super::super::super::lanes::Lane;"),
        ("src/lanes/mod.rs", "use crate::intake::x;"),
        ("src/app.rs", "use crate::cli;"),
        ("src/main.rs", "use postrider::redis::keys::Keys;"),
        ("src/attic/mod.rs", ""),
    ];
    for (path, code) in wrong {
        assert_eq!(complaints(path, code).len(), 1, "{path} {code}: {:?}", complaints(path, code));
    }
    let right = [
        ("src/domain/a.rs", "use super::clock::UnixMillis;\nuse crate::domain::ids;"),
        ("src/domain/a.rs", "// crate::redis\n#[cfg(test)]\nmod tests {\n use crate::redis;\n}"),
        ("src/retry/mod.rs", "use crate::{lanes::Lane, redis::{keys, scripts}};"),
        ("src/admin/logs/mod.rs", "use super::super::redis::configs;"),
        ("src/lib.rs", "pub mod cli;"),
        ("src/attempt/guard/tests.rs", "use crate::receiver::Receiver;"),
    ];
    for (path, code) in right {
        assert_none(&complaints(path, code));
    }
}

#[test]
fn a_source_file_without_words_or_with_too_many_is_named() {
    let long = format!("//! x\n{}", "fn a() {}\n".repeat(FILE_LINES_MAX));
    let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(source_complaints("src/domain/a.rs", "fn f() {}").len(), 1);
    assert_eq!(source_complaints("src/domain/a.rs", &long).len(), 1);
    assert_eq!(source_complaints("src/domain/a.rs", "//! x\nunsafe fn f() {}").len(), 1);
    assert_none(&source_complaints("src/domain/a.rs", &tested));
    assert_none(&source_complaints("src/domain/a.rs", "//! x\n#![forbid(unsafe_code)]\n"));
}

#[test]
fn a_second_door_to_redis_is_named() {
    let complaints = |path, code: &str| source_complaints(path, &format!("//! x\n{code}")).len();
    for code in [
        "fn f() { redis::cmd(\"GET\") }",
        "use redis::Cmd;",
        "fn f() { format!(\"{ns}:{{0}}:events\") }",
        "fn f() { format!(\"queue:{config}\") }",
        "fn f() { prefix + \"log:\" }",
        "const C: &str = \"postrider:{control}\";",
    ] {
        assert_eq!(complaints("src/settle/mod.rs", code), 1, "{code}");
        assert_eq!(complaints("src/receiver/mod.rs", code), 0, "{code}");
        assert_eq!(complaints("src/redis/x.rs", code), 0, "{code}");
    }
    assert_eq!(complaints("src/settle/mod.rs", "fn f() { expect(\"nonce: 1 to 256 bytes\", a::events) }"), 0);
    assert_eq!(complaints("src/redis/x.rs", "use axum::Router;"), 1);
}

#[test]
fn a_script_that_differs_from_its_header_is_named() {
    let good = "#!lua flags=allow-oom\n-- Moves what is due.\n-- KEYS[1] due (zset)\n-- KEYS[2..] queues (zset)\n\
        -- ARGV[1] now, ms\n-- Returns the number moved.\n-- Bound: 64.\n-- Atomic because two may claim.\nreturn 1\n";
    assert_none(&script_complaints("claim", good, 1, 1));
    for (from, to) in [
        ("#!lua flags=allow-oom", "#!lua"),
        ("#!lua flags", "\n#!lua flags"),
        ("-- Moves what is due.\n", ""),
        ("-- KEYS[1]", "-- KEYS[2]"),
        ("-- KEYS[2..]", "-- KEYS[3..]"),
        ("-- ARGV[1] now, ms\n", ""),
        ("-- Returns", "-- Gives"),
        ("-- Bound", "-- Limit"),
        ("-- Atomic because", "-- Atomic, as"),
    ] {
        assert!(!script_complaints("claim", &good.replace(from, to), 1, 1).is_empty(), "{from} -> {to}");
    }
    assert!(!script_complaints("claim", good, 2, 1).is_empty());
    let two = good.replace(
        "-- KEYS[2..]",
        "-- KEYS[2] size (hash) KEYS[3] log (see KEYS[1])  KEYS[4] floor\n-- KEYS[5..]",
    );
    assert_none(&script_complaints("claim", &two, 4, 1));
    assert!(!script_complaints("claim", &two, 3, 1).is_empty());
    assert!(!script_complaints("publish", good, 1, 1).is_empty());
    assert_none(&script_complaints("publish", &good.replace(" flags=allow-oom", ""), 1, 1));
}

#[test]
fn words_without_a_place_are_named() {
    for bad in [
        concat!("// TO", "DO: later"),
        concat!("FIX", "ME"),
        concat!("see https://crates", ".io/x"),
        concat!("cd /wo", "rk/x"),
    ] {
        assert_eq!(text_complaints(bad).len(), 1, "{bad}");
    }
    assert_none(&text_complaints("mktemp -d /tmp/a.XXXXXX; /net/work/x; https://example.org/a/work/b"));
}

#[test]
fn key_functions_are_found_with_their_owner() {
    let text = "impl Keys {\n    pub fn shard(&self) -> ShardKeys {}\n    pub fn meta(&self) -> String {}\n}\n\
        impl ShardKeys {\n    fn key(&self) -> String {}\n    pub fn log(&self, config: ConfigId) -> String {}\n}\n";
    assert_eq!(key_functions(text), ["Keys::meta", "ShardKeys::log"]);
}

#[test]
fn metric_names_are_found_in_the_program_alone() {
    let text = "counter!(\"postrider_a_total\");\n//! \"postrider_c\"\nsum(t, \"postrider_a_total\");\n\
        let path = \"postrider_data/x\";\n#[cfg(test)]\nmod tests {\n \"postrider_d\"\n}\n";
    assert_eq!(metric_names(text), ["postrider_a_total", "postrider_a_total"]);
}
