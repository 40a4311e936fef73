//! From a permit to the next: starting an attempt, what it means for its lane, and who gets the permit that it
//! gives back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::admission::{FULL_LOOK, HELD_LOOK, Lanes};
use super::lane::{InFlight, Lane};
use super::permits::Permit;
use crate::attempt::{Ended, Outgoing};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::FailReason;
use crate::domain::outcome::AttemptResult;
use crate::domain::outcome::Outcome;
use crate::domain::retry_on::RetryOn;
use crate::domain::snapshot::{Lookup, Target};
use crate::settle::{Attempted, Job, RetryRules};
use crate::spans::{AttemptFacts, Traced};

/// After a 410, how long the lane waits for its config to change.
const GONE_HOLD: Duration = Duration::from_millis(250);

/// When to look again at a config one of whose attempts panicked: a fault of ours, so nobody is told of it, but
/// it must not be repeated at once.
const FAULT_LOOK: Duration = Duration::from_secs(60);

/// An attempt in flight; dropping it ends it for its lane, however it ended.
struct Running {
    lanes: Rc<Lanes>,
    lane: Rc<Lane>,
    number: u64,
    job: Rc<Job>,
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.lane.in_flight.borrow_mut().remove(&self.number);
        if std::thread::panicking() && self.job.is_undecided() {
            // Its event must not wait for it for ever; a claimed delivery is due again when its claim is past.
            self.lanes.parts.settler.park(&self.job, FAULT_LOOK, FAULT_LOOK);
        }
        self.lanes.close(self.number);
    }
}

// === impl Lanes ===

impl Lanes {
    /// Starts queued deliveries while there are permits.
    pub(super) fn pump(self: &Rc<Self>, lane: &Rc<Lane>) {
        lane.drop_parked();
        while self.may_start() && !lane.queue.borrow().is_empty() {
            let Some(permit) = self.take(lane) else { break };
            let next = lane.queue.borrow_mut().pop_front();
            match next {
                Some(job) if !job.settling.get() => {
                    let number = job.number.get();
                    self.start(lane, number, job, permit);
                }
                _ => drop(permit),
            }
        }
        if lane.queue.borrow().is_empty() {
            self.waiting.borrow_mut().remove(&lane.config);
        }
    }

    pub(super) fn start(self: &Rc<Self>, lane: &Rc<Lane>, number: u64, job: Rc<Job>, mut permit: Permit) {
        job.started.set(true);
        permit.spend();
        lane.in_flight.borrow_mut().insert(number, InFlight { since: Instant::now(), permit });
        let running = Running { lanes: Rc::clone(self), lane: Rc::clone(lane), number, job };
        tokio::task::spawn_local(async move {
            let Running { lanes, lane, job, .. } = &running;
            let breaker = &lane.permits.gate.breaker;
            let attempted = lanes.attempt(lane, job).await;
            // What is settled counts against the credit again: a Redis that does not answer stops the intake.
            job.credit.set_hanging(false);
            if let Some(attempted) = attempted {
                let retry_on = attempted.retry.retry_on;
                breaker.observe(job.delivery.id, attempted.config_version, &attempted.result, retry_on);
                lanes.observe(lane, &attempted.result, retry_on);
                lanes.parts.settler.attempted(job, attempted);
            } else {
                breaker.not_attempted(job.delivery.id);
            }
            let (lanes, lane, job) = (Rc::clone(lanes), Rc::clone(lane), Rc::clone(job));
            let ended = lane.in_flight.borrow_mut().remove(&number);
            drop(running);
            if let Some(ended) = ended {
                lanes.next_for(&lane, &job, ended.permit);
            }
        });
    }

