//! What a flush writes: the entries that are queued, grouped by config into pages and scripts, behind the
//! acknowledgements of events whose writes were answered before.

use std::collections::HashMap;
use std::rc::Rc;

use super::job::{Hold, Ticket};
use super::settler::{Action, Entry, Settler};
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::log::{PackedPage, PageBuilder, PageKey, Status};
use crate::redis::connection::Pipeline;
use crate::redis::deliveries::BATCH_MAX;
use crate::redis::events;
use crate::redis::fates::{Fate, Proof, settle_command};
use crate::redis::log_write::push_page;

/// Most entries of one flush: bounds the pipeline's size.
const FLUSH_MAX: usize = 1024;

/// One group of commands of a flush whose answers belong together.
pub(super) enum Unit {
    /// An XACK of these events, which are of one shard.
    Ack(Vec<Rc<Ticket>>),
    /// A plain log page (and its payload page before it) of these entries.
    Page { commands: usize, page: PackedPage, shard: ShardNumber, config: ConfigId, entries: Vec<Entry> },
    /// A settle script over these entries.
    Script { page: Option<PackedPage>, shard: ShardNumber, config: ConfigId, entries: Vec<Entry> },
}

/// The entries of one config in a flush.
#[derive(Default)]
struct Group {
    plain: Vec<Entry>,
    scripted: Vec<Entry>,
}

// === impl Settler ===

impl Settler {
    pub(super) fn plan(&self, commands: &mut Pipeline) -> Vec<Unit> {
        let mut units = Vec::new();
        self.plan_acks(commands, &mut units);
        let mut groups: Vec<((ShardNumber, ConfigId), Group)> = Vec::new();
        let mut places: HashMap<(ShardNumber, ConfigId), usize> = HashMap::new();
        let mut queue = self.queue.borrow_mut();
        let count = queue.len().min(FLUSH_MAX);
        for entry in queue.drain(..count) {
            let key = (entry.job.delivery.id.event().shard(), entry.job.delivery.config);
            let place = *places.entry(key).or_insert_with(|| {
                groups.push((key, Group::default()));
                groups.len() - 1
            });
            match entry.action {
                Action::Deliver | Action::Row => groups[place].1.plain.push(entry),
                Action::Step(..) => groups[place].1.scripted.push(entry),
            }
        }
        drop(queue);
        if count > 0 {
            #[allow(clippy::cast_precision_loss)] // A batch is far below 2^52.
            self.parts.metrics.settle_batch.record(count as f64);
        }
        for ((shard, config), group) in groups {
            self.plan_plain(commands, &mut units, shard, config, group.plain);
            self.plan_scripted(commands, &mut units, shard, config, group.scripted);
        }
        units
    }

    /// The acknowledgements of events whose writes were answered in earlier flushes.
    fn plan_acks(&self, commands: &mut Pipeline, units: &mut Vec<Unit>) {
        let mut acks = self.acks.take();
        acks.retain(|ticket| !self.forget_if_not_own(ticket));
        while let Some(first) = acks.first() {
            let shard = first.id.shard();
            let (own, others): (Vec<_>, Vec<_>) =
                acks.into_iter().partition(|ticket| ticket.id.shard() == shard);
            acks = others;
            if let Some(keys) = self.parts.shards.get(usize::from(shard.0)) {
                let ids = own.iter().map(|ticket| ticket.id.stream_id());
                commands.add_command(events::ack_command(keys, ids));
                units.push(Unit::Ack(own));
            }
        }
    }

    fn plan_plain(
        &self,
        commands: &mut Pipeline,
        units: &mut Vec<Unit>,
        shard: ShardNumber,
        config: ConfigId,
        entries: Vec<Entry>,
    ) {
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            let mut builder = PageBuilder::new(PageKey(rand::random()));
            let mut taken = Vec::new();
            while !builder.is_full()
                && let Some(entry) = rest.next()
            {
                entry.put_row(&mut builder);
                taken.push(entry);
            }
            let Some(page) = builder.finish() else { continue };
            let keys = &self.parts.shards[usize::from(shard.0)];
            let count = if self.store_is_full() {
                let retention = &self.parts.settings.retention;
                commands.add_command(settle_command(keys, config, &[], Some(&page), retention));
                1
            } else {
                push_page(commands, keys, config, &page)
            };
            units.push(Unit::Page { commands: count, page, shard, config, entries: taken });
        }
    }

    fn plan_scripted(
        &self,
        commands: &mut Pipeline,
        units: &mut Vec<Unit>,
        shard: ShardNumber,
        config: ConfigId,
        entries: Vec<Entry>,
    ) {
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            let mut builder = PageBuilder::new(PageKey(rand::random()));
            let mut taken = Vec::new();
            let mut fates = Vec::new();
            while !builder.is_full()
                && fates.len() < BATCH_MAX
                && let Some(entry) = rest.next()
            {
                // Without one it was decided meanwhile, or belongs to another owner.
                if let Some(fate) = entry.fate() {
                    entry.put_row(&mut builder);
                    fates.push(fate);
                    taken.push(entry);
                }
            }
            if taken.is_empty() {
                continue;
            }
            let page = builder.finish();
            let keys = &self.parts.shards[usize::from(shard.0)];
            let retention = &self.parts.settings.retention;
            commands.add_command(settle_command(keys, config, &fates, page.as_ref(), retention));
            units.push(Unit::Script { page, shard, config, entries: taken });
        }
    }
}

// === impl Unit ===

impl Unit {
    /// How many answers of the pipeline are its own.
    pub(super) const fn commands(&self) -> usize {
        match self {
            Self::Ack(_) | Self::Script { .. } => 1,
            Self::Page { commands, .. } => *commands,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Adds the entry's row, with the payload where no record will hold it for long.
    fn put_row(&self, builder: &mut PageBuilder) {
        if let Some(row) = &self.row {
            let keep = matches!(row.status, Status::Delivered | Status::Failed);
            builder.push(row, keep.then_some(&self.job.delivery.body[..]));
        }
    }

    /// The script's argument; `None` when the job is decided already.
    fn fate(&self) -> Option<Fate> {
        let Action::Step(step, _) = &self.action else { return None };
        let proof = match &*self.job.hold.borrow() {
            Hold::Claimed(claim) => Proof::Claimed(*claim),
            Hold::Event | Hold::HandingOff(_) => {
                let ticket = self.job.ticket.as_ref()?;
                Proof::Pending { event: ticket.id.stream_id(), consumer: Rc::clone(&ticket.consumer.name) }
            }
            Hold::Lost | Hold::Decided => return None,
        };
        Some(Fate { id: self.job.delivery.id, proof, step: step.clone() })
    }
}
