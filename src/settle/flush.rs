//! The flush: everything that is settled at a time, in one pipeline.

use std::rc::Rc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::entry::{Action, Entry};
use super::job::{Hold, Job};
use super::plan::Unit;
use super::settler::{GATHER_COUNT, Settler};
use crate::domain::delivery::{DeliveryRecord, FailReason};
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::log::{LogRow, PackedPage, Status};
use crate::domain::log_limit::limited;
use crate::metrics;
use crate::redis::connection::{RedisError, Result, new_pipeline};
use crate::redis::fates::{Applied, Settled, Step, settle_answer};

/// How long outcomes are gathered.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// A store that refused a write for want of memory counts as full for so long.
const FULL_FOR: Duration = Duration::from_secs(10);

/// First and longest pause after a failed flush.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

// === impl Settler ===

impl Settler {
    /// Flushes for ever; ends only with its task. A failed write stays queued and is repeated.
    pub async fn run(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            self.gathered().await;
            self.flushing.set(true);
            let good = self.flush().await;
            self.flushing.set(false);
            if self.held_back.get() && !self.is_behind() {
                self.held_back.set(false);
                self.caught_up.notify_one();
            }
            if good {
                pause = PAUSE_MIN;
            } else {
                let jitter = pause.mul_f64(rand::random::<f64>() * 0.5);
                tokio::time::sleep(pause + jitter).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            self.quiet.notify_waiters();
        }
    }

