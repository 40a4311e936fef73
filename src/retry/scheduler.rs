//! The scheduler of one worker on one shard.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::load::{Loaded, load};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::delivery::FailReason;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::lanes::{HELD_LOOK, Lanes, Permit};
use crate::metrics::{self, WalkMetrics};
use crate::redis::connection::{Link, Result};
use crate::redis::deliveries::{self, BATCH_MAX, Claim, ClaimRequest};
use crate::redis::keys::ShardKeys;
use crate::settings::Settings;
use crate::settle::{Credit, Job, Settler};

/// Longest sleep between two looks at `due`: a delivery that another replica queued is found by then.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// When to look again at a config whose lane has no permit free: a permit that comes free brings a visit sooner.
const FULL_LOOK: Duration = Duration::from_secs(1);

/// Configs visited in one round.
const VISITS_MAX: usize = 64;

/// Batches of one config's queue that one visit fails; the next round goes on.
const FAIL_BATCHES_MAX: usize = 16;

/// Longest wait for a failed batch to become durable before the next one is read.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(5);

/// First and longest pause after an error.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Configs that must be visited although nothing of theirs may be due: paused, resumed, gone or deleted. Shared
/// by the replica's workers; one of them per shard takes them.
#[derive(Debug, Default)]
pub struct Visits(Mutex<HashSet<(ShardNumber, ConfigId)>>);

/// What a scheduler works with.
pub struct SchedulerParts {
    /// The worker's connection.
    pub link: Rc<Link>,
    /// The shard.
    pub keys: ShardKeys,
    /// Whether this worker looks at `due` for its replica; the others claim for their own lanes only.
    pub scans: bool,
    /// Wakes the scheduler of each shard: something is due soon.
    pub due_soon: Arc<[Notify]>,
    /// Configs that changed.
    pub visits: Arc<Visits>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Takes deliveries.
    pub lanes: Rc<Lanes>,
    /// Takes deliveries that end without an attempt.
    pub settler: Rc<Settler>,
    /// Counts what is in memory.
    pub credit: Rc<Credit>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// The settings.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: WalkMetrics,
}

/// The scheduler of one worker on one shard.
pub struct Scheduler {
    parts: SchedulerParts,
}

// === impl Visits ===

impl Visits {
    /// Asks for a visit to `config` on `shard`.
    pub fn ask(&self, shard: ShardNumber, config: ConfigId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((shard, config));
    }

