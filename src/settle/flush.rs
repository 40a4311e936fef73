//! The flush: everything that is settled at a time, in one pipeline.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use redis::{Pipeline, Value};

use super::job::{Hold, Job, Ticket};
use super::settler::{Action, Entry, GATHER_COUNT, Settler};
use crate::domain::delivery::FailReason;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::domain::log::{PackedPage, PageBuilder, PageKey, Status};
use crate::metrics;
use crate::redis::connection::{RedisError, Result};
use crate::redis::deliveries::BATCH_MAX;
use crate::redis::events;
use crate::redis::fates::{Applied, Fate, Proof, Settled, Step, settle_answer, settle_command};
use crate::redis::log_write::push_page;

/// How long outcomes are gathered.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// Most entries of one flush: bounds the pipeline's size.
const FLUSH_MAX: usize = 1024;

/// First and longest pause after a failed flush.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One group of commands of a flush whose answers belong together.
enum Unit {
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
    /// Flushes for ever; ends only with its task. A failed write stays queued and is repeated.
    pub async fn run(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            self.gathered().await;
            if self.flush().await {
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
        while self.queue.borrow().is_empty() && self.acks.borrow().is_empty() {
            self.wake.notified().await;
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
        let mut commands = redis::pipe();
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
                Ok(values) => good &= self.succeeded(unit, values),
                Err(error) => {
                    self.note(&error, "a write failed; it is repeated");
                    self.put_back(unit);
                    good = false;
                }
            }
        }
        good
    }

    fn note(&self, error: &RedisError, what: &'static str) {
        metrics::redis_error(error.operation);
        tracing::warn!(%error, "{what}");
    }

    fn plan(&self, commands: &mut Pipeline) -> Vec<Unit> {
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
            let count = push_page(commands, keys, config, &page);
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
                match entry.fate() {
                    Some(fate) => {
                        entry.put_row(&mut builder);
                        fates.push(fate);
                        taken.push(entry);
                    }
                    None => self.finished_one(),
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

    fn succeeded(&self, unit: Unit, values: Vec<Value>) -> bool {
        match unit {
            Unit::Ack(tickets) => {
                self.parts.metrics.events_acknowledged.increment(tickets.len() as u64);
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
                    self.finished_one();
                }
            }
            Unit::Script { page, shard, config, entries } => {
                let answer = values.into_iter().next().unwrap_or(Value::Nil);
                let settled = match settle_answer(answer, entries.len()) {
                    Ok(settled) => settled,
                    Err(error) => {
                        self.note(&error, "a settle script's answer was not understood; it is repeated");
                        self.put_back(Unit::Script { page, shard, config, entries });
                        return false;
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
        true
    }

    fn applied(&self, entry: Entry, applied: Applied) {
        let Entry { job, action, row } = entry;
        let Action::Step(step, reason) = action else { return };
        let hands_off = matches!(step, Step::HandOff { .. });
        match applied {
            Applied::Now(claim) if hands_off => {
                self.one_handed_off(&job, Hold::Claimed(claim));
            }
            Applied::Before if hands_off => self.one_handed_off(&job, Hold::Lost),
            Applied::QueueFull if hands_off => self.hand_off_refused(&job),
            Applied::QueueFull => {
                self.finished_one();
                self.fail(&job, FailReason::BacklogFull);
                return;
            }
            Applied::Lost => {
                self.parts.metrics.settles_lost.increment(1);
                if let Some(ticket) = &job.ticket {
                    ticket.lose();
                }
                if hands_off {
                    self.one_handed_off(&job, Hold::Lost);
                } else {
                    self.decided(&job);
                }
            }
            Applied::Now(_) | Applied::Before => {
                let done = Entry { job, action: Action::Step(step, reason), row };
                self.count_fate(&done);
                self.decided(&done.job);
            }
        }
        self.finished_one();
    }

    /// The hand-off was answered: the event needs this delivery no longer, and an outcome that came meanwhile is
    /// decided now.
    fn one_handed_off(&self, job: &Rc<Job>, next: Hold) {
        let previous = job.hold.replace(next);
        if let Some(ticket) = &job.ticket {
            self.one_decided(ticket);
        }
        if let Hold::HandingOff(Some(attempted)) = previous {
            self.attempted(job, *attempted);
        }
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
                }
            }
            Step::Queue { look, .. } => self.announce(entry.job.delivery.id.event().shard(), *look),
            Step::HandOff { .. } => {}
        }
    }

    fn count_delivered(&self, entry: &Entry) {
        let metrics = &self.parts.metrics;
        metrics.delivered.increment(1);
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

    fn finished_one(&self) {
        self.unsettled.set(self.unsettled.get().saturating_sub(1));
    }
}

// === impl Unit ===

impl Unit {
    /// How many answers of the pipeline are its own.
    const fn commands(&self) -> usize {
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
