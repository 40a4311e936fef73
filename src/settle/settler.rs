//! The settler of a worker: turns outcomes and decisions into entries for the next flush.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::company::Company;
use super::counted::Counting;
use super::entry::{Action, Entry, Unsettled};
use super::job::{Attempted, Consumer, Hold, Job, Ticket};
use super::verdict::{Verdict, judge};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::delivery::{BODY_INLINE_MAX_BYTES, DeliveryRecord, FailReason, Standing, Tried};
use crate::domain::ids::{ConfigId, EventId, ShardNumber};
use crate::domain::log::{LogRow, Status};
use crate::domain::snapshot::Snapshot;
use crate::metrics::WalkMetrics;
use crate::redis::connection::Link;
use crate::redis::fates::Step;
use crate::redis::keys::ShardKeys;
use crate::redis::log_write::Written;
use crate::settings::Settings;

/// A claim outlives the request's deadline by this, so that a slow outcome still finds it.
const CLAIM_MARGIN: Duration = Duration::from_secs(10);

/// Outcomes that are gathered before a flush goes at once.
pub(super) const GATHER_COUNT: usize = 256;

/// Outcomes and acknowledgements that may wait to be written before no further attempt begins: several flushes' worth.
const UNSETTLED_MAX: usize = 2_048;

/// A look sooner than this is announced to the scheduler, which otherwise sleeps for up to a second.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// What a settler works with.
pub struct SettlerParts {
    /// The worker's connection for commands that answer at once.
    pub link: Rc<Link>,
    /// Every shard of the keyspace, by number.
    pub shards: Arc<[ShardKeys]>,
    /// Wakes each shard's scheduler, by number: something is due soon.
    pub due_soon: Arc<[Notify]>,
    /// The settings.
    pub settings: Arc<Settings>,
    /// The configs of this moment: whether a config's payloads are kept is asked when they are written.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Redis's clock, for rows.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: WalkMetrics,
}

/// A worker's settler.
pub struct Settler {
    pub(super) parts: SettlerParts,
    pub(super) queue: RefCell<VecDeque<Entry>>,
    /// Entries that Redis refused, each until it is tried again.
    pub(super) aside: RefCell<Vec<(Instant, Entry)>>,
    /// What is to be parked and waits for others.
    pub(super) company: RefCell<Company<Entry>>,
    outcomes: Rc<Cell<usize>>,
    /// Events whose acknowledgement is not answered yet.
    pub(super) acking: Cell<usize>,
    /// Somebody was told that the settler is behind.
    pub(super) held_back: Cell<bool>,
    pub(super) acks: RefCell<Vec<Rc<Ticket>>>,
    pub(super) held: RefCell<HashSet<EventId>>,
    pub(super) wake: Notify,
    pub(super) chores: RefCell<Chores>,
    /// What the deliveries of each config came to since that was last taken.
    pub(super) counting: Counting,
    /// A flush is under way: what it took from the queue and from the acknowledgements is not written yet.
    pub(super) flushing: Cell<bool>,
    /// The store is full: log pages go through the script, which it still takes.
    pub(super) full_until: Cell<Option<Instant>>,
    pub(super) quiet: Notify,
    /// Wakes the lanes: the outcomes that were to be written are.
    pub caught_up: Notify,
    /// Wakes who does the chores: one of them is urgent.
    pub chore_wake: Notify,
}

/// What settling leaves to be done beside the walk.
#[derive(Debug, Default)]
pub struct Chores {
    /// Configs whose receiver answered 410, with the version that the attempt used.
    pub gone: Vec<(ConfigId, u64)>,
    /// What was written to each log since its sizes were told.
    pub written: HashMap<(ShardNumber, ConfigId), Written>,
    /// Configs whose failed set passed a cap.
    pub failed_over: HashSet<(ShardNumber, ConfigId)>,
}

// === impl Settler ===

