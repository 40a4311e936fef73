//! What the facts about a Redis mean for Postrider, and what to change: pure, a function per subject.

use serde::Serialize;

use crate::domain::clock::UnixMillis;
use crate::redis::doctor::{Facts, ShardFacts};
use crate::redis::keyspace::KEYSPACE_VERSION;
use crate::settings::text::{duration, size};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Works, with a risk that the finding names.
    Warn,
    /// Loses deliveries or does not work.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The subject.
    pub(super) check: &'static str,
    /// What was found.
    pub(super) what: String,
    /// What to change; none where it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<String>,
}

/// Difference of clocks that is worth a warning: `timestamp` and log times are off by it.
const CLOCK_SKEW_WARN_MS: u64 = 1_000;

/// Share of `maxmemory` at which publishing stops, in percent.
const MEMORY_FULL_PERCENT: u64 = 85;

/// Share of `maxmemory` at which it is time to look, in percent.
const MEMORY_WARN_PERCENT: u64 = 70;

/// Age of an undelivered event that is worth a warning.
const OLDEST_WARN_MS: u64 = 60_000;

// === impl Level ===

impl Level {
    /// The word in the report.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// Judges everything.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts), mode(facts)];
    findings.extend(persistence(facts));
    findings.extend([eviction(facts), memory(facts)]);
    findings.extend(replication(facts));
    findings.push(clock(facts));
    findings.push(keyspace(facts));
    for shard in &facts.shards {
        findings.push(stream(shard, facts.redis_now));
        findings.extend(ahead_of_time(shard, facts.redis_now));
        findings.extend(rejected(shard));
        findings.extend(unreadable(shard));
    }
    findings
}

pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, check, what: what.into(), change: None }
}

pub(super) fn warn(check: &'static str, what: impl Into<String>, change: impl Into<String>) -> Finding {
    Finding { level: Level::Warn, check, what: what.into(), change: Some(change.into()) }
}

pub(super) fn error(check: &'static str, what: impl Into<String>, change: impl Into<String>) -> Finding {
    Finding { level: Level::Error, check, what: what.into(), change: Some(change.into()) }
}

pub(super) fn info<'a>(facts: &'a Facts, name: &str) -> &'a str {
    facts.info.get(name).map_or("", String::as_str)
}

pub(super) fn number(facts: &Facts, name: &str) -> u64 {
    info(facts, name).parse().unwrap_or(0)
}

fn version(facts: &Facts) -> Finding {
    let version = info(facts, "redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= 7 => ok("version", format!("Redis {version}")),
        _ => error("version", format!("Redis {version:?}"), "upgrade Redis to 7.0 or newer"),
    }
}

fn mode(facts: &Facts) -> Finding {
    match (info(facts, "redis_mode"), info(facts, "cluster_enabled")) {
        (_, "1") | ("cluster", _) => {
            let change = "use a Redis without cluster mode: Cluster is not supported yet";
            error("mode", "cluster mode is on", change)
        }
        ("sentinel", _) => error("mode", "this is a Sentinel", "name the primary that it watches"),
        (mode, _) => ok("mode", mode),
    }
}

fn persistence(facts: &Facts) -> Vec<Finding> {
    let check = "persistence";
    if info(facts, "aof_enabled") != "1" {
        let change = "CONFIG SET appendonly yes, and appendonly yes in redis.conf";
        return vec![error(check, "AOF is off: a restart of Redis loses events and deliveries", change)];
    }
    if info(facts, "aof_last_write_status") == "err" {
        let change = "see Redis's log; most often the disk is full";
        return vec![error(check, "Redis could not write its AOF", change)];
    }
    let fsync = facts.config.as_ref().and_then(|config| config.get("appendfsync"));
    vec![match fsync.map(String::as_str) {
        Some("no") => warn(
            check,
            "AOF is on with appendfsync no: a power cut loses what the system had not written, 30 s or so",
            "CONFIG SET appendfsync everysec, and the same in redis.conf",
        ),
        Some(fsync) => ok(check, format!("AOF is on, appendfsync {fsync}")),
        None => ok(check, "AOF is on; appendfsync cannot be read here (CONFIG is forbidden)"),
    }]
}

fn eviction(facts: &Facts) -> Finding {
    match info(facts, "maxmemory_policy") {
        "noeviction" => ok("eviction", "noeviction"),
        policy => error(
            "eviction",
            format!("{policy}: a full Redis deletes deliveries"),
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        ),
    }
}

fn memory(facts: &Facts) -> Finding {
    let (used, limit) = (number(facts, "used_memory"), number(facts, "maxmemory"));
    let in_mib = |bytes: u64| size::show(&(bytes.div_ceil(1 << 20) << 20));
    if limit == 0 {
        let what = format!("maxmemory is not set; {} are used", in_mib(used));
        let change = "CONFIG SET maxmemory to what Redis may use: without it publishing cannot stop before \
                      the system ends Redis";
        return warn("memory", what, change);
    }
    let percent = used.saturating_mul(100) / limit;
    let what = format!("{percent} % of maxmemory {} used", in_mib(limit));
    let change = "raise maxmemory, or see which endpoints are failing: their queues wait in Redis";
    if percent >= MEMORY_FULL_PERCENT {
        error("memory", format!("{what}; publishing stops at {MEMORY_FULL_PERCENT} %"), change)
    } else if percent >= MEMORY_WARN_PERCENT {
        warn("memory", what, change)
    } else {
        ok("memory", what)
    }
}

