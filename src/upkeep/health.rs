//! Carries what a replica's breakers have gathered into the shared record of each config's health, warns of configs
//! that fail for days and disables them, and tells organisations of it. One task of each replica.
//!
//! Every replica announces every config that was disabled lately: who disabled it may have died since, and the
//! nonce makes one event of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::operator_events::OperatorEvents;
use crate::domain::breaker::{Health, Input, Policy};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::config::{Config, Disabled, StoredConfig};
use crate::domain::ids::ConfigId;
use crate::domain::log_limit::limited;
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::lanes::{Breaker, Breakers, ProbeEnd, Report};
use crate::metrics::{self, WalkMetrics};
use crate::redis::configs::Disabling;
use crate::redis::connection::{Redis, Result};
use crate::redis::directory::{ConfigSet, Directory};
use crate::settings::health::HealthSettings;

/// What is not urgent is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A pause after an urgent telling: outcomes of one moment are told together.
const TELL_PAUSE: Duration = Duration::from_millis(5);

/// A config that was disabled before this is not announced any more; well below the age of a nonce.
const ANNOUNCE_FOR: Duration = Duration::from_secs(12 * 3_600);

/// What a keeper works with.
pub struct HealthKeeperParts {
    /// Redis, over the pool.
    pub redis: Redis,
    /// The replica's breakers.
    pub breakers: Arc<Breakers>,
    /// The configs of the moment, prepared.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The configs as stored.
    pub directory: Arc<Directory>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// When to open, and when to disable.
    pub settings: HealthSettings,
    /// The breakers' policy.
    pub policy: Policy,
    /// Tells organisations.
    pub events: OperatorEvents,
    /// What is counted.
    pub metrics: WalkMetrics,
}

/// Keeps the shared health records of a replica's configs.
pub struct HealthKeeper {
    parts: HealthKeeperParts,
    configs: watch::Receiver<Arc<ConfigSet>>,
    announced: HashSet<(ConfigId, u64)>,
    /// Something that was disabled could not be announced yet, or nobody looked.
    unannounced: bool,
}

// === impl HealthKeeper ===

impl HealthKeeper {
    /// A keeper that has told nothing.
    #[must_use]
    pub fn new(parts: HealthKeeperParts) -> Self {
        let configs = parts.directory.subscribe();
        Self { parts, configs, announced: HashSet::new(), unannounced: true }
    }

    /// Tells until `stop`, and then once more; no error ends it.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut stopped = false;
        while !stopped {
            stopped = tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => false,
                () = self.parts.breakers.urgent() => false,
                () = changed(&mut self.configs) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            self.tell_all().await;
            self.announce_all().await;
            self.parts.breakers.forget_unused();
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }

    async fn tell_all(&self) {
        for config in self.parts.breakers.take_told() {
            let breaker = self.parts.breakers.of(config);
            let Some(report) = breaker.take_report() else { continue };
            if let Err(error) = self.tell(config, &breaker, &report).await {
                metrics::redis_error(error.operation);
                limited!(warn, %config, %error, "a config's health could not be told; trying again");
                breaker.return_report(report);
            }
        }
    }

    async fn tell(&self, config: ConfigId, breaker: &Breaker, report: &Report) -> Result<()> {
        let random = rand::random();
        let policy = &self.parts.policy;
        let decide = |health: &Health, now| {
            let tally = &report.tally;
            match &report.probe {
                Some(ProbeEnd { holder, sign: Some(sign) }) => {
                    health.after(Input::ProbeEnded { holder, sign: *sign, tally }, now, policy, random)
                }
                Some(ProbeEnd { holder, sign: None }) => health
                    .after(Input::ProbeUnused { holder }, now, policy, random)
                    .after(Input::Report(tally), now, policy, random),
                None => health.after(Input::Report(tally), now, policy, random),
            }
        };
        // A config that was written meanwhile has no past.
        let Some(changed) = self.parts.redis.change_health(config, report.version, decide).await? else {
            return Ok(());
        };
        let (before, after) = (&changed.before, &changed.after);
        breaker.apply(Some(after).filter(|health| !health.is_unremarkable()), changed.now);
        if before.state != after.state {
            self.parts.metrics.breaker_to(after.state).increment(1);
            let (state, reason) = (after.state.as_str(), &after.reason);
            limited!(info, %config, state, reason, until = %after.until, "a breaker moved");
        }
        if let Err(error) = self.judge(config, report.version, after, changed.now).await {
            // The outcomes are told; only what follows from them is repeated, with the next ones.
            metrics::redis_error(error.operation);
            limited!(warn, %config, %error, "a failing config could not be warned of or disabled; trying again");
        }
        Ok(())
    }

