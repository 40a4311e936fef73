//! A delivery of the log as JSON (docs/WIRE.md section 7): the contract's fields, and those added to it.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::domain::clock::UnixMillis;
use crate::domain::delivery::FailReason;
use crate::domain::log_view::{AttemptLine, DeliveryView};
use crate::domain::vocabulary::hyphenated;
use crate::redis::log_search::{DeliveryDetail, LogAnswer};

/// The answer of `GET /webhooks/logs`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsAnswer {
    total_count: usize,
    total_count_is_floor: bool,
    edges: Vec<LogRecord>,
    #[serde(serialize_with = "optional_time")]
    oldest_at: Option<UnixMillis>,
    /// Where the next page begins; null on the last one.
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    unreadable: usize,
}

/// One delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    delivery_id: String,
    webhook_config_id: String,
    event: String,
    event_sub_category: String,
    url: Option<String>,
    status: &'static str,
    attempts: u32,
    #[serde(serialize_with = "optional_time")]
    last_attempt_at: Option<UnixMillis>,
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<UnixMillis>,
    response_status: Option<u16>,
    response_body: Option<String>,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_reason: Option<&'static str>,
    #[serde(serialize_with = "time")]
    created_at: UnixMillis,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    attempt_log: Vec<AttemptRecord>,
}

/// One attempt of a delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    attempt: u32,
    success: bool,
    response_status: Option<u16>,
    error_message: Option<String>,
    #[serde(serialize_with = "time")]
    created_at: UnixMillis,
    duration_ms: u32,
    url: Option<String>,
    response_body: Option<String>,
}

/// The answer of `GET /webhooks/logs/{deliveryId}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogDetail {
    #[serde(flatten)]
    record: LogRecord,
    payload: Option<Box<RawValue>>,
    payload_raw: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    payload_omitted: bool,
}

impl From<LogAnswer> for LogsAnswer {
    fn from(answer: LogAnswer) -> Self {
        Self {
            total_count: answer.total,
            total_count_is_floor: answer.total_is_floor,
            edges: answer.deliveries.into_iter().map(LogRecord::from).collect(),
            oldest_at: answer.oldest_at,
            next_cursor: answer.next.map(|cursor| cursor.encode()),
            unreadable: answer.unreadable,
        }
    }
}

impl From<DeliveryView> for LogRecord {
    fn from(view: DeliveryView) -> Self {
        Self {
            delivery_id: view.delivery.to_string(),
            webhook_config_id: view.config.to_string(),
            event: view.event_type.as_ref().to_owned(),
            event_sub_category: hyphenated(&view.event_type).unwrap_or(&view.event_type).to_owned(),
            url: view.url.map(|url| url.as_ref().to_owned()),
            status: view.status.as_str(),
            attempts: view.attempts,
            last_attempt_at: view.last_attempt_at,
            next_attempt_at: view.next_attempt_at,
            response_status: view.response_status,
            response_body: excerpt_text(&view.excerpt),
            error: view.error,
            fail_reason: view.reason.map(FailReason::as_str),
            created_at: view.created_at,
            trace_id: view.trace.map(|trace| trace.to_string()),
            attempt_log: view.attempt_log.into_iter().map(AttemptRecord::from).collect(),
        }
    }
}

impl LogRecord {
    /// The event's type.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event
    }
}

impl From<AttemptLine> for AttemptRecord {
    fn from(line: AttemptLine) -> Self {
        Self {
            attempt: line.attempt,
            success: line.success,
            response_status: line.response_status,
            error_message: line.error_message,
            created_at: line.at,
            duration_ms: line.took_ms,
            url: line.url.map(|url| url.as_ref().to_owned()),
            response_body: excerpt_text(&line.excerpt),
        }
    }
}

impl From<DeliveryDetail> for LogDetail {
    fn from(detail: DeliveryDetail) -> Self {
        let raw = detail.payload.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self {
            record: detail.view.into(),
            payload: raw.as_deref().and_then(embeddable),
            payload_omitted: raw.is_none(),
            payload_raw: raw,
        }
    }
}

/// The first bytes of an answer as text; `None` where there were none.
fn excerpt_text(excerpt: &[u8]) -> Option<String> {
    (!excerpt.is_empty()).then(|| String::from_utf8_lossy(excerpt).into_owned())
}

/// The payload as a part of the answer, byte for byte, so that 30-digit integers stay as they were sent; `None`
/// where it would keep common parsers from reading the answer (`1e400`, more than 127 levels).
fn embeddable(text: &str) -> Option<Box<RawValue>> {
    serde_json::from_str::<serde_json::Value>(text).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

fn time<S: Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn optional_time<S: Serializer>(at: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
const fn is_zero(count: &usize) -> bool {
    *count == 0
}
