//! The age of failed deliveries: every config in turn, whether anything happens to it or not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::ids::ConfigId;
use crate::domain::snapshot::Snapshot;
use crate::metrics::WalkMetrics;
use crate::redis::connection::{Link, Result};
use crate::redis::deliveries::{self, BATCH_MAX};
use crate::redis::failed;
use crate::redis::keys::ShardKeys;
use crate::settings::Settings;

/// Configs of one round.
const CONFIGS_MAX: usize = 100;

/// Batches of one config that one round evicts; the next turn goes on.
const BATCHES_MAX: usize = 16;

/// Evicts what has failed too long ago, of one shard.
pub struct AgeRotation {
    link: Rc<Link>,
    keys: ShardKeys,
    snapshot: Arc<ArcSwap<Snapshot>>,
    clock: Arc<Clock>,
    settings: Arc<Settings>,
    metrics: WalkMetrics,
    after: Option<ConfigId>,
}

// === impl AgeRotation ===

impl AgeRotation {
    /// How often a round is made.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// One that begins with the first config.
    #[must_use]
    pub const fn new(
        link: Rc<Link>,
        keys: ShardKeys,
        snapshot: Arc<ArcSwap<Snapshot>>,
        clock: Arc<Clock>,
        settings: Arc<Settings>,
        metrics: WalkMetrics,
    ) -> Self {
        Self { link, keys, snapshot, clock, settings, metrics, after: None }
    }

    /// Looks at the next configs, in the order of their ids, and evicts what is too old. Without a config it asks
    /// Redis nothing.
    ///
    /// # Errors
    /// Redis's; the next round looks at the same configs.
    pub async fn run_once(&mut self) -> Result<()> {
        let configs = self.snapshot.load().ids_after(self.after, CONFIGS_MAX);
        let age = u64::try_from(self.settings.retention.log_age_max.as_millis()).unwrap_or(u64::MAX);
        let before = UnixMillis(self.clock.now().0.saturating_sub(age));
        let aged = deliveries::with_failed_before(&self.link, &self.keys, &configs, before).await?;
        for config in aged {
            for _ in 0..BATCHES_MAX {
                let gone =
                    failed::evict_failed(&self.link, &self.keys, config, Some(before), BATCH_MAX).await?;
                self.metrics.failed_evicted.increment(gone);
                if gone < BATCH_MAX as u64 {
                    break;
                }
            }
        }
        // From the first one again after the last.
        self.after = configs.last().copied().filter(|_| configs.len() == CONFIGS_MAX);
        Ok(())
    }
}
