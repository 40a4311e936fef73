//! The scheduler of one worker on one shard.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::load::{Loaded, load};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::delivery::{Delivery, FailReason};
use crate::domain::ids::{ConfigId, DeliveryId, ShardNumber};
use crate::domain::log_limit::limited;
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::lanes::{Lanes, Permit};
use crate::metrics::{self, WalkMetrics};
use crate::redis::connection::{Link, Result};
use crate::redis::deliveries::{self, BATCH_MAX, Claim, ClaimRequest, Claimed, DuePage};
use crate::redis::keys::ShardKeys;
use crate::settings::Settings;
use crate::settle::{Credit, Job, Settler};

/// Longest sleep between two looks at `due`: a delivery that another replica queued is found by then.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// When to look again at a config whose lane has no permit free: a permit that comes free brings a visit sooner.
pub(super) const FULL_LOOK: Duration = Duration::from_secs(1);

/// Configs visited in one round.
const VISITS_MAX: usize = 64;

/// Configs that other replicas serve, passed over in one round.
const PASSED_MAX: usize = 4_096;

/// Nothing is claimed for so long after Redis was away: by its clock claims have ended meanwhile, and their holders,
/// who still have what the attempts came to, write that first. Twice a settler's longest pause between two tries.
const AFTER_ABSENCE: Duration = Duration::from_secs(3);

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
    pub(super) parts: SchedulerParts,
}