impl Settler {
    /// A settler with nothing to do.
    #[must_use]
    pub fn new(parts: SettlerParts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            queue: RefCell::default(),
            aside: RefCell::default(),
            company: RefCell::default(),
            outcomes: Rc::default(),
            acking: Cell::new(0),
            held_back: Cell::new(false),
            acks: RefCell::default(),
            held: RefCell::default(),
            wake: Notify::new(),
            chores: RefCell::default(),
            counting: Counting::default(),
            flushing: Cell::new(false),
            full_until: Cell::new(None),
            quiet: Notify::new(),
            caught_up: Notify::new(),
            chore_wake: Notify::new(),
        })
    }

    /// Notes an event as read: it is held until its acknowledgement was answered. `None` when it is held already.
    pub fn open(&self, id: EventId, consumer: &Rc<Consumer>, deliveries: u32) -> Option<Rc<Ticket>> {
        if !self.held.borrow_mut().insert(id) {
            return None;
        }
        let ticket = Ticket::new(id, Rc::clone(consumer), deliveries);
        // The feature is a fault on purpose: what a crash then loses, the judge of tests/chaos must miss.
        if ticket.is_done() || cfg!(feature = "chaos-ack-first") {
            self.acknowledge(&ticket);
        }
        Some(ticket)
    }

    /// Whether the event is held.
    #[must_use]
    pub fn holds(&self, id: EventId) -> bool {
        self.held.borrow().contains(&id)
    }

    /// Whether any event of `shard` is held.
    #[must_use]
    pub fn holds_any(&self, shard: ShardNumber) -> bool {
        self.held.borrow().iter().any(|id| id.shard() == shard)
    }

    /// One delivery of the event needs nothing more: it had a durable fate already.
    pub fn known(&self, ticket: &Rc<Ticket>) {
        self.parts.metrics.deliveries_known.increment(1);
        self.one_decided(ticket);
    }

    /// An attempt is over. One that was given up has its fate already: a second one would count twice.
    pub fn attempted(&self, job: &Rc<Job>, attempted: Attempted) {
        if job.settling.get() {
            return;
        }
        let outcome = attempted.result.outcome_with(attempted.retry.retry_on);
        let shard = job.delivery.id.event().shard();
        self.counting.count(shard, job.delivery.config, |counts| {
            counts.attempt(attempted.at, outcome, &attempted.result);
        });
        let mut hold = job.hold.borrow_mut();
        match &mut *hold {
            Hold::HandingOff(waiting) => *waiting = Some(Box::new(attempted)),
            Hold::Lost => {
                drop(hold);
                self.push_lost_row(job, &attempted);
            }
            Hold::Event | Hold::Claimed(_) => {
                drop(hold);
                self.decide(job, &attempted);
            }
            Hold::Decided => {}
        }
    }

    /// Parks a delivery: it waits in Redis, no attempt is made by that. It is due after `delay`; its config is
    /// looked at after `look`.
    pub fn park(&self, job: &Rc<Job>, delay: Duration, look: Duration) {
        self.push(self.parking(job, delay, look));
    }

    /// As [`Self::park`], due at once; but it may wait a little for others of its config.
    pub fn park_in_company(&self, job: &Rc<Job>, look: Duration) {
        self.gather(self.parking(job, Duration::ZERO, look));
    }

    fn parking(&self, job: &Rc<Job>, delay: Duration, look: Duration) -> Entry {
        self.parts.metrics.parked.increment(1);
        let row = matches!(*job.hold.borrow(), Hold::Event).then(|| {
            let status = if job.delivery.tried.attempts == 0 { Status::Pending } else { Status::Retrying };
            let mut row = self.fate_row(job, status, None);
            row.next_attempt_at = Some(self.parts.clock.now().plus(delay));
            row
        });
        let record =
            DeliveryRecord::of(&job.delivery, job.delivery.tried.clone(), Standing::Waiting).encode();
        let step = Step::Queue { delay, look, record, apart: self.apart(job) };
        Entry::new(Rc::clone(job), Action::Step(step, None), row)
    }

    /// Ends a delivery as failed without an attempt.
    pub fn fail(&self, job: &Rc<Job>, reason: FailReason) {
        let row = self.fate_row(job, Status::Failed, Some(reason));
        self.push_fail(job, job.delivery.tried.clone(), reason, Some(row));
    }

    /// Hands a delivery whose attempt is under way to its queue, claimed by this worker until well after the
    /// request's deadline.
    pub fn hand_off(&self, job: &Rc<Job>) {
        *job.hold.borrow_mut() = Hold::HandingOff(None);
        self.parts.metrics.handed_off.increment(1);
        let record =
            DeliveryRecord::of(&job.delivery, job.delivery.tried.clone(), Standing::Waiting).encode();
        let step = Step::HandOff { lease: self.claim_lease(), record, apart: self.apart(job) };
        self.push(Entry::new(Rc::clone(job), Action::Step(step, None), None));
    }

    /// How long a claim holds.
    #[must_use]
    pub fn claim_lease(&self) -> Duration {
        self.parts.settings.delivery.request_timeout + CLAIM_MARGIN
    }

    /// Takes the chores that have come up.
    #[must_use]
    pub fn take_chores(&self) -> Chores {
        self.chores.take()
    }

    /// Waits until nothing is left to write or to acknowledge.
    pub async fn all_written(&self) {
        while self.flushing.get()
            || !self.acks.borrow().is_empty()
            || !self.queue.borrow().is_empty()
            || !self.aside.borrow().is_empty()
            || !self.company.borrow().is_empty()
        {
            self.hurry();
            self.quiet.notified().await;
        }
    }

    /// Whether so many outcomes and acknowledgements wait to be written that no further attempt should begin: a crash repeats them all.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let behind = self.outcomes.get() + self.acking.get() >= UNSETTLED_MAX;
        if behind {
            self.held_back.set(true);
        }
        behind
    }

    fn decide(&self, job: &Rc<Job>, attempted: &Attempted) {
        let parts = &self.parts;
        let tried = job.delivery.tried.and(attempted.at, &attempted.url, &attempted.result);
        let schedule = &parts.settings.delivery.schedule;
        match judge(&attempted.result, &tried, &attempted.retry, schedule, rand::random()) {
            Verdict::Delivered => {
                let row = self.attempt_row(job, attempted, &tried, Status::Delivered);
                let first_hold = matches!(*job.hold.borrow(), Hold::Event);
                let action = if first_hold { Action::Deliver } else { Action::Step(Step::Finish, None) };
                self.push(Entry::new(Rc::clone(job), action, Some(row)));
            }
            Verdict::Retry(delay) => {
                parts.metrics.retries_scheduled.increment(1);
                let mut row = self.attempt_row(job, attempted, &tried, Status::Retrying);
                row.next_attempt_at = Some(parts.clock.now().plus(delay));
                let record = DeliveryRecord::of(&job.delivery, tried, Standing::Waiting).encode();
                let step = Step::Queue { delay, look: delay, record, apart: self.apart(job) };
                self.push(Entry::new(Rc::clone(job), Action::Step(step, None), Some(row)));
            }
            Verdict::Failed(reason) => {
                if reason == FailReason::Gone {
                    self.chores.borrow_mut().gone.push((job.delivery.config, attempted.config_version));
                    self.chore_wake.notify_one();
                }
                let mut row = self.attempt_row(job, attempted, &tried, Status::Failed);
                row.reason = Some(reason);
                self.push_fail(job, tried, reason, Some(row));
            }
        }
    }

    pub(super) fn push_fail(&self, job: &Rc<Job>, tried: Tried, reason: FailReason, row: Option<LogRow>) {
        let record = DeliveryRecord::of(&job.delivery, tried, Standing::Failed(reason)).encode();
        let step = Step::Fail { record, apart: self.apart(job) };
        self.push(Entry::new(Rc::clone(job), Action::Step(step, Some(reason)), row));
    }

    fn push_lost_row(&self, job: &Rc<Job>, attempted: &Attempted) {
        let tried = job.delivery.tried.and(attempted.at, &attempted.url, &attempted.result);
        let status = match attempted.result.outcome() {
            crate::domain::outcome::Outcome::Delivered => Status::Delivered,
            _ => Status::Retrying,
        };
        let row = self.attempt_row(job, attempted, &tried, status);
        self.push(Entry::new(Rc::clone(job), Action::Row, Some(row)));
    }

    fn push(&self, mut entry: Entry) {
        if !entry.is_hand_off() {
            entry.job.settling.set(true);
            entry.outcome = entry.job.started.get().then(|| Unsettled::new(&self.outcomes));
        }
        let mut queue = self.queue.borrow_mut();
        queue.push_back(entry);
        // The flush waits for the first and for company enough; a wake-up for each in between is wasted.
        if queue.len() == 1 || queue.len() == GATHER_COUNT {
            self.wake.notify_one();
        }
    }

    /// The delivery's fate is durable.
    pub(super) fn decided(&self, job: &Job) {
        *job.hold.borrow_mut() = Hold::Decided;
        self.release(job);
    }

    /// The delivery's event needs it no longer. Counts once: a delivery that was handed off is decided later, and
    /// must not count for one that has no fate yet.
    pub(super) fn release(&self, job: &Job) {
        if let Some(ticket) = &job.ticket
            && !job.released.replace(true)
        {
            self.one_decided(ticket);
        }
    }

    fn one_decided(&self, ticket: &Rc<Ticket>) {
        if ticket.decided_one() {
            self.acknowledge(ticket);
        } else if ticket.is_done() {
            self.forget_if_not_own(ticket);
        }
    }

    /// Lets go of an event that belongs to another consumer now, or whose consumer's lease lapsed: it is never
    /// acknowledged here.
    pub(super) fn forget_if_not_own(&self, ticket: &Ticket) -> bool {
        let forget = !ticket.is_own();
        if forget {
            self.held.borrow_mut().remove(&ticket.id);
        }
        forget
    }

    fn acknowledge(&self, ticket: &Rc<Ticket>) {
        self.acks.borrow_mut().push(Rc::clone(ticket));
        self.acking.set(self.acking.get() + 1);
        self.wake.notify_one();
    }

    pub(super) fn announce(&self, shard: ShardNumber, look: Duration) {
        if look < LOOK_SOON
            && let Some(due_soon) = self.parts.due_soon.get(usize::from(shard.0))
        {
            due_soon.notify_one();
        }
    }

    /// The body that goes beside the record, for a delivery that has none yet.
    fn apart(&self, job: &Job) -> Bytes {
        let first = matches!(*job.hold.borrow(), Hold::Event | Hold::HandingOff(_));
        if first && job.delivery.body.len() > BODY_INLINE_MAX_BYTES {
            job.delivery.body.clone()
        } else {
            Bytes::new()
        }
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.parts.clock.now()
    }
}
