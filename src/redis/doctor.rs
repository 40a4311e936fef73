//! What `postrider doctor` asks of Redis: facts, without judging them. Reads only, and works on a server that is
//! too old for the scripts or that forbids `CONFIG`, as managed ones do.

use std::collections::BTreeMap;
use std::time::Instant;

use redis::{Cmd, Value, cmd};

use super::answer::{int_of, list_of, text_of};
use super::connection::{During, Redis, Result};
use super::deliveries::UNREADABLE_WAIT;
use super::keys::{GROUP, Keys, ShardKeys};
use super::keyspace::all_shards;
use super::stored_config::{Seals, read_seals};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::ids::{ConfigId, StreamId};
use crate::domain::sealing::KeyId;

/// Configuration that `INFO` does not tell.
const CONFIG_NAMES: [&str; 2] = ["appendfsync", "min-replicas-to-write"];

/// Configs of a shard whose queues are looked at.
const CONFIGS_MAX: usize = 1_000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `INFO`, name to value.
    pub info: BTreeMap<String, String>,
    /// `CONFIG GET` of `appendfsync` and `min-replicas-to-write`; `None` where it is forbidden.
    pub config: Option<BTreeMap<String, String>>,
    /// Redis's `TIME`.
    pub redis_now: UnixMillis,
    /// This machine's clock half-way through asking for it.
    pub local_now: UnixMillis,
    /// How long asking took, in milliseconds: the clocks are compared no better than that.
    pub round_trip_ms: u64,
    /// `keyspaceVersion` of `meta`, if there is a keyspace.
    pub keyspace_version: Option<String>,
    /// `shards` of `meta`, if there is a keyspace.
    pub keyspace_shards: Option<u16>,
    /// Every shard.
    pub shards: Vec<ShardFacts>,
    /// How the secrets of configs lie there.
    pub seals: Seals,
    /// The keys that sealed some of them and that this process was not given.
    pub missing_keys: Vec<KeyId>,
}

/// What was found of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardFacts {
    /// The key of its stream.
    pub events: String,
    /// Entries of the stream, also those that are delivered and not yet trimmed.
    pub length: u64,
    /// The oldest entry's id.
    pub oldest: Option<StreamId>,
    /// The greatest id that the stream ever had: the next `*` follows it.
    pub last_generated: Option<StreamId>,
    /// The consumer group; `None` where there is none.
    pub group: Option<GroupFacts>,
    /// Entries that could not be understood and are kept.
    pub rejected: u64,
    /// Config ids with queued deliveries whose record or body cannot be read, and how many those are.
    pub unreadable: Vec<(String, u64)>,
}

/// What was found of a shard's consumer group.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupFacts {
    /// Entries read and not yet acknowledged.
    pub pending: u64,
    /// Entries not yet read; `None` where Redis does not know.
    pub lag: Option<u64>,
    /// Consumers.
    pub consumers: u64,
}

/// Asks for everything. `shards_unless_known` is how many shards to look at where `meta` does not say.
///
/// # Errors
/// When Redis cannot be reached or does not answer as documented.
pub async fn examine(redis: &Redis, shards_unless_known: u16) -> Result<Facts> {
    let mut facts = Facts { info: info(redis).await?, ..Facts::default() };
    facts.config = config(redis).await?;
    clocks(redis, &mut facts).await?;
    // A Redis in cluster mode redirects half of the rest; that it is one is known by now.
    if facts.info.get("cluster_enabled").is_some_and(|on| on == "1") {
        return Ok(facts);
    }
    keyspace(redis, redis.keys(), &mut facts).await?;
    let count = facts.keyspace_shards.unwrap_or(shards_unless_known);
    for keys in all_shards(redis.keys(), count) {
        let mut found = shard(redis, &keys).await?;
        found.unreadable = unreadable(redis, &keys, facts.redis_now).await?;
        facts.shards.push(found);
    }
    facts.seals = read_seals(redis).await?;
    facts.missing_keys = facts.seals.keys.iter().filter(|id| !redis.keyring().has(id)).cloned().collect();
    Ok(facts)
}

/// Sends one command; `Ok(Err(_))` is what the server itself refused.
async fn ask(
    redis: &Redis,
    operation: &'static str,
    command: &Cmd,
) -> Result<std::result::Result<Value, redis::RedisError>> {
    let mut connection = redis.pooled(operation).await?;
    match command.query_async::<Value>(&mut *connection).await {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.code().is_some() => Ok(Err(error)),
        Err(error) => Err(error).during(operation),
    }
}

