//! Which Redis, which part of its keyspace.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::words::redis_url;
use crate::domain::sealing::Keyring;

/// Most shards of a keyspace: their tags fill so many bands of Redis Cluster's slots.
pub const SHARDS_MAX: u16 = 64;

/// Redis settings.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `unix://`; `None` starts the embedded server.
    pub url: Option<String>,
    /// Prefix of every key; 1 to 64 of `[A-Za-z0-9_.-]`.
    pub namespace: String,
    /// Shards that a new keyspace gets; afterwards only checked against `meta`.
    pub shards: u16,
    /// Goes on with an eviction policy other than `noeviction`.
    pub allow_eviction: bool,
    /// Longest wait for an answer to a command that does not block.
    pub response_timeout: Duration,
    /// How long a worker's lease lasts; renewed at a third of it. A dead worker's entries are taken over
    /// after two of these at most.
    pub lease: Duration,
    /// What seals secrets and header values; empty: they lie in plain text.
    pub secret_key: Arc<Keyring>,
    /// The same, from a file.
    pub secret_key_file: Option<KeyFile>,
}

/// A file of keys, read when the settings were.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What stood in it.
    pub keys: Arc<Keyring>,
}

// === impl RedisSettings ===

impl RedisSettings {
    /// The keys that seal and open what is stored.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(self.secret_key_file.as_ref().map_or(&self.secret_key, |file| &file.keys))
    }
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: None,
            namespace: "postrider".into(),
            shards: 1,
            allow_eviction: false,
            response_timeout: Duration::from_secs(5),
            lease: Duration::from_secs(10),
            secret_key: Arc::default(),
            secret_key_file: None,
        }
    }
}

/// Shows the URL without its password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            namespace,
            shards,
            allow_eviction,
            response_timeout,
            lease,
            secret_key,
            secret_key_file,
        } = self;
        f.debug_struct("RedisSettings")
            .field("url", &redis_url::show(url))
            .field("namespace", namespace)
            .field("shards", shards)
            .field("allow_eviction", allow_eviction)
            .field("response_timeout", response_timeout)
            .field("lease", lease)
            .field("secret_key", secret_key)
            .field("secret_key_file", secret_key_file)
            .finish()
    }
}

/// Whether keys can begin with `text`: no character that separates the parts of a key, or makes a hash tag.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}