/// What a claim came to.
pub(super) struct Begun {
    /// When to look at the config next.
    pub(super) next: Option<UnixMillis>,
    /// Attempts begun.
    pub(super) attempts: usize,
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
        let mut was_away = false;
        while !*stop.borrow() {
            let round = if was_away { self.look_only().await } else { self.run_once().await };
            let sleep = match round {
                Ok(sleep) if std::mem::take(&mut was_away) => {
                    pause = PAUSE_MIN;
                    tokio::select! {
                        () = tokio::time::sleep(sleep) => continue,
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
                Ok(sleep) => {
                    pause = PAUSE_MIN;
                    if self.parts.lanes.has_backlog_ready(self.parts.keys.shard) {
                        // Permits came free during this round, when nobody listened for the wake-up.
                        continue;
                    }
                    sleep
                }
                Err(error) => {
                    was_away |= error.is_connection();
                    metrics::redis_error(error.operation);
                    limited!(warn, %error, "looking for due deliveries failed; trying again");
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

    /// Sees whether Redis answers again; answers how long to wait until something may be claimed.
    async fn look_only(&self) -> Result<Duration> {
        let page = DuePage { now: self.parts.clock.now(), skip: 0, max: 1 };
        deliveries::due_configs(&self.parts.link, &self.parts.keys, page).await?;
        Ok(AFTER_ABSENCE)
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
        let next = self.visit_due().await?;
        // A look that is due now is one whose permits are spent by this visit: not at once again.
        Ok(next.clamp(Duration::from_millis(1), SLEEP_MAX))
    }

    /// Visits configs that are due, and pages past those that other replicas serve: their looks are not moved.
    /// Answers how long to sleep.
    async fn visit_due(&self) -> Result<Duration> {
        let parts = &self.parts;
        let now = parts.clock.now();
        let mut passed = 0;
        loop {
            let page = DuePage { now, skip: passed, max: VISITS_MAX };
            let (due, later) = deliveries::due_configs(&parts.link, &parts.keys, page).await?;
            let mut next = later.map_or(SLEEP_MAX, |at| at.since(now));
            let (full, before) = (due.len() == VISITS_MAX, passed);
            let count = due.len();
            for config in due {
                if self.is_others(config) {
                    passed += 1;
                } else if let Some(at) = self.visit(config).await? {
                    next = next.min(at.since(now));
                }
            }
            if full && passed - before < count {
                return Ok(Duration::ZERO);
            }
            if !full || passed >= PASSED_MAX {
                return Ok(next);
            }
        }
    }

    /// Whether other replicas hold a limit of the config that is too small to divide, so that they serve it.
    fn is_others(&self, config: ConfigId) -> bool {
        matches!(self.parts.snapshot.load().lookup(config), Lookup::Active(_))
            && self.parts.lanes.is_held_elsewhere(config)
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
            self.parts.lanes.set_backlog(self.parts.keys.shard, config, false);
        }
        match lookup {
            Lookup::Active(target) if self.parts.lanes.probe_is_due(config) => {
                self.probe(config, target.config.version).await
            }
            Lookup::Active(_) => {
                let permits = self.parts.lanes.reserve(config, BATCH_MAX);
                let hold = self.parts.lanes.next_look(config).unwrap_or(FULL_LOOK);
                self.claim(config, permits, hold, None).await.map(|begun| begun.next)
            }
            Lookup::Paused | Lookup::Unknown => self.hold(config).await,
            Lookup::Gone => self.fail_queue(config, FailReason::Gone).await,
            Lookup::Deleted => self.fail_queue(config, FailReason::Deleted).await,
        }
    }

    /// Claims as many deliveries as there are `permits`, and starts them, under the name of a probe where one is
    /// given; looks again after `hold` where there is no permit.
    pub(super) async fn claim(
        &self,
        config: ConfigId,
        permits: Vec<Permit>,
        hold: Duration,
        probe: Option<&str>,
    ) -> Result<Begun> {
        let parts = &self.parts;
        let full = permits.is_empty();
        let request = ClaimRequest {
            max: permits.len(),
            lease: parts.settler.claim_lease(),
            overdue_by: Duration::ZERO,
            hold: if full { hold } else { Duration::ZERO },
        };
        let claimed = deliveries::claim(&parts.link, &parts.keys, config, request).await?;
        let now = parts.clock.now();
        // Compared with the time of the claim by Redis's clock: this machine's idea of it may lag behind.
        let claimed_at = claimed.claim.at(parts.settler.claim_lease());
        let more = claimed.next.is_some_and(|at| full || at <= claimed_at);
        parts.metrics.claimed.increment(claimed.ids.len() as u64);
        let loaded = self.load_claimed(config, &claimed).await?;
        let mut unreadable = Vec::new();
        let mut attempts = 0;
        for ((id, loaded), permit) in claimed.ids.iter().zip(loaded).zip(permits) {
            match loaded {
                Loaded::Delivery(delivery, due) if now.since(due) > parts.settings.retention.overdue_max => {
                    parts.settler.fail(&self.job(*delivery, claimed.claim), FailReason::Expired);
                }
                Loaded::Delivery(delivery, _) => {
                    attempts += 1;
                    let job = self.job(*delivery, claimed.claim);
                    match probe {
                        Some(holder) => parts.lanes.start_probe(job, permit, holder),
                        None => parts.lanes.start_claimed(job, permit),
                    }
                }
                Loaded::Unreadable => unreadable.push((*id, claimed.claim)),
            }
        }
        parts.lanes.set_backlog(self.parts.keys.shard, config, more);
        self.clear(config, &unreadable).await?;
        Ok(Begun { next: claimed.next, attempts })
    }

    /// Loads what was claimed. What then cannot begin, because of an error or because the lease was lost meanwhile,
    /// is put back as far as that succeeds; else it is due again when the claim is past.
    pub(super) async fn load_claimed(&self, config: ConfigId, claimed: &Claimed) -> Result<Vec<Loaded>> {
        let parts = &self.parts;
        let loaded = load(&parts.link, &parts.keys, config, &claimed.ids).await;
        if !claimed.ids.is_empty() && (loaded.is_err() || !parts.lanes.is_sending()) {
            let ids: Vec<_> = claimed.ids.iter().map(|id| (*id, claimed.claim)).collect();
            let back = deliveries::put_back(&parts.link, &parts.keys, config, &ids, FULL_LOOK).await;
            if back.is_ok() && loaded.is_ok() {
                return Ok(Vec::new());
            }
        }
        loaded
    }

    fn job(&self, delivery: Delivery, claim: Claim) -> Rc<Job> {
        let credit = self.parts.credit.take(delivery.body.len());
        Job::of_claim(delivery, claim, credit)
    }

    /// Moves what cannot be delivered out of the queue's way.
    pub(super) async fn clear(&self, config: ConfigId, unreadable: &[(DeliveryId, Claim)]) -> Result<()> {
        if unreadable.is_empty() {
            return Ok(());
        }
        let parts = &self.parts;
        let (dropped, waiting) = deliveries::clear(&parts.link, &parts.keys, config, unreadable).await?;
        (0..dropped).for_each(|_| metrics::stored_unreadable("missing record"));
        limited!(error,
            %config, dropped, waiting, first = %unreadable[0].0,
            "queued deliveries cannot be made: those without a record are dropped, those whose record or body \
             cannot be read wait aside"
        );
        Ok(())
    }
}
