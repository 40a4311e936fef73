//! What a Redis user needs to be allowed for each part of Postrider, and the `ACL SETUSER` line that allows just that
//! (Redis documentation, "ACL").
//!
//! Owns: the list of commands that this room sends. The commands of the scripts are read from the scripts themselves.

use std::collections::BTreeSet;

use super::keys::Keys;
use super::scripts;

/// Commands that this room sends itself, in lower case; a subcommand follows a `|`. A test compares them with the
/// source.
pub const COMMANDS: &[&str] = &[
    "client|id",
    "client|unblock",
    "config|get",
    "evalsha",
    "exists",
    "get",
    "getrange",
    "hdel",
    "hget",
    "hgetall",
    "hkeys",
    "hlen",
    "hmget",
    "hscan",
    "hsetnx",
    "info",
    "memory|usage",
    "pexpire",
    "scan",
    "script|load",
    "set",
    "time",
    "unlink",
    "wait",
    "xack",
    "xadd",
    "xdel",
    "xinfo|consumers",
    "xinfo|groups",
    "xinfo|stream",
    "xlen",
    "xpending",
    "xrange",
    "xread",
    "xreadgroup",
    "xrevrange",
    "zcard",
    "zcount",
    "zrandmember",
    "zrange",
    "zrangebyscore",
    "zrem",
    "zrevrange",
    "zrevrangebyscore",
];

/// Commands that the client and its pool send by themselves: a database other than 0, a look at an idle connection.
pub const OF_CLIENT: &[&str] = &["ping", "select", "unwatch"];

/// Commands that only the embedded server gets, whose only user may do everything.
pub const EMBEDDED_ONLY: &[&str] = &["config|set", "shutdown"];

/// Commands of the receiver's nonces.
const OF_RECEIVER: &[&str] = &["exists", "ping", "select", "set"];

/// Whose user it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// `postrider serve`, and the commands that talk to Redis.
    Server,
    /// A producer that only adds events.
    Producer,
    /// `postrider receive --dedupe-redis-url`.
    Receiver,
}

// === impl Account ===

impl Account {
    /// Everyone.
    pub const ALL: [Self; 3] = [Self::Server, Self::Producer, Self::Receiver];

    /// The rules that allow its commands on its keys, without name and password; fit for `ACL SETUSER` and for the
    /// `user` line of an ACL file.
    #[must_use]
    pub fn rules(self, keys: &Keys) -> String {
        let (pattern, commands) = match self {
            Self::Server => (format!("~{}", keys.pattern()), server_commands()),
            Self::Producer => {
                (format!("%W~{}", keys.events_pattern()), ["ping", "select", "xadd"].map(owned).into())
            }
            Self::Receiver => {
                (format!("~{}", keys.received("*")), OF_RECEIVER.iter().copied().map(owned).collect())
            }
        };
        let allowed: Vec<String> = commands.into_iter().map(|command| format!("+{command}")).collect();
        format!("resetkeys resetchannels -@all {pattern} {}", allowed.join(" "))
    }
}

/// Everything that `serve` and the command line send, scripts included.
fn server_commands() -> BTreeSet<String> {
    let mut commands: BTreeSet<String> = COMMANDS.iter().chain(OF_CLIENT).copied().map(owned).collect();
    commands.extend(scripts::ALL.iter().flat_map(|(_, source, ..)| commands_of_script(source)));
    commands
}

/// Commands that have subcommands, of those that Postrider uses: never allowed whole.
pub const CONTAINERS: [&str; 6] = ["client", "config", "memory", "script", "xgroup", "xinfo"];

/// The commands that a script calls: the first literal of each `redis.call(` and `redis.pcall(`, with the second one
/// where it is a subcommand.
fn commands_of_script(source: &str) -> BTreeSet<String> {
    let calls = source.split("redis.").skip(1).filter_map(|rest| {
        let arguments = rest.strip_prefix("call(").or_else(|| rest.strip_prefix("pcall("))?;
        let mut literals = arguments.split('\'').skip(1).step_by(2).map(str::to_ascii_lowercase);
        let command = literals.next()?;
        if CONTAINERS.contains(&command.as_str()) {
            return Some(format!("{command}|{}", literals.next()?));
        }
        Some(command)
    });
    calls.collect()
}

