//! One delivery as the log shows it (docs/WIRE.md section 7): its state, its last answer and every attempt,
//! put together from its record, its rows and the config it goes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::UnixMillis;
use super::delivery::{AttemptSummary, DeliveryRecord, FailReason, RecordHead, Standing};
use super::ids::{ConfigId, DeliveryId};
use super::log::{LogRow, Status};
use super::log_merge::DeliveryState;
use super::outcome::Outcome;
use super::owned_config::OwnedConfig;
use super::trace::TraceId;

/// A delivery of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The config that it goes to.
    pub config: ConfigId,
    /// The event's type.
    pub event_type: Arc<str>,
    /// The URL of the last attempt; the config's present one where there was none, `None` when it is deleted.
    pub url: Option<Arc<str>>,
    /// Its status.
    pub status: Status,
    /// Attempts made.
    pub attempts: u32,
    /// When the last attempt began.
    pub last_attempt_at: Option<UnixMillis>,
    /// When the next is due, only while retrying.
    pub next_attempt_at: Option<UnixMillis>,
    /// Status of the last answer; `None` when none came.
    pub response_status: Option<u16>,
    /// First bytes of the last answer's body; may be empty.
    pub excerpt: Bytes,
    /// Why the last attempt got no answer.
    pub error: Option<String>,
    /// Why the delivery failed.
    pub reason: Option<FailReason>,
    /// When the delivery came to be.
    pub created_at: UnixMillis,
    /// The trace that the event belongs to.
    pub trace: Option<TraceId>,
    /// Every attempt that is still known, oldest first, each number once.
    pub attempt_log: Vec<AttemptLine>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLine {
    /// Its number, from 1.
    pub attempt: u32,
    /// Whether it was answered 2xx.
    pub success: bool,
    /// The answer's status; `None` when none came.
    pub response_status: Option<u16>,
    /// Why it did not succeed.
    pub error_message: Option<String>,
    /// When it began.
    pub at: UnixMillis,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// The URL that was used; `None` where its own row is gone.
    pub url: Option<Arc<str>>,
    /// First bytes of the answer's body; empty where its own row is gone.
    pub excerpt: Bytes,
}

/// The last attempt's answer.
#[derive(Default)]
struct LastAnswer {
    url: Option<Arc<str>>,
    status: Option<u16>,
    excerpt: Bytes,
    error: Option<String>,
}

// === impl DeliveryView ===

impl DeliveryView {
    /// The view of a delivery whose state was found. `record` is the whole record where the state has one and
    /// it could still be read: what it says now is newer than the state.
    #[must_use]
    pub fn new(config: &OwnedConfig, state: &DeliveryState<'_>, record: Option<&DeliveryRecord>) -> Self {
        let rows: Vec<&LogRow> = state.rows.iter().map(|placed| &placed.row).collect();
        let view = match (record, state.final_row()) {
            (Some(record), _) => Self::of_record(config, state.delivery, record, &rows),
            (None, Some(row)) => Self::of_row(config, row, &rows),
            // The record ended between two reads, and its last row came after the pages were read.
            (None, None) => Self::as_it_was(config, state, &rows),
        };
        Self { url: view.url.clone().or_else(|| config.url().cloned()), ..view }
    }

    fn of_record(
        config: &OwnedConfig,
        delivery: DeliveryId,
        record: &DeliveryRecord,
        rows: &[&LogRow],
    ) -> Self {
        let tried = &record.tried;
        let (status, reason) = match record.standing {
            Standing::Waiting if tried.attempts == 0 => (Status::Pending, None),
            Standing::Waiting => (Status::Retrying, None),
            Standing::Failed(reason) => (Status::Failed, Some(reason)),
        };
        let mut attempt_log = attempt_log(&tried.history, rows);
        if let (Some(line), Some(last)) = (attempt_log.last_mut(), &tried.last)
            && line.at == last.at
        {
            if last.error.is_some() {
                line.error_message.clone_from(&last.error);
            }
            line.url.get_or_insert_with(|| Arc::clone(&last.url));
            line.excerpt.clone_from(&last.excerpt);
        }
        let answer = tried.last.as_ref().map_or_else(LastAnswer::default, |last| LastAnswer {
            url: Some(Arc::clone(&last.url)),
            status: last.status,
            excerpt: last.excerpt.clone(),
            error: last.error.clone(),
        });
        Self {
            delivery,
            config: config.id(),
            event_type: Arc::clone(&record.event_type),
            url: answer.url,
            status,
            attempts: tried.attempts,
            last_attempt_at: tried.last.as_ref().map(|last| last.at),
            next_attempt_at: Some(record.next_attempt_at).filter(|_| status == Status::Retrying),
            response_status: answer.status,
            excerpt: answer.excerpt,
            error: answer.error.filter(|_| answer.status.is_none()),
            reason,
            created_at: record.created_at,
            trace: record.head().trace(),
            attempt_log,
        }
    }

