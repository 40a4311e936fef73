//! Publishing for callers that do not `XADD` themselves: the publish endpoint and the command line
//! (docs/WIRE.md section 9). One script per request; nonces are deduplicated for a day.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{During, Redis, RedisError, Result};
use super::keys::ShardKeys;
use super::scripts;
use crate::domain::event::{EventFields, JsonScratch, Rejection};
use crate::domain::event_mistakes::every_mistake;
use crate::domain::ids::{EventId, OrganisationId, StreamId};

/// How long a nonce is remembered.
const NONCE_AGE: Duration = Duration::from_secs(86_400);
/// Longest wait for replicas of Redis to acknowledge (`WAIT`).
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// Publishing stops when Redis uses this share of `maxmemory`, so that delivering has the rest; intake then reads
/// a little at a time.
pub const MEMORY_SHARE_MAX: f64 = 0.85;
/// How long an answer of `INFO memory` is used.
const MEMORY_AGE: Duration = Duration::from_secs(1);

/// An event that was checked as intake will check it, as the fields of a stream entry.
#[derive(Clone, Debug)]
pub struct Item {
    nonce: Option<String>,
    fields: Vec<(&'static str, Vec<u8>)>,
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream entry; for a known nonce the one that it was published under first.
    pub id: EventId,
    /// The producer's nonce, or the one that deliveries of this event carry.
    pub nonce: String,
    /// Whether the nonce was known and nothing was appended.
    pub duplicate: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// One per item, in order.
    pub events: Vec<Published>,
    /// How many replicas of Redis acknowledged the write, where that was asked for.
    pub acknowledged: Option<u32>,
}

/// Remembers for a second how full Redis is.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    seen: Mutex<Option<(Instant, bool)>>,
}

// === impl Item ===

impl Item {
    /// Checks an event's fields, the organisation's among them.
    ///
    /// # Errors
    /// Every field that intake would reject.
    pub fn new(
        organisation: &OrganisationId,
        mut fields: EventFields,
        scratch: &mut JsonScratch,
    ) -> std::result::Result<Self, Vec<Rejection>> {
        fields.organisation_id = Some(organisation.as_str().as_bytes().to_vec());
        // The id is only needed to check; the real one is made by Redis.
        let id = EventId::new(crate::domain::ids::ShardNumber(0), StreamId::default())
            .map_err(|error| vec![Rejection { field: "id", problem: error.to_string() }])?;
        let named = fields.clone().into_named();
        let nonce = fields.nonce.clone();
        fields.check(id, scratch).map_err(|_| {
            let mut again = EventFields::default();
            named.iter().for_each(|(name, value)| again.set(name.as_bytes(), value.clone()));
            every_mistake(&again)
        })?;
        let nonce = nonce.and_then(|nonce| String::from_utf8(nonce).ok());
        Ok(Self { nonce, fields: named })
    }
}

/// The shard that an organisation's events are published to: FNV-1a (32 bits) of the id's bytes, modulo the
/// number of shards. Any shard may be chosen; the same one each time makes nonces of one organisation meet.
/// While the number of shards is being raised, a nonce may be taken twice.
///
/// # Errors
/// When there are no shards.
pub fn shard_for<'a>(organisation: &OrganisationId, shards: &'a [ShardKeys]) -> Result<&'a ShardKeys> {
    let hash = organisation
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let place = hash as usize % shards.len().max(1);
    shards.get(place).ok_or_else(|| RedisError::answer("choosing a shard", "there are no shards"))
}

