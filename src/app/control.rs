//! The control side of a running replica: what follows Redis for everybody, the workers, the admin API.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::start::AdminListener;
use super::{AppError, build, health};
use crate::admin::ops::Readiness;
use crate::admin::server::Serving;
use crate::admin::{self, state::AdminState};
use crate::attempt::Egress;
use crate::domain::clock::Clock;
use crate::domain::config::StoredConfig;
use crate::domain::ids::ConfigId;
use crate::domain::rate_limit::RateLimit;
use crate::domain::shares::BYSTANDER;
use crate::domain::snapshot::Snapshot;
use crate::intake::{MemoryPressure, ReadTurn};
use crate::lanes::{Breakers, Permits};
use crate::metrics::{self, Scrape, WalkMetrics};
use crate::redis::connection::Redis;
use crate::redis::directory::{ConfigSet, Directory};
use crate::redis::keys::ShardKeys;
use crate::redis::{events, keyspace, stored_config};
use crate::retry::Visits;
use crate::settings::Settings;
use crate::spans::{Collector, Exporter, SpanSink};
use crate::upkeep::{JobRunner, JobRunnerParts, TombstoneKeeper};
use crate::worker::{Drained, Shared, duties_of, spawn};

/// Readiness is looked at this often.
const READINESS_EVERY: Duration = Duration::from_millis(250);

/// Redis counts as away when the follower, which asks every second and a half, had no answer for this long.
const REDIS_AWAY_AFTER: Duration = Duration::from_millis(2_750);

/// A running replica.
pub(super) struct Control {
    shared: Arc<Shared>,
    directory: Arc<Directory>,
    control_stopped: watch::Receiver<bool>,
    stop_workers: watch::Sender<bool>,
    workers: Vec<thread::JoinHandle<Drained>>,
    exporter: Option<Exporter>,
}

// === impl Control ===

impl Control {
    /// Opens the keyspace, reads the configs whole, starts the workers.
    pub(super) async fn start(
        settings: &Arc<Settings>,
        redis: Redis,
        readiness: &Arc<Readiness>,
        scrape: Scrape,
        control_stopped: watch::Receiver<bool>,
    ) -> Result<Self, AppError> {
        let link = redis.link();
        let shards: Arc<[ShardKeys]> = keyspace::open(&link, settings.redis.shards).await?.into();
        for keys in shards.iter() {
            events::ensure_group(&link, keys).await?;
        }
        check_seals(&redis).await?;
        let directory = Arc::new(Directory::new());
        let (follower, follow_redis, follow_stop) =
            (Arc::clone(&directory), redis.clone(), control_stopped.clone());
        tokio::spawn(async move { follower.follow(&follow_redis, follow_stop).await });
        let (shared, exporter) = share(settings, redis, shards, scrape)?;
        let shared = Arc::new(shared);
        let mut configs = directory.subscribe();
        // The sender lives in the directory, which this function holds.
        let _ = configs.wait_for(|set| set.complete).await;
        follow_configs(&shared, configs, control_stopped.clone());
        health::follow(&shared, &directory, control_stopped.clone());
        health::keep(&shared, &directory, control_stopped.clone());
        forget_deleted(&shared, &directory, control_stopped.clone());
        do_jobs(&shared, control_stopped.clone());
        let (stop_workers, stopped) = watch::channel(false);
        let count = settings.process.workers.max(1);
        let shard_count = u16::try_from(shared.shards.len()).unwrap_or(u16::MAX);
        let workers = (0..count)
            .map(|worker| {
                spawn(Arc::clone(&shared), worker, duties_of(worker, count, shard_count), stopped.clone())
            })
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| build("worker threads", error))?;
        watch_readiness(readiness, &shared, &directory);
        Ok(Self { shared, directory, control_stopped, stop_workers, workers, exporter })
    }

    /// Serves the admin API, where this replica has that role; the task ends when its drain has.
    pub(super) fn serve_admin(&self, listener: Option<AdminListener>) -> Option<JoinHandle<()>> {
        let AdminListener { listener, certificates } = listener?;
        let state = AdminState {
            redis: self.shared.redis.clone(),
            shards: Arc::clone(&self.shared.shards),
            directory: Arc::clone(&self.directory),
            settings: Arc::clone(&self.shared.settings),
            clock: Arc::clone(&self.shared.clock),
        };
        let (settings, stop) = (self.shared.settings.admin.clone(), self.control_stopped.clone());
        if let Some(certificates) = certificates.clone() {
            let (every, stop) = (settings.tls_check, stop.clone());
            tokio::spawn(async move { certificates.follow(every, stop).await });
        }
        let connections = Some(metrics::admin_connections());
        let serving = Serving { limits: Arc::new(settings), certificates, connections };
        Some(tokio::spawn(admin::server::serve_as(listener, admin::router(state), serving, stop)))
    }

    /// Lets the workers drain, and says how that went.
    pub(super) async fn drain(self) {
        self.stop_workers.send_replace(true);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().map(|worker| worker.join().unwrap_or_default()).collect::<Vec<_>>()
        });
        let drained = joined.await.unwrap_or_default();
        if let Some(exporter) = self.exporter {
            exporter.finish().await;
        }
        let given_up: usize = drained.iter().map(|worker| worker.given_up).sum();
        if drained.iter().all(|worker| worker.clean) {
            tracing::info!(given_up, "drained");
        } else {
            tracing::warn!(
                given_up,
                "drained, but not everything could be written: another replica takes it over"
            );
        }
    }
}