    /// Disables a config from which nothing but failures came for too long, or warns before.
    async fn judge(&self, config: ConfigId, version: u64, health: &Health, now: UnixMillis) -> Result<()> {
        let HealthSettings { disable_after, disable_attempts, .. } = self.parts.settings;
        if disable_after.is_zero() || health.failures < disable_attempts {
            return Ok(());
        }
        let span = health.failing_for();
        if span >= disable_after {
            let since = health.failing_since.unwrap_or_default();
            let redis = &self.parts.redis;
            let done = redis.disable_failing(config, version, now, since, health.failures).await?;
            if done == Disabling::Disabled {
                self.parts.metrics.configs_disabled.increment(1);
                tracing::warn!(%config, %since, "a config is disabled: nothing but failures came from it");
            }
            return Ok(());
        }
        let stage = stage_of(span, disable_after);
        let Lookup::Active(target) = self.parts.snapshot.load().lookup(config) else { return Ok(()) };
        if stage > health.warned && target.config.version == version {
            self.parts.events.failing(&target.config, health, stage, disable_after).await?;
            let warned =
                |health: &Health, now| health.after(Input::Warned(stage), now, &self.parts.policy, 0.0);
            self.parts.redis.change_health(config, version, warned).await?;
        }
        Ok(())
    }

    /// Announces what was disabled lately and is not announced yet.
    async fn announce_all(&mut self) {
        let changed = self.configs.has_changed().unwrap_or(false);
        if !changed && !self.unannounced {
            return;
        }
        let set = self.configs.borrow_and_update().clone();
        let lately = disabled_lately(&set, self.parts.clock.now());
        self.announced.retain(|known| lately.iter().any(|(config, _)| (config.id, config.version) == *known));
        self.unannounced = false;
        for (config, disabled) in lately {
            let key = (config.id, config.version);
            if self.announced.contains(&key) {
                continue;
            }
            match self.parts.events.disabled(config, disabled).await {
                Ok(()) => drop(self.announced.insert(key)),
                Err(error) => {
                    self.unannounced = true;
                    metrics::redis_error(error.operation);
                    limited!(warn, config = %config.id, %error, "a disabled config could not be announced; trying again");
                }
            }
        }
    }
}

/// Waits for a change, and leaves it to be seen by who looks next.
async fn changed(configs: &mut watch::Receiver<Arc<ConfigSet>>) {
    if configs.changed().await.is_ok() {
        configs.mark_changed();
    } else {
        std::future::pending::<()>().await;
    }
}

/// How many warnings are due: one after half of the time, one after nine tenths.
fn stage_of(span: Duration, disable_after: Duration) -> u8 {
    u8::from(span >= disable_after / 2) + u8::from(span >= disable_after.mul_f64(0.9))
}

fn disabled_lately(set: &ConfigSet, now: UnixMillis) -> Vec<(&Config, &Disabled)> {
    let disabled = set.by_id.values().filter_map(|stored| match &**stored {
        StoredConfig::Config(config) => Some((config, config.disabled.as_ref()?)),
        StoredConfig::Tombstone(_) => None,
    });
    disabled.filter(|(_, disabled)| now.since(disabled.at) < ANNOUNCE_FOR).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_due_at_half_and_at_nine_tenths() {
        let day = Duration::from_secs(86_400);
        let stages = [0, 59, 60, 107, 108, 119].map(|hours| stage_of(day / 24 * hours, day * 5));
        assert_eq!(stages, [0, 0, 1, 1, 2, 2]);
    }
}
