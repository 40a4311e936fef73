//! A worker's lanes: what becomes of a delivery that comes in, and of one that waits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lane::Lane;
use super::permits::{Permit, Permits};
use crate::attempt::Attempter;
use crate::domain::clock::Clock;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::metrics::WalkMetrics;
use crate::settings::Settings;
use crate::settle::{Credit, Job, Settler};
use crate::spans::SpanSink;

/// When to look at a config whose lanes were full: a permit that comes free sooner brings its own visit.
pub(super) const FULL_LOOK: Duration = Duration::from_secs(1);

/// The same where the endpoint answers: its lane was full for a moment. The permit that comes free may bring its visit
/// before what was parked is written, and what is for a healthy endpoint is not to wait a second for the next.
const PASSING_LOOK: Duration = Duration::from_millis(50);

/// When to look at a config that cannot be served: paused, or not known here.
pub(crate) const HELD_LOOK: Duration = Duration::from_secs(60);

/// What the lanes work with.
pub struct LanesParts {
    /// The replica's permits.
    pub permits: Arc<Permits>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Makes attempts.
    pub attempter: Rc<Attempter>,
    /// Takes outcomes.
    pub settler: Rc<Settler>,
    /// Bounds what waits.
    pub credit: Rc<Credit>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// The settings.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: WalkMetrics,
    /// Takes spans, where they are wanted.
    pub spans: Option<SpanSink>,
}

/// A worker's lanes.
pub struct Lanes {
    pub(super) parts: LanesParts,
    pub(super) lanes: RefCell<HashMap<ConfigId, Rc<Lane>>>,
    /// Every job that is queued or in flight, by its number: the first is the oldest.
    pub(super) open: RefCell<BTreeMap<u64, Rc<Job>>>,
    next_number: Cell<u64>,
    pub(super) swept_to: Cell<u64>,
    pub(super) handed_off: RefCell<Vec<(Instant, Weak<Job>)>>,
    /// Lanes whose queue is not empty.
    pub(super) waiting: RefCell<HashSet<ConfigId>>,
    pub(super) backlog_ready: RefCell<HashSet<(ShardNumber, ConfigId)>>,
    /// Wakes the scheduler: permits wait for a backlog.
    pub backlog_wake: Notify,
    /// Until when the worker's leases hold, by its own clock; nothing is sent past it.
    pub(super) sending_until: Cell<Option<Instant>>,
    all_done: Notify,
}

// === impl Lanes ===