/// Refuses to start without the keys of what is sealed, and says once where secrets lie in plain text.
async fn check_seals(redis: &Redis) -> Result<(), AppError> {
    let seals = stored_config::check_keys(redis).await?;
    if !redis.seals_secrets() {
        tracing::warn!(
            "no secret-key is set: secrets and header values of configs lie in Redis in plain text \
             (docs/OPERATIONS.md, 'Secrets')"
        );
    } else if seals.plain > 0 {
        tracing::warn!(configs = seals.plain, "not sealed yet; run 'postrider secrets reseal'");
    }
    Ok(())
}

/// Starts the task that does jobs, where this replica retries.
fn do_jobs(shared: &Shared, stop: watch::Receiver<bool>) {
    if !shared.settings.process.roles.retry {
        return;
    }
    let runner = JobRunner::new(JobRunnerParts {
        redis: shared.redis.clone(),
        shards: Arc::clone(&shared.shards),
        snapshot: Arc::clone(&shared.snapshot),
        clock: Arc::clone(&shared.clock),
        settings: Arc::clone(&shared.settings),
    });
    tokio::spawn(runner.run(stop));
}

fn share(
    settings: &Arc<Settings>,
    redis: Redis,
    shards: Arc<[ShardKeys]>,
    scrape: Scrape,
) -> Result<(Shared, Option<Exporter>), AppError> {
    let egress = Egress::new(&settings.delivery, &settings.limits).map_err(|error| build("egress", error))?;
    let random: [u8; 8] = rand::random();
    let policy = settings.health.policy(settings.delivery.request_timeout);
    let roles = settings.process.roles;
    let mark = if roles.intake || roles.retry { String::new() } else { BYSTANDER.to_string() };
    let start = random.iter().fold(mark, |name, byte| format!("{name}{byte:02x}"));
    let (spans, exporter) = start_exporter(settings, &egress, &start)?.unzip();
    let shared = Shared {
        spans,
        redis,
        settings: Arc::clone(settings),
        clock: Arc::new(Clock::default()),
        snapshot: Arc::new(ArcSwap::default()),
        permits: Permits::new(&settings.limits, Breakers::new(&policy), &start),
        start,
        turns: shards.iter().map(|_| Arc::new(ReadTurn::default())).collect(),
        pressure: Arc::new(MemoryPressure::default()),
        due_soon: shards.iter().map(|_| Notify::new()).collect(),
        visits: Arc::new(Visits::default()),
        egress: Arc::new(egress),
        metrics: WalkMetrics::new(scrape.configs, scrape.board),
        leased: (0..settings.process.workers.max(1)).map(|_| AtomicBool::new(false)).collect(),
        shards,
    };
    Ok((shared, exporter))
}

