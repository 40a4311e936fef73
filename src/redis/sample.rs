//! What a live keyspace weighs and how fast it moves: a bounded look, for `postrider capacity --sample`.
//!
//! Reads only. The keys that exist once are asked for by name; of the others a bounded number is found by `SCAN` and
//! weighed by `MEMORY USAGE`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value, cmd};

use super::answer::{fields_of, list_of, text_of};
use super::connection::{During, Redis, Result};
use super::keys::{Keys, ShardKeys};
use crate::domain::ids::ConfigId;

/// Keys asked for in one step of the scan.
const SCAN_COUNT: usize = 1_000;
/// Steps of the scan: with the above, keys that are looked at in a Redis of any size.
const SCANS_MAX: usize = 200;
/// Keys of one kind that are weighed.
const WEIGHED_MAX: u64 = 200;
/// Elements of one key that are weighed.
const SAMPLES: usize = 50;
/// Entries of each shard whose `data` is measured.
const ENTRIES: usize = 100;

/// Keys of one kind, as far as they were weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// Keys.
    pub keys: u64,
    /// What they hold: entries, deliveries, rows, configs; a payload page's bytes as the config counts them.
    pub elements: u64,
    /// What Redis needs for them.
    pub bytes: u64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// By kind, the word behind the hash tag: `events`, `queue`, `delivery`, `log`...
    pub weights: BTreeMap<&'static str, Weight>,
    /// Keys that the scan went past; `whole` when it reached the end.
    pub scanned: u64,
    /// Whether every key was looked at.
    pub whole: bool,
    /// Mean length of `data` of the newest events; `None` where there are none.
    pub data_bytes: Option<f64>,
    /// How long the rates below were watched.
    pub watched: Duration,
    /// Events a second.
    pub events: f64,
    /// Commands a second.
    pub commands: f64,
    /// Bytes a second into and out of Redis.
    pub network: (f64, f64),
    /// Share of one core that Redis used.
    pub redis_core_share: f64,
    /// Bytes a second that the AOF grew; 0 when it was written anew meanwhile.
    pub aof_growth: f64,
    /// Bytes that Redis uses and may use.
    pub memory: (u64, u64),
}

/// Kinds of keys of which there are many; of `size` nothing but the weight.
const KINDS: [&str; 8] = ["queue", "delivery", "body", "log", "bodies", "size", "failed", "nonce"];

/// Looks at the keyspace and watches it for `watch`.
///
/// # Errors
/// Redis's.
pub async fn take(redis: &Redis, shards: &[ShardKeys], watch: Duration) -> Result<Sample> {
    let mut sample = Sample::default();
    let before = Counters::read(redis, shards).await?;
    let started = tokio::time::Instant::now();
    single_keys(redis, shards, &mut sample).await?;
    scan(redis, shards, &mut sample).await?;
    sample.data_bytes = mean_data(redis, shards).await?;
    tokio::time::sleep_until(started + watch).await;
    let after = Counters::read(redis, shards).await?;
    sample.watched = started.elapsed();
    let seconds = sample.watched.as_secs_f64().max(f64::MIN_POSITIVE);
    let rate = |count: fn(&Counters) -> f64| (count(&after) - count(&before)).max(0.0) / seconds;
    sample.events = rate(|counters| counters.events);
    sample.commands = rate(|counters| counters.info("total_commands_processed"));
    sample.network = (
        rate(|counters| counters.info("total_net_input_bytes")),
        rate(|counters| counters.info("total_net_output_bytes")),
    );
    sample.redis_core_share = rate(|counters| counters.info("used_cpu_sys") + counters.info("used_cpu_user"));
    sample.aof_growth = rate(|counters| counters.info("aof_current_size"));
    let whole = |name| after.info(name) as u64;
    sample.memory = (whole("used_memory"), whole("maxmemory"));
    Ok(sample)
}

async fn ask<T: FromRedisValue>(redis: &Redis, command: &Cmd) -> Result<T> {
    let operation = "sampling the keyspace";
    let mut connection = redis.pooled(operation).await?;
    command.query_async(&mut *connection).await.during(operation)
}

/// What Redis needs for a key, from `samples` of its elements (0: all); 0 where it is gone.
async fn weigh(redis: &Redis, key: &str, samples: usize) -> Result<u64> {
    let mut command = cmd("MEMORY");
    command.arg("USAGE").arg(key).arg("SAMPLES").arg(samples);
    Ok(ask::<Option<u64>>(redis, &command).await?.unwrap_or(0))
}

async fn count(redis: &Redis, command: &str, key: &str) -> Result<u64> {
    let command = match command {
        "hash" => cmd("HLEN"),
        "zset" => cmd("ZCARD"),
        _ => cmd("XLEN"),
    };
    ask(redis, command.clone().arg(key)).await
}

async fn single_keys(redis: &Redis, shards: &[ShardKeys], sample: &mut Sample) -> Result<()> {
    let keys: &Keys = redis.keys();
    let mut single = vec![
        ("configs", "hash", keys.configs()),
        ("tokens", "hash", keys.tokens()),
        ("health", "hash", keys.health()),
        ("changes", "stream", keys.changes()),
    ];
    for shard in shards {
        single.push(("events", "stream", shard.events()));
        single.push(("rejected", "stream", shard.rejected()));
    }
    for (kind, form, key) in single {
        let (elements, bytes) = (count(redis, form, &key).await?, weigh(redis, &key, SAMPLES).await?);
        sample.add(kind, elements, bytes);
    }
    Ok(())
}