fn replication(facts: &Facts) -> Vec<Finding> {
    let check = "replication";
    if info(facts, "role") == "slave" {
        let change = "name the primary in --redis-url: replicas take no writes";
        return vec![error(check, "this Redis is a replica", change)];
    }
    let replicas = number(facts, "connected_slaves");
    let required = facts.config.as_ref().and_then(|config| config.get("min-replicas-to-write"));
    vec![match (replicas, required.map(String::as_str)) {
        (0, _) => ok(check, "a primary without replicas"),
        (_, Some("0")) => warn(
            check,
            format!(
                "{replicas} replicas, and min-replicas-to-write is 0: a cut-off primary goes on taking \
                     events that a failover then loses"
            ),
            "CONFIG SET min-replicas-to-write 1, and the same in redis.conf",
        ),
        (_, Some(required)) => ok(check, format!("{replicas} replicas, min-replicas-to-write {required}")),
        (_, None) => ok(check, format!("{replicas} replicas; min-replicas-to-write cannot be read here")),
    }]
}

fn clock(facts: &Facts) -> Finding {
    let skew = facts.redis_now.0.abs_diff(facts.local_now.0).saturating_sub(facts.round_trip_ms);
    let side = if facts.redis_now > facts.local_now { "ahead of" } else { "behind" };
    if skew >= CLOCK_SKEW_WARN_MS {
        let what = format!("Redis's clock is {} {side} this machine's", shown(skew));
        warn("clock", what, "run NTP on both: schedules keep Redis's clock, certificates this machine's")
    } else {
        ok("clock", format!("Redis's and this machine's agree within {} ms", skew + facts.round_trip_ms))
    }
}

fn keyspace(facts: &Facts) -> Finding {
    let check = "keyspace";
    match (facts.keyspace_version.as_deref(), facts.keyspace_shards) {
        _ if info(facts, "cluster_enabled") == "1" => ok(check, "not examined in cluster mode"),
        (None, _) => ok(check, "none yet in this namespace: the first 'postrider serve' makes it"),
        (Some(version), Some(shards)) if version == KEYSPACE_VERSION.to_string() => {
            ok(check, format!("version {version}, shards {shards}"))
        }
        (Some(version), _) => error(
            check,
            format!("version {version:?}; this program knows {KEYSPACE_VERSION}"),
            "use the release of Postrider that wrote it, or another --namespace",
        ),
    }
}

fn stream(shard: &ShardFacts, now: UnixMillis) -> Finding {
    let ShardFacts { events, length, .. } = shard;
    let Some(group) = shard.group else {
        return match length {
            0 => ok("stream", format!("{events}: empty, not read yet")),
            _ => warn(
                "stream",
                format!("{events}: {length} entries, and nobody ever read it"),
                "start 'postrider serve' on this namespace",
            ),
        };
    };
    let lag = group.lag.map_or_else(|| "an unknown number".into(), |lag| lag.to_string());
    let age = shard.oldest.map(|id| now.since(UnixMillis(id.ms)));
    let oldest = age.map_or_else(String::new, |age| {
        format!(", oldest entry {} old", shown(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    });
    let what = format!(
        "{events}: {length} entries, {lag} unread, {} pending for {} consumers{oldest}",
        group.pending, group.consumers
    );
    let waits = group.pending > 0 || group.lag != Some(0);
    let old = age.is_some_and(|age| age.as_millis() >= u128::from(OLDEST_WARN_MS));
    match (length, group.consumers) {
        (0, _) => ok("stream", what),
        (_, 0) if waits => warn("stream", what, "no replica is running: start 'postrider serve'"),
        _ if waits && old => {
            let change = "replicas fall behind: see their log and /metrics, add a replica or workers";
            warn("stream", what, change)
        }
        _ => ok("stream", what),
    }
}

/// An id ahead of Redis's clock: every later `*` follows it, so times of events are wrong until then.
fn ahead_of_time(shard: &ShardFacts, now: UnixMillis) -> Option<Finding> {
    let last = shard.last_generated.filter(|id| id.ms > now.0 + CLOCK_SKEW_WARN_MS)?;
    let ahead = shown(last.ms - now.0);
    let events = &shard.events;
    let what = format!("{events}: the last id {last} is {ahead} ahead of Redis's clock");
    let id = format!("{}-0", now.0);
    let change = format!(
        "find the producer that writes ids instead of *; when the stream is empty (postrider trims it), \
         XSETID {events} {id}, then XGROUP SETID {events} dispatchers {id}: without it the group skips what comes"
    );
    Some(warn("ids", what, change))
}

fn rejected(shard: &ShardFacts) -> Option<Finding> {
    let ShardFacts { events, rejected, .. } = shard;
    (*rejected > 0).then(|| {
        let key = events.strip_suffix("events").unwrap_or(events);
        let what = format!("{events}: {rejected} entries could not be understood");
        warn("rejected", what, format!("XREVRANGE {key}rejected + - COUNT 10 shows the latest with reasons"))
    })
}

/// Deliveries that the scheduler moved out of the way.
fn unreadable(shard: &ShardFacts) -> Option<Finding> {
    let (config, _) = shard.unreadable.first()?;
    let ShardFacts { events, unreadable, .. } = shard;
    let key = events.strip_suffix("events").unwrap_or(events);
    let count: u64 = unreadable.iter().map(|(_, count)| count).sum();
    let what = format!(
        "{events}: {count} queued deliveries of {} configs have a record or a body that cannot be read",
        unreadable.len()
    );
    let change = format!(
        "ZREVRANGE {key}queue:{config} 0 9 names the first; GET {key}delivery:<id> is the record; \
         a newer release may have written it"
    );
    Some(warn("unreadable", what, change))
}

fn shown(ms: u64) -> String {
    // Whole seconds are enough for people once it is more than a few.
    let ms = if ms >= 10_000 { ms / 1_000 * 1_000 } else { ms };
    duration::show(&std::time::Duration::from_millis(ms))
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
