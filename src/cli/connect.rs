//! How a command reaches Redis: the one that was named, or the embedded server of the data directory.

use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Context;
use super::error::CliError;
use super::flags::RedisFlags;
use super::logging;
use crate::redis::connection::{Redis, RedisError};
use crate::redis::keys::ShardKeys;
use crate::redis::keyspace;
use crate::settings::Settings;
use crate::settings::words::redis_url;

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
            format!("cannot reach Redis at {}: {}", self.shown, error.cause)
        } else {
            format!("{error} (Redis at {})", self.shown)
        })
    }
}

/// Reads the settings, starts logging and prepares connections to Redis.
pub(super) fn redis(flags: RedisFlags, context: &Context) -> Result<Connected, CliError> {
    let loaded = flags.0.load(&context.every)?;
    logging::start(&loaded);
    let settings = loaded.settings;
    let url = match &settings.redis.url {
        Some(url) => url.clone(),
        None => embedded_url(&settings.process.data_dir)?,
    };
    let redis =
        Redis::new(&url, &settings.redis).map_err(|error| CliError::Failure(error.cause.to_string()))?;
    Ok(Connected { redis, shown: redis_url::mask(&url), settings })
}

/// The socket of the embedded server, when one answers.
fn embedded_url(data_dir: &Path) -> Result<String, CliError> {
    let socket = std::path::absolute(data_dir.join("redis/redis.sock"))
        .map_err(|error| CliError::Failure(format!("data-dir {}: {error}", data_dir.display())))?;
    match UnixStream::connect(&socket) {
        Ok(_) => Ok(format!("unix://{}", socket.display())),
        Err(error) => Err(CliError::Failure(format!(
            "no --redis-url was given, and no embedded Redis answers at {} ({error}); \
             name one with --redis-url, or run 'postrider serve' with this --data-dir",
            socket.display()
        ))),
    }
}
