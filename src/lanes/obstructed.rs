//! Attempts that a fault of ours kept from being made: the forward proxy, the source address, this machine's files.
//!
//! Nothing is charged: no attempt is counted, no breaker moves. The delivery waits in Redis, and its config is left
//! alone for a moment that grows while this goes on, so that a proxy that is down costs one batch of tries in that
//! time and not one a delivery. What cannot be tried for days ends as expired all the same.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::admission::Lanes;
use super::lane::Lane;
use crate::attempt::Obstacle;
use crate::domain::delivery::FailReason;
use crate::domain::log_limit::limited;
use crate::domain::retry_policy::DELAY_MAX;
use crate::metrics;
use crate::settle::Job;

/// How long a config is left alone at first, and at most.
const HOLD_MIN: Duration = Duration::from_secs(2);
const HOLD_MAX: Duration = Duration::from_secs(60);

/// Doublings after which the longest is reached.
const DOUBLINGS_MAX: u32 = 5;

// === impl Lanes ===

impl Lanes {
    /// Puts a delivery back whose attempt could not be made.
    pub(super) fn obstructed(&self, lane: &Lane, job: &Rc<Job>, obstacle: &Obstacle) {
        limited!(error, config = %lane.config, %obstacle, "an attempt could not be made; it waits");
        metrics::egress_fault(obstacle.kind.as_str());
        let pace = &lane.permits.gate.pace;
        let held = pace.shut_for(Instant::now());
        let hold = held.unwrap_or_else(|| {
            let doublings = lane.obstacles.get().min(DOUBLINGS_MAX);
            lane.obstacles.set(doublings + 1);
            let hold = (HOLD_MIN * 2_u32.pow(doublings)).min(HOLD_MAX);
            pace.hold(hold);
            hold
        });
        let settler = &self.parts.settler;
        let delivery = &job.delivery;
        let since = delivery.tried.last.as_ref().map_or(delivery.created_at, |last| last.at);
        // Its time moves with each try, so that it is never overdue: the last attempt tells instead.
        let limit = DELAY_MAX + self.parts.settings.retention.overdue_max;
        if self.parts.clock.now().since(since) > limit {
            settler.fail(job, FailReason::Expired);
        } else {
            settler.park(job, hold, hold);
        }
    }
}
