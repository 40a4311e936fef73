//! Findings about what surrounds the deliveries: sealed secrets, room for copies of memory, the append-only file,
//! replicas, connections and open files. Pure, as `findings`.

use super::findings::{Finding, error, info, number, ok, warn};
use crate::redis::doctor::Facts;
use crate::settings::text::size;

/// Share of the machine's memory that `maxmemory` should leave to copies of pages while the AOF is written anew.
const OF_SYSTEM_WARN_PERCENT: u64 = 70;

/// Fragmentation (resident over used) from which it is worth something to defragment, in percent.
const FRAGMENTED_PERCENT: f64 = 150.0;

/// Below this much memory, fragmentation is the allocator's own start.
const FRAGMENTED_FROM: u64 = 256 * 1024 * 1024;

/// Share of `maxclients` at which it is time to look, in percent.
const CLIENTS_WARN_PERCENT: u64 = 80;

/// Seconds without a word from a replica that are worth a warning.
const LAG_WARN_SECONDS: u64 = 10;

/// What a replica started here could have, and what its settings ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Host {
    /// Hard limit of open files; `None` where there is no limit.
    pub(super) files: Option<u64>,
    /// What in-flight-max, idle-connections-max and the rest need.
    pub(super) files_wanted: u64,
}

/// Judges all of it.
pub(super) fn audit(facts: &Facts, host: Host) -> Vec<Finding> {
    let mut findings = vec![secrets(facts), room(facts)];
    findings.extend(fragmentation(facts));
    findings.extend(files_of_redis(facts));
    findings.extend(replicas(facts));
    findings.extend(clients(facts));
    findings.push(open_files(host));
    findings
}

fn secrets(facts: &Facts) -> Finding {
    let check = "secrets";
    let seals = &facts.seals;
    let mut missing: Vec<String> = facts.missing_keys.iter().map(ToString::to_string).collect();
    missing.sort_unstable();
    if !missing.is_empty() {
        let what = format!("configs are sealed with key {}, which is not given here", missing.join(", "));
        let change = "give every replica that key (POSTRIDER_SECRET_KEY or --secret-key-file): without it a \
                      replica does not start; this command needs it, too, to check";
        return error(check, what, change);
    }
    match (seals.configs, seals.plain) {
        (0, _) => ok(check, "no config has one"),
        (configs, 0) => ok(check, format!("{configs} configs, all sealed")),
        (configs, plain) => warn(
            check,
            format!("{plain} of {configs} configs have their secret in plain text in Redis and its backups"),
            "postrider secrets generate-key; give it to every replica as POSTRIDER_SECRET_KEY; \
             postrider secrets reseal",
        ),
    }
}

fn room(facts: &Facts) -> Finding {
    let check = "machine";
    let (limit, system) = (number(facts, "maxmemory"), number(facts, "total_system_memory"));
    if limit == 0 || system == 0 {
        return ok(check, "nothing to compare: maxmemory or the machine's memory is not known");
    }
    let percent = limit.saturating_mul(100) / system;
    let what = format!("maxmemory is {percent} % of the machine's {}", in_mib(system));
    if percent > OF_SYSTEM_WARN_PERCENT {
        let change =
            "leave room: while the AOF is written anew, or a replica is filled, changed pages exist twice";
        return warn(check, what, change);
    }
    ok(check, what)
}

fn fragmentation(facts: &Facts) -> Option<Finding> {
    let ratio: f64 = info(facts, "mem_fragmentation_ratio").parse().ok()?;
    let is_much = ratio * 100.0 > FRAGMENTED_PERCENT && number(facts, "used_memory") > FRAGMENTED_FROM;
    is_much.then(|| {
        let what = format!("resident memory is {ratio} times what is used");
        warn("memory", what, "CONFIG SET activedefrag yes, or restart Redis in a quiet hour")
    })
}

/// The append-only file and the snapshot.
fn files_of_redis(facts: &Facts) -> Vec<Finding> {
    let check = "persistence";
    let mut findings = Vec::new();
    if info(facts, "rdb_last_bgsave_status") == "err" {
        let change = "see Redis's log: disk or memory for a copy is short; until a save succeeds, Redis may refuse \
                      every write (stop-writes-on-bgsave-error)";
        findings.push(error(check, "the last BGSAVE failed", change));
    }
    if info(facts, "aof_last_bgrewrite_status") == "err" {
        let change = "see Redis's log: disk or memory for a copy is short; the AOF grows until it succeeds";
        findings.push(error(check, "the last rewrite of the AOF failed", change));
    }
    let delayed = number(facts, "aof_delayed_fsync");
    if delayed > 0 {
        let what = format!("{delayed} times since its start Redis waited for its disk");
        findings.push(warn(check, what, "give the AOF a faster disk, or one of its own"));
    }
    findings
}

