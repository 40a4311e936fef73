//! The private Redis: configs and backlogs written as the server writes them, events as a producer adds them.

use std::path::Path;
use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{Delivery, DeliveryRecord, Standing, Tried};
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId, ShardNumber, StreamId};
use postrider::redis::keys::{Keys, ShardKeys};

use crate::Failure;
use crate::process::{Guarded, cpu_micros, wait_until};

/// The namespace of the measurement.
pub(crate) const NAMESPACE: &str = "isolation";
/// The event type of every config.
pub(crate) const EVENT: &str = "reward.earned";

/// A `redis-server` of its own.
pub(crate) struct Store {
    server: Guarded,
    port: u16,
    control: Keys,
    /// The keys of its one shard.
    pub(crate) keys: ShardKeys,
}

// === impl Store ===

impl Store {
    pub(crate) fn start(cores: &[usize], directory: &Path) -> Result<Self, Failure> {
        let port = crate::server::free_port()?;
        let (port_text, directory_text) = (port.to_string(), directory.display().to_string());
        let args = [
            ["--port", port_text.as_str()],
            ["--bind", "127.0.0.1"],
            ["--save", ""],
            ["--dir", &directory_text],
            ["--appendonly", "yes"],
            ["--appendfsync", "everysec"],
            ["--auto-aof-rewrite-percentage", "0"],
            ["--maxmemory-policy", "noeviction"],
            ["--latency-monitor-threshold", "5"],
            ["--slowlog-log-slower-than", "5000"],
        ];
        let args: Vec<String> = args.as_flattened().iter().map(|text| (*text).to_owned()).collect();
        let server = Guarded::start(cores, Path::new("redis-server"), &args, &directory.join("redis.log"))?;
        let control = Keys::new(NAMESPACE).ok_or("the namespace is not acceptable")?;
        let keys = control.shard(ShardNumber(0));
        let store = Self { server, port, control, keys };
        wait_until(Duration::from_secs(10), || store.connection().is_ok())
            .map_err(|error| format!("redis-server does not answer (is it installed?): {error}"))?;
        Ok(store)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        Ok(Duration::from_micros(cpu_micros(self.server.pid)?))
    }

    /// Forgets what [`Self::stalls`] tells.
    pub(crate) fn reset_stalls(&self) -> Result<(), Failure> {
        let mut connection = self.connection()?;
        redis::cmd("LATENCY").arg("RESET").query::<redis::Value>(&mut connection)?;
        redis::cmd("SLOWLOG").arg("RESET").query::<redis::Value>(&mut connection)?;
        redis::cmd("CONFIG").arg("RESETSTAT").query::<redis::Value>(&mut connection)?;
        Ok(())
    }

    /// What kept Redis since the reset: events of `LATENCY` of 5 ms and more with the longest of each, commands as
    /// slow, how often the AOF waited for the disk, and the time in scripts.
    pub(crate) fn stalls(&self) -> Result<String, Failure> {
        let mut connection = self.connection()?;
        let latest: Vec<(String, u64, u64, u64)> =
            redis::cmd("LATENCY").arg("LATEST").query(&mut connection)?;
        let slow: u64 = redis::cmd("SLOWLOG").arg("LEN").query(&mut connection)?;
        let info: String = redis::cmd("INFO").arg("everything").query(&mut connection)?;
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").to_owned();
        let mut words: Vec<String> =
            latest.iter().map(|(event, _, _, most)| format!("{event} up to {most} ms")).collect();
        words.push(format!("{slow} slow commands"));
        words.push(format!("{} delayed fsyncs", field("aof_delayed_fsync:")));
        let scripts = field("cmdstat_evalsha:calls=");
        let mut scripts = scripts.split([',', '=']);
        let (calls, micros) = (scripts.next().unwrap_or("0"), scripts.nth(1).unwrap_or("0"));
        words.push(format!("{calls} scripts in {} ms", micros.parse::<u64>().unwrap_or(0) / 1_000));
        Ok(words.join(", "))
    }

    pub(crate) fn connection(&self) -> Result<redis::Connection, Failure> {
        Ok(redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))?)
    }

    /// Writes `count` configs, each the only one of its organisation `org_<number>`, to `/e/<number>`.
    pub(crate) fn put_configs(&self, count: u32, receiver_port: u16) -> Result<(), Failure> {
        let mut connection = self.connection()?;
        for start in (0..count).step_by(1_000) {
            let mut pipeline = redis::pipe();
            for number in start..count.min(start + 1_000) {
                let id = config_id(number);
                let config = serde_json::json!({
                    "kind": "config", "id": id, "organisation": organisation(number), "version": 1,
                    "url": format!("http://127.0.0.1:{receiver_port}/e/{number}"), "events": [EVENT],
                    "secret": "whsec_isolation_0123456789abcdef", "active": true, "maxRetries": 3,
                    "headers": {}, "createdAt": 1, "updatedAt": 1,
                });
                pipeline.cmd("HSET").arg(self.control.configs()).arg(id.to_string());
                pipeline.arg(config.to_string()).ignore();
            }
            pipeline.query::<()>(&mut connection)?;
        }
        Ok(())
    }

    /// Queues `count` deliveries for the config, due since a minute ago, as if their retries had come due.
    pub(crate) fn put_backlog(&self, number: u32, count: u64) -> Result<(), Failure> {
        let mut connection = self.connection()?;
        let (seconds, _): (u64, u64) = redis::cmd("TIME").query(&mut connection)?;
        let due = UnixMillis((seconds - 60) * 1_000);
        let config = config_id(number);
        let body = bytes::Bytes::from(vec![b'x'; 420]);
        let mut bytes = 0;
        for start in (0..count).step_by(1_000) {
            let mut pipeline = redis::pipe();
            for sequence in start..count.min(start + 1_000) {
                let event = EventId::new(ShardNumber(0), StreamId { ms: due.0 - 60_000, seq: sequence })?;
                let delivery = Delivery {
                    id: event.delivery(config.sequence()),
                    config,
                    event_type: EVENT.into(),
                    traceparent: None,
                    body: body.clone(),
                    created_at: due,
                    tried: Tried::default(),
                };
                let mut record = DeliveryRecord::of(&delivery, Tried::default(), Standing::Waiting);
                record.next_attempt_at = due;
                let record = record.encode();
                bytes += record.len();
                pipeline.cmd("SET").arg(self.keys.delivery(delivery.id)).arg(record).ignore();
                let queue = self.keys.queue(config);
                pipeline.cmd("ZADD").arg(queue).arg(due.0).arg(delivery.id.to_string()).ignore();
            }
            pipeline.query::<()>(&mut connection)?;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("HINCRBY").arg(self.keys.size(config)).arg("queueBytes").arg(bytes).ignore();
        pipeline.cmd("ZADD").arg(self.keys.due()).arg(due.0).arg(config.to_string()).ignore();
        Ok(pipeline.query::<()>(&mut connection)?)
    }

    /// Deliveries that wait for the config.
    pub(crate) fn backlog_of(&self, number: u32) -> Result<u64, Failure> {
        let queue = self.keys.queue(config_id(number));
        Ok(redis::cmd("ZCARD").arg(queue).query(&mut self.connection()?)?)
    }
}

/// The organisation of config `number`.
pub(crate) fn organisation(number: u32) -> String {
    format!("org_{number}")
}

fn config_id(number: u32) -> ConfigId {
    let random = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    ConfigId::new(random, ConfigSequence(number + 1))
}
