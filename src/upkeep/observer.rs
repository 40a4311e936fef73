//! Observes the leases of a shard's consumers, and takes over what dead ones have left.
//!
//! A consumer is dead when its lease is past *and* this observer has read the same score for one whole lease on
//! its own monotonic clock, with Redis answering throughout: a Redis that stood still, or failed over, proves
//! nothing about anybody. A consumer without a member in `replicas` must be observed missing for as long.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::intake::{Intake, Membership};
use crate::lanes::Permits;
use crate::metrics::{Sampled, WalkMetrics};
use crate::redis::connection::{Link, Result};
use crate::redis::keys::ShardKeys;
use crate::redis::leases::{self, LeaseEnd, Observation, Reclaimed};

/// The observer of one shard in one replica.
pub struct Observer {
    link: Rc<Link>,
    keys: ShardKeys,
    membership: Rc<Membership>,
    intake: Option<Rc<Intake>>,
    permits: Option<Arc<Permits>>,
    lease: Duration,
    metrics: WalkMetrics,
    seen: HashMap<String, (Option<LeaseEnd>, Instant)>,
}

// === impl Observer ===

impl Observer {
    /// An observer that has seen nothing. `permits` are told who lives, so that limits are divided.
    #[must_use]
    pub fn new(
        link: Rc<Link>,
        keys: ShardKeys,
        membership: Rc<Membership>,
        intake: Option<Rc<Intake>>,
        permits: Option<Arc<Permits>>,
        lease: Duration,
        metrics: WalkMetrics,
    ) -> Self {
        Self { link, keys, membership, intake, permits, lease, metrics, seen: HashMap::new() }
    }

    /// How often to observe: several times in a lease.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.lease / 3
    }

    /// Looks once at every lease, and takes over from the dead. After an error the observation starts again.
    ///
    /// # Errors
    /// Redis's.
    pub async fn run_once(&mut self) -> Result<()> {
        let found = match leases::observe(&self.link, &self.keys).await {
            Ok(found) => found,
            Err(error) => {
                self.seen.clear();
                return Err(error);
            }
        };
        self.divide_limits(&found);
        let now = Instant::now();
        let mut seen = HashMap::new();
        for (name, end) in found {
            let since = match self.seen.get(&name) {
                Some((known, since)) if *known == end => *since,
                _ => now,
            };
            seen.insert(name, (end, since));
        }
        self.seen = seen;
        let dead: Vec<(String, Option<LeaseEnd>)> = self
            .seen
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) >= self.lease)
            .map(|(name, (end, _))| (name.clone(), *end))
            .collect();
        for (name, end) in dead {
            self.take_over(&name, end).await?;
        }
        Ok(())
    }

    /// A lease counts until its consumer is proven dead: dividing among one too many only slows a lane.
    fn divide_limits(&self, found: &[Observation]) {
        let Some(permits) = &self.permits else { return };
        // An end of 0 stands for a takeover that has begun.
        let lives = |end: &Option<LeaseEnd>| end.is_some_and(|end| end.0 > 0);
        let leased = found.iter().filter(|(_, end)| lives(end)).map(|(name, _)| name.as_str());
        if let Some(replicas) = permits.set_consumers(leased) {
            #[allow(clippy::cast_precision_loss)] // A gauge is a float.
            Sampled::whole("postrider_live_replicas", replicas as f64);
            tracing::info!(replicas, "limits over all replicas are divided among so many");
        }
    }

    async fn take_over(&mut self, dead: &str, observed: Option<LeaseEnd>) -> Result<()> {
        // Entries go to a consumer whose lease holds, and that reads; a replica without intake only removes
        // consumers that own nothing.
        let Some(consumer) = self.membership.consumer() else { return Ok(()) };
        if *consumer.name == *dead {
            return Ok(());
        }
        let caller = self.intake.as_ref().map(|_| &*consumer.name);
        loop {
            match leases::reclaim(&self.link, &self.keys, dead, observed, caller).await? {
                Reclaimed::Moved(count) => {
                    self.metrics.reclaimed.increment(count);
                    tracing::warn!(dead, count, "took over events of a dead consumer");
                    self.intake.iter().for_each(|intake| intake.recover_soon());
                }
                Reclaimed::Gone => {
                    tracing::info!(consumer = dead, "a dead consumer is removed");
                    break;
                }
                Reclaimed::Alive => break,
            }
        }
        self.seen.remove(dead);
        Ok(())
    }
}