    /// Waits until there is something to flush, and a little longer for company: unless only acknowledgements
    /// wait, which go at once.
    async fn gathered(&self) {
        self.take_back();
        self.take_company();
        while self.queue.borrow().is_empty() && self.acks.borrow().is_empty() {
            match self.next_back().into_iter().chain(self.next_company()).min() {
                None => self.wake.notified().await,
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, self.wake.notified()).await;
                    self.take_back();
                    self.take_company();
                }
            }
        }
        if self.queue.borrow().is_empty() {
            return;
        }
        let full = async {
            while self.queue.borrow().len() < GATHER_COUNT {
                self.wake.notified().await;
            }
        };
        let _ = tokio::time::timeout(GATHER_TIME, full).await;
    }

    /// Writes what is queued; true when every write succeeded.
    async fn flush(&self) -> bool {
        let mut commands = new_pipeline();
        let units = self.plan(&mut commands);
        let answers = match self.parts.link.pipeline("settling", &commands).await {
            Ok(answers) => answers,
            Err(error) => {
                self.note(&error, "a settle flush failed; it is repeated");
                units.into_iter().for_each(|unit| self.put_back(unit));
                return false;
            }
        };
        let mut answers = answers.into_iter();
        let mut good = true;
        for unit in units {
            let count = unit.commands();
            // Taken whole before it is judged, so that an error leaves no answer behind for the next unit.
            let own: Vec<Result<Value>> = answers.by_ref().take(count).collect();
            match own.into_iter().collect::<Result<Vec<Value>>>() {
                Ok(values) => self.succeeded(unit, values),
                Err(error) => good &= self.refused(unit, &error),
            }
        }
        good
    }

    /// A write was refused. True when the others may go on at once: the fault is this write's own.
    fn refused(&self, unit: Unit, error: &RedisError) -> bool {
        self.note(error, "a write failed; it is repeated");
        if error.code() == Some("OOM") {
            self.full_until.set(Some(Instant::now() + FULL_FOR));
        }
        match unit {
            Unit::Page { entries, .. } | Unit::Script { entries, .. } if !error.is_of_server() => {
                self.set_aside(entries, error);
                true
            }
            unit => {
                self.put_back(unit);
                false
            }
        }
    }

    /// Whether Redis refused a plain write for want of memory a short while ago. The scripts it still takes, so
    /// that what was delivered can be acknowledged and trimmed.
    pub(super) fn store_is_full(&self) -> bool {
        self.full_until.get().is_some_and(|until| Instant::now() < until)
    }

    fn note(&self, error: &RedisError, what: &'static str) {
        metrics::redis_error(error.operation);
        limited!(warn, %error, "{what}");
    }

    /// Puts a unit's entries back, to be written again: the log tells equal rows apart, the script tells a
    /// second application apart, XACK does by itself.
    fn put_back(&self, unit: Unit) {
        match unit {
            Unit::Ack(tickets) => self.acks.borrow_mut().extend(tickets),
            Unit::Page { entries, .. } | Unit::Script { entries, .. } => {
                let mut queue = self.queue.borrow_mut();
                entries.into_iter().rev().for_each(|entry| queue.push_front(entry));
            }
        }
    }

    fn succeeded(&self, unit: Unit, values: Vec<Value>) {
        match unit {
            Unit::Ack(tickets) => {
                self.parts.metrics.events_acknowledged.increment(tickets.len() as u64);
                self.acking.set(self.acking.get().saturating_sub(tickets.len()));
                let mut held = self.held.borrow_mut();
                for ticket in &tickets {
                    held.remove(&ticket.id);
                }
            }
            Unit::Page { page, shard, config, entries, .. } => {
                self.wrote(shard, config, &page);
                for entry in entries {
                    if matches!(entry.action, Action::Deliver) {
                        self.count_delivered(&entry);
                        self.decided(&entry.job);
                    }
                }
            }
            Unit::Script { page, shard, config, entries } => {
                let answer = values.into_iter().next().unwrap_or(Value::Nil);
                let settled = match settle_answer(answer, entries.len()) {
                    Ok(settled) => settled,
                    Err(error) => {
                        self.note(&error, "a settle script's answer was not understood; it is repeated");
                        return self.set_aside(entries, &error);
                    }
                };
                if let Some(page) = &page {
                    self.wrote(shard, config, page);
                }
                self.note_failed_caps(shard, config, &settled);
                for (entry, applied) in entries.into_iter().zip(settled.applied) {
                    self.applied(entry, applied);
                }
            }
        }
    }

    fn applied(&self, entry: Entry, applied: Applied) {
        let job = Rc::clone(&entry.job);
        let hands_off = entry.is_hand_off();
        match applied {
            Applied::Now(claim) if hands_off => {
                self.one_handed_off(&job, Hold::Claimed(claim));
            }
            Applied::Before(claim) if hands_off => {
                // The first answer was lost: the claim that it set is still this worker's while nobody else can
                // have claimed the delivery.
                let own = claim.0 > 0 && job.since.elapsed() < self.claim_lease();
                self.one_handed_off(&job, if own { Hold::Claimed(claim) } else { Hold::Lost });
            }
            Applied::QueueFull if hands_off => self.hand_off_refused(&job),
            Applied::QueueFull => self.fail_backlog(entry),
            Applied::Lost => {
                self.parts.metrics.settles_lost.increment(1);
                // A claim that is lost says nothing of the event, which was released at the hand-off.
                if let Some(ticket) = job.ticket.as_ref().filter(|_| !job.released.get()) {
                    ticket.lose();
                }
                if hands_off {
                    self.one_handed_off(&job, Hold::Lost);
                } else {
                    self.decided(&job);
                }
            }
            Applied::Now(_) | Applied::Before(_) => {
                self.count_fate(&entry);
                self.decided(&job);
            }
        }
    }

    /// The hand-off was answered: the event needs this delivery no longer, and an outcome that came meanwhile is
    /// decided now.
    fn one_handed_off(&self, job: &Rc<Job>, next: Hold) {
        let previous = job.hold.replace(next);
        self.release(job);
        if let Hold::HandingOff(Some(attempted)) = previous {
            self.attempted(job, *attempted);
        }
    }

    /// The queue is full, so the delivery ends as failed, with the attempt after which it was to wait.
    fn fail_backlog(&self, entry: Entry) {
        let reason = FailReason::BacklogFull;
        let record = match &entry.action {
            Action::Step(Step::Queue { record, .. }, _) => DeliveryRecord::decode(record).ok(),
            _ => None,
        };
        let (Some(record), Some(row)) = (record, entry.row) else { return self.fail(&entry.job, reason) };
        let row = LogRow { status: Status::Failed, reason: Some(reason), next_attempt_at: None, ..row };
        self.push_fail(&entry.job, record.tried, reason, Some(row));
    }

    /// The queue is full, so the delivery stays with its event, and its outcome decides.
    fn hand_off_refused(&self, job: &Rc<Job>) {
        if let Hold::HandingOff(Some(attempted)) = job.hold.replace(Hold::Event) {
            self.attempted(job, *attempted);
        }
    }

    fn count_fate(&self, entry: &Entry) {
        let Action::Step(step, reason) = &entry.action else { return };
        match step {
            Step::Finish => self.count_delivered(entry),
            Step::Fail { .. } => {
                if let Some(reason) = reason {
                    self.parts.metrics.failed(*reason).increment(1);
                    let place = usize::from(reason.code() - 1);
                    let id = entry.job.delivery.id;
                    self.counting.count(id.event().shard(), entry.job.delivery.config, |counts| {
                        counts.failed[place] += 1
                    });
                }
            }
            Step::Queue { look, .. } => self.announce(entry.job.delivery.id.event().shard(), *look),
            Step::HandOff { .. } => {}
        }
    }

    fn count_delivered(&self, entry: &Entry) {
        let metrics = &self.parts.metrics;
        metrics.delivered.increment(1);
        let delivery = &entry.job.delivery;
        self.counting.count(delivery.id.event().shard(), delivery.config, |counts| counts.delivered += 1);
        if let Some(row) = &entry.row {
            let waited = row.at.since(row.created_at).as_secs_f64() + f64::from(row.took_ms) / 1_000.0;
            metrics.delivery_seconds.record(waited);
        }
    }

    fn note_failed_caps(&self, shard: ShardNumber, config: ConfigId, settled: &Settled) {
        let retention = &self.parts.settings.retention;
        if settled.failed_count > retention.failed_max || settled.failed_bytes > retention.failed_bytes_max {
            self.chores.borrow_mut().failed_over.insert((shard, config));
        }
    }

    fn wrote(&self, shard: ShardNumber, config: ConfigId, page: &PackedPage) {
        self.chores.borrow_mut().written.entry((shard, config)).or_default().add(page);
    }
}
