//! What settling leaves to be done: logs to trim, failed sets to shorten, configs to disable.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::Clock;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::log_limit::limited;
use crate::metrics::WalkMetrics;
use crate::redis::configs::Disabling;
use crate::redis::connection::{Link, Result};
use crate::redis::failed;
use crate::redis::keys::ShardKeys;
use crate::redis::log_write::{self, Written};
use crate::redis::stats::{self, Counted};
use crate::settings::Settings;
use crate::settle::Settler;

/// A log's sizes are told after so many rows...
const TELL_ROWS: u64 = 256;
/// ... or so many bytes...
const TELL_BYTES: u64 = 256 * 1024;
/// ... or this long after the first row.
const TELL_AFTER: Duration = Duration::from_secs(60);

/// What was counted for the configs' stats is told this often.
const STATS_EVERY: Duration = Duration::from_secs(5);

/// Does one worker's chores.
pub struct ChoreRunner {
    link: Rc<Link>,
    shards: Arc<[ShardKeys]>,
    settler: Rc<Settler>,
    clock: Arc<Clock>,
    settings: Arc<Settings>,
    metrics: WalkMetrics,
    written: HashMap<(ShardNumber, ConfigId), (Written, Instant)>,
    gone: Vec<(ConfigId, u64)>,
    failed_over: HashSet<(ShardNumber, ConfigId)>,
    counted: Counted,
    stats_told: Instant,
}

// === impl ChoreRunner ===

impl ChoreRunner {
    /// A runner with nothing to do.
    #[must_use]
    pub fn new(
        link: Rc<Link>,
        shards: Arc<[ShardKeys]>,
        settler: Rc<Settler>,
        clock: Arc<Clock>,
        settings: Arc<Settings>,
        metrics: WalkMetrics,
    ) -> Self {
        Self {
            link,
            shards,
            settler,
            clock,
            settings,
            metrics,
            written: HashMap::new(),
            gone: Vec::new(),
            failed_over: HashSet::new(),
            counted: Counted::new(),
            stats_told: Instant::now(),
        }
    }

    /// Does what has come up; what fails is kept and tried again at the next call. `all` also tells the sizes of
    /// logs that could wait: the worker stops.
    ///
    /// # Errors
    /// The first one of Redis.
    pub async fn run_once(&mut self, all: bool) -> Result<()> {
        let chores = self.settler.take_chores();
        self.gone.extend(chores.gone);
        self.failed_over.extend(chores.failed_over);
        for (log, written) in chores.written {
            let (sum, _) = self.written.entry(log).or_insert((Written::default(), Instant::now()));
            sum.rows += written.rows;
            sum.log_bytes += written.log_bytes;
            sum.payload_bytes += written.payload_bytes;
        }
        // One that fails keeps no other from being done.
        let disabled = self.disable_gone().await;
        let shortened = self.shorten_all_failed().await;
        let trimmed = self.trim_logs(all).await;
        let told = self.tell_stats(all).await;
        disabled.and(shortened).and(trimmed).and(told)
    }

    async fn tell_stats(&mut self, all: bool) -> Result<()> {
        if !all && self.stats_told.elapsed() < STATS_EVERY {
            return Ok(());
        }
        self.stats_told = Instant::now();
        // Taken here and not with the other chores: until then each count is one addition where it is made.
        if self.counted.is_empty() {
            self.counted = self.settler.take_counted();
        }
        stats::add(&self.link, &self.shards, &mut self.counted, self.clock.now()).await
    }

    async fn shorten_all_failed(&mut self) -> Result<()> {
        while let Some((shard, config)) = self.failed_over.iter().next().copied() {
            self.shorten_failed(shard, config).await?;
            self.failed_over.remove(&(shard, config));
        }
        Ok(())
    }

    async fn disable_gone(&mut self) -> Result<()> {
        while let Some((config, version)) = self.gone.last().copied() {
            if self.link.disable_gone(config, version, self.clock.now()).await? == Disabling::Disabled {
                self.metrics.configs_disabled.increment(1);
                tracing::warn!(%config, "a config is disabled: its receiver answered 410 Gone");
            }
            self.gone.pop();
        }
        Ok(())
    }

    async fn trim_logs(&mut self, all: bool) -> Result<()> {
        let due = |(written, since): &(Written, Instant)| {
            all || written.rows >= TELL_ROWS
                || written.log_bytes + written.payload_bytes >= TELL_BYTES
                || since.elapsed() >= TELL_AFTER
        };
        let logs: Vec<_> = self
            .written
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(log, (written, _))| (*log, *written))
            .collect();
        for ((shard, config), written) in logs {
            let retention = &self.settings.retention;
            let keys = &self.shards[usize::from(shard.0)];
            let dropped = log_write::trim(&self.link, keys, config, written, retention).await?;
            self.metrics.log_rows_evicted.increment(dropped);
            self.written.remove(&(shard, config));
        }
        Ok(())
    }

    /// Evicts the oldest failed deliveries: enough at a time that the next settle call finds the caps kept.
    async fn shorten_failed(&self, shard: ShardNumber, config: ConfigId) -> Result<()> {
        let keys = &self.shards[usize::from(shard.0)];
        let retention = &self.settings.retention;
        loop {
            let over = failed::failed_over(
                &self.link,
                keys,
                config,
                retention.failed_max,
                retention.failed_bytes_max,
            )
            .await?;
            if over == 0 {
                return Ok(());
            }
            let gone = failed::evict_failed(&self.link, keys, config, None, over).await?;
            self.metrics.failed_evicted.increment(gone);
            if gone == 0 {
                return Ok(());
            }
            limited!(warn, %config, gone, "failed deliveries were evicted: the config's cap is reached");
        }
    }
}
