//! A job is what a worker holds for one delivery in memory; a ticket is what it holds for one event that it has
//! read and not yet acknowledged.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::credit::CreditHold;
use super::verdict::RetryRules;
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::Delivery;
use crate::domain::ids::EventId;
use crate::domain::outcome::AttemptResult;
use crate::redis::deliveries::Claim;

/// A worker's name on one shard's group, for as long as its lease holds.
#[derive(Debug)]
pub struct Consumer {
    /// `<random per process start>.<worker>`, and a further number after a lapse.
    pub name: Rc<str>,
    lapsed: Cell<bool>,
}

/// An event between its read and its acknowledgement.
#[derive(Debug)]
pub struct Ticket {
    /// The event.
    pub id: EventId,
    /// The consumer that read it: proves ownership as long as the entry is pending for it.
    pub consumer: Rc<Consumer>,
    undecided: Cell<u32>,
    lost: Cell<bool>,
}

/// A delivery in memory.
#[derive(Debug)]
pub struct Job {
    /// The delivery, with the attempts that it has behind it.
    pub delivery: Delivery,
    /// When its event was read, or when it was claimed.
    pub since: Instant,
    /// The event, unless the delivery came from its queue.
    pub ticket: Option<Rc<Ticket>>,
    /// Why this worker may decide its fate.
    pub hold: RefCell<Hold>,
    /// Its number in the worker's lanes.
    pub number: Cell<u64>,
    /// Its attempt is under way (or over).
    pub started: Cell<bool>,
    /// Its fate is queued for a flush.
    pub settling: Cell<bool>,
    /// Its event needs it no longer: it was handed off, or decided.
    pub released: Cell<bool>,
    /// Its share of the worker's credit.
    pub credit: CreditHold,
}

/// Why a worker may decide a delivery's fate.
#[derive(Debug)]
pub enum Hold {
    /// Its event is pending for the worker; nothing of it is durable yet.
    Event,
    /// It is being handed to its queue; an outcome that comes meanwhile waits here.
    HandingOff(Option<Box<Attempted>>),
    /// It lies in its queue, claimed by the worker.
    Claimed(Claim),
    /// Another owner took over: only the attempt's log row is written.
    Lost,
    /// Its fate is durable, or on its way to be.
    Decided,
}

/// An attempt that is over.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// The URL that was used.
    pub url: Arc<str>,
    /// The version of the config that it used: a 410 disables only that one.
    pub config_version: u64,
    /// What the config said about retries when it was sent.
    pub retry: RetryRules,
    /// When it began.
    pub at: UnixMillis,
    /// What it gave.
    pub result: AttemptResult,
}

// === impl Consumer ===

impl Consumer {
    /// A consumer whose lease holds.
    #[must_use]
    pub fn new(name: &str) -> Rc<Self> {
        Rc::new(Self { name: name.into(), lapsed: Cell::new(false) })
    }

    /// The lease is lost: nothing that was read under this name is acknowledged any more.
    pub fn lapse(&self) {
        self.lapsed.set(true);
    }
}

// === impl Ticket ===

impl Ticket {
    /// The ticket of an event with so many deliveries.
    #[must_use]
    pub fn new(id: EventId, consumer: Rc<Consumer>, deliveries: u32) -> Rc<Self> {
        Rc::new(Self { id, consumer, undecided: Cell::new(deliveries), lost: Cell::new(false) })
    }

    /// One delivery has a durable fate. True when that was the last one and the event may be acknowledged.
    pub fn decided_one(&self) -> bool {
        self.undecided.set(self.undecided.get().saturating_sub(1));
        self.is_done() && self.is_own()
    }

    /// Whether the event may still be acknowledged by its reader.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.lost.get() && !self.consumer.lapsed.get()
    }

    /// Whether every delivery is decided.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.undecided.get() == 0
    }

    /// The event belongs to another consumer now: it is never acknowledged here.
    pub fn lose(&self) {
        self.lost.set(true);
    }
}

// === impl Job ===

impl Job {
    /// A job for a delivery of an event that was just read.
    #[must_use]
    pub fn of_event(delivery: Delivery, ticket: Rc<Ticket>, credit: CreditHold) -> Rc<Self> {
        Self::new(delivery, Some(ticket), Hold::Event, credit)
    }

    /// A job for a delivery that was claimed from its queue.
    #[must_use]
    pub fn of_claim(delivery: Delivery, claim: Claim, credit: CreditHold) -> Rc<Self> {
        Self::new(delivery, None, Hold::Claimed(claim), credit)
    }

    fn new(delivery: Delivery, ticket: Option<Rc<Ticket>>, hold: Hold, credit: CreditHold) -> Rc<Self> {
        Rc::new(Self {
            delivery,
            since: Instant::now(),
            ticket,
            hold: RefCell::new(hold),
            number: Cell::new(0),
            started: Cell::new(false),
            settling: Cell::new(false),
            released: Cell::new(false),
            credit,
        })
    }

    /// Whether nothing of the delivery is durable yet and nothing is under way to make it so.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        !self.settling.get() && matches!(*self.hold.borrow(), Hold::Event)
    }

    /// Whether it is being handed to its queue, with no answer yet.
    #[must_use]
    pub fn is_handing_off(&self) -> bool {
        matches!(*self.hold.borrow(), Hold::HandingOff(_))
    }

    /// Whether this worker still owns it, as far as it can know: its event's lease has not lapsed, its claim is
    /// not past. Asked before an attempt begins, for the worker may have stood still since it took the delivery.
    #[must_use]
    pub fn is_own(&self, now: UnixMillis) -> bool {
        match &*self.hold.borrow() {
            Hold::Event | Hold::HandingOff(_) => self.ticket.as_ref().is_some_and(|ticket| ticket.is_own()),
            Hold::Claimed(claim) => u64::try_from(claim.0).is_ok_and(|end| now.0 < end),
            Hold::Lost | Hold::Decided => false,
        }
    }

    /// Whether its fate is durable, or another owner's.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        matches!(*self.hold.borrow(), Hold::Decided)
    }
}