/// Starts the exporter of spans, where a collector is set.
fn start_exporter(
    settings: &Settings,
    egress: &Egress,
    instance: &str,
) -> Result<Option<(SpanSink, Exporter)>, AppError> {
    let Some(url) = &settings.process.otlp_endpoint else { return Ok(None) };
    let headers = settings.process.otlp_headers.expose();
    let collector =
        Collector::new(url, headers, egress.tls().clone()).map_err(|error| build("spans", error))?;
    tracing::info!(collector = %url, "spans of sampled traces are exported");
    Ok(Some(Exporter::start(collector, instance)))
}

/// Starts the task that removes what is left of deleted configs.
fn forget_deleted(shared: &Arc<Shared>, directory: &Arc<Directory>, stop: watch::Receiver<bool>) {
    let keeper = TombstoneKeeper {
        redis: shared.redis.clone(),
        shards: Arc::clone(&shared.shards),
        directory: Arc::clone(directory),
        clock: Arc::clone(&shared.clock),
        age: shared.settings.retention.log_age_max,
    };
    tokio::spawn(keeper.run(stop));
}

/// Replaces the snapshot whenever a config changes, and asks for a visit to every config that changed: one that
/// was resumed has deliveries on hold, one that is gone or deleted has a queue to fail.
fn follow_configs(
    shared: &Arc<Shared>,
    mut configs: watch::Receiver<Arc<ConfigSet>>,
    mut stop: watch::Receiver<bool>,
) {
    let first = configs.borrow_and_update().clone();
    shared.snapshot.store(Arc::new(Snapshot::build(first.by_id.values(), &Snapshot::default())));
    health::count(&shared.metrics.board, &first);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut known = first;
        loop {
            tokio::select! {
                changed = configs.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let set = configs.borrow_and_update().clone();
            let snapshot = Snapshot::build(set.by_id.values(), &shared.snapshot.load());
            shared.snapshot.store(Arc::new(snapshot));
            health::count(&shared.metrics.board, &set);
            for config in changed_between(&known, &set) {
                shared.permits.set_rate(config, rate_limit(&set, config));
                shared.shards.iter().for_each(|keys| shared.visits.ask(keys.shard, config));
            }
            shared.due_soon.iter().for_each(Notify::notify_one);
            known = set;
        }
    });
}

fn changed_between(before: &ConfigSet, after: &ConfigSet) -> HashSet<ConfigId> {
    let same = |id: &ConfigId, stored: &Arc<StoredConfig>| {
        before.by_id.get(id).is_some_and(|known| Arc::ptr_eq(known, stored))
    };
    after.by_id.iter().filter(|(id, stored)| !same(id, stored)).map(|(id, _)| *id).collect()
}

fn rate_limit(configs: &ConfigSet, config: ConfigId) -> Option<RateLimit> {
    match &**configs.by_id.get(&config)? {
        StoredConfig::Config(config) => config.rate_limit,
        StoredConfig::Tombstone(_) => None,
    }
}

/// Keeps the latches of readiness: Redis answers, the configs are known, every worker holds its leases.
fn watch_readiness(readiness: &Arc<Readiness>, shared: &Arc<Shared>, directory: &Arc<Directory>) {
    let redis = readiness.latch("redis");
    let configs = readiness.latch("configs");
    let leases = readiness.latch("leases");
    let (shared, directory) = (Arc::downgrade(shared), Arc::clone(directory));
    tokio::spawn(async move {
        while let Some(shared) = shared.upgrade() {
            redis.set(directory.last_seen().is_some_and(|at| at.elapsed() < REDIS_AWAY_AFTER));
            configs.set(directory.is_complete());
            leases.set(shared.leased.iter().all(|leased| leased.load(Ordering::Relaxed)));
            drop(shared);
            tokio::time::sleep(READINESS_EVERY).await;
        }
    });
}
