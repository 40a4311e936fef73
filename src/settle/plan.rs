//! What a flush writes: the entries that are queued, grouped by config into pages and scripts, behind the
//! acknowledgements of events whose writes were answered before.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::aside::ALONE_FROM;
use super::entry::{Action, Entry};
use super::job::Ticket;
use super::settler::Settler;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::log::{PackedPage, PageBuilder, PageKey};
use crate::redis::connection::Pipeline;
use crate::redis::deliveries::BATCH_MAX;
use crate::redis::events;
use crate::redis::fates::settle_command;
use crate::redis::log_write::push_page;

/// Most entries of one flush, and about the most bytes: bound the pipeline's size.
const FLUSH_MAX: usize = 1024;
const FLUSH_BYTES_MAX: usize = 8 * 1024 * 1024;

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

/// How many of the first entries fit into one flush.
fn fitting(queue: &VecDeque<Entry>) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        let before = bytes;
        bytes += entry.bytes();
        before < FLUSH_BYTES_MAX
    };
    queue.iter().take(FLUSH_MAX).take_while(fits).count()
}

// === impl Settler ===

impl Settler {
    pub(super) fn plan(&self, commands: &mut Pipeline) -> Vec<Unit> {
        let mut units = Vec::new();
        self.plan_acks(commands, &mut units);
        let mut groups: Vec<((ShardNumber, ConfigId), Group)> = Vec::new();
        let mut places: HashMap<(ShardNumber, ConfigId), usize> = HashMap::new();
        let mut queue = self.queue.borrow_mut();
        let count = fitting(&queue);
        for entry in queue.drain(..count) {
            let key = (entry.job.delivery.id.event().shard(), entry.job.delivery.config);
            let mut new_place = || {
                groups.push((key, Group::default()));
                groups.len() - 1
            };
            let alone = entry.failures >= ALONE_FROM;
            let place = if alone { new_place() } else { *places.entry(key).or_insert_with(new_place) };
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
        let count = acks.len();
        acks.retain(|ticket| !self.forget_if_not_own(ticket));
        self.acking.set(self.acking.get() + acks.len() - count);
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

    fn logs_payloads(&self, config: ConfigId) -> bool {
        self.parts.snapshot.load().logs_payloads(config)
    }

    fn plan_plain(
        &self,
        commands: &mut Pipeline,
        units: &mut Vec<Unit>,
        shard: ShardNumber,
        config: ConfigId,
        entries: Vec<Entry>,
    ) {
        let logs_payloads = self.logs_payloads(config);
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            let mut builder = PageBuilder::new(PageKey(rand::random()));
            let mut taken = Vec::new();
            while !builder.is_full()
                && let Some(entry) = rest.next()
            {
                entry.put_row(&mut builder, logs_payloads);
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
        let logs_payloads = self.logs_payloads(config);
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
                    entry.put_row(&mut builder, logs_payloads);
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
