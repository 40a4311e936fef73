//! Brings the configs' health from the directory to the breakers of this replica, and starts what carries it back.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::domain::breaker::Health;
use crate::domain::clock::UnixMillis;
use crate::domain::config::StoredConfig;
use crate::domain::ids::ConfigId;
use crate::metrics::{Board, WORST, label, summed};
use crate::redis::directory::{ConfigSet, Directory, HealthSet};
use crate::upkeep::{HealthKeeper, HealthKeeperParts, OperatorEvents};
use crate::worker::Shared;

/// Applies every change of health to the breakers, and asks for a visit to every config whose breaker moved: what
/// waits for it has to go out, or is looked at when a probe is due.
pub(super) fn follow(shared: &Arc<Shared>, directory: &Arc<Directory>, mut stop: watch::Receiver<bool>) {
    let mut health = directory.subscribe_health();
    health.mark_changed();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut known = Arc::new(HealthSet::new());
        loop {
            tokio::select! {
                changed = health.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let set = health.borrow_and_update().clone();
            let now = shared.clock.now();
            for (config, moved) in changed_between(&known, &set) {
                let record = set.get(&config).map(|record| &**record);
                shared.permits.breakers.of(config).apply(record, now);
                if moved {
                    shared.shards.iter().for_each(|keys| shared.visits.ask(keys.shard, config));
                }
            }
            shared.due_soon.iter().for_each(Notify::notify_one);
            sample(&shared.metrics.board, &set);
            known = set;
        }
    });
}

/// Starts the task that tells the others what this replica's breakers have gathered.
pub(super) fn keep(shared: &Arc<Shared>, directory: &Arc<Directory>, stop: watch::Receiver<bool>) {
    let settings = shared.settings.health.clone();
    let operator = settings.operator_organisation.clone();
    let keeper = HealthKeeper::new(HealthKeeperParts {
        redis: shared.redis.clone(),
        breakers: Arc::clone(&shared.permits.breakers),
        snapshot: Arc::clone(&shared.snapshot),
        directory: Arc::clone(directory),
        clock: Arc::clone(&shared.clock),
        policy: settings.policy(shared.settings.delivery.request_timeout),
        settings,
        events: OperatorEvents::new(shared.redis.clone(), Arc::clone(&shared.shards), operator),
        metrics: shared.metrics.clone(),
    });
    tokio::spawn(keeper.run(stop));
}

/// The configs whose record changed, and whether their breakers moved by it.
fn changed_between(before: &HealthSet, after: &HealthSet) -> Vec<(ConfigId, bool)> {
    let ids: HashSet<ConfigId> = before.keys().chain(after.keys()).copied().collect();
    let stand = |record: Option<&Arc<Health>>| {
        record.map_or_else(Default::default, |known| (known.state, known.until))
    };
    let changed = ids.into_iter().filter_map(|id| {
        let (old, new) = (before.get(&id), after.get(&id));
        (old != new).then(|| (id, stand(old) != stand(new)))
    });
    changed.collect()
}

#[allow(clippy::cast_precision_loss)] // Gauges are floats; counts stay far below 2^52.
fn sample(board: &Board, set: &HealthSet) {
    let count = |wanted: fn(&Health) -> bool| set.values().filter(|health| wanted(health)).count() as f64;
    board.whole("postrider_breakers_open", count(|health| health.state.is_shut()));
    board.whole("postrider_configs_failing", count(|health| health.failing_since.is_some()));
    let mut open: Vec<(UnixMillis, ConfigId)> = set
        .iter()
        .filter(|(_, health)| health.state.is_shut())
        .map(|(id, known)| (known.since, *id))
        .collect();
    // Those that are open for longest are named: always the same ones, as long as they are.
    open.sort_unstable();
    let more = open.len().saturating_sub(WORST);
    open.truncate(WORST);
    let named = open.into_iter().map(|(_, config)| (config, 1.0)).collect();
    board.whole_all("postrider_config_breaker_open", summed(named, more as f64));
}

/// Shows how many configs there are in which state.
#[allow(clippy::cast_precision_loss)]
pub(super) fn count(board: &Board, configs: &ConfigSet) {
    let (mut active, mut paused, mut disabled) = (0_u64, 0_u64, 0_u64);
    for stored in configs.by_id.values() {
        match &**stored {
            StoredConfig::Config(config) if config.disabled.is_some() => disabled += 1,
            StoredConfig::Config(config) if !config.active => paused += 1,
            StoredConfig::Config(_) => active += 1,
            StoredConfig::Tombstone(_) => {}
        }
    }
    board.whole_all("postrider_config_certificate_expiry_timestamp_seconds", certificates_that_end(configs));
    let states = [("active", active), ("paused", paused), ("disabled", disabled)];
    board.whole_all("postrider_configs", states.map(|(state, count)| (label("state", state), count as f64)));
}

/// When the client certificates end of the [`WORST`] active configs whose end first, in seconds since 1970.
#[allow(clippy::cast_precision_loss)] // Seconds stay far below 2^52.
fn certificates_that_end(configs: &ConfigSet) -> Vec<(String, f64)> {
    let end = |stored: &Arc<StoredConfig>| match &**stored {
        StoredConfig::Config(config) if config.active => {
            Some((config.client_certificate.as_ref()?.expires_at()?, config.id))
        }
        _ => None,
    };
    let mut ends: Vec<(UnixMillis, ConfigId)> = configs.by_id.values().filter_map(end).collect();
    ends.sort_unstable();
    ends.truncate(WORST);
    ends.into_iter().map(|(at, config)| (label("config", config), (at.0 / 1_000) as f64)).collect()
}
