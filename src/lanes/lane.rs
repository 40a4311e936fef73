//! One worker's share of a lane: its queue in memory and its attempts in flight.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::permits::{LanePermits, Permit, Permits};
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::settle::Job;

/// Permits that wait for one visit of the scheduler: as many as one claim takes.
const BACKLOG_PERMITS_MAX: usize = 64;

/// A lane in one worker.
pub(super) struct Lane {
    pub(super) config: ConfigId,
    pub(super) permits: Arc<LanePermits>,
    pub(super) queue: RefCell<VecDeque<Rc<Job>>>,
    /// The attempts in flight, by the job's number: the first is the oldest.
    pub(super) in_flight: RefCell<BTreeMap<u64, InFlight>>,
    backlog_permits: RefCell<Vec<Permit>>,
    backlog_turn: Cell<bool>,
    pub(super) last_used: Cell<Instant>,
    /// How often in a row a fault of ours kept attempts from being made.
    pub(super) obstacles: Cell<u32>,
}

/// An attempt in flight.
pub(super) struct InFlight {
    pub(super) since: Instant,
    pub(super) permit: Permit,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(config: ConfigId, permits: Arc<LanePermits>) -> Rc<Self> {
        Rc::new(Self {
            config,
            permits,
            queue: RefCell::default(),
            in_flight: RefCell::default(),
            backlog_permits: RefCell::default(),
            backlog_turn: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            obstacles: Cell::new(0),
        })
    }

    /// How long a delivery that joins the queue now would wait; `None` while nothing is known. An attempt that is
    /// still under way counts with the time that it has taken so far; a rate counts with the tokens that are
    /// still to come.
    pub(super) fn expected_wait(&self) -> Option<Duration> {
        let queued = u32::try_from(self.queue.borrow().len()).unwrap_or(u32::MAX);
        let tokens = queued.saturating_add(1);
        let pace = &self.permits.gate.pace;
        let paced = pace.wait_for(tokens, std::time::Instant::now()).unwrap_or(Duration::MAX);
        match self.expected_turn(queued) {
            None if paced.is_zero() => None,
            turn => Some(turn.unwrap_or_default().max(paced)),
        }
    }

    fn expected_turn(&self, queued: u32) -> Option<Duration> {
        let oldest = self.oldest();
        let known = match (self.permits.mean(), oldest) {
            (Some(mean), Some(age)) => mean.max(age),
            (Some(mean), None) => mean,
            (None, Some(age)) => age,
            (None, None) => return None,
        };
        Some(known.saturating_mul(queued) / self.permits.limit().max(1))
    }

    /// Whether the config's rate is limited and deliveries wait in Redis for its tokens: then a new delivery is
    /// never queued in memory, where it would always come first.
    pub(super) fn shares_tokens(&self) -> bool {
        self.permits.gate.pace.is_limited() && self.permits.has_backlog(None)
    }

    /// Whether it is the backlog's turn to have the next token.
    pub(super) fn yields_token(&self) -> bool {
        self.shares_tokens() && self.backlog_turn.replace(!self.backlog_turn.get())
    }

    fn oldest(&self) -> Option<Duration> {
        self.in_flight.borrow().values().next().map(|running| running.since.elapsed())
    }

    /// Whether the endpoint hangs, as far as can be seen now. The permits of its attempts are in doubt then.
    pub(super) fn hangs(&self, permits: &Permits) -> bool {
        let before = self.permits.is_in_doubt();
        let hangs =
            self.oldest().map_or_else(|| self.permits.hangs(), |age| permits.look(&self.permits, age));
        if hangs && !before {
            self.set_in_doubt(true);
        }
        hangs
    }

    /// Counts the permits of the attempts in flight as held in doubt, or no longer.
    pub(super) fn set_in_doubt(&self, in_doubt: bool) {
        self.in_flight.borrow().values().for_each(|running| running.permit.set_in_doubt(in_doubt));
    }

    /// Keeps a permit for the backlog where it is the backlog's turn, so that neither new events nor waiting ones
    /// starve; gives it back otherwise.
    pub(super) fn offer_to_backlog(&self, shard: ShardNumber, permit: Permit) -> Result<(), Permit> {
        let waiting = self.backlog_permits.borrow().len();
        if !self.permits.has_backlog(Some(shard)) || waiting >= BACKLOG_PERMITS_MAX {
            return Err(permit);
        }
        let turn = self.backlog_turn.replace(!self.backlog_turn.get()) || self.queue.borrow().is_empty();
        if turn {
            self.backlog_permits.borrow_mut().push(permit);
            Ok(())
        } else {
            Err(permit)
        }
    }

    /// The permits that wait for the backlog.
    pub(super) fn take_backlog_permits(&self) -> Vec<Permit> {
        self.backlog_permits.take()
    }

    /// Takes the deliveries off the queue's front that were parked meanwhile.
    pub(super) fn drop_parked(&self) {
        let mut queue = self.queue.borrow_mut();
        while queue.front().is_some_and(|job| job.settling.get()) {
            queue.pop_front();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty() && self.in_flight.borrow().is_empty()
    }
}
