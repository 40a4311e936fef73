//! Own pending entries that the worker does not hold: a reply was lost after Redis had assigned its entries, or
//! entries of a dead consumer were taken over. Never read with `XREADGROUP` and an id, which would raise the
//! delivery count without a crash.

use std::rc::Rc;
use std::sync::Arc;

use super::reader::{Intake, delivery};
use crate::domain::body::Bodies;
use crate::domain::event::{Event, Rejection};
use crate::domain::ids::EventId;
use crate::domain::snapshot::Target;
use crate::redis::connection::Result;
use crate::redis::deliveries;
use crate::redis::events::{self, PendingEntry, StreamEntry};
use crate::routing::route;
use crate::settle::{Consumer, Job};

/// Pending entries looked at in one step.
const BATCH: u32 = 100;

/// An entry that was given to consumers this often is processed with nothing else in memory.
const ALONE_FROM: u64 = 5;

/// Longest wait for the rest of the memory to be settled.
const ALONE_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// An entry that was given to consumers this often is rejected: something about it ends processes.
const POISON_FROM: u64 = 10;

// === impl Intake ===

impl Intake {
    /// Processes own pending entries that are not held.
    pub(super) async fn recover(&self, consumer: &Rc<Consumer>) -> Result<()> {
        let parts = &self.parts;
        let mut after = None;
        loop {
            let pending = events::own_pending(&parts.link, &parts.keys, &consumer.name, after, BATCH).await?;
            let Some(last) = pending.last() else { return Ok(()) };
            after = Some(last.id);
            let unheld: Vec<PendingEntry> = pending.into_iter().filter(|entry| !self.holds(entry)).collect();
            let ids: Vec<_> = unheld.iter().map(|entry| entry.id).collect();
            let mut entries = events::fetch(&parts.link, &parts.keys, &ids).await?;
            for pending in unheld {
                parts.metrics.events_recovered.increment(1);
                match entries.iter().position(|entry| entry.id == pending.id) {
                    Some(place) => self.recover_one(consumer, pending, entries.swap_remove(place)).await?,
                    None => self.reject(pending.id, &gone()).await?,
                }
            }
        }
    }

    fn holds(&self, entry: &PendingEntry) -> bool {
        EventId::new(self.parts.keys.shard, entry.id).is_ok_and(|id| self.parts.settler.holds(id))
    }

    async fn recover_one(
        &self,
        consumer: &Rc<Consumer>,
        pending: PendingEntry,
        entry: StreamEntry,
    ) -> Result<()> {
        if pending.deliveries >= POISON_FROM {
            return self.reject(pending.id, &poison(pending.deliveries)).await;
        }
        let alone = pending.deliveries >= ALONE_FROM;
        if alone {
            self.emptied().await;
        }
        match self.check(entry) {
            Ok(event) => self.deliver_again(consumer, &event).await?,
            Err(rejection) => self.reject(pending.id, &rejection).await?,
        }
        if alone {
            self.emptied().await;
        }
        Ok(())
    }

    /// Waits until nothing is in memory; not for ever, as the scheduler may keep something there all the time.
    async fn emptied(&self) {
        let _ = tokio::time::timeout(ALONE_WAIT, self.parts.credit.all_back()).await;
    }

    /// Makes the deliveries that have no record yet. A config that was paused since still gets its delivery,
    /// parked: the event was read while it may have been active.
    async fn deliver_again(&self, consumer: &Rc<Consumer>, event: &Event) -> Result<()> {
        let parts = &self.parts;
        let routed = route(event, &parts.snapshot.load_full());
        let active = routed.active.iter().map(|target| (target, true));
        let wanted: Vec<(&Arc<Target>, bool)> =
            active.chain(routed.inactive.iter().map(|target| (target, false))).collect();
        let ids: Vec<_> =
            wanted.iter().map(|(target, _)| event.id.delivery(target.config.id.sequence())).collect();
        let known = deliveries::have_records(&parts.link, &parts.keys, &ids).await?;
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let Some(ticket) = parts.settler.open(event.id, consumer, count) else { return Ok(()) };
        if let Some(spans) = &parts.spans {
            spans.published(event, parts.clock.now());
        }
        let bodies = Bodies::of(event);
        for ((target, active), known) in wanted.into_iter().zip(known) {
            if known {
                parts.settler.known(&ticket);
                continue;
            }
            self.credit_available().await;
            let delivery = delivery(event, target, &bodies);
            let credit = parts.credit.take(delivery.body.len());
            let job = Job::of_event(delivery, Rc::clone(&ticket), credit);
            if active {
                parts.lanes.admit(job);
            } else {
                parts.lanes.park_unseen(&job);
            }
        }
        Ok(())
    }
}

fn poison(deliveries: u64) -> Rejection {
    Rejection {
        field: "id",
        problem: format!("poison: given to consumers {deliveries} times without a fate for its deliveries"),
    }
}

fn gone() -> Rejection {
    Rejection {
        field: "id",
        problem:
            "pending, but no longer in the stream: a producer trimmed or deleted it before it was delivered"
                .into(),
    }
}
