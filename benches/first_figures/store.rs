//! The private Redis of a drain: started empty, filled as a producer would, looked at as a stranger would.

use std::path::Path;
use std::time::Duration;

use postrider::domain::ids::ShardNumber;
use postrider::redis::keys::{GROUP, Keys};

use crate::process::{Guarded, wait_until};
use crate::{Failure, event};

/// How a drain's Redis writes to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// `appendonly yes`, `appendfsync everysec`: what Postrider asks for.
    EverySecond,
    /// `appendonly no`: shows what the log file costs.
    None,
}

/// A `redis-server` of its own.
pub(crate) struct Store {
    server: Guarded,
    port: u16,
    events: String,
}

/// The namespace of the measurement.
pub(crate) const NAMESPACE: &str = "figures";

/// Entries in one pipeline of the loader.
const PIPELINE: u64 = 1_000;

// === impl Durability ===

impl Durability {
    /// The word in the report.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::EverySecond => "drain, AOF everysec",
            Self::None => "drain, no AOF",
        }
    }
}

// === impl Store ===

impl Store {
    /// Starts an empty one. Rewriting of the AOF is off: it would fall into one run and not into another.
    pub(crate) fn start(
        cores: &[usize],
        directory: &Path,
        port: u16,
        durability: Durability,
    ) -> Result<Self, Failure> {
        let append = if durability == Durability::EverySecond { "yes" } else { "no" };
        let (port_text, directory_text) = (port.to_string(), directory.display().to_string());
        let args = [
            ["--port", port_text.as_str()],
            ["--bind", "127.0.0.1"],
            ["--save", ""],
            ["--dir", &directory_text],
            ["--appendonly", append],
            ["--appendfsync", "everysec"],
            ["--auto-aof-rewrite-percentage", "0"],
            ["--maxmemory-policy", "noeviction"],
        ];
        let args: Vec<String> = args.as_flattened().iter().map(|text| (*text).to_owned()).collect();
        let server = Guarded::start(cores, Path::new("redis-server"), &args, &directory.join("redis.log"))?;
        let keys = Keys::new(NAMESPACE).ok_or("the namespace is not acceptable")?;
        let store = Self { server, port, events: keys.shard(ShardNumber(0)).events() };
        wait_until(Duration::from_secs(10), || store.ping().is_ok())
            .map_err(|error| format!("redis-server does not answer (is it installed?): {error}"))?;
        Ok(store)
    }

    /// Its process id.
    pub(crate) const fn pid(&self) -> u32 {
        self.server.pid
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn connection(&self) -> Result<redis::Connection, Failure> {
        Ok(redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))?)
    }

    fn ping(&self) -> Result<String, Failure> {
        Ok(redis::cmd("PING").query(&mut self.connection()?)?)
    }

    /// Adds `count` events, then waits until Redis has written them to disk.
    pub(crate) fn preload(&self, count: u64) -> Result<(), Failure> {
        let mut connection = self.connection()?;
        let data = event::data()?;
        for start in (0..count).step_by(usize::try_from(PIPELINE)?) {
            let mut pipeline = redis::pipe();
            for number in start..count.min(start + PIPELINE) {
                pipeline
                    .cmd("XADD")
                    .arg(&self.events)
                    .arg("*")
                    .arg(&[("organisationId", event::ORGANISATION), ("event", event::EVENT_TYPE)])
                    .arg(&[("data", data.as_str()), ("timestamp", event::TIMESTAMP)])
                    .arg(&[("nonce", event::nonce(number))])
                    .ignore();
            }
            pipeline.query::<()>(&mut connection)?;
        }
        let length: u64 = redis::cmd("XLEN").arg(&self.events).query(&mut connection)?;
        if length < count {
            return Err(format!("{length} entries after adding {count}").into());
        }
        let mut quiet = || -> Result<bool, Failure> {
            let info: String = redis::cmd("INFO").arg("persistence").query(&mut connection)?;
            let pending = ["aof_pending_bio_fsync:1", "aof_rewrite_in_progress:1"];
            Ok(!pending.iter().any(|line| info.contains(line)))
        };
        wait_until(Duration::from_secs(30), || quiet().unwrap_or(false))
    }

    /// Entries that were read and not acknowledged.
    pub(crate) fn pending(&self) -> Result<u64, Failure> {
        let summary: Vec<redis::Value> =
            redis::cmd("XPENDING").arg(&self.events).arg(GROUP).query(&mut self.connection()?)?;
        let count = summary.first().ok_or("an empty answer to XPENDING")?;
        Ok(redis::from_redis_value_ref(count)?)
    }
}