async fn info(redis: &Redis) -> Result<BTreeMap<String, String>> {
    let operation = "reading INFO";
    let answer = ask(redis, operation, &cmd("INFO")).await?.during(operation)?;
    let text = match answer {
        Value::VerbatimString { text, .. } => text,
        other => text_of(operation, other)?,
    };
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

async fn config(redis: &Redis) -> Result<Option<BTreeMap<String, String>>> {
    let operation = "reading CONFIG";
    let mut found = BTreeMap::new();
    for name in CONFIG_NAMES {
        let Ok(value) = ask(redis, operation, cmd("CONFIG").arg("GET").arg(name)).await? else {
            return Ok(None);
        };
        if let Some(value) = list_of(operation, value)?.into_iter().nth(1) {
            found.insert(name.to_owned(), text_of(operation, value)?);
        }
    }
    Ok(Some(found))
}

async fn clocks(redis: &Redis, facts: &mut Facts) -> Result<()> {
    let operation = "reading TIME";
    // The connection is there by now, so that the round trip holds no greeting.
    let started = Instant::now();
    let before = Clock::default().now();
    let answer = ask(redis, operation, &cmd("TIME")).await?.during(operation)?;
    facts.round_trip_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    facts.local_now = UnixMillis(before.0 + facts.round_trip_ms / 2);
    let mut numbers = list_of(operation, answer)?.into_iter().map(|value| int_of(operation, value));
    let mut next = || numbers.next().unwrap_or(Ok(0)).map(|number| u64::try_from(number).unwrap_or(0));
    facts.redis_now = UnixMillis(next()? * 1_000 + next()? / 1_000);
    Ok(())
}

async fn keyspace(redis: &Redis, keys: &Keys, facts: &mut Facts) -> Result<()> {
    let operation = "reading the keyspace's version";
    let mut command = cmd("HMGET");
    command.arg(keys.meta()).arg("keyspaceVersion").arg("shards");
    let answer = ask(redis, operation, &command).await?.during(operation)?;
    let mut fields = list_of(operation, answer)?.into_iter();
    let mut next = || match fields.next() {
        None | Some(Value::Nil) => Ok(None),
        Some(value) => text_of(operation, value).map(Some),
    };
    facts.keyspace_version = next()?;
    facts.keyspace_shards = next()?.and_then(|text| text.parse().ok());
    Ok(())
}

async fn shard(redis: &Redis, keys: &ShardKeys) -> Result<ShardFacts> {
    let operation = "examining a shard's stream";
    let mut facts = ShardFacts { events: keys.events(), ..ShardFacts::default() };
    let rejected = ask(redis, operation, cmd("XLEN").arg(keys.rejected())).await?.during(operation)?;
    facts.rejected = count(operation, rejected)?;
    let stream = ask(redis, operation, cmd("XINFO").arg("STREAM").arg(keys.events())).await?;
    // Nothing was published yet, and no replica made the stream.
    let Ok(stream) = stream else { return Ok(facts) };
    for (name, value) in named(operation, stream)? {
        match name.as_str() {
            "length" => facts.length = count(operation, value)?,
            "last-generated-id" => facts.last_generated = text_of(operation, value)?.parse().ok(),
            "first-entry" => {
                let id = list_of(operation, value)?.into_iter().next();
                facts.oldest =
                    id.map(|id| text_of(operation, id)).transpose()?.and_then(|id| id.parse().ok());
            }
            _ => {}
        }
    }
    let groups = ask(redis, operation, cmd("XINFO").arg("GROUPS").arg(keys.events())).await?;
    for group in list_of(operation, groups.during(operation)?)? {
        let (is_ours, group) = group_facts(operation, group)?;
        if is_ours {
            facts.group = Some(group);
        }
    }
    Ok(facts)
}

/// Deliveries that wait further ahead than any schedule or claim puts them.
async fn unreadable(redis: &Redis, keys: &ShardKeys, now: UnixMillis) -> Result<Vec<(String, u64)>> {
    let operation = "looking for unreadable deliveries";
    let mut command = cmd("ZRANGE");
    command.arg(keys.due()).arg(0).arg(CONFIGS_MAX - 1);
    let due = list_of(operation, ask(redis, operation, &command).await?.during(operation)?)?;
    let mut found = Vec::new();
    for config in due {
        let Some(config) = text_of(operation, config).ok().and_then(|text| text.parse::<ConfigId>().ok())
        else {
            continue;
        };
        let from = now.plus(UNREADABLE_WAIT / 2).0;
        let mut command = cmd("ZCOUNT");
        command.arg(keys.queue(config)).arg(from).arg("+inf");
        let waiting = count(operation, ask(redis, operation, &command).await?.during(operation)?)?;
        if waiting > 0 {
            found.push((config.to_string(), waiting));
        }
    }
    Ok(found)
}

fn group_facts(operation: &'static str, group: Value) -> Result<(bool, GroupFacts)> {
    let mut facts = GroupFacts::default();
    let mut is_ours = false;
    for (name, value) in named(operation, group)? {
        match name.as_str() {
            "name" => is_ours = text_of(operation, value)? == GROUP,
            "pending" => facts.pending = count(operation, value)?,
            "consumers" => facts.consumers = count(operation, value)?,
            "lag" if value != Value::Nil => facts.lag = Some(count(operation, value)?),
            _ => {}
        }
    }
    Ok((is_ours, facts))
}

fn named(operation: &'static str, value: Value) -> Result<Vec<(String, Value)>> {
    let mut flat = list_of(operation, value)?.into_iter();
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((text_of(operation, name)?, value));
    }
    Ok(pairs)
}

fn count(operation: &'static str, value: Value) -> Result<u64> {
    int_of(operation, value).map(|number| u64::try_from(number).unwrap_or(0))
}
