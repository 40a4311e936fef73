//! The end of deleted configs: now and then, what is left of them goes. One task of each replica; that several look is
//! harmless.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::clock::Clock;
use crate::metrics;
use crate::redis::connection::Redis;
use crate::redis::directory::Directory;
use crate::redis::forget::forget_deleted;
use crate::redis::keys::ShardKeys;

/// How often a replica looks: tombstones are small, and are kept for a month.
const EVERY: Duration = Duration::from_secs(600);

/// What the task works with.
pub struct TombstoneKeeper {
    /// Redis, over the pool.
    pub redis: Redis,
    /// Every shard.
    pub shards: Arc<[ShardKeys]>,
    /// The configs and tombstones.
    pub directory: Arc<Directory>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// The age of logs and failed deliveries: a tombstone makes them readable.
    pub age: Duration,
}

// === impl TombstoneKeeper ===

impl TombstoneKeeper {
    /// Looks until `stop`; no error ends it.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                // Replicas that were started together do not look together.
                () = tokio::time::sleep(EVERY + EVERY.mul_f64(rand::random::<f64>() * 0.5)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let set = self.directory.configs();
            let configs = set.by_id.values().map(|stored| &**stored);
            match forget_deleted(&self.redis, &self.shards, configs, self.clock.now(), self.age).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "deleted configs are forgotten: nothing of them is left"),
                Err(error) => {
                    metrics::redis_error(error.operation);
                    tracing::warn!(%error, "looking for what is left of deleted configs failed; trying again later");
                }
            }
        }
    }
}
