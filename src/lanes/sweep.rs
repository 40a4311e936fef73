//! What does not end by itself: deliveries that have waited for a second, lanes without work, and everything that
//! is left when the worker stops.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::admission::Lanes;
use super::lane::Lane;
use crate::settle::Job;

/// A delivery without a fate is handed to its queue when its event was read this long ago.
const HAND_OFF_AFTER: Duration = Duration::from_secs(1);

/// A lane without work is forgotten after this.
const LANE_IDLE: Duration = Duration::from_secs(60);

// === impl Lanes ===

impl Lanes {
    /// The worker's tick, some tens of times a second: hands over what has no fate after a second, starts what
    /// waits for permits that other workers gave back, forgets idle lanes.
    pub fn sweep(self: &Rc<Self>) {
        let from = self.swept_to.get();
        let old: Vec<(u64, Rc<Job>)> = self
            .open
            .borrow()
            .range(from..)
            .take_while(|(_, job)| job.since.elapsed() >= HAND_OFF_AFTER)
            .map(|(number, job)| (*number, Rc::clone(job)))
            .collect();
        for (number, job) in old {
            self.swept_to.set(number + 1);
            self.hand_over(number, &job);
        }
        self.hand_over_refused();
        self.pump_waiting();
    }

    /// Forgets lanes without work; called now and then.
    pub fn forget_idle(&self) {
        let keep = |lane: &Rc<Lane>| !lane.is_idle() || lane.last_used.get().elapsed() < LANE_IDLE;
        self.lanes.borrow_mut().retain(|_, lane| keep(lane));
    }

    /// Parks everything that waits in memory: the worker stops.
    pub fn park_waiting(&self) {
        let queued: Vec<(u64, Rc<Job>)> = self.jobs(|job| !job.started.get());
        for (number, job) in queued {
            if !job.settling.get() {
                self.parts.settler.park(&job, Duration::ZERO, Duration::ZERO);
            }
            self.close(number);
        }
        self.lanes.borrow().values().for_each(|lane| lane.queue.borrow_mut().clear());
        self.waiting.borrow_mut().clear();
    }

    /// Gives up the attempts that are still in flight: their deliveries are due again at once.
    pub fn give_up(&self) -> usize {
        let started = self.jobs(|job| job.started.get() && !job.settling.get());
        for (number, job) in &started {
            self.parts.settler.park(job, Duration::ZERO, Duration::ZERO);
            self.close(*number);
        }
        started.len()
    }

    fn hand_over(&self, number: u64, job: &Rc<Job>) {
        let lane = self.lane(job.delivery.config);
        if job.started.get() && !job.settling.get() {
            job.credit.set_hanging(true);
            self.parts.permits.observe_hanging(&lane.permits, job.since.elapsed());
            lane.hangs(&self.parts.permits);
        }
        if !job.is_undecided() {
            return;
        }
        if job.started.get() {
            self.parts.settler.hand_off(job);
            self.handed_off.borrow_mut().push((Instant::now(), Rc::downgrade(job)));
        } else {
            self.park(&lane, number, job);
            lane.drop_parked();
        }
    }

    /// A full queue refuses a hand-off; it is asked again after a while.
    fn hand_over_refused(&self) {
        let mut handed_off = self.handed_off.borrow_mut();
        handed_off.retain_mut(|(at, job)| {
            if at.elapsed() < HAND_OFF_AFTER {
                return true;
            }
            let Some(job) = job.upgrade() else { return false };
            if job.is_undecided() {
                *at = Instant::now();
                self.parts.settler.hand_off(&job);
            }
            // One that is still being handed off may yet be refused.
            job.is_handing_off()
        });
    }
}
