//! A worker's membership of a shard's group: its consumer name and its lease.
//!
//! What the store decides: a lease is held as long as the score in `replicas` is the one that the last renewal
//! set. A takeover changes the score before it moves the first entry, so a lease that was merely past, because
//! Redis was away, comes back and what was read under it is still the worker's; one that was taken over does not.
//! What the worker decides: it sends only until the last renewal's start plus one lease, by its own monotonic
//! clock, so a worker that cannot reach Redis stops before anybody may take over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::clock::Clock;
use crate::redis::connection::{Link, Result};
use crate::redis::keys::ShardKeys;
use crate::redis::leases::{self, LeaseEnd};
use crate::settle::Consumer;

/// A worker's membership of one shard's group.
pub struct Membership {
    base: String,
    lapses: Cell<u32>,
    consumer: RefCell<Option<Rc<Consumer>>>,
    end: Cell<Option<LeaseEnd>>,
    valid_until: Cell<Instant>,
    lease: Duration,
    confirmed: Notify,
    lost: Notify,
}

// === impl Membership ===

impl Membership {
    /// Not a member yet. `base` is unique to this start of the process and this worker.
    #[must_use]
    pub fn new(base: String, lease: Duration) -> Rc<Self> {
        Rc::new(Self {
            base,
            lapses: Cell::new(0),
            consumer: RefCell::default(),
            end: Cell::new(None),
            valid_until: Cell::new(Instant::now()),
            lease,
            confirmed: Notify::new(),
            lost: Notify::new(),
        })
    }

    /// The consumer while its lease holds by this worker's own clock.
    #[must_use]
    pub fn consumer(&self) -> Option<Rc<Consumer>> {
        if self.is_valid() { self.consumer.borrow().clone() } else { None }
    }

    /// Whether the lease holds by this worker's own clock.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.valid_until().is_some_and(|until| Instant::now() < until)
    }

    /// Until when the lease holds by this worker's own clock; `None` while there is none.
    #[must_use]
    pub fn valid_until(&self) -> Option<Instant> {
        self.end.get().map(|_| self.valid_until.get())
    }

    /// Waits until the lease holds.
    pub async fn confirmed(&self) -> Rc<Consumer> {
        loop {
            if let Some(consumer) = self.consumer() {
                return consumer;
            }
            self.confirmed.notified().await;
        }
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Takes or renews the lease. False when it was lost: the next call takes one under a new name.
    ///
    /// # Errors
    /// Redis's; the lease then runs out by itself.
    pub async fn renew(&self, link: &Link, keys: &ShardKeys, clock: &Clock) -> Result<bool> {
        let began = Instant::now();
        let known = self.consumer.borrow().clone();
        let consumer = known.unwrap_or_else(|| Consumer::new(&self.next_name()));
        let renewal = leases::renew(link, keys, &consumer.name, self.lease, self.end.get()).await?;
        clock.observe(renewal.now);
        match renewal.end {
            Some(end) => {
                self.end.set(Some(end));
                self.valid_until.set(began + self.lease);
                *self.consumer.borrow_mut() = Some(consumer);
                self.confirmed.notify_waiters();
                Ok(true)
            }
            None => {
                consumer.lapse();
                self.end.set(None);
                *self.consumer.borrow_mut() = None;
                self.lapses.set(self.lapses.get() + 1);
                self.lost.notify_waiters();
                Ok(false)
            }
        }
    }

    /// Leaves the group; false when something is still pending.
    ///
    /// # Errors
    /// Redis's; another replica then removes the consumer once its lease is past.
    pub async fn leave(&self, link: &Link, keys: &ShardKeys) -> Result<bool> {
        let known = self.consumer.borrow().clone();
        match known {
            Some(consumer) => leases::leave(link, keys, &consumer.name).await,
            None => Ok(true),
        }
    }

    fn next_name(&self) -> String {
        match self.lapses.get() {
            0 => self.base.clone(),
            lapses => format!("{}.{lapses}", self.base),
        }
    }
}
