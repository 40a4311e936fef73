//! An entry: one delivery's part of a flush.

use std::cell::Cell;
use std::rc::Rc;

use super::job::{Hold, Job};
use crate::domain::delivery::FailReason;
use crate::domain::log::{LogRow, PageBuilder, Status};
use crate::redis::fates::{Fate, Proof, Step};

/// About what a row takes beside its payload.
const ROW_BYTES: usize = 512;

/// One delivery's part of a flush.
pub(super) struct Entry {
    pub(super) job: Rc<Job>,
    pub(super) action: Action,
    pub(super) row: Option<LogRow>,
    /// How often Redis refused to write it.
    pub(super) failures: u32,
    /// Counts it among the outcomes that are not durable yet.
    pub(super) outcome: Option<Unsettled>,
}

/// What a flush does for a delivery.
pub(super) enum Action {
    /// First attempt, success, nothing durable yet: its log row is all there is to write.
    Deliver,
    /// Only the row: another owner decides.
    Row,
    /// A step of the settle script.
    Step(Step, Option<FailReason>),
}

/// Counts one outcome as long as it lives.
pub(super) struct Unsettled(Rc<Cell<usize>>);

// === impl Unsettled ===

impl Unsettled {
    pub(super) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

// === impl Entry ===

impl Entry {
    pub(super) const fn new(job: Rc<Job>, action: Action, row: Option<LogRow>) -> Self {
        Self { job, action, row, failures: 0, outcome: None }
    }

    /// Whether it hands the delivery off; its attempt goes on.
    pub(super) const fn is_hand_off(&self) -> bool {
        matches!(self.action, Action::Step(Step::HandOff { .. }, _))
    }

    /// Adds the entry's row, with the payload where no record will hold it for long and the config logs payloads.
    pub(super) fn put_row(&self, builder: &mut PageBuilder, logs_payloads: bool) {
        if let Some(row) = &self.row {
            let payload = (logs_payloads && self.keeps_payload()).then_some(&self.job.delivery.body[..]);
            builder.push(row, payload);
        }
    }

    fn keeps_payload(&self) -> bool {
        self.row.as_ref().is_some_and(|row| matches!(row.status, Status::Delivered | Status::Failed))
    }

    /// About how many bytes it adds to a pipeline.
    pub(super) fn bytes(&self) -> usize {
        let step = match &self.action {
            Action::Step(
                Step::Queue { record, apart, .. }
                | Step::HandOff { record, apart, .. }
                | Step::Fail { record, apart },
                _,
            ) => record.len() + apart.len(),
            Action::Step(Step::Finish, _) | Action::Deliver | Action::Row => 0,
        };
        let payload = if self.keeps_payload() { self.job.delivery.body.len() } else { 0 };
        step + ROW_BYTES + payload.min(crate::domain::log::PAYLOAD_MAX_BYTES)
    }

    /// The script's argument; `None` when the job is decided already.
    pub(super) fn fate(&self) -> Option<Fate> {
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