impl Lanes {
    /// Lanes with nothing in them, not sending yet.
    #[must_use]
    pub fn new(parts: LanesParts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            lanes: RefCell::default(),
            open: RefCell::default(),
            next_number: Cell::new(0),
            swept_to: Cell::new(0),
            handed_off: RefCell::default(),
            waiting: RefCell::default(),
            backlog_ready: RefCell::default(),
            backlog_wake: Notify::new(),
            sending_until: Cell::new(None),
            all_done: Notify::new(),
        })
    }

    /// Takes a delivery of a new event: it is attempted at once, queued in memory, or parked.
    pub fn admit(self: &Rc<Self>, job: Rc<Job>) {
        let lane = self.lane(job.delivery.config);
        let number = self.note(&job);
        let may_start = self.may_start() && lane.queue.borrow().is_empty() && !lane.yields_token();
        match may_start.then(|| self.take(&lane)).flatten() {
            Some(permit) => self.start(&lane, number, job, permit),
            None if self.may_queue(&lane) => {
                lane.queue.borrow_mut().push_back(job);
                self.waiting.borrow_mut().insert(lane.config);
            }
            None => self.park(&lane, number, &job),
        }
    }

    /// Parks a delivery without looking at its lane: its config was paused since its event was read.
    pub fn park_unseen(&self, job: &Rc<Job>) {
        self.parts.settler.park(job, Duration::ZERO, HELD_LOOK);
    }

    /// Starts a delivery that was claimed from its queue, under a permit that was reserved for it; parks it again
    /// where the gate has shut meanwhile.
    pub fn start_claimed(self: &Rc<Self>, job: Rc<Job>, permit: Permit) {
        let lane = self.lane(job.delivery.config);
        if let Some(shut) = lane.permits.gate.shut_for(std::time::Instant::now()) {
            self.parts.settler.park(&job, Duration::ZERO, shut);
            return;
        }
        let number = self.note(&job);
        self.start(&lane, number, job, permit);
    }

    /// Permits for deliveries that are claimed next: those that wait for the backlog, and what is free, at most
    /// `max`.
    #[must_use]
    pub fn reserve(&self, config: ConfigId, max: usize) -> Vec<Permit> {
        let lane = self.lane(config);
        let open = lane.permits.gate.shut_for(std::time::Instant::now()).is_none();
        let left = if self.is_sending() && open { self.parts.credit.left() } else { 0 };
        let max = max.min(usize::try_from(left).unwrap_or(usize::MAX));
        // Taken in any case: permits that nobody uses must not stay with the lane.
        let mut permits = lane.take_backlog_permits();
        permits.truncate(max);
        if lane.permits.gate.shut_for(std::time::Instant::now()).is_some() {
            permits.clear();
        }
        while permits.len() < max
            && let Some(permit) = self.take(&lane)
        {
            permits.push(permit);
        }
        permits
    }

    /// When `config`'s gate opens, or its next token comes; `None` while neither is waited for.
    #[must_use]
    pub fn next_look(&self, config: ConfigId) -> Option<Duration> {
        self.lane(config).permits.gate.next_look(std::time::Instant::now())
    }

    /// Whether other replicas hold a limit of `config` that is too small to divide.
    #[must_use]
    pub fn is_held_elsewhere(&self, config: ConfigId) -> bool {
        self.lane(config).permits.is_held_elsewhere()
    }

    /// Says whether more deliveries of `config` are due in the queue of `shard` than were claimed.
    pub fn set_backlog(self: &Rc<Self>, shard: ShardNumber, config: ConfigId, more: bool) {
        let lane = self.lane(config);
        lane.permits.set_backlog(shard, more);
        if !more {
            drop(lane.take_backlog_permits());
            self.pump(&lane);
        }
    }

    /// The configs of `shard` for whose backlog permits wait.
    #[must_use]
    pub fn take_backlog_ready(&self, shard: ShardNumber) -> Vec<ConfigId> {
        let mut ready = self.backlog_ready.borrow_mut();
        let own = ready.iter().filter(|(of, _)| *of == shard).map(|(_, config)| *config).collect();
        ready.retain(|(of, _)| *of != shard);
        own
    }

    /// Asks for another visit for `config`'s backlog: the last one failed.
    pub fn backlog_is_ready(&self, shard: ShardNumber, config: ConfigId) {
        self.backlog_ready.borrow_mut().insert((shard, config));
    }

    /// Whether permits wait for a backlog of `shard`.
    #[must_use]
    pub fn has_backlog_ready(&self, shard: ShardNumber) -> bool {
        self.backlog_ready.borrow().iter().any(|(of, _)| *of == shard)
    }

    /// Sends until then, or not at all: a worker that could not renew its lease must not send. A moment, not a
    /// switch: a process that was stopped past its lease finds it closed when it goes on, before its next tick.
    pub fn set_sending(self: &Rc<Self>, until: Option<Instant>) {
        let before = self.is_sending();
        self.sending_until.set(until);
        if !before && self.is_sending() {
            self.pump_waiting();
        }
    }

    /// Whether the worker's leases hold now.
    pub fn is_sending(&self) -> bool {
        self.sending_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until no job is queued or in flight.
    pub async fn all_done(&self) {
        while !self.open.borrow().is_empty() {
            self.all_done.notified().await;
        }
    }

    /// Whether attempts of new events may begin: the leases hold, and what earlier ones gave is being written. What
    /// is claimed comes a batch at a time, and no faster than Redis answers.
    pub(super) fn may_start(&self) -> bool {
        self.is_sending() && !self.parts.settler.is_behind()
    }

    pub(super) fn jobs(&self, wanted: impl Fn(&Job) -> bool) -> Vec<(u64, Rc<Job>)> {
        let open = self.open.borrow();
        open.iter().filter(|(_, job)| wanted(job)).map(|(number, job)| (*number, Rc::clone(job))).collect()
    }

    pub(super) fn lane(&self, config: ConfigId) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let rate = || match self.parts.snapshot.load().lookup(config) {
            Lookup::Active(target) => target.config.rate_limit,
            _ => None,
        };
        let permits = &self.parts.permits;
        let made = || Lane::new(config, permits.lane(config, rate), self.parts.metrics.configs.of(config));
        let lane = lanes.entry(config).or_insert_with(made);
        lane.last_used.set(Instant::now());
        Rc::clone(lane)
    }

    pub(super) fn note(&self, job: &Rc<Job>) -> u64 {
        let number = self.next_number.replace(self.next_number.get() + 1);
        self.open.borrow_mut().insert(number, Rc::clone(job));
        job.number.set(number);
        number
    }

    pub(super) fn close(&self, number: u64) {
        let mut open = self.open.borrow_mut();
        open.remove(&number);
        if open.is_empty() {
            self.all_done.notify_waiters();
        }
    }

    /// Whether the lane may hold one more in memory: the wait is short or unknown, and its share of the credit
    /// (all of it while nobody else waits) is not used up. What is for an endpoint that hangs may wait too while
    /// there is plenty: one that hangs for half a second only then costs no write to Redis.
    fn may_queue(&self, lane: &Lane) -> bool {
        if self.is_short()
            && (lane.hangs(&self.parts.permits)
                || lane.permits.is_in_doubt() && lane.permits.has_backlog(None))
        {
            return false;
        }
        let wait_max = self.parts.settings.limits.lane_wait_max;
        let short = lane.permits.hangs() || lane.expected_wait().is_none_or(|wait| wait < wait_max);
        let waiting = self.waiting.borrow();
        let others = waiting.len() - usize::from(waiting.contains(&lane.config));
        let share = self.parts.credit.deliveries_max() as usize / (others + 1);
        let open = lane.permits.gate.shut_for(std::time::Instant::now()).is_none();
        open && short && !lane.shares_tokens() && lane.queue.borrow().len() < share.max(1)
    }

    pub(super) fn park(&self, lane: &Lane, number: u64, job: &Rc<Job>) {
        let elsewhere = lane.permits.is_held_elsewhere();
        let others_wait = lane.permits.has_backlog(None);
        // Permits wait for a backlog only where a scheduler comes for them.
        if self.parts.settings.process.roles.retry && !elsewhere {
            lane.permits.note_parked();
        }
        let next_look = lane.permits.gate.next_look(std::time::Instant::now());
        let hangs = lane.permits.is_in_doubt() || lane.hangs(&self.parts.permits);
        let full = if hangs { FULL_LOOK } else { PASSING_LOOK };
        // Those who hold the limit may take it at once.
        let look = if elsewhere { Duration::ZERO } else { next_look.unwrap_or(full) };
        // A little later is soon enough where nobody looks sooner, and behind others that wait.
        if look >= FULL_LOOK || others_wait && !elsewhere {
            self.parts.settler.park_in_company(job, look);
            if self.is_short() {
                self.parts.settler.hurry();
            }
        } else {
            self.parts.settler.park(job, Duration::ZERO, look);
        }
        self.close(number);
    }

    /// Whether so much of the credit is spent that what hanging endpoints would keep in memory is taken from those
    /// that answer.
    fn is_short(&self) -> bool {
        self.parts.credit.left() < self.parts.credit.deliveries_max() / 2
    }

    /// A permit for `lane`, unless what its endpoint leaves hanging fills the memory.
    pub(super) fn take(&self, lane: &Lane) -> Option<Permit> {
        let hangs = lane.hangs(&self.parts.permits);
        let room = !hangs || self.parts.credit.hanging_bytes() < self.parts.credit.bytes_max() / 2;
        room.then(|| self.parts.permits.take(&lane.permits)).flatten()
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
