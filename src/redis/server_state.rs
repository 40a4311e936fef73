//! What Redis says of itself: `INFO`, as far as the gauges show it.

use redis::cmd;

use super::connection::{Link, Result};

/// Sections that are read for the gauges; their memory alone is read by everybody.
const SECTIONS: [&str; 5] = ["memory", "stats", "clients", "persistence", "replication"];

/// A Redis at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerState {
    /// `used_memory`, bytes.
    pub memory: f64,
    /// `maxmemory`, bytes; 0 without a limit.
    pub memory_max: f64,
    /// `instantaneous_ops_per_sec`.
    pub commands_per_second: f64,
    /// `connected_clients`.
    pub clients: f64,
    /// `evicted_keys`, since its start.
    pub evicted_keys: f64,
    /// Whether there is an append-only file.
    pub aof: bool,
    /// `aof_current_size`, bytes; 0 without one.
    pub aof_bytes: f64,
    /// The last write of the append-only file failed.
    pub aof_failing: bool,
    /// Its last rewrite failed.
    pub aof_rewrite_failing: bool,
    /// The last snapshot failed.
    pub snapshot_failing: bool,
    /// `connected_slaves`.
    pub replicas: f64,
    /// How far the slowest of them is behind, bytes.
    pub replica_lag: f64,
}

/// Asks Redis for its memory; for all of [`ServerState`] where `whole`.
///
/// # Errors
/// Redis's.
pub async fn read(link: &Link, whole: bool) -> Result<ServerState> {
    let sections = if whole { &SECTIONS[..] } else { &SECTIONS[..1] };
    let info: String = link.query("reading redis's state", cmd("INFO").arg(sections)).await?;
    Ok(ServerState::of(&info))
}

// === impl ServerState ===

impl ServerState {
    /// Used memory over `maxmemory`; `None` without a limit.
    #[must_use]
    pub fn memory_share(&self) -> Option<f64> {
        (self.memory_max > 0.0).then(|| self.memory / self.memory_max)
    }

    fn of(info: &str) -> Self {
        let text = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let failed = |name: &str| text(name) == Some("err");
        Self {
            memory: number("used_memory"),
            memory_max: number("maxmemory"),
            commands_per_second: number("instantaneous_ops_per_sec"),
            clients: number("connected_clients"),
            evicted_keys: number("evicted_keys"),
            aof: text("aof_enabled") == Some("1"),
            aof_bytes: number("aof_current_size"),
            aof_failing: failed("aof_last_write_status"),
            aof_rewrite_failing: failed("aof_last_bgrewrite_status"),
            snapshot_failing: failed("rdb_last_bgsave_status"),
            replicas: number("connected_slaves"),
            replica_lag: replica_lag(info, number("master_repl_offset")),
        }
    }
}

/// From the lines `slave0:ip=...,port=...,state=online,offset=...,lag=...`.
fn replica_lag(info: &str, written: f64) -> f64 {
    let offset = |line: &str| -> Option<f64> {
        let (number, fields) = line.strip_prefix("slave")?.split_once(':')?;
        number.parse::<u32>().ok()?;
        fields.split(',').find_map(|field| field.strip_prefix("offset="))?.trim().parse().ok()
    };
    info.lines().filter_map(offset).map(|read| written - read).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_as_redis_writes_it() {
        let info = "# Memory\r\nused_memory:1000\r\nused_memory_human:1K\r\nmaxmemory:4000\r\n\
            connected_clients:7\r\ninstantaneous_ops_per_sec:12\r\nevicted_keys:0\r\naof_enabled:1\r\n\
            aof_current_size:99\r\naof_last_write_status:err\r\naof_last_bgrewrite_status:ok\r\n\
            rdb_last_bgsave_status:ok\r\nconnected_slaves:2\r\n\
            slave0:ip=10.0.0.1,port=6379,state=online,offset=480,lag=0\r\n\
            slave1:ip=10.0.0.2,port=6379,state=online,offset=500,lag=1\r\nmaster_repl_offset:500\r\n";
        let state = ServerState::of(info);
        assert_eq!(state.memory_share(), Some(0.25));
        let read = (state.clients, state.commands_per_second, state.aof_bytes, state.replicas);
        assert_eq!(read, (7.0, 12.0, 99.0, 2.0));
        assert!(state.aof && state.aof_failing && !state.aof_rewrite_failing && !state.snapshot_failing);
        assert!((state.replica_lag - 20.0).abs() < 1e-9);
        assert_eq!(ServerState::of("used_memory:1\r\nmaxmemory:0\r\n").memory_share(), None);
    }
}
