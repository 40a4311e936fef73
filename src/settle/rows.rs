//! The log rows of attempts, and of fates without one.

use std::sync::Arc;

use bytes::Bytes;

use super::job::{Attempted, Job};
use super::settler::Settler;
use crate::domain::delivery::{FailReason, Tried};
use crate::domain::log::{LogRow, Status};

// === impl Settler ===

impl Settler {
    /// The row of an attempt.
    pub(super) fn attempt_row(
        &self,
        job: &Job,
        attempted: &Attempted,
        tried: &Tried,
        status: Status,
    ) -> LogRow {
        let (excerpt, error) = match &attempted.result.reply {
            Ok(answer) => (answer.excerpt.clone(), None),
            Err(fault) => (Bytes::new(), Some(fault.to_string())),
        };
        let last = matches!(status, Status::Delivered | Status::Failed);
        LogRow {
            delivery: job.delivery.id,
            event_type: Arc::clone(&job.delivery.event_type),
            url: Arc::clone(&attempted.url),
            status,
            attempt: tried.attempts,
            at: attempted.at,
            created_at: job.delivery.created_at,
            next_attempt_at: None,
            response_status: attempted.result.status(),
            excerpt,
            error,
            reason: None,
            took_ms: u32::try_from(attempted.result.took.as_millis()).unwrap_or(u32::MAX),
            history: if last && tried.attempts > 1 { tried.history.clone() } else { Vec::new() },
            trace: job.delivery.trace(),
        }
    }

    /// The row of a fate without an attempt of its own.
    pub(super) fn fate_row(&self, job: &Job, status: Status, reason: Option<FailReason>) -> LogRow {
        let tried = &job.delivery.tried;
        let (url, response_status, excerpt, error) = match &tried.last {
            Some(last) => (Arc::clone(&last.url), last.status, last.excerpt.clone(), last.error.clone()),
            None => ("".into(), None, Bytes::new(), None),
        };
        LogRow {
            delivery: job.delivery.id,
            event_type: Arc::clone(&job.delivery.event_type),
            url,
            status,
            attempt: tried.attempts,
            at: self.now(),
            created_at: job.delivery.created_at,
            next_attempt_at: None,
            response_status,
            excerpt,
            error,
            reason,
            took_ms: 0,
            history: if tried.attempts > 1 { tried.history.clone() } else { Vec::new() },
            trace: job.delivery.trace(),
        }
    }
}