    fn take(&self, shard: ShardNumber) -> Vec<ConfigId> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = asked.iter().filter(|(of, _)| *of == shard).map(|(_, config)| *config).collect();
        asked.retain(|(of, _)| *of != shard);
        own
    }
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler that has looked at nothing.
    #[must_use]
    pub const fn new(parts: SchedulerParts) -> Self {
        Self { parts }
    }

    /// Claims until `stop`; no error ends it.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        while !*stop.borrow() {
            let sleep = match self.run_once().await {
                Ok(sleep) => {
                    pause = PAUSE_MIN;
                    if self.parts.lanes.has_backlog_ready(self.parts.keys.shard) {
                        // Permits came free during this round, when nobody listened for the wake-up.
                        continue;
                    }
                    sleep
                }
                Err(error) => {
                    metrics::redis_error(error.operation);
                    tracing::warn!(%error, "looking for due deliveries failed; trying again");
                    pause = (pause * 2).min(PAUSE_MAX);
                    tokio::time::sleep(pause + pause.mul_f64(rand::random::<f64>() * 0.5)).await;
                    continue;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.due_soon() => {}
                () = self.parts.lanes.backlog_wake.notified() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// One round: the backlogs for which permits wait, the configs that changed, and what is due. Answers how
    /// long to sleep.
    ///
    /// # Errors
    /// Redis's.
    pub async fn run_once(&self) -> Result<Duration> {
        let shard = self.parts.keys.shard;
        let lanes = &self.parts.lanes;
        let backlogs = lanes.take_backlog_ready(shard);
        self.visit_all(backlogs, |config| lanes.backlog_is_ready(shard, config)).await?;
        if !self.parts.scans {
            return Ok(SLEEP_MAX);
        }
        let changed = self.parts.visits.take(shard);
        self.visit_all(changed, |config| self.parts.visits.ask(shard, config)).await?;
        let now = self.parts.clock.now();
        let (due, later) =
            deliveries::due_configs(&self.parts.link, &self.parts.keys, now, VISITS_MAX).await?;
        let mut next = later.map_or(SLEEP_MAX, |at| at.since(now));
        if due.len() == VISITS_MAX {
            next = Duration::ZERO;
        }
        for config in due {
            if let Some(at) = self.visit(config).await? {
                next = next.min(at.since(now));
            }
        }
        // A look that is due now is one whose permits are spent by this visit: not at once again.
        Ok(next.clamp(Duration::from_millis(1), SLEEP_MAX))
    }

    async fn due_soon(&self) {
        match self.parts.due_soon.get(usize::from(self.parts.keys.shard.0)).filter(|_| self.parts.scans) {
            Some(due_soon) => due_soon.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Visits these configs; after an error, `again` is asked for those that were not.
    async fn visit_all(&self, configs: Vec<ConfigId>, again: impl Fn(ConfigId)) -> Result<()> {
        let mut rest = configs.into_iter();
        while let Some(config) = rest.next() {
            if let Err(error) = self.visit(config).await {
                std::iter::once(config).chain(rest).for_each(again);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Visits a config; answers when to look at it next.
    async fn visit(&self, config: ConfigId) -> Result<Option<UnixMillis>> {
        let lookup = self.parts.snapshot.load().lookup(config);
        if !matches!(lookup, Lookup::Active(_)) {
            // Permits that wait for this backlog would wait until the config is resumed, and then block its lane.
            self.parts.lanes.set_backlog(config, false);
        }
        match lookup {
            Lookup::Active(_) => self.claim(config).await,
            Lookup::Paused | Lookup::Unknown => self.hold(config).await,
            Lookup::Gone => self.fail_queue(config, FailReason::Gone).await,
            Lookup::Deleted => self.fail_queue(config, FailReason::Deleted).await,
        }
    }

    /// Claims as many deliveries as there are permits free now, and starts them.
    async fn claim(&self, config: ConfigId) -> Result<Option<UnixMillis>> {
        let parts = &self.parts;
        let permits = parts.lanes.reserve(config, BATCH_MAX);
        let full = permits.is_empty();
        let request = ClaimRequest {
            max: permits.len(),
            lease: parts.settler.claim_lease(),
            overdue_by: Duration::ZERO,
            hold: if full { parts.lanes.shut_for(config).unwrap_or(FULL_LOOK) } else { Duration::ZERO },
        };
        let claimed = deliveries::claim(&parts.link, &parts.keys, config, request).await?;
        let now = parts.clock.now();
        let more = claimed.next.is_some_and(|at| full || at <= now);
        let count = claimed.ids.len();
        parts.metrics.claimed.increment(count as u64);
        let loaded = load(&parts.link, &parts.keys, config, &claimed.ids).await?;
        for (loaded, permit) in loaded.into_iter().zip(permits) {
            self.begin(config, loaded, claimed.claim, permit, now);
        }
        parts.lanes.set_backlog(config, more);
        Ok(claimed.next)
    }

    fn begin(&self, config: ConfigId, loaded: Loaded, claim: Claim, permit: Permit, now: UnixMillis) {
        let parts = &self.parts;
        match loaded {
            Loaded::Delivery(delivery, due) => {
                let overdue = now.since(due) > parts.settings.retention.overdue_max;
                let credit = parts.credit.take(delivery.body.len());
                let job = Job::of_claim(*delivery, claim, credit);
                if overdue {
                    parts.settler.fail(&job, FailReason::Expired);
                } else {
                    parts.lanes.start_claimed(job, permit);
                }
            }
            Loaded::Unreadable(id) => {
                tracing::error!(delivery = %id, %config, "a queued delivery has no usable record; it stays in its queue");
            }
        }
    }

    /// Ends what is overdue of a config that cannot be served, and looks at it again in a while.
    async fn hold(&self, config: ConfigId) -> Result<Option<UnixMillis>> {
        let parts = &self.parts;
        let request = ClaimRequest {
            max: BATCH_MAX,
            lease: parts.settler.claim_lease(),
            overdue_by: parts.settings.retention.overdue_max,
            hold: HELD_LOOK,
        };
        let claimed = deliveries::claim(&parts.link, &parts.keys, config, request).await?;
        for loaded in load(&parts.link, &parts.keys, config, &claimed.ids).await? {
            if let Loaded::Delivery(delivery, _) = loaded {
                let credit = parts.credit.take(delivery.body.len());
                let job = Job::of_claim(*delivery, claimed.claim, credit);
                parts.settler.fail(&job, FailReason::Expired);
            }
        }
        Ok(claimed.next)
    }

    /// Fails a bounded part of the queue of a config that is gone or deleted; what other workers have claimed is
    /// left to them until their claims are past.
    async fn fail_queue(&self, config: ConfigId, reason: FailReason) -> Result<Option<UnixMillis>> {
        for _ in 0..FAIL_BATCHES_MAX {
            let jobs = self.fail_batch(config, reason).await?;
            if jobs.is_empty() {
                break;
            }
            let decided = async {
                while jobs.iter().any(|job| !job.is_decided()) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            if tokio::time::timeout(DECIDE_TIMEOUT, decided).await.is_err() {
                break;
            }
        }
        let look = ClaimRequest {
            max: 0,
            lease: Duration::ZERO,
            overdue_by: Duration::ZERO,
            hold: Duration::from_millis(50),
        };
        Ok(deliveries::claim(&self.parts.link, &self.parts.keys, config, look).await?.next)
    }

    async fn fail_batch(&self, config: ConfigId, reason: FailReason) -> Result<Vec<Rc<Job>>> {
        let parts = &self.parts;
        let queued = deliveries::queued(&parts.link, &parts.keys, config).await?;
        let ids: Vec<_> = queued.iter().map(|(id, _)| *id).collect();
        let loaded = load(&parts.link, &parts.keys, config, &ids).await?;
        let now = parts.clock.now();
        let mut jobs = Vec::new();
        for (loaded, (_, score)) in loaded.into_iter().zip(queued) {
            let Loaded::Delivery(delivery, due) = loaded else { continue };
            // A score that is not the delivery's own time is a claim's.
            let score_at = UnixMillis(u64::try_from(score.0).unwrap_or(0));
            if score_at != due && score_at > now {
                continue;
            }
            let credit = parts.credit.take(delivery.body.len());
            let job = Job::of_claim(*delivery, score, credit);
            parts.settler.fail(&job, reason);
            jobs.push(job);
        }
        Ok(jobs)
    }
}