/// Appends events of one organisation: all or none. `wait` asks that many replicas of Redis to acknowledge,
/// within a second; how many did is in the receipt, and the events are appended either way.
///
/// # Errors
/// Redis's `OOM` when it is full: nothing was appended. After an error of the connection the events may have
/// been appended; repeating is safe for those with a nonce.
pub async fn publish(
    redis: &Redis,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    items: &[Item],
    wait: Option<u32>,
) -> Result<Receipt> {
    let operation = "publishing events";
    let shard = shard_for(organisation, shards)?;
    let mut keys = Vec::new();
    let mut args = Vec::new();
    for item in items {
        let position = match &item.nonce {
            Some(nonce) => {
                keys.push(shard.nonce(organisation, nonce));
                keys.len() + 1
            }
            None => 0,
        };
        args.push(position.to_string().into_bytes());
        args.push((item.fields.len() * 2).to_string().into_bytes());
        for (name, value) in &item.fields {
            args.push(name.as_bytes().to_vec());
            args.push(value.clone());
        }
    }
    let age = NONCE_AGE.as_secs().to_string();
    let command = scripts::PUBLISH.call_batch([&shard.events()], &keys, [age.as_bytes()], &args);
    // WAIT speaks of the writes of its own connection.
    let mut connection = redis.pooled(operation).await?;
    let answer: Vec<(String, u8)> = scripts::run(&mut connection, operation, &command).await?;
    let events = receipts(operation, shard, items, answer)?;
    let acknowledged = match wait {
        Some(count) => {
            let mut command = redis::cmd("WAIT");
            command.arg(count).arg(WAIT_LIMIT.as_millis() as u64);
            Some(command.query_async(&mut *connection).await.during("waiting for replicas of redis")?)
        }
        None => None,
    };
    Ok(Receipt { events, acknowledged })
}

fn receipts(
    operation: &'static str,
    shard: &ShardKeys,
    items: &[Item],
    answer: Vec<(String, u8)>,
) -> Result<Vec<Published>> {
    if answer.len() != items.len() {
        return Err(RedisError::answer(
            operation,
            format!("{} ids for {} events", answer.len(), items.len()),
        ));
    }
    let wrong = |error: crate::domain::ids::InvalidId| RedisError::answer(operation, error.to_string());
    answer
        .into_iter()
        .zip(items)
        .map(|((id, appended), item)| {
            let id = EventId::new(shard.shard, id.parse().map_err(wrong)?).map_err(wrong)?;
            let nonce = item.nonce.clone().unwrap_or_else(|| id.derived_nonce());
            Ok(Published { id, nonce, duplicate: appended == 0 })
        })
        .collect()
}

// === impl MemoryWatch ===

impl MemoryWatch {
    /// Whether Redis is so full that publishing must wait; false where it has no `maxmemory`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn is_full(&self, redis: &Redis) -> Result<bool> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, full)) = seen
            && at.elapsed() < MEMORY_AGE
        {
            return Ok(full);
        }
        let operation = "reading redis's memory";
        let mut connection = redis.pooled(operation).await?;
        let info: String =
            redis::cmd("INFO").arg("memory").query_async(&mut *connection).await.during(operation)?;
        let full = memory_share(&info).is_some_and(|share| share >= MEMORY_SHARE_MAX);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), full));
        Ok(full)
    }
}

/// `used_memory` over `maxmemory`; `None` without a limit.
pub(super) fn memory_share(info: &str) -> Option<f64> {
    let number = |name: &str| -> Option<f64> {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
    };
    let limit = number("maxmemory").filter(|limit| *limit > 0.0)?;
    Some(number("used_memory")? / limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ShardNumber;
    use crate::redis::keys::Keys;

    #[test]
    fn organisations_spread_over_shards_and_stay() {
        let keys = Keys::new("n").unwrap();
        let shards: Vec<ShardKeys> = (0..4).map(|n| keys.shard(ShardNumber(n))).collect();
        let of = |name: &str| shard_for(&OrganisationId::new(name).unwrap(), &shards).unwrap().shard.0;
        let mut counts = [0; 4];
        (0..1_000).for_each(|n| counts[usize::from(of(&format!("org_{n}")))] += 1);
        assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
        // FNV-1a of "a" is 0xe40c292c, the value of its authors' test suite.
        assert_eq!(of("a"), 0xe40c_292c_u32 as u16 % 4);
        assert!(shard_for(&OrganisationId::new("a").unwrap(), &[]).is_err());
    }

    #[test]
    fn memory_is_a_share_only_where_there_is_a_limit() {
        let info = "# Memory\r\nused_memory:850\r\nused_memory_peak:900\r\nmaxmemory:1000\r\n";
        assert_eq!(memory_share(info), Some(0.85));
        assert_eq!(memory_share("used_memory:850\r\nmaxmemory:0\r\n"), None);
        assert_eq!(memory_share(""), None);
    }
}