/// `slave0:ip=10.0.0.2,port=6379,state=online,offset=123,lag=1`
fn replicas(facts: &Facts) -> Vec<Finding> {
    let described =
        facts.info.iter().filter(|(name, value)| name.starts_with("slave") && value.contains("state="));
    let behind = described.filter_map(|(name, value)| {
        let field =
            |wanted: &str| value.split(',').find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='));
        let state = field("state").unwrap_or_default();
        let lag: u64 = field("lag").and_then(|lag| lag.parse().ok()).unwrap_or(0);
        let address = format!("{}:{}", field("ip").unwrap_or(name), field("port").unwrap_or_default());
        (state != "online" || lag > LAG_WARN_SECONDS).then(|| {
            let what = format!("replica {address} is {state}, last heard of {lag} s ago");
            warn(
                "replication",
                what,
                "see its log and the network: a failover to it would lose what it lacks",
            )
        })
    });
    behind.collect()
}

fn clients(facts: &Facts) -> Option<Finding> {
    let (connected, limit) = (number(facts, "connected_clients"), number(facts, "maxclients"));
    let rejected = number(facts, "rejected_connections");
    let is_close = limit > 0 && connected.saturating_mul(100) / limit >= CLIENTS_WARN_PERCENT;
    (is_close || rejected > 0).then(|| {
        let what =
            format!("{connected} of {limit} connections are used, {rejected} were refused since its start");
        warn(
            "clients",
            what,
            "raise maxclients and Redis's limit of open files, or look for who leaks connections",
        )
    })
}

fn open_files(host: Host) -> Finding {
    let check = "files";
    let Host { files, files_wanted } = host;
    match files {
        Some(files) if files < files_wanted => warn(
            check,
            format!("{files} files may be open here; the limits that are set need {files_wanted}"),
            "raise the hard limit (LimitNOFILE=, ulimit -Hn) where serve runs, or lower --in-flight-max and \
             --idle-connections-max",
        ),
        Some(files) => ok(check, format!("{files} may be open here, {files_wanted} are needed")),
        None => ok(check, format!("no limit here, {files_wanted} are needed")),
    }
}

fn in_mib(bytes: u64) -> String {
    size::show(&(bytes >> 20 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::findings::Level;
    use super::*;
    use crate::domain::sealing::Keyring;

    fn facts(pairs: &[(&str, &str)]) -> Facts {
        let info = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Facts { info, ..Facts::default() }
    }

    fn found(facts: &Facts, check: &str) -> Vec<Level> {
        let host = Host { files: Some(1_024), files_wanted: 1_000 };
        audit(facts, host).into_iter().filter(|f| f.check == check).map(|f| f.level).collect()
    }

    #[test]
    fn secrets_in_plain_text_are_a_warning_and_an_unknown_key_is_an_error() {
        let mut facts = facts(&[]);
        assert_eq!(found(&facts, "secrets"), [Level::Ok]);
        facts.seals.configs = 2;
        assert_eq!(found(&facts, "secrets"), [Level::Ok]);
        facts.seals.plain = 1;
        assert_eq!(found(&facts, "secrets"), [Level::Warn]);
        let key = Keyring::parse(&"01".repeat(32)).unwrap();
        facts.missing_keys.extend(key.first().cloned());
        assert_eq!(found(&facts, "secrets"), [Level::Error]);
    }

    #[test]
    fn each_fault_of_redis_is_found_and_a_good_one_has_none() {
        let good = facts(&[
            ("maxmemory", "1000"),
            ("total_system_memory", "2000"),
            ("maxclients", "10000"),
            ("connected_clients", "30"),
            ("slave0", "ip=10.0.0.2,port=6379,state=online,offset=123,lag=1"),
        ]);
        let host = Host { files: None, files_wanted: 8_000 };
        assert!(audit(&good, host).iter().all(|f| f.level == Level::Ok), "{:?}", audit(&good, host));
        for (check, pairs) in [
            ("machine", &[("maxmemory", "1900"), ("total_system_memory", "2000")][..]),
            ("memory", &[("mem_fragmentation_ratio", "1.9"), ("used_memory", "500000000")]),
            ("persistence", &[("rdb_last_bgsave_status", "err")]),
            ("persistence", &[("aof_last_bgrewrite_status", "err")]),
            ("persistence", &[("aof_delayed_fsync", "3")]),
            ("replication", &[("slave0", "ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0")]),
            ("replication", &[("slave1", "ip=10.0.0.2,port=6379,state=online,offset=0,lag=60")]),
            ("clients", &[("maxclients", "100"), ("connected_clients", "90")]),
        ] {
            let levels = found(&facts(pairs), check);
            assert!(levels.len() == 1 && levels[0] != Level::Ok, "{check} {pairs:?}: {levels:?}");
        }
        let few = Host { files: Some(256), files_wanted: 8_000 };
        assert!(audit(&good, few).iter().any(|f| f.check == "files" && f.level == Level::Warn));
    }
}