async fn scan(redis: &Redis, shards: &[ShardKeys], sample: &mut Sample) -> Result<()> {
    let operation = "sampling the keyspace";
    let pattern = redis.keys().pattern();
    let mut cursor = "0".to_owned();
    for _ in 0..SCANS_MAX {
        let mut command = cmd("SCAN");
        command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
        let answer: Value = ask(redis, &command).await?;
        let mut parts = list_of(operation, answer)?.into_iter();
        cursor = parts.next().map_or(Ok("0".to_owned()), |next| text_of(operation, next))?;
        let found = parts.next().map_or(Ok(Vec::new()), |keys| list_of(operation, keys))?;
        sample.scanned += found.len() as u64;
        for key in found {
            if let Ok(key) = text_of(operation, key) {
                look(redis, shards, &key, sample).await?;
            }
        }
        if cursor == "0" {
            sample.whole = true;
            return Ok(());
        }
    }
    Ok(())
}

/// Weighs a key of a kind of which not enough were weighed.
async fn look(redis: &Redis, shards: &[ShardKeys], key: &str, sample: &mut Sample) -> Result<()> {
    let Some((_, rest)) = key.split_once("}:") else { return Ok(()) };
    let Some((name, id)) = rest.split_once(':') else { return Ok(()) };
    let Some(kind) = KINDS.iter().find(|kind| **kind == name) else { return Ok(()) };
    if sample.weights.get(kind).is_some_and(|weight| weight.keys >= WEIGHED_MAX) {
        return Ok(());
    }
    let elements = match *kind {
        "queue" | "failed" => count(redis, "zset", key).await?,
        "log" | "bodies" => {
            let Ok(config) = id.parse::<ConfigId>() else { return Ok(()) };
            let is_of =
                |shard: &&ShardKeys| [shard.log(config), shard.bodies(config)].iter().any(|own| own == key);
            let Some(shard) = shards.iter().find(is_of) else { return Ok(()) };
            let field = if *kind == "log" { "logRows" } else { "bodyBytes" };
            let told = ask::<Option<u64>>(redis, cmd("HGET").arg(shard.size(config)).arg(field)).await?;
            // Rows are told to `size` in batches; before the first there is nothing to compare with.
            match told.filter(|told| *told > 0) {
                Some(told) => told,
                None => return Ok(()),
            }
        }
        _ => 1,
    };
    // The first pages of a log are smaller than those of a busy hour; all of them are a few MiB.
    let samples = if matches!(*kind, "log" | "bodies") { 0 } else { SAMPLES };
    let bytes = weigh(redis, key, samples).await?;
    if bytes > 0 {
        sample.add(kind, elements, bytes);
    }
    Ok(())
}

async fn mean_data(redis: &Redis, shards: &[ShardKeys]) -> Result<Option<f64>> {
    let operation = "sampling the keyspace";
    let (mut events, mut bytes) = (0_usize, 0_usize);
    for shard in shards {
        let mut command = cmd("XREVRANGE");
        command.arg(shard.events()).arg("+").arg("-").arg("COUNT").arg(ENTRIES);
        for entry in list_of(operation, ask(redis, &command).await?)? {
            let fields = list_of(operation, entry)?.into_iter().nth(1).unwrap_or(Value::Nil);
            let data = fields_of(operation, fields)?.into_iter().find(|(name, _)| name == b"data");
            bytes += data.map_or(0, |(_, data)| data.len());
            events += 1;
        }
    }
    Ok((events > 0).then(|| bytes as f64 / events as f64))
}

/// Counters that only rise.
struct Counters {
    info: HashMap<String, f64>,
    events: f64,
}

// === impl Sample ===

impl Sample {
    fn add(&mut self, kind: &'static str, elements: u64, bytes: u64) {
        let weight = self.weights.entry(kind).or_default();
        weight.keys += 1;
        weight.elements += elements;
        weight.bytes += bytes;
    }

    /// Redis bytes of one element of `kind`; `None` where fewer than `at_least` were weighed.
    #[must_use]
    pub fn each(&self, kind: &str, at_least: u64) -> Option<f64> {
        let weight = self.weights.get(kind).filter(|weight| weight.elements >= at_least.max(1))?;
        Some(weight.bytes as f64 / weight.elements as f64)
    }
}

// === impl Counters ===

impl Counters {
    async fn read(redis: &Redis, shards: &[ShardKeys]) -> Result<Self> {
        let operation = "sampling the keyspace";
        let text: String = ask(redis, &cmd("INFO")).await?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let info = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)));
        let mut counters = Self { info: info.collect(), events: 0.0 };
        for shard in shards {
            // A shard that nobody wrote to has no stream.
            let Ok(answer) = ask::<Value>(redis, cmd("XINFO").arg("STREAM").arg(shard.events())).await else {
                continue;
            };
            let mut flat = list_of(operation, answer)?.into_iter();
            while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
                if let Value::Int(added) = value
                    && text_of(operation, name)? == "entries-added"
                {
                    counters.events += added as f64;
                }
            }
        }
        Ok(counters)
    }

    fn info(&self, name: &str) -> f64 {
        self.info.get(name).copied().unwrap_or(0.0)
    }
}
