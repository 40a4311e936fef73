//! A delivery of the log as JSON (docs/WIRE.md section 7): the contract's fields, and those added to it.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::described::{
    ConfigIdText, CursorText, DeliveryIdText, EventTypeText, FailReasonWord, StatusWord, Time, UrlText,
};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::FailReason;
use crate::domain::log_view::{AttemptLine, DeliveryView};
use crate::domain::vocabulary::hyphenated;
use crate::redis::log_search::{DeliveryDetail, LogAnswer};

/// The answer of `GET /webhooks/logs`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsAnswer {
    /// How many deliveries match, whatever `limit` and `skip` are.
    total_count: usize,
    /// True when there may be more than `totalCount`.
    total_count_is_floor: bool,
    /// The deliveries of this page, newest first.
    #[schema(max_items = 100)]
    edges: Vec<LogRecord>,
    /// When the oldest row that these logs still hold was made; null when they are empty.
    #[serde(serialize_with = "optional_time")]
    #[schema(value_type = Option<Time>, required)]
    oldest_at: Option<UnixMillis>,
    /// Where the next page begins; null on the last one.
    #[schema(value_type = Option<CursorText>, required)]
    next_cursor: Option<String>,
    /// Only where it is not 0: parts of the log that this version cannot understand, and left out.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    unreadable: usize,
}

/// One delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub struct LogRecord {
    #[schema(value_type = DeliveryIdText)]
    delivery_id: String,
    #[schema(value_type = ConfigIdText)]
    webhook_config_id: String,
    #[schema(value_type = EventTypeText)]
    event: String,
    /// The hyphenated name of `event` where there is one, else the same.
    #[schema(value_type = EventTypeText)]
    event_sub_category: String,
    /// The URL of the last attempt; the config's present one while there was none, null when that is deleted.
    #[schema(value_type = Option<UrlText>, required)]
    url: Option<String>,
    #[schema(value_type = StatusWord)]
    status: &'static str,
    /// Attempts made; 0 while parked.
    attempts: u32,
    /// When the last attempt began; null while there was none.
    #[serde(serialize_with = "optional_time")]
    #[schema(value_type = Option<Time>, required)]
    last_attempt_at: Option<UnixMillis>,
    /// When the next is due; only while retrying.
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    next_attempt_at: Option<UnixMillis>,
    /// Status of the last answer; null when none came.
    #[schema(required, minimum = 100, maximum = 999, examples(503))]
    response_status: Option<u16>,
    /// First 1 KiB of the last answer's body; null when it was empty or none came.
    #[schema(required, examples("no upstream"))]
    response_body: Option<String>,
    /// Why no answer came; null when one came.
    #[schema(required, examples("timeout: no complete answer within 30 s"))]
    error: Option<String>,
    /// Only when failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = FailReasonWord, required = false)]
    fail_reason: Option<&'static str>,
    /// When the event entered the stream.
    #[serde(serialize_with = "time")]
    #[schema(value_type = Time)]
    created_at: UnixMillis,
    /// The trace of the event's `traceparent`, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$", examples("4bf92f3577b34da6a3ce929d0e0e4736"))]
    trace_id: Option<String>,
    /// Every attempt that is still known, oldest first.
    attempt_log: Vec<AttemptRecord>,
}

/// One attempt of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
pub struct AttemptRecord {
    /// Its number, from 1.
    #[schema(minimum = 1)]
    attempt: u32,
    /// Whether it was answered 2xx.
    success: bool,
    /// Status of the answer; null when none came.
    #[schema(required, minimum = 100, maximum = 999, examples(503))]
    response_status: Option<u16>,
    /// Why it did not succeed.
    #[schema(required, examples("HTTP 503"))]
    error_message: Option<String>,
    /// When it began.
    #[serde(serialize_with = "time")]
    #[schema(value_type = Time)]
    created_at: UnixMillis,
    /// How long it took, in milliseconds.
    duration_ms: u32,
    /// The URL that was used, where it is known.
    #[schema(value_type = Option<UrlText>, required)]
    url: Option<String>,
    /// First 1 KiB of the answer's body, where it is known.
    #[schema(required)]
    response_body: Option<String>,
}

/// The answer of `GET /webhooks/logs/{deliveryId}`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeliveryDetail)]
pub struct LogDetail {
    #[serde(flatten)]
    record: LogRecord,
    /// The body as JSON, its bytes unchanged; null where that would make the answer unreadable for common parsers.
    #[schema(value_type = Option<Object>, required)]
    payload: Option<Box<RawValue>>,
    /// The body as a string: what the signature covers. Null when it is no longer kept.
    #[schema(required)]
    payload_raw: Option<String>,
    /// Only when it is true: the body is no longer kept.
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

pub(super) fn time<S: Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

pub(super) fn optional_time<S: Serializer>(
    at: &Option<UnixMillis>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
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