fn owned(text: &str) -> String {
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every source file of the folders, whole, but for what stands in its tests.
    fn sources() -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("acl.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.push(text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned());
                }
            }
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        for folder in ["redis", "receiver"] {
            walk(&source.join(folder), &mut found);
        }
        found
    }

    /// The commands that a source file builds: the literal of each `cmd("`, with the next argument in capitals where
    /// the command has subcommands.
    fn commands_of_source(source: &str) -> BTreeSet<String> {
        let literal = |text: &str| text.split('"').next().unwrap().to_ascii_lowercase();
        let found = source.match_indices("cmd(\"").map(|(at, start)| {
            let rest = &source[at + start.len()..];
            let command = literal(rest);
            if !CONTAINERS.contains(&command.as_str()) {
                return command;
            }
            let sub = rest.split(".arg(\"").nth(1).unwrap_or_else(|| panic!("a subcommand of {command}"));
            format!("{command}|{}", literal(sub))
        });
        found.collect()
    }

    #[test]
    fn the_list_is_what_the_source_sends() {
        let sent: BTreeSet<String> = sources().iter().flat_map(|text| commands_of_source(text)).collect();
        assert!(sent.len() > 20, "the commands are found: {sent:?}");
        let listed: BTreeSet<String> = COMMANDS.iter().chain(EMBEDDED_ONLY).copied().map(owned).collect();
        let missing: Vec<_> = sent.difference(&listed).collect();
        assert!(missing.is_empty(), "src/redis sends {missing:?}: add them to COMMANDS");
        let idle: Vec<_> = listed.difference(&sent).collect();
        assert!(idle.is_empty(), "nothing sends {idle:?}: a user needs no such right");
        assert!(OF_RECEIVER.iter().all(|command| listed.contains(*command) || OF_CLIENT.contains(command)));
    }

    #[test]
    fn the_commands_of_scripts_are_read_from_them() {
        let text =
            "local t = redis.call('TIME')\nredis.pcall('XGROUP', 'CREATE', KEYS[1])\n-- redis.call is it";
        assert_eq!(commands_of_script(text), ["time", "xgroup|create"].map(owned).into());
        let every: BTreeSet<String> =
            scripts::ALL.iter().flat_map(|(_, source, ..)| commands_of_script(source)).collect();
        assert!(every.contains("xclaim") && !every.contains("xgroup|destroy"), "{every:?}");
        // A command whose name is no literal would be missed.
        for (name, source, ..) in scripts::ALL {
            let calls = source.matches("redis.call(").count() + source.matches("redis.pcall(").count();
            let literal = source.matches("redis.call('").count() + source.matches("redis.pcall('").count();
            assert_eq!(calls, literal, "{name}: a command's name has to be a literal in single quotes");
        }
    }

    #[test]
    fn nothing_dangerous_is_allowed_and_keys_are_the_namespace_alone() {
        let keys = Keys::new("billing").unwrap();
        let rules = Account::Server.rules(&keys);
        assert!(rules.starts_with("resetkeys resetchannels -@all ~billing:{*}:* +"), "{rules}");
        for denied in
            ["flushall", "flushdb", "keys", "config", "config|set", "shutdown", "eval", "script", "acl"]
        {
            assert!(!rules.split(' ').any(|word| word == format!("+{denied}")), "{denied}");
        }
        let producer = Account::Producer.rules(&keys);
        assert_eq!(producer, "resetkeys resetchannels -@all %W~billing:{*}:events +ping +select +xadd");
        assert!(Account::Receiver.rules(&keys).contains(" ~billing:received:* +exists +ping"));
    }
}
