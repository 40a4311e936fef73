//! Style that a machine can check is a test, not a remark in a review. Every check is a function of a text
//! that answers complaints; below the repository is shown to have none, and bad input to have some.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom, a room a line, along the walk (docs/ARCHITECTURE.md, "Rooms"). A room always uses itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("settings", &["domain"]),
    ("metrics", &["domain"]),
    ("redis", &["domain", "settings", "metrics"]),
    ("intake", &["domain", "settings", "metrics", "redis", "routing"]),
    ("routing", &["domain", "settings", "metrics", "redis", "lanes"]),
    ("lanes", &["domain", "settings", "metrics", "redis", "attempt"]),
    ("attempt", &["domain", "settings", "metrics", "settle"]),
    ("settle", &["domain", "settings", "metrics", "redis"]),
    ("retry", &["domain", "settings", "metrics", "redis", "lanes"]),
    ("admin", &["domain", "settings", "metrics", "redis"]),
    ("receiver", &["domain", "settings", "redis"]),
    (
        "app",
        &[
            "domain", "settings", "metrics", "redis", "intake", "routing", "lanes", "attempt", "settle",
            "retry", "admin", "receiver",
        ],
    ),
    ("cli", &["domain", "settings", "metrics", "redis", "app", "receiver"]),
    ("main", &["cli", "app", "settings"]),
];

/// Most lines of a source file, its tests not counted.
const FILE_LINES_MAX: usize = 400;

/// The client's names that build commands: only `src/redis` and `src/receiver` (its own dedupe) may use them.
const COMMAND_BUILDERS: &[&str] =
    &["redis::cmd(", "redis::pipe(", "redis::Cmd", "redis::Pipeline", "redis::Script", "redis::Client"];

/// What a key's text holds: anywhere in a literal, and at its start before a value or its end.
const KEY_PARTS: &[&str] =
    &[":events", ":floor", ":replicas", ":due", ":rejected", "{control}", ":configs", ":tokens"];
const KEY_STARTS: &[&str] =
    &["queue:", "delivery:", "body:", "log:", "bodies:", "size:", "failed:", "nonce:"];

// === the checks ===

/// The room of a source file; `lib.rs` is the map of the house and belongs to none.
fn room_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let room = rest.split('/').next()?.trim_end_matches(".rs");
    (room != "lib").then_some(room)
}

/// How many `super::` lead from a file's module to the crate's root.
fn depth_of(path: &str) -> usize {
    let rest = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    rest.split('/').count()
}

/// The program's part of a file: without comments, and without the tests that end it.
fn program(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|two| {
        two[0].trim() == "#[cfg(test)]" && two[1].starts_with("mod ") && two[1].ends_with('{')
    });
    let body = &lines[..tests.unwrap_or(lines.len())];
    body.iter().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `text`, as a word of its own when its ends are letters.
fn occurrences<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let joins =
            |edge: Option<char>, next: Option<char>| edge.is_some_and(is_word) && next.is_some_and(is_word);
        !joins(word.chars().next(), before) && !joins(word.chars().next_back(), after)
    })
}

/// The first names of a path or of a group of paths: `a::b` gives a, `{a::b, c::{d}}` gives a and c.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut start) = (0_usize, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// The rooms that a file's program names, by `crate::`, by `postrider::`, or by `super::` up to the root.
fn rooms_named(path: &str, text: &str) -> BTreeSet<String> {
    let program = program(text);
    let to_root = "super::".repeat(depth_of(path));
    let longer = format!("super::{to_root}");
    let mut names = BTreeSet::new();
    for root in ["crate::", "postrider::", to_root.as_str()] {
        for at in occurrences(&program, root) {
            if root != to_root || !program[..at].ends_with("super::") && !program[at..].starts_with(&longer) {
                names.extend(first_names(&program[at + root.len()..]));
            }
        }
    }
    names.into_iter().filter(|name| ROOMS.iter().any(|(room, _)| room == name)).collect()
}

/// Complaints about one source file: what it is, whom it uses, what it holds.
fn source_complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let program = program(text);
    if !text.starts_with("//!") {
        complaints.push("does not begin with //! (what it owns, may use, may not touch)".to_owned());
    }
    let tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..tests].lines().count();
    if lines > FILE_LINES_MAX {
        complaints
            .push(format!("has {lines} lines before its tests, at most {FILE_LINES_MAX}; split by noun"));
    }
    if occurrences(&program, "unsafe").next().is_some() {
        complaints.push("holds unsafe code".into());
    }
    let Some(room) = room_of(path) else { return complaints };
    match ROOMS.iter().find(|(name, _)| *name == room) {
        None => complaints.push(format!("is in the room '{room}', which ROOMS does not list")),
        Some((_, allowed)) => {
            let foreign = rooms_named(path, text);
            let foreign = foreign.iter().filter(|name| *name != room && !allowed.contains(&name.as_str()));
            complaints.extend(foreign.map(|name| format!("'{room}' may not use '{name}'")));
        }
    }
    complaints.extend(if room == "redis" {
        http_complaints(&program)
    } else {
        door_complaints(room, &program)
    });
    complaints
}

