//! What a probe needs of its lane: one attempt through a gate whose breaker is open.

use std::rc::Rc;
use std::sync::Arc;

use super::admission::Lanes;
use super::breaker::Breaker;
use super::permits::Permit;
use crate::domain::ids::ConfigId;
use crate::settle::Job;

// === impl Lanes ===

impl Lanes {
    /// Whether `config`'s breaker lets a probe through now, if Redis does.
    #[must_use]
    pub fn probe_is_due(&self, config: ConfigId) -> bool {
        self.is_sending() && self.lane(config).permits.gate.breaker.probe_is_due(std::time::Instant::now())
    }

    /// The permit of a probe, through the shut gate.
    #[must_use]
    pub fn reserve_probe(&self, config: ConfigId) -> Option<Permit> {
        self.parts.permits.take_probe(&self.lane(config).permits)
    }

    /// `config`'s breaker.
    #[must_use]
    pub fn breaker(&self, config: ConfigId) -> Arc<Breaker> {
        Arc::clone(&self.lane(config).permits.gate.breaker)
    }

    /// Starts a delivery that was claimed as the probe of its config's breaker, which stays shut meanwhile.
    pub fn start_probe(self: &Rc<Self>, job: Rc<Job>, permit: Permit, holder: &str) {
        let lane = self.lane(job.delivery.config);
        lane.permits.gate.breaker.begin_probe(holder.to_owned(), job.delivery.id);
        let number = self.note(&job);
        self.start(&lane, number, job, permit);
    }
}
