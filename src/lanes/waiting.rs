//! What waits in memory: whether a lane may hold one more, and starting or parking what waits.

use std::rc::Rc;
use std::time::Duration;

use super::admission::Lanes;
use super::lane::Lane;
use crate::domain::ids::ConfigId;
use crate::settle::Job;

/// When to look at a config whose lanes were full: a permit that comes free sooner brings its own visit.
const FULL_LOOK: Duration = Duration::from_secs(1);

// === impl Lanes ===

impl Lanes {
    /// Whether the lane may hold one more in memory: the wait is short or unknown, and its share of the credit
    /// (all of it while nobody else waits) is not used up.
    pub(super) fn may_queue(&self, lane: &Lane) -> bool {
        if self.is_short()
            && (lane.hangs(&self.parts.permits) || lane.permits.is_in_doubt() && lane.backlog.get())
        {
            return false;
        }
        let short = lane.expected_wait().is_none_or(|wait| wait < self.parts.settings.limits.lane_wait_max);
        let waiting = self.waiting.borrow();
        let others = waiting.len() - usize::from(waiting.contains(&lane.config));
        let share = self.parts.credit.deliveries_max() as usize / (others + 1);
        let open = lane.permits.gate.shut_for(std::time::Instant::now()).is_none();
        open && short && !lane.shares_tokens() && lane.queue.borrow().len() < share.max(1)
    }

    pub(super) fn park(&self, lane: &Lane, number: u64, job: &Rc<Job>) {
        let elsewhere = lane.permits.is_held_elsewhere();
        // Permits wait for a backlog only where a scheduler comes for them.
        lane.backlog.set(self.parts.settings.process.roles.retry && !elsewhere);
        let next_look = lane.permits.gate.next_look(std::time::Instant::now());
        // Those who hold the limit may take it at once.
        let look = if elsewhere { Duration::ZERO } else { next_look.unwrap_or(FULL_LOOK) };
        self.parts.settler.park(job, Duration::ZERO, look);
        self.close(number);
    }

    /// Whether so much of the credit is spent that what hanging endpoints would keep in memory is taken from those
    /// that answer.
    fn is_short(&self) -> bool {
        self.parts.credit.left() < self.parts.credit.deliveries_max() / 2
    }

    /// Starts what waits in memory, where permits are free.
    pub fn pump_waiting(self: &Rc<Self>) {
        let waiting: Vec<ConfigId> = self.waiting.borrow().iter().copied().collect();
        for config in waiting {
            let lane = self.lane(config);
            if self.is_short() && lane.hangs(&self.parts.permits) {
                self.park_queue(&lane);
            } else {
                self.pump(&lane);
            }
        }
    }

    /// Parks what waits for an endpoint that hangs.
    fn park_queue(&self, lane: &Lane) {
        self.waiting.borrow_mut().remove(&lane.config);
        for job in lane.queue.take() {
            if !job.settling.get() {
                self.park(lane, job.number.get(), &job);
            }
        }
    }
}
