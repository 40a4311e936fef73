//! The follower: keeps a [`Directory`] current.
//!
//! Owns: one connection that reads whole hashes at first and then blocks on `changes`. A full read follows
//! every reconnect, every gap in `changes`, and a minute without either: the stream is for speed, the full read
//! for truth. Never ends before shutdown.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{FromRedisValue, Value};
use tokio::sync::watch;

use super::connection::{During, Redis, RedisError, Result};
use super::directory::{Directory, HealthSet};
use super::health;
use super::keys::Keys;
use super::stored_config;
use crate::domain::config::StoredConfig;
use crate::domain::ids::{ConfigId, StreamId};
use crate::domain::token::{Token, TokenHash};

/// Hash fields asked for in one step of a full read.
const SCAN_COUNT: usize = 1_000;
/// Entries of `changes` taken at once.
const CHANGES_COUNT: usize = 1_000;
/// First and longest pause after an error; doubled each time, with up to half of it added at random.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Fields of a hash with their values, as `HSCAN` answers them.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// How often the follower looks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest wait for an entry of `changes`; readiness hears of Redis as often.
    pub block: Duration,
    /// How often a silent stream is checked for having been replaced by an older one.
    pub position_check: Duration,
    /// Time between full reads that nothing asked for.
    pub full_check: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            block: Duration::from_millis(1_500),
            position_check: Duration::from_secs(10),
            full_check: Duration::from_secs(60),
        }
    }
}

/// What entries of `changes` announced.
#[derive(Default)]
struct News {
    configs: HashSet<ConfigId>,
    health: HashSet<ConfigId>,
    tokens: HashSet<TokenHash>,
}

/// What one look at `changes` found.
enum Look {
    /// What came was applied.
    Followed,
    /// Nothing came.
    Silence,
    /// Entries may have been missed.
    Gap,
}

impl Directory {
    /// Follows configs and tokens until `shutdown` is true or its sender is gone.
    pub async fn follow(&self, redis: &Redis, shutdown: watch::Receiver<bool>) {
        self.follow_at(Pace::default(), redis, shutdown).await;
    }