    fn of_row(config: &OwnedConfig, row: &LogRow, rows: &[&LogRow]) -> Self {
        let answer = LastAnswer::before(row, rows);
        let attempt_log = attempt_log(&row.history, rows);
        let last_attempt_at =
            if row.is_attempt() { Some(row.at) } else { attempt_log.last().map(|line| line.at) };
        Self {
            delivery: row.delivery,
            config: config.id(),
            event_type: Arc::clone(&row.event_type),
            url: answer.url,
            status: row.status,
            attempts: row.attempt,
            last_attempt_at,
            next_attempt_at: None,
            response_status: answer.status,
            excerpt: answer.excerpt,
            error: answer.error.filter(|_| answer.status.is_none()),
            reason: row.reason.filter(|_| row.status == Status::Failed),
            created_at: row.created_at,
            trace: row.trace,
            attempt_log,
        }
    }

    fn as_it_was(config: &OwnedConfig, state: &DeliveryState<'_>, rows: &[&LogRow]) -> Self {
        let answer = rows.first().map_or_else(LastAnswer::default, |row| LastAnswer::before(row, rows));
        let head = state.record;
        Self {
            delivery: state.delivery,
            config: config.id(),
            event_type: Arc::clone(state.event_type),
            url: answer.url,
            status: state.status,
            attempts: head.map_or(0, |head| head.attempts),
            last_attempt_at: state.last_attempt_at,
            next_attempt_at: head
                .map(|head| head.next_attempt_at)
                .filter(|_| state.status == Status::Retrying),
            response_status: answer.status,
            excerpt: answer.excerpt,
            error: answer.error.filter(|_| answer.status.is_none()),
            reason: head.and_then(|head| match head.standing {
                Standing::Waiting => None,
                Standing::Failed(reason) => Some(reason),
            }),
            created_at: state.created_at,
            trace: head.and_then(RecordHead::trace).or_else(|| rows.first()?.trace),
            attempt_log: attempt_log(&[], rows),
        }
    }
}

// === impl LastAnswer ===

impl LastAnswer {
    /// The answer of `row`'s attempt. A fate without an attempt shows the attempt before it: from that one's
    /// row, else what the summary tells; `rows` are newest first.
    fn before(row: &LogRow, rows: &[&LogRow]) -> Self {
        let attempt = if row.is_attempt() {
            Some(row)
        } else {
            rows.iter().copied().find(|other| other.is_attempt() && other.attempt == row.attempt)
        };
        match attempt {
            Some(attempt) => Self {
                url: Some(Arc::clone(&attempt.url)),
                status: attempt.response_status,
                excerpt: attempt.excerpt.clone(),
                error: attempt.error.clone(),
            },
            None => Self {
                url: None,
                status: row.history.last().and_then(|summary| summary.status),
                excerpt: row.excerpt.clone(),
                error: row.error.clone(),
            },
        }
    }
}

/// Every attempt that the summaries and the rows (newest first) tell of, each number once. A summary is what
/// the delivery's owner counted; rows of an owner that lost are the attempts it does not know.
fn attempt_log(history: &[AttemptSummary], rows: &[&LogRow]) -> Vec<AttemptLine> {
    let mut lines: BTreeMap<u32, AttemptLine> = BTreeMap::new();
    for summary in history {
        let told = rows.iter().find(|row| {
            row.is_attempt() && row.attempt == summary.attempt && row.response_status == summary.status
        });
        let success = summary.outcome == Outcome::Delivered;
        let error = told.and_then(|row| row.error.as_deref());
        lines.insert(
            summary.attempt,
            AttemptLine {
                attempt: summary.attempt,
                success,
                response_status: summary.status,
                error_message: error_message(success, summary.status, error),
                at: summary.at,
                took_ms: summary.took_ms,
                url: told.map(|row| Arc::clone(&row.url)),
                excerpt: told.map(|row| row.excerpt.clone()).unwrap_or_default(),
            },
        );
    }
    for row in rows.iter().filter(|row| row.is_attempt() && row.attempt > 0) {
        let success = row.response_status.is_some_and(|status| (200..300).contains(&status));
        lines.entry(row.attempt).or_insert_with(|| AttemptLine {
            attempt: row.attempt,
            success,
            response_status: row.response_status,
            error_message: error_message(success, row.response_status, row.error.as_deref()),
            at: row.at,
            took_ms: row.took_ms,
            url: Some(Arc::clone(&row.url)),
            excerpt: row.excerpt.clone(),
        });
    }
    lines.into_values().collect()
}

fn error_message(success: bool, status: Option<u16>, error: Option<&str>) -> Option<String> {
    match (success, status) {
        (true, _) => None,
        (false, Some(status)) => Some(format!("HTTP {status}")),
        (false, None) => Some(error.unwrap_or("no response").to_owned()),
    }
}
