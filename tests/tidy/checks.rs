//! The checks: each is a function of a text that answers complaints, none where there is nothing to say.

use std::collections::BTreeSet;

use super::ROOMS;

/// Most lines of a source file, its tests not counted.
pub(crate) const FILE_LINES_MAX: usize = 400;

/// The client's names that build commands: only `src/redis` and `src/receiver` (its own dedupe) may use them.
const COMMAND_BUILDERS: &[&str] =
    &["redis::cmd(", "redis::pipe(", "redis::Cmd", "redis::Pipeline", "redis::Script", "redis::Client"];

/// What a key's text holds: anywhere in a literal, and at its start before a value or its end.
const KEY_PARTS: &[&str] =
    &[":events", ":floor", ":replicas", ":due", ":rejected", "{control}", ":configs", ":tokens"];
const KEY_STARTS: &[&str] =
    &["queue:", "delivery:", "body:", "log:", "bodies:", "size:", "failed:", "nonce:"];

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
pub(crate) fn source_complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let program = program(text);
    if !text.starts_with("//!") {
        complaints.push("does not begin with //! (what it owns, may use, may not touch)".to_owned());
    }
    let before_tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..before_tests].lines().count();
    if lines > FILE_LINES_MAX {
        complaints
            .push(format!("has {lines} lines before its tests, at most {FILE_LINES_MAX}; split by noun"));
    }
    if occurrences(&program, "unsafe").next().is_some() {
        complaints.push("holds unsafe code".into());
    }
    let tests = path.ends_with("/tests.rs") || path.ends_with("_tests.rs");
    let Some(room) = room_of(path).filter(|_| !tests) else { return complaints };
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
pub(crate) fn script_complaints(name: &str, source: &str, keys: usize, args: usize) -> Vec<String> {
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
        let documented = indices_documented(&header, kind);
        // A tail of variable length is one line more, as KEYS[3..].
        let (tails, fixed): (Vec<String>, Vec<String>) =
            documented.into_iter().partition(|index| index.contains(".."));
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

/// The indices that a header documents: at the start of a line, and later in such a line behind two blanks or
/// behind the type in brackets.
fn indices_documented(header: &[&str], kind: &str) -> Vec<String> {
    let opening = format!("{kind}[");
    let (first, after_type) = (format!("-- {opening}"), format!(") {opening}"));
    let lines = header.iter().filter(|line| line.starts_with(&first));
    let spread =
        lines.map(|line| line.trim_start_matches("-- ").replace(&after_type, &format!(")  {opening}")));
    let indices = |line: String| -> Vec<String> {
        let texts =
            line.split("  ").filter_map(|text| text.trim_start().strip_prefix(&opening)?.split_once(']'));
        texts.map(|(index, _)| index.to_owned()).collect()
    };
    spread.flat_map(indices).collect()
}

/// The key functions of src/redis/keys.rs, as `Keys::configs`.
pub(crate) fn key_functions(text: &str) -> Vec<String> {
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
pub(crate) fn text_complaints(text: &str) -> Vec<String> {
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

/// Literals of a file's program that are metrics' names, in their order.
pub(crate) fn metric_names(text: &str) -> Vec<String> {
    let program = program(text);
    let literals = program.match_indices("\"postrider_").map(|(at, _)| &program[at + 1..]);
    literals
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_name(name))
        .collect()
}

fn is_name(text: &str) -> bool {
    text.chars().all(is_word)
}
