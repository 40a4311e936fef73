//! The reading loop, and what becomes of an entry.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::membership::Membership;
use super::pressure::{MemoryPressure, READ_COUNT};
use super::turn::{ReadTurn, Turn};
use crate::domain::body::Bodies;
use crate::domain::clock::Clock;
use crate::domain::delivery::{Delivery, Tried};
use crate::domain::event::{Event, EventFields, JsonScratch, Rejection};
use crate::domain::ids::{EventId, StreamId};
use crate::domain::log_limit::limited;
use crate::domain::snapshot::{Snapshot, Target};
use crate::lanes::Lanes;
use crate::metrics::{self, WalkMetrics};
use crate::redis::connection::{Link, RedisError, Result};
use crate::redis::events::{self, StreamEntry};
use crate::redis::keys::ShardKeys;
use crate::redis::rejected;
use crate::routing::route;
use crate::settings::Settings;
use crate::settle::{Consumer, Credit, Job, Settler};
use crate::spans::SpanSink;

/// How long one read waits for entries. What must not wait as long ends the read by [`Link::unblock`].
pub(crate) const BLOCK: Duration = Duration::from_secs(5);

/// A read that is to end is asked again after this: it may have begun to wait only then.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(20);

/// Two reads that find little are at least this far apart: entries that come meanwhile share the next one.
const GAP: Duration = Duration::from_millis(1);

/// Entries up to which a read found little.
const LITTLE: usize = 16;

/// While Redis is nearly full, the floor is looked at this often before the next read.
const FLOOR_LOOK: Duration = Duration::from_millis(50);

/// Own pending entries that the worker does not hold are looked for this often.
const RECOVER_EVERY: Duration = Duration::from_secs(60);

/// First and longest pause after an error.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// An id this far ahead of Redis's clock is counted: every later `*` id follows it.
const AHEAD_MS: u64 = 1_000;