/// Redis has one door.
fn door_complaints(room: &str, program: &str) -> Vec<String> {
    if room == "receiver" {
        return Vec::new();
    }
    let mut complaints: Vec<String> = COMMAND_BUILDERS
        .iter()
        .filter(|builder| occurrences(program, builder).next().is_some())
        .map(|builder| format!("names {builder}; commands are built in src/redis"))
        .collect();
    for literal in program.lines().flat_map(|line| line.split('"').skip(1).step_by(2)) {
        let starts = KEY_STARTS.iter().filter_map(|start| literal.strip_prefix(start));
        let is_key = KEY_PARTS.iter().any(|part| occurrences(literal, part).next().is_some())
            || starts.into_iter().any(|rest| rest.is_empty() || rest.starts_with(['{', '*']));
        if is_key {
            complaints.push(format!("writes the key \"{literal}\"; keys are made in src/redis/keys.rs"));
        }
    }
    complaints
}

/// The Redis room never speaks HTTP.
fn http_complaints(program: &str) -> Vec<String> {
    let found =
        ["hyper::", "axum::", "http::"].iter().filter(|name| occurrences(program, name).next().is_some());
    found.map(|name| format!("names {name}; src/redis never speaks HTTP")).collect()
}

/// Complaints about a script: its first line, its header's paragraphs, and the arity that its type says.
fn script_complaints(name: &str, source: &str, keys: usize, args: usize) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut lines = source.lines();
    let wanted = if name.starts_with("publish") { "#!lua" } else { "#!lua flags=allow-oom" };
    if lines.next() != Some(wanted) {
        complaints.push(format!("does not begin with exactly '{wanted}'"));
    }
    let header: Vec<&str> = lines.take_while(|line| line.starts_with("--")).collect();
    if !header.first().is_some_and(|line| line.starts_with("-- ") && !line.contains('[')) {
        complaints.push("has no header that begins with its purpose".into());
    }
    for paragraph in ["-- Returns", "-- Bound", "-- Atomic because"] {
        if !header.iter().any(|line| line.starts_with(paragraph)) {
            complaints.push(format!("its header has no paragraph '{paragraph}'"));
        }
    }
    for (kind, arity) in [("KEYS", keys), ("ARGV", args)] {
        let opening = format!("-- {kind}[");
        let documented: Vec<&str> = header
            .iter()
            .filter_map(|line| line.strip_prefix(&opening)?.split_once(']'))
            .map(|(index, _)| index)
            .collect();
        // A tail of variable length is one line more, as KEYS[3..].
        let (tails, fixed): (Vec<&str>, Vec<&str>) =
            documented.iter().partition(|index| index.contains(".."));
        let wanted: Vec<String> = (1..=arity).map(|n| n.to_string()).collect();
        if fixed != wanted {
            complaints.push(format!("documents {kind} {fixed:?}, its type has {arity}"));
        }
        if tails.len() > 1 || tails.iter().any(|tail| !tail.starts_with(&format!("{}..", arity + 1))) {
            complaints.push(format!("documents the {kind} tail {tails:?}, expected [{}..]", arity + 1));
        }
    }
    complaints
}

/// The key functions of src/redis/keys.rs, as `Keys::configs`.
fn key_functions(text: &str) -> Vec<String> {
    let (mut owner, mut found) = ("", Vec::new());
    for line in program(text).lines() {
        if let Some(name) = line.strip_prefix("impl ").and_then(|rest| rest.strip_suffix(" {")) {
            owner = if name == "Keys" { "Keys" } else { "ShardKeys" };
        }
        let function = line.trim().strip_prefix("pub fn ").filter(|rest| rest.contains("-> String"));
        if let Some((name, _)) = function.and_then(|rest| rest.split_once("(&self")) {
            found.push(format!("{owner}::{name}"));
        }
    }
    found
}

/// Complaints about any text that is kept in the repository.
fn text_complaints(text: &str) -> Vec<String> {
    // Put together here, so that this file does not complain about itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let places = [
        concat!("crates", ".io"),
        concat!("py", "pi.org"),
        concat!("npm", "js"),
        concat!("/wo", "rk/"),
        concat!("../", "shared"),
    ];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in words.iter().chain(&places) {
            let mut found = occurrences(line, word).filter(|at| {
                !word.starts_with('/')
                    || !line[..*at].ends_with(|c: char| is_word(c) || matches!(c, '.' | '/' | '-'))
            });
            if found.next().is_some() {
                complaints.push(format!("line {}: '{word}' has no place here", number + 1));
            }
        }
    }
    complaints
}

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
