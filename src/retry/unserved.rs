//! Configs that cannot be served: what is overdue of a paused one ends, and so does the queue of one that is gone or
//! deleted.

use std::rc::Rc;
use std::time::Duration;

use super::load::{Loaded, load};
use super::scheduler::Scheduler;
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::FailReason;
use crate::domain::ids::ConfigId;
use crate::lanes::HELD_LOOK;
use crate::redis::connection::Result;
use crate::redis::deliveries::{self, BATCH_MAX, Claim, ClaimRequest, UNREADABLE_WAIT};
use crate::settle::Job;

/// Batches of one config's queue that one visit ends; the next round goes on.
const BATCHES_MAX: usize = 16;

/// Longest wait for a batch to become durable before the next one is read.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(5);

// === impl Scheduler ===

impl Scheduler {
    /// Ends what is overdue of a config that cannot be served, and looks at it again in a while.
    pub(super) async fn hold(&self, config: ConfigId) -> Result<Option<UnixMillis>> {
        let mut next = None;
        for _ in 0..BATCHES_MAX {
            let (jobs, found, look) = self.expire_batch(config).await?;
            next = look;
            if found < BATCH_MAX || !decided(&jobs).await {
                break;
            }
        }
        Ok(next)
    }

    /// Claims what is overdue and fails it; answers what it fails, how many it claimed, and the next look.
    async fn expire_batch(&self, config: ConfigId) -> Result<(Vec<Rc<Job>>, usize, Option<UnixMillis>)> {
        let parts = &self.parts;
        let request = ClaimRequest {
            max: BATCH_MAX,
            lease: parts.settler.claim_lease(),
            overdue_by: parts.settings.retention.overdue_max,
            hold: HELD_LOOK,
        };
        let claimed = deliveries::claim(&parts.link, &parts.keys, config, request).await?;
        let loaded = self.load_claimed(config, &claimed).await?;
        let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
        for (id, loaded) in claimed.ids.iter().zip(loaded) {
            match loaded {
                Loaded::Delivery(delivery, _) => {
                    let credit = parts.credit.take(delivery.body.len());
                    let job = Job::of_claim(*delivery, claimed.claim, credit);
                    parts.settler.fail(&job, FailReason::Expired);
                    jobs.push(job);
                }
                Loaded::Unreadable => unreadable.push((*id, claimed.claim)),
            }
        }
        self.clear(config, &unreadable).await?;
        Ok((jobs, claimed.ids.len(), claimed.next))
    }

    /// Fails a bounded part of the queue of a config that is gone or deleted; what other workers have claimed is
    /// left to them until their claims are past.
    pub(super) async fn fail_queue(
        &self,
        config: ConfigId,
        reason: FailReason,
    ) -> Result<Option<UnixMillis>> {
        for _ in 0..BATCHES_MAX {
            let (jobs, cleared) = self.fail_batch(config, reason).await?;
            if (jobs.is_empty() && cleared == 0) || !decided(&jobs).await {
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

    async fn fail_batch(&self, config: ConfigId, reason: FailReason) -> Result<(Vec<Rc<Job>>, usize)> {
        let parts = &self.parts;
        let queued = deliveries::queued(&parts.link, &parts.keys, config).await?;
        let ids: Vec<_> = queued.iter().map(|(id, _)| *id).collect();
        let loaded = load(&parts.link, &parts.keys, config, &ids).await?;
        let now = parts.clock.now();
        let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
        for (loaded, (id, score)) in loaded.into_iter().zip(queued) {
            let score_at = UnixMillis(u64::try_from(score.0).unwrap_or(0));
            match loaded {
                // A score that is not the delivery's own time is a claim's.
                Loaded::Delivery(_, due) if score_at != due && score_at > now => {}
                Loaded::Delivery(delivery, _) => jobs.push(self.fail_one(*delivery, score, reason)),
                // It waits aside already.
                Loaded::Unreadable if score_at.since(now) > UNREADABLE_WAIT / 2 => {}
                Loaded::Unreadable => unreadable.push((id, score)),
            }
        }
        self.clear(config, &unreadable).await?;
        Ok((jobs, unreadable.len()))
    }

    fn fail_one(
        &self,
        delivery: crate::domain::delivery::Delivery,
        score: Claim,
        reason: FailReason,
    ) -> Rc<Job> {
        let credit = self.parts.credit.take(delivery.body.len());
        let job = Job::of_claim(delivery, score, credit);
        self.parts.settler.fail(&job, reason);
        job
    }
}

/// Waits for these to become durable; false when that took too long.
async fn decided(jobs: &[Rc<Job>]) -> bool {
    let decided = async {
        while jobs.iter().any(|job| !job.is_decided()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DECIDE_TIMEOUT, decided).await.is_ok()
}
