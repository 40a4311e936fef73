//! How a command reaches Redis: the one that was named, or the embedded server of the data directory.

use super::Context;
use super::error::CliError;
use super::flags::{Given, RedisFlags};
use super::logging;
use crate::redis::connection::{Redis, RedisError};
use crate::redis::keys::ShardKeys;
use crate::redis::{embedded, keyspace};
use crate::settings::Settings;
use crate::settings::words::redis_url;

/// What to do when there is no embedded server.
const REMEDY: &str = "name one with --redis-url, or run 'postrider serve' with this --data-dir";

/// A Redis that a command talks to.
pub(super) struct Connected {
    /// The connections; the first command makes one.
    pub(super) redis: Redis,
    /// The URL, its password masked.
    pub(super) shown: String,
    /// All settings.
    pub(super) settings: Settings,
}

// === impl Connected ===

impl Connected {
    /// The keyspace's shards. One that nobody opened yet will get those of the setting, and producers may come
    /// before the first replica.
    pub(super) async fn shards(&self) -> Result<Vec<ShardKeys>, CliError> {
        let found = keyspace::find_shards(&self.redis.link()).await.map_err(|error| self.failed(&error))?;
        let future = || keyspace::all_shards(self.redis.keys(), self.settings.redis.shards);
        Ok(found.unwrap_or_else(future))
    }

    /// What `error` means to the person at the terminal.
    pub(super) fn failed(&self, error: &RedisError) -> CliError {
        CliError::Failure(if error.is_connection() {
            let remedy = match self.settings.redis.url {
                Some(_) => String::new(),
                // A server that was killed leaves its socket behind.
                None => {
                    format!("; no --redis-url was given, and the embedded Redis does not answer; {REMEDY}")
                }
            };
            format!("cannot reach Redis at {}: {}{remedy}", self.shown, error.cause)
        } else {
            format!("{error} (Redis at {})", self.shown)
        })
    }
}

/// Reads the settings, starts logging and prepares connections to Redis.
pub(super) fn redis(flags: RedisFlags, context: &Context) -> Result<Connected, CliError> {
    redis_with(flags.0, context)
}

/// As [`redis()`], for a command that takes more settings than those of Redis.
pub(super) fn redis_with(given: Given, context: &Context) -> Result<Connected, CliError> {
    let loaded = given.load(&context.every)?;
    logging::start(&loaded);
    let settings = loaded.settings;
    let url = match &settings.redis.url {
        Some(url) => url.clone(),
        None => embedded::socket_url(&settings.process.data_dir)
            .map_err(|error| CliError::Failure(error.to_string()))?,
    };
    let redis =
        Redis::new(&url, &settings.redis).map_err(|error| CliError::Failure(error.cause.to_string()))?;
    Ok(Connected { redis, shown: redis_url::mask(&url), settings })
}
