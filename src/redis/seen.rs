//! What a receiver has already processed: one key per nonce, kept for a day (docs/WIRE.md section 10).

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;

use super::connection::{During, Redis, RedisError, Result};

/// How long a nonce is remembered: longer than the sender goes on with retries of its default schedule.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// The nonces that one receiver has processed, on one multiplexed connection that is made anew after it broke.
#[derive(Debug)]
pub struct SeenNonces {
    redis: Redis,
    connection: Mutex<Option<MultiplexedConnection>>,
}

// === impl SeenNonces ===

impl SeenNonces {
    /// Nothing is connected yet. The namespace of `redis` is the receiver's own: two receivers get the same
    /// event under the same nonce.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self { redis, connection: Mutex::new(None) }
    }

    /// Whether `nonce` was processed within the last 24 hours.
    ///
    /// # Errors
    /// When Redis cannot be asked: then nothing is known.
    pub async fn contains(&self, nonce: &str) -> Result<bool> {
        let key = self.redis.keys().received(nonce);
        self.query("looking a nonce up", redis::cmd("EXISTS").arg(key)).await
    }

    /// Records that `nonce` was processed.
    ///
    /// # Errors
    /// When Redis did not confirm it.
    pub async fn insert(&self, nonce: &str) -> Result<()> {
        let key = self.redis.keys().received(nonce);
        let command = redis::cmd("SET").arg(key).arg("").arg("EX").arg(REMEMBERED.as_secs()).to_owned();
        self.query("recording a nonce", &command).await
    }

    async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T> {
        let mut connection = self.connected().await?;
        let answer = command.query_async(&mut connection).await.during(operation);
        if answer.as_ref().is_err_and(RedisError::is_connection) {
            self.connection.lock().await.take();
        }
        answer
    }

    async fn connected(&self) -> Result<MultiplexedConnection> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref() {
            return Ok(connection.clone());
        }
        let connection = self.redis.connect(Some(Duration::from_secs(5))).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }
}
