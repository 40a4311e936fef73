//! Every key of the keyspace is one function; beside each stands its type (docs/REDIS.md, "Keys").

use crate::domain::ids::{ConfigId, DeliveryId, OrganisationId, ShardNumber, StreamId};
use crate::domain::job::JobId;
use crate::settings::redis::is_namespace;

/// Most shards of a keyspace.
pub const SHARDS_MAX: u16 = crate::settings::redis::SHARDS_MAX;

/// The name of the consumer group on every `events` stream.
pub const GROUP: &str = "dispatchers";

/// The namespace of a keyspace: makes the control keys, and each shard's [`ShardKeys`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    namespace: String,
}

/// The keys of one shard: all share its hash tag, so one step of work is one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardKeys {
    /// `postrider:{S}:`
    prefix: String,
    /// The shard's number.
    pub shard: ShardNumber,
}

// === impl Keys ===

impl Keys {
    /// The keyspace under `namespace`: 1 to 64 of `[A-Za-z0-9_.-]`; `None` otherwise.
    #[must_use]
    pub fn new(namespace: &str) -> Option<Self> {
        is_namespace(namespace).then(|| Self { namespace: namespace.to_owned() })
    }

    /// The keys of `shard`.
    #[must_use]
    pub fn shard(&self, shard: ShardNumber) -> ShardKeys {
        ShardKeys { prefix: format!("{}:{{{}}}:", self.namespace, shard_tag(shard)), shard }
    }

    /// hash: config id -> JSON ([`crate::domain::config::StoredConfig`])
    #[must_use]
    pub fn configs(&self) -> String {
        self.control("configs")
    }

    /// capped stream: which config or token changed
    #[must_use]
    pub fn changes(&self) -> String {
        self.control("changes")
    }

    /// hash: SHA-256(token) -> JSON ([`crate::domain::token::Token`])
    #[must_use]
    pub fn tokens(&self) -> String {
        self.control("tokens")
    }

    /// capped stream: who changed what of an organisation's
    #[must_use]
    pub fn audit(&self, organisation: &OrganisationId) -> String {
        format!("{}:{organisation}", self.control("audit"))
    }

    /// string: the bytes of that stream's entries
    #[must_use]
    pub fn audit_bytes(&self, organisation: &OrganisationId) -> String {
        format!("{}:{organisation}", self.control("audit_bytes"))
    }

    /// hash: config id -> JSON ([`crate::domain::breaker::Health`])
    #[must_use]
    pub fn health(&self) -> String {
        self.control("health")
    }

    /// hash: keyspaceVersion, shards, configSequence
    #[must_use]
    pub fn meta(&self) -> String {
        self.control("meta")
    }

    /// hash: job id -> JSON ([`crate::domain::job::Job`]), and under `running` the id of the one that runs
    #[must_use]
    pub fn jobs(&self, config: ConfigId) -> String {
        self.control(&format!("jobs:{config}"))
    }

    /// zset, score = lease end in ms: `<config>/<job>` of every job that runs
    #[must_use]
    pub fn running(&self) -> String {
        self.control("running")
    }

    /// string with expiry: a nonce that the receiver of this namespace has processed
    #[must_use]
    pub fn received(&self, nonce: &str) -> String {
        format!("{}:received:{nonce}", self.namespace)
    }

    fn control(&self, name: &str) -> String {
        format!("{}:{{control}}:{name}", self.namespace)
    }
}

// === impl ShardKeys ===

impl ShardKeys {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// stream with the group [`GROUP`]: what producers `XADD`
    #[must_use]
    pub fn events(&self) -> String {
        self.key("events")
    }

    /// string: greatest stream id at or below which everything has a durable fate
    #[must_use]
    pub fn floor(&self) -> String {
        self.key("floor")
    }

    /// zset, score = lease end in ms: live consumers
    #[must_use]
    pub fn replicas(&self) -> String {
        self.key("replicas")
    }

    /// zset, score = when due in ms: that config's parked and retrying deliveries
    #[must_use]
    pub fn queue(&self, config: ConfigId) -> String {
        format!("{}queue:{config}", self.prefix)
    }

    /// zset, score = when to look next in ms: configs whose queue is not empty
    #[must_use]
    pub fn due(&self) -> String {
        self.key("due")
    }

    /// string: a packed [`crate::domain::delivery::DeliveryRecord`]
    #[must_use]
    pub fn delivery(&self, id: DeliveryId) -> String {
        format!("{}delivery:{id}", self.prefix)
    }

    /// string: u32 count, then a body over 4 KiB
    #[must_use]
    pub fn body(&self, id: StreamId) -> String {
        format!("{}body:{id}", self.prefix)
    }

    /// capped stream of log pages
    #[must_use]
    pub fn log(&self, config: ConfigId) -> String {
        format!("{}log:{config}", self.prefix)
    }