    /// Makes the attempt, to what the config says now; decides without one where the config cannot be sent to.
    async fn attempt(&self, lane: &Lane, job: &Rc<Job>) -> Option<Attempted> {
        let settler = &self.parts.settler;
        let target: Arc<Target> = match self.parts.snapshot.load().lookup(job.delivery.config) {
            Lookup::Active(target) => target,
            Lookup::Paused | Lookup::Unknown => {
                settler.park(job, Duration::ZERO, HELD_LOOK);
                return None;
            }
            Lookup::Gone => {
                settler.fail(job, FailReason::Gone);
                return None;
            }
            Lookup::Deleted => {
                settler.fail(job, FailReason::Deleted);
                return None;
            }
        };
        let delivery = &job.delivery;
        let at = self.parts.clock.now();
        let traced = self.parts.spans.as_ref().and_then(|spans| spans.trace(delivery.traceparent.as_deref()));
        let outgoing = Outgoing {
            delivery: delivery.id,
            event_type: Arc::clone(&delivery.event_type),
            traceparent: traced.map_or_else(|| delivery.traceparent.clone(), |traced| Some(traced.header())),
            body: delivery.body.clone(),
            at,
        };
        self.parts.metrics.in_flight.increment(1.0);
        let may_send = || self.is_sending() && job.is_own(self.parts.clock.now());
        let result = self.parts.attempter.attempt_if(&target.endpoint, &outgoing, &may_send).await;
        self.parts.metrics.in_flight.decrement(1.0);
        let result = match result {
            Ended::Made(result) => result,
            Ended::Forbidden => {
                // Whoever owns it now decides: the script refuses the parking where that is somebody else.
                settler.park(job, Duration::ZERO, FULL_LOOK);
                return None;
            }
            Ended::Obstructed(obstacle) => {
                self.obstructed(lane, job, &obstacle);
                return None;
            }
        };
        lane.obstacles.set(0);
        if let Some(traced) = traced {
            self.record(traced, job, &target, at, &result);
        }
        Some(Attempted {
            url: Arc::clone(&target.endpoint.url),
            config_version: target.config.version,
            retry: RetryRules {
                max_retries: target.config.max_retries,
                policy: target.config.retry_policy,
                retry_on: target.config.retry_on,
            },
            at,
            result,
        })
    }

    /// Records the spans of an attempt.
    fn record(&self, traced: Traced, job: &Job, target: &Target, at: UnixMillis, result: &AttemptResult) {
        let Some(spans) = &self.parts.spans else { return };
        let tried = &job.delivery.tried;
        let waited_since = match (&tried.last, tried.history.last()) {
            (Some(last), Some(summary)) if last.at == summary.at => {
                last.at.plus(Duration::from_millis(u64::from(summary.took_ms)))
            }
            (Some(last), _) => last.at,
            // Read a moment ago, unless it was parked first: then all that is known is when the event came.
            (None, _) if job.ticket.is_some() => {
                let age = job.since.elapsed().saturating_sub(result.took);
                UnixMillis(at.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
            }
            (None, _) => job.delivery.created_at,
        };
        let outcome = result.outcome_with(target.config.retry_on);
        let method = &target.endpoint.method;
        let facts = AttemptFacts { delivery: &job.delivery, waited_since, at, method, result, outcome };
        spans.attempted(traced, &facts);
    }

    fn observe(&self, lane: &Lane, result: &AttemptResult, retry_on: RetryOn) {
        let in_doubt = lane.permits.is_in_doubt();
        self.parts.permits.observe(&lane.permits, result);
        if in_doubt && !lane.permits.is_in_doubt() {
            lane.set_in_doubt(false);
        }
        if let Some(asked) = result.asked_to_wait(retry_on) {
            lane.permits.gate.pace.hold(asked);
        }
        let metrics = &self.parts.metrics;
        metrics.outcome(result.outcome_with(retry_on)).increment(1);
        metrics.attempt_seconds.record(result.took.as_secs_f64());
        match &result.reply {
            Err(fault) => metrics.fault(fault.kind).increment(1),
            // The config is being disabled; what is sent meanwhile would only be told the same.
            Ok(_) if result.outcome() == Outcome::Gone => lane.permits.gate.pace.hold(GONE_HOLD),
            Ok(_) => {}
        }
    }

    /// A permit came free: the backlog's turn, or the queue's.
    fn next_for(self: &Rc<Self>, lane: &Rc<Lane>, job: &Job, permit: Permit) {
        permit.set_in_doubt(lane.permits.is_in_doubt());
        let renewed = if lane.permits.hangs() {
            // Asked for anew: how much a lane may hold while it hangs depends on how many others hang.
            drop(permit);
            self.take(lane)
        } else {
            permit.renew()
        };
        let shard = job.delivery.id.event().shard();
        if renewed.is_some_and(|permit| lane.offer_to_backlog(shard, permit).is_ok()) {
            self.backlog_ready.borrow_mut().insert((shard, lane.config));
            self.backlog_wake.notify_waiters();
        }
        self.pump(lane);
    }
}