    /// [`Self::follow`] at another pace.
    pub async fn follow_at(&self, pace: Pace, redis: &Redis, mut shutdown: watch::Receiver<bool>) {
        let run = async {
            let mut backoff = BACKOFF_MIN;
            loop {
                let reads = self.full_reads();
                let error = match self.follow_connection(pace, redis).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                tracing::warn!(%error, "following configs failed; reconnecting");
                backoff = if self.full_reads() > reads { BACKOFF_MIN } else { backoff };
                tokio::time::sleep(backoff.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        };
        tokio::select! {
            () = run => {}
            // An error means that the sender is gone, which ends the process's parts as `true` does.
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Reads everything once, without following.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn read_once(&self, redis: &Redis) -> Result<()> {
        let mut connection = redis.connect(Some(redis.response_timeout())).await?;
        self.read_all(&mut connection, redis).await.map(drop)
    }

    async fn follow_connection(&self, pace: Pace, redis: &Redis) -> Result<std::convert::Infallible> {
        let mut connection = redis.connect(Some(pace.block + redis.response_timeout())).await?;
        let mut position = self.read_all(&mut connection, redis).await?;
        let (mut read_at, mut position_at) = (Instant::now(), Instant::now());
        loop {
            let mut look = self.look(pace, &mut connection, redis, &mut position).await?;
            self.saw_redis();
            // Silence is also what a stream gives that was deleted and begun again at lower ids.
            if matches!(look, Look::Silence) && position_at.elapsed() >= pace.position_check {
                position_at = Instant::now();
                if last_change(&mut connection, redis.keys()).await? < position {
                    look = Look::Gap;
                }
            }
            if matches!(look, Look::Gap) || read_at.elapsed() >= pace.full_check {
                position = self.read_all(&mut connection, redis).await?;
                (read_at, position_at) = (Instant::now(), Instant::now());
            }
        }
    }

    /// Reads both hashes whole. The stream's last id is read first: a change that comes during the read is
    /// then read twice rather than never.
    async fn read_all(&self, connection: &mut MultiplexedConnection, redis: &Redis) -> Result<StreamId> {
        let keys = redis.keys();
        let position = last_change(connection, keys).await?;
        let mut met = BTreeSet::new();
        let mut configs = HashMap::new();
        scan(connection, "reading configs", &keys.configs(), |field, raw| {
            let raw = stored_config::open(redis.keyring(), raw);
            let stored = self.parse::<StoredConfig>("configs", field, &raw);
            match stored.filter(|stored| stored.id().to_string() == field) {
                Some(stored) => drop(configs.insert(stored.id(), Arc::new(stored))),
                None => drop(met.insert(field.to_owned())),
            }
        })
        .await?;
        let mut tokens = HashMap::new();
        scan(connection, "reading tokens", &keys.tokens(), |field, raw| {
            match self.parse::<Token>("tokens", field, raw) {
                Some(token) => drop(tokens.insert(TokenHash::stored(field), Arc::new(token))),
                None => drop(met.insert(field.to_owned())),
            }
        })
        .await?;
        let mut known = HealthSet::new();
        scan(connection, "reading health", &keys.health(), |field, raw| {
            if let Ok(id) = field.parse::<ConfigId>() {
                known.extend(health::parse(id, raw).map(|health| (id, Arc::new(health))));
            }
        })
        .await?;
        self.retain_unreadable(|field| met.contains(field));
        self.take_all_health(known);
        self.take_all(configs, tokens, position);
        self.saw_redis();
        Ok(position)
    }

    /// Waits for entries of `changes` and applies them.
    async fn look(
        &self,
        pace: Pace,
        connection: &mut MultiplexedConnection,
        redis: &Redis,
        position: &mut StreamId,
    ) -> Result<Look> {
        let keys = redis.keys();
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(CHANGES_COUNT).arg("BLOCK").arg(pace.block.as_millis() as u64);
        read.arg("STREAMS").arg(keys.changes()).arg(position.to_string());
        let operation = "following changes";
        let reply: Option<StreamReadReply> = read.query_async(connection).await.during(operation)?;
        let entries = reply.and_then(|reply| reply.keys.into_iter().next()).map(|key| key.ids);
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else {
            return Ok(Look::Silence);
        };
        let mut last = *position;
        let mut news = News::default();
        for entry in &entries {
            last = stream_id(operation, &entry.id)?;
            let id = entry.get::<String>("id").unwrap_or_default();
            match entry.get::<String>("kind").as_deref() {
                Some("config") => news.configs.extend(id.parse::<ConfigId>()),
                Some("health") => news.health.extend(id.parse::<ConfigId>()),
                Some("token") => drop(news.tokens.insert(TokenHash::stored(&id))),
                // Kinds that other versions announce concern other rooms.
                _ => {}
            }
        }
        let look = self.apply(connection, redis, *position, last, news).await?;
        *position = last;
        Ok(look)
    }

    /// Reads what was announced, and in the same pipeline the stream's first id: where it lies at or before
    /// `from`, nothing between `from` and what was just read can have been trimmed.
    async fn apply(
        &self,
        connection: &mut MultiplexedConnection,
        redis: &Redis,
        from: StreamId,
        last: StreamId,
        news: News,
    ) -> Result<Look> {
        let operation = "reading what changed";
        let keys = redis.keys();
        let News { configs, mut health, tokens } = news;
        // A config that is written is healthy anew.
        health.extend(&configs);
        let mut pipeline = redis::pipe();
        pipeline.cmd("XRANGE").arg(keys.changes()).arg("-").arg("+").arg("COUNT").arg(1);
        for id in &configs {
            pipeline.cmd("HGET").arg(keys.configs()).arg(id.to_string());
        }
        for hash in &tokens {
            pipeline.cmd("HGET").arg(keys.tokens()).arg(hash.as_str());
        }
        for id in &health {
            pipeline.cmd("HGET").arg(keys.health()).arg(id.to_string());
        }
        let answers: Vec<Value> = pipeline.query_async(connection).await.during(operation)?;
        let mut answers = answers.into_iter();
        let first = StreamRangeReply::from_redis_value(answers.next().unwrap_or(Value::Nil))
            .map_err(|error| RedisError::answer(operation, error.to_string()))?;
        let first = first.ids.first().map(|entry| stream_id(operation, &entry.id)).transpose()?;
        if first.is_none_or(|first| first > from) {
            return Ok(Look::Gap);
        }
        let configs = self.changed(redis, configs, &mut answers, "configs", ConfigId::to_string)?;
        let tokens = self.changed(redis, tokens, &mut answers, "tokens", |hash| hash.as_str().to_owned())?;
        let health = health
            .into_iter()
            .map(|id| {
                let raw = Option::<Vec<u8>>::from_redis_value(answers.next().unwrap_or(Value::Nil))
                    .map_err(|error| RedisError::answer(operation, error.to_string()))?;
                Ok((id, health::parse(id, &raw.unwrap_or_default())))
            })
            .collect::<Result<Vec<_>>>()?;
        self.take_health(health);
        let under_its_id =
            |(id, stored): (ConfigId, Option<StoredConfig>)| (id, stored.filter(|stored| stored.id() == id));
        self.take_changes(configs.into_iter().map(under_its_id).collect(), tokens, last);
        Ok(Look::Followed)
    }

    fn changed<K: Hash + Eq, T: serde::de::DeserializeOwned>(
        &self,
        redis: &Redis,
        ids: HashSet<K>,
        answers: &mut impl Iterator<Item = Value>,
        noun: &'static str,
        field: impl Fn(&K) -> String,
    ) -> Result<Vec<(K, Option<T>)>> {
        ids.into_iter()
            .map(|id| {
                let raw = Option::<Vec<u8>>::from_redis_value(answers.next().unwrap_or(Value::Nil))
                    .map_err(|error| RedisError::answer("reading a changed value", error.to_string()))?;
                let parsed = raw.and_then(|raw| {
                    self.parse(noun, &field(&id), &stored_config::open(redis.keyring(), &raw))
                });
                Ok((id, parsed))
            })
            .collect()
    }
}

/// The id of the last entry of `changes`; 0-0 when there is none.
pub(super) async fn last_change(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<StreamId> {
    let operation = "reading the last change";
    let mut command = redis::cmd("XREVRANGE");
    command.arg(keys.changes()).arg("+").arg("-").arg("COUNT").arg(1);
    let reply: StreamRangeReply = command.query_async(connection).await.during(operation)?;
    reply.ids.first().map_or_else(|| Ok(StreamId::default()), |entry| stream_id(operation, &entry.id))
}

fn stream_id(operation: &'static str, text: &str) -> Result<StreamId> {
    text.parse().map_err(|error| RedisError::answer(operation, format!("'{text}': {error}")))
}

/// Gives every field and value of a hash to `take`, some of them perhaps twice (`HSCAN`).
pub(super) async fn scan(
    connection: &mut MultiplexedConnection,
    operation: &'static str,
    key: &str,
    mut take: impl FnMut(&str, &[u8]),
) -> Result<()> {
    let mut cursor = 0_u64;
    loop {
        let mut command = redis::cmd("HSCAN");
        command.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, fields): (u64, Fields) = command.query_async(connection).await.during(operation)?;
        for (field, raw) in &fields {
            take(&String::from_utf8_lossy(field), raw);
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
        // A page of a thousand values takes milliseconds to parse; others share this thread.
        tokio::task::yield_now().await;
    }
}