    /// capped stream of payload pages
    #[must_use]
    pub fn bodies(&self, config: ConfigId) -> String {
        format!("{}bodies:{config}", self.prefix)
    }

    /// hash: logRows, logBytes, bodyBytes, queueBytes, failedBytes
    #[must_use]
    pub fn size(&self, config: ConfigId) -> String {
        format!("{}size:{config}", self.prefix)
    }

    /// hash with expiry: what the config's deliveries came to in that hour since the epoch
    #[must_use]
    pub fn stats(&self, config: ConfigId, hour: u64) -> String {
        format!("{}stats:{config}:{hour}", self.prefix)
    }

    /// hash with expiry: the same of ten minutes of it, 0 to 5
    #[must_use]
    pub fn recent_stats(&self, config: ConfigId, hour: u64, ten_minutes: u64) -> String {
        format!("{}stats:{config}:{hour}:{ten_minutes}", self.prefix)
    }

    /// zset, score = failed at in ms: failed deliveries that can be retried by hand
    #[must_use]
    pub fn failed(&self, config: ConfigId) -> String {
        format!("{}failed:{config}", self.prefix)
    }

    /// capped stream: entries that could not be understood, with the reason
    #[must_use]
    pub fn rejected(&self) -> String {
        self.key("rejected")
    }

    /// hashes with expiry: what every key of a config's statistics begins with, before the config's id
    #[must_use]
    pub fn all_stats(&self) -> String {
        self.key("stats:")
    }

    /// string: stream id from which on `events` holds everything that came
    #[must_use]
    pub fn retained(&self) -> String {
        self.key("retained")
    }

    /// hash with expiry: how far a job is on this shard
    #[must_use]
    pub fn job(&self, id: JobId) -> String {
        format!("{}job:{id}", self.prefix)
    }

    /// string: the bytes of the names and values in [`Self::rejected`]
    #[must_use]
    pub fn rejected_bytes(&self) -> String {
        self.key("rejected_bytes")
    }

    /// string with expiry: the stream id that a nonce was published under
    #[must_use]
    pub fn nonce(&self, organisation: &OrganisationId, nonce: &str) -> String {
        format!("{}nonce:{organisation}:{nonce}", self.prefix)
    }
}

/// The hash tag of a shard: its number, then the shortest suffix of `a`..`zzz` whose slot falls into band
/// `(54 + bitreverse6(n)) mod 64` of 64 equal bands of the 16,384 slots. Plain numbers would put 8 shards on
/// 4 of 8 primaries; bands in bit-reversed order spread any number of shards evenly.
#[must_use]
pub fn shard_tag(shard: ShardNumber) -> String {
    let number = shard.0 % SHARDS_MAX;
    let reversed = (number << 10).reverse_bits();
    let band = (54 + reversed) % 64;
    let in_band = |tag: &str| slot(tag.as_bytes()) / 256 == band;
    let plain = number.to_string();
    if in_band(&plain) {
        return plain;
    }
    let letters = || (b'a'..=b'z').map(char::from);
    let one = letters().map(|a| format!("{number}{a}"));
    let two = letters().flat_map(|a| letters().map(move |b| format!("{number}{a}{b}")));
    let three = letters()
        .flat_map(|a| letters().flat_map(move |b| letters().map(move |c| format!("{number}{a}{b}{c}"))));
    one.chain(two).chain(three).find(|tag| in_band(tag)).unwrap_or(plain)
}

/// The hash slot of a tag: CRC-16/XMODEM modulo 16,384 (Redis Cluster specification, "Key distribution model").
fn slot(tag: &[u8]) -> u16 {
    let crc =
        tag.iter().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            })
        });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_documented_ones_and_fill_every_band_once() {
        let tags: Vec<String> = (0..SHARDS_MAX).map(|n| shard_tag(ShardNumber(n))).collect();
        assert_eq!(tags[..4], ["0", "1ac", "2fb", "3di"]);
        let mut bands: Vec<u16> = tags.iter().map(|tag| slot(tag.as_bytes()) / 256).collect();
        bands.sort_unstable();
        assert_eq!(bands, (0..64).collect::<Vec<u16>>());
    }

    #[test]
    fn slots_are_those_of_redis() {
        // CLUSTER KEYSLOT 123456789 answers 12739, the specification's check value 0x31C3.
        assert_eq!(slot(b"123456789"), 0x31C3);
    }

    #[test]
    fn namespaces_cannot_break_a_key() {
        for bad in ["", "a:b", "{a}", "a b", &"a".repeat(65)] {
            assert_eq!(Keys::new(bad), None, "{bad}");
        }
        let keys = Keys::new("postrider").unwrap();
        assert_eq!(keys.shard(ShardNumber(0)).events(), "postrider:{0}:events");
        assert_eq!(keys.configs(), "postrider:{control}:configs");
    }
}