/// What the intake works with.
pub struct IntakeParts {
    /// The worker's connection for blocking reads of this shard.
    pub blocking: Link,
    /// The worker's connection for everything else.
    pub link: Rc<Link>,
    /// The shard.
    pub keys: ShardKeys,
    /// Name and lease.
    pub membership: Rc<Membership>,
    /// Whose turn it is to block.
    pub turn: Arc<ReadTurn>,
    /// Whether Redis is nearly full.
    pub pressure: Arc<MemoryPressure>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Takes deliveries.
    pub lanes: Rc<Lanes>,
    /// Holds tickets.
    pub settler: Rc<Settler>,
    /// Bounds what is read.
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

/// The intake of one worker on one shard.
pub struct Intake {
    pub(super) parts: IntakeParts,
    scratch: RefCell<JsonScratch>,
    recover_at: Cell<Instant>,
    brought: Cell<bool>,
    recover_soon: Notify,
    /// The last entry that was read, until it is seen behind the floor; looked at while Redis is nearly full.
    last_read: Cell<Option<StreamId>>,
    turn: RefCell<Option<Turn>>,
}

// === impl Intake ===

impl Intake {
    /// An intake that has read nothing.
    #[must_use]
    pub fn new(parts: IntakeParts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            scratch: RefCell::default(),
            recover_at: Cell::new(Instant::now()),
            brought: Cell::new(true),
            recover_soon: Notify::new(),
            last_read: Cell::new(None),
            turn: RefCell::default(),
        })
    }

    /// Looks for own pending entries before the next read: entries were taken over, or a reply was lost.
    pub fn recover_soon(&self) {
        self.recover_at.set(Instant::now());
        self.recover_soon.notify_one();
    }

    /// Reads until `stop`; no error ends it.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        while !*stop.borrow() {
            let consumer = tokio::select! {
                consumer = self.parts.membership.confirmed() => consumer,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match self.step(&consumer, &mut stop).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    self.free_turn();
                    self.after_error(&error).await;
                    let jitter = pause.mul_f64(rand::random::<f64>() * 0.5);
                    tokio::time::sleep(pause + jitter).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        self.free_turn();
    }

    /// One round: recovery where it is due, then a read of as much as the credit allows.
    async fn step(&self, consumer: &Rc<Consumer>, stop: &mut watch::Receiver<bool>) -> Result<()> {
        if Instant::now() >= self.recover_at.get() {
            self.recover_at.set(Instant::now() + RECOVER_EVERY);
            self.recover(consumer).await?;
        }
        if self.parts.pressure.is_high()
            && let Some(last) = self.last_read.get()
        {
            if !self.is_behind_floor(last).await? {
                self.free_turn();
                let _ = tokio::time::timeout(FLOOR_LOOK, stop.wait_for(|stop| *stop)).await;
                return Ok(());
            }
            self.last_read.set(None);
        }
        tokio::select! {
            () = self.credit_available() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let own_turn = self.take_turn();
        if !own_turn && !self.brought.get() {
            tokio::select! {
                more = self.parts.turn.stand_by() => self.brought.set(more),
                () = self.recover_soon.notified() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            return Ok(());
        }
        self.read(consumer, own_turn, stop).await
    }

    /// Whether the turn is this worker's, after taking it where nobody holds it.
    fn take_turn(&self) -> bool {
        let mut turn = self.turn.borrow_mut();
        if turn.is_none() {
            *turn = self.parts.turn.take();
        }
        turn.is_some()
    }

    fn free_turn(&self) {
        drop(self.turn.take());
    }

    /// Waits for credit; the turn is another worker's meanwhile, also in the middle of a batch.
    pub(super) async fn credit_available(&self) {
        if self.parts.credit.left() == 0 {
            self.free_turn();
        }
        self.parts.credit.available().await;
    }

    /// Reads once, and takes what was found. The worker whose turn it is blocks; another one, which was brought
    /// because there was more, reads until there is nothing.
    async fn read(
        &self,
        consumer: &Rc<Consumer>,
        own_turn: bool,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        let most = self.parts.settings.limits.read_count_max;
        let most = if self.parts.pressure.is_high() { most.min(READ_COUNT) } else { most };
        let count = most.min(self.parts.credit.left()).max(1);
        let entries = if own_turn {
            self.read_blocking(consumer, count, stop).await?
        } else {
            events::read(&self.parts.link, &self.parts.keys, &consumer.name, count, None).await?
        };
        let found = entries.len();
        self.last_read.set(entries.last().map(|entry| entry.id).or(self.last_read.get()));
        if found >= usize::try_from(count).unwrap_or(usize::MAX) {
            self.parts.turn.bring_another();
        }
        self.parts.metrics.events_read.increment(found as u64);
        for entry in entries {
            self.take(consumer, entry).await?;
        }
        if found == 0 {
            self.brought.set(false);
        } else if found < LITTLE {
            tokio::time::sleep_until(began + GAP).await;
        }
        Ok(())
    }

    /// Waits for entries. The reply is always read, also by a worker that stops meanwhile, that has entries to
    /// recover or that lost its lease: those end the wait, for a reply that is dropped leaves its entries pending.
    async fn read_blocking(
        &self,
        consumer: &Consumer,
        count: u32,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Vec<StreamEntry>> {
        let parts = &self.parts;
        let mut read = pin!(events::read(&parts.blocking, &parts.keys, &consumer.name, count, Some(BLOCK)));
        tokio::select! {
            entries = &mut read => return entries,
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.recover_soon.notified() => {}
            () = parts.membership.lost() => {}
        }
        loop {
            tokio::select! {
                entries = &mut read => return entries,
                ended = parts.link.unblock(&parts.blocking) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "the read ends by itself");
                    }
                }
            }
            if let Ok(entries) = tokio::time::timeout(UNBLOCK_AGAIN, &mut read).await {
                return entries;
            }
        }
    }

    /// A lost reply may have assigned entries to this consumer: they are looked for before the next read.
    async fn after_error(&self, error: &RedisError) {
        metrics::redis_error(error.operation);
        self.recover_at.set(Instant::now());
        if error.code() == Some("NOGROUP") {
            match events::ensure_group(&self.parts.link, &self.parts.keys).await {
                Ok(_) => limited!(
                    warn,
                    stream = self.parts.keys.events(),
                    "the consumer group was gone; made again"
                ),
                Err(error) => limited!(warn, %error, "the consumer group is gone"),
            }
        } else {
            limited!(warn, %error, "reading events failed; trying again");
        }
    }

    /// Takes a new entry: to its deliveries, or to `rejected`.
    async fn take(&self, consumer: &Rc<Consumer>, entry: StreamEntry) -> Result<()> {
        let id = entry.id;
        match self.check(entry) {
            Ok(event) => {
                let snapshot = self.parts.snapshot.load_full();
                let routed = route(&event, &snapshot);
                self.parts.metrics.deliveries_skipped.increment(routed.inactive.len() as u64);
                for target in &routed.inactive {
                    self.parts.settler.skipped(self.parts.keys.shard, target.config.id);
                }
                self.deliver(consumer, &event, &routed.active).await;
                Ok(())
            }
            Err(rejection) => self.reject(id, &rejection).await,
        }
    }

    pub(super) fn check(&self, entry: StreamEntry) -> std::result::Result<Event, Rejection> {
        let id = EventId::new(self.parts.keys.shard, entry.id)
            .map_err(|error| Rejection { field: "id", problem: error.to_string() })?;
        if entry.id.ms > self.parts.clock.now().0 + AHEAD_MS {
            self.parts.metrics.events_ahead.increment(1);
        }
        let mut fields = EventFields::default();
        for (name, value) in entry.fields {
            fields.set(&name, value);
        }
        if fields.unknown > 0 {
            self.parts.metrics.unknown_fields.increment(u64::from(fields.unknown));
        }
        fields.check(id, &mut self.scratch.borrow_mut())
    }

    /// Makes the event's deliveries, in slices where they exceed the credit.
    async fn deliver(&self, consumer: &Rc<Consumer>, event: &Event, targets: &[Arc<Target>]) {
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let Some(ticket) = self.parts.settler.open(event.id, consumer, count) else { return };
        if count == 0 {
            self.parts.metrics.events_unrouted.increment(1);
            return;
        }
        self.parts.metrics.deliveries_routed.increment(u64::from(count));
        if let Some(spans) = &self.parts.spans {
            spans.published(event, self.parts.clock.now());
        }
        let bodies = Bodies::of(event);
        for target in targets {
            self.credit_available().await;
            let delivery = delivery(event, target, &bodies);
            let credit = self.parts.credit.take(delivery.body.len());
            self.parts.lanes.admit(Job::of_event(delivery, Rc::clone(&ticket), credit));
        }
    }

    /// Keeps an entry in `rejected`, then acknowledges it. The entry is fetched again: its fields were taken apart.
    pub(super) async fn reject(&self, id: StreamId, rejection: &Rejection) -> Result<()> {
        let parts = &self.parts;
        let mut entries = events::fetch(&parts.link, &parts.keys, &[id]).await?;
        let entry = entries.pop().unwrap_or(StreamEntry { id, fields: Vec::new() });
        let retention = &parts.settings.retention;
        let evicted = rejected::reject(&parts.link, &parts.keys, &entry, rejection, retention).await?;
        parts.metrics.events_rejected.increment(1);
        metrics::rejected_evicted(parts.keys.shard.0, evicted);
        limited!(warn, event = %id, field = rejection.field, problem = rejection.problem, "an event was rejected");
        events::acknowledge(&parts.link, &parts.keys, id).await?;
        parts.metrics.events_acknowledged.increment(1);
        Ok(())
    }
}

/// The delivery of `event` to `target`.
pub(super) fn delivery(event: &Event, target: &Target, bodies: &Bodies<'_>) -> Delivery {
    let written = bodies.get(target.config.body_format);
    Delivery {
        id: event.id.delivery(target.config.id.sequence()),
        config: target.config.id,
        event_type: Arc::clone(&written.event_type),
        traceparent: event.traceparent.clone(),
        body: written.body.clone(),
        created_at: crate::domain::clock::UnixMillis(event.id.stream_id().ms),
        tried: Tried::default(),
    }
}
