//! The attempt log's unit and its packing: a row is one attempt (or a fate without one), a page is the rows
//! that one settle flush wrote for one config (formats: docs/REDIS.md, "Log page" and "Payload page").

use std::sync::Arc;

use bytes::Bytes;

use super::clock::UnixMillis;
use super::codec::{Malformed, Reader, put_bytes, put_length};
use super::delivery::{AttemptSummary, FailReason, put_history, take_history};
use super::ids::DeliveryId;
use super::trace::TraceId;

/// Most rows of a page.
pub const PAGE_ROWS_MAX: usize = 64;

/// Size at which a page takes no further row.
pub const PAGE_BYTES_MAX: usize = 16 * 1024;

/// Payloads above this are not kept with their rows; the row then says `payloadOmitted`.
pub const PAYLOAD_MAX_BYTES: usize = 16 * 1024;

/// Size at which a payload page takes no further payload, and so ends its log page.
pub const PAYLOAD_PAGE_BYTES_MAX: usize = 64 * 1024;

/// Byte offset of the number of rows in a log page: the script that trims the log reads it.
pub const PAGE_ROW_COUNT_OFFSET: usize = 9;

const PAGE_VERSION: u8 = 1;

/// A log page whose rows are followed by trace ids. Only pages that have some are written so: whoever knows version 1
/// alone still reads all others.
const TRACED_PAGE_VERSION: u8 = 2;

/// Versions of log pages that can be read: the rows come first in both.
pub(super) const PAGE_VERSIONS: [u8; 2] = [PAGE_VERSION, TRACED_PAGE_VERSION];

/// The delivery's status after the row, exactly the contract's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Parked, no attempt made.
    Pending,
    /// Tried, and waiting for the next attempt.
    Retrying,
    /// Answered 2xx.
    Delivered,
    /// Ended without success.
    Failed,
}

/// Eight random bytes that a log page and its payload page share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageKey(pub [u8; 8]);

/// One attempt, or one fate without an attempt (`attempt` is then the number made so far).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The event's type.
    pub event_type: Arc<str>,
    /// The URL that was used; empty for a fate without an attempt.
    pub url: Arc<str>,
    /// The delivery's status after it.
    pub status: Status,
    /// Attempts made, this one included.
    pub attempt: u32,
    /// When the attempt began; for a fate without an attempt, when it was decided.
    pub at: UnixMillis,
    /// When the delivery came to be.
    pub created_at: UnixMillis,
    /// When it is due again, while retrying or parked.
    pub next_attempt_at: Option<UnixMillis>,
    /// The answer's status; `None` when no answer came.
    pub response_status: Option<u16>,
    /// First bytes of the answer's body.
    pub excerpt: Bytes,
    /// Why there was no answer.
    pub error: Option<String>,
    /// Why the delivery failed, with status `failed`.
    pub reason: Option<FailReason>,
    /// How long the attempt took, in milliseconds.
    pub took_ms: u32,
    /// All attempts of the delivery, on the final row of one that was retried; else empty.
    pub history: Vec<AttemptSummary>,
    /// The trace that the event belongs to, where its `traceparent` named one.
    pub trace: Option<TraceId>,
}

/// A page as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The key of its payload page.
    pub key: PageKey,
    /// Its rows, oldest first.
    pub rows: Vec<LogRow>,
}

/// Gathers rows for one config until the page is full.
#[derive(Debug)]
pub struct PageBuilder {
    key: PageKey,
    strings: Vec<Arc<str>>,
    packed_strings: Vec<u8>,
    packed_rows: Vec<u8>,
    rows: usize,
    /// The number of each row that has a trace id, and the id.
    traces: Vec<(u8, TraceId)>,
    payloads: Vec<u8>,
    payload_count: usize,
}

/// A finished page: what goes into the `p` fields of `log:<config>` and `bodies:<config>`.
#[derive(Clone, Debug)]
pub struct PackedPage {
    /// The log page.
    pub log: Vec<u8>,
    /// The payload page; `None` when no row has a payload.
    pub payloads: Option<Vec<u8>>,
    /// Rows in the log page.
    pub rows: usize,
}

/// One payload of a payload page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPayload {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The attempt that sent it.
    pub attempt: u32,
    /// The bytes that were sent.
    pub payload: Bytes,
}

/// A payload page as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadPage {
    /// The key of its log page.
    pub key: PageKey,
    /// Its payloads.
    pub payloads: Vec<StoredPayload>,
}

// === impl Status ===

impl Status {
    /// All statuses, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Retrying, Self::Delivered, Self::Failed];

    /// The contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// The status with this word, exactly.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

// === impl PageBuilder ===

impl PageBuilder {
    /// An empty page.
    #[must_use]
    pub fn new(key: PageKey) -> Self {
        Self {
            key,
            strings: Vec::new(),
            packed_strings: Vec::new(),
            packed_rows: Vec::new(),
            rows: 0,
            traces: Vec::new(),
            payloads: Vec::new(),
            payload_count: 0,
        }
    }

    /// Whether the page takes no further row.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= PAGE_ROWS_MAX
            || self.packed_rows.len() + self.packed_strings.len() >= PAGE_BYTES_MAX
            || self.payloads.len() >= PAYLOAD_PAGE_BYTES_MAX
    }

    /// Whether the page has no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row, and the payload that was sent where it should be kept and is small enough.
    pub fn push(&mut self, row: &LogRow, payload: Option<&[u8]>) {
        if let (Some(trace), Ok(row)) = (row.trace, u8::try_from(self.rows)) {
            self.traces.push((row, trace));
        }
        self.rows += 1;
        let event_type = self.string_index(&row.event_type);
        let url = self.string_index(&row.url);
        let out = &mut self.packed_rows;
        out.extend_from_slice(&row.delivery.bytes());
        out.push(row.status as u8);
        put_length(out, event_type);
        put_length(out, url);
        out.extend_from_slice(&row.attempt.to_be_bytes());
        out.extend_from_slice(&row.at.0.to_be_bytes());
        out.extend_from_slice(&row.created_at.0.to_be_bytes());
        out.extend_from_slice(&row.next_attempt_at.map_or(0, |at| at.0).to_be_bytes());
        out.extend_from_slice(&row.response_status.unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&row.took_ms.to_be_bytes());
        out.push(row.reason.map_or(0, FailReason::code));
        put_bytes(out, &row.excerpt);
        put_bytes(out, row.error.as_deref().unwrap_or_default().as_bytes());
        put_history(out, &row.history);
        if let Some(payload) = payload.filter(|bytes| bytes.len() <= PAYLOAD_MAX_BYTES) {
            self.payload_count += 1;
            self.payloads.extend_from_slice(&row.delivery.bytes());
            self.payloads.extend_from_slice(&row.attempt.to_be_bytes());
            put_bytes(&mut self.payloads, payload);
        }
    }

    /// The packed page, if it has a row.
    #[must_use]
    pub fn finish(self) -> Option<PackedPage> {
        if self.rows == 0 {
            return None;
        }
        let mut log = Vec::with_capacity(16 + self.packed_strings.len() + self.packed_rows.len());
        let version = if self.traces.is_empty() { PAGE_VERSION } else { TRACED_PAGE_VERSION };
        put_head(&mut log, version, self.key);
        // At most 64, so one byte at a fixed place: the script that trims the log reads it there.
        log.push(u8::try_from(self.rows).unwrap_or(u8::MAX));
        put_length(&mut log, self.strings.len());
        log.extend_from_slice(&self.packed_strings);
        log.extend_from_slice(&self.packed_rows);
        put_traces(&mut log, &self.traces);
        let payloads = (self.payload_count > 0).then(|| {
            let mut page = Vec::with_capacity(16 + self.payloads.len());
            put_head(&mut page, PAGE_VERSION, self.key);
            put_length(&mut page, self.payload_count);
            page.extend_from_slice(&self.payloads);
            page
        });
        Some(PackedPage { log, payloads, rows: self.rows })
    }

    /// The string's place in the page's table. A page is one config's, so a handful of strings: URL and types.
    fn string_index(&mut self, text: &Arc<str>) -> usize {
        if let Some(found) = self.strings.iter().position(|known| Arc::ptr_eq(known, text) || known == text) {
            return found;
        }
        put_bytes(&mut self.packed_strings, text.as_bytes());
        self.strings.push(Arc::clone(text));
        self.strings.len() - 1
    }
}

// === impl LogPage ===

impl LogPage {
    /// Unpacks the `p` field of an entry of `log:<config>`.
    ///
    /// # Errors
    /// When the bytes are not a page of a version that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let traced = bytes.first() == Some(&TRACED_PAGE_VERSION);
        let key = take_head(&mut input, &PAGE_VERSIONS)?;
        let count = take_row_count(&mut input)?;
        let strings = (0..input.length()?)
            .map(|_| input.text().map(Arc::from))
            .collect::<Result<Vec<Arc<str>>, Malformed>>()?;
        let mut rows =
            (0..count).map(|_| take_row(&mut input, &strings)).collect::<Result<Vec<LogRow>, _>>()?;
        if traced {
            take_traces(&mut input, &mut rows)?;
        }
        Ok(Self { key, rows })
    }
}

// === impl PayloadPage ===

impl PayloadPage {
    /// Unpacks the `p` field of an entry of `bodies:<config>`.
    ///
    /// # Errors
    /// When the bytes are not a page of a version that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let key = take_head(&mut input, &[PAGE_VERSION])?;
        let count = input.length()?;
        if count > PAGE_ROWS_MAX {
            return Err(input.malformed("at most 64 payloads"));
        }
        let payloads = (0..count)
            .map(|_| {
                Ok(StoredPayload {
                    delivery: DeliveryId::from_bytes(input.array()?),
                    attempt: input.u32()?,
                    payload: Bytes::copy_from_slice(input.bytes()?),
                })
            })
            .collect::<Result<_, Malformed>>()?;
        Ok(Self { key, payloads })
    }
}

fn put_head(out: &mut Vec<u8>, version: u8, key: PageKey) {
    out.push(version);
    out.extend_from_slice(&key.0);
}

pub(super) fn take_head(input: &mut Reader<'_>, versions: &[u8]) -> Result<PageKey, Malformed> {
    if !versions.contains(&input.u8()?) {
        return Err(input.malformed("a known page version"));
    }
    Ok(PageKey(input.array()?))
}

/// Nothing for a page without trace ids.
fn put_traces(out: &mut Vec<u8>, traces: &[(u8, TraceId)]) {
    if !traces.is_empty() {
        put_length(out, traces.len());
        for (row, trace) in traces {
            out.push(*row);
            out.extend_from_slice(&trace.0);
        }
    }
}

fn take_traces(input: &mut Reader<'_>, rows: &mut [LogRow]) -> Result<(), Malformed> {
    for _ in 0..input.length()? {
        let row = usize::from(input.u8()?);
        let row = rows.get_mut(row).ok_or(input.malformed("row number"))?;
        row.trace = Some(TraceId(input.array()?));
    }
    Ok(())
}

pub(super) fn take_row_count(input: &mut Reader<'_>) -> Result<usize, Malformed> {
    match usize::from(input.u8()?) {
        count if count <= PAGE_ROWS_MAX => Ok(count),
        _ => Err(input.malformed("at most 64 rows")),
    }
}

fn take_row(input: &mut Reader<'_>, strings: &[Arc<str>]) -> Result<LogRow, Malformed> {
    let delivery = DeliveryId::from_bytes(input.array()?);
    let status = *Status::ALL.get(usize::from(input.u8()?)).ok_or(input.malformed("status"))?;
    let event_type = take_string(input, strings)?;
    let url = take_string(input, strings)?;
    Ok(LogRow {
        delivery,
        event_type,
        url,
        status,
        attempt: input.u32()?,
        at: UnixMillis(input.u64()?),
        created_at: UnixMillis(input.u64()?),
        next_attempt_at: Some(input.u64()?).filter(|at| *at != 0).map(UnixMillis),
        response_status: Some(input.u16()?).filter(|status| *status != 0),
        took_ms: input.u32()?,
        reason: FailReason::from_code(input.u8()?).map_err(|()| input.malformed("fail reason"))?,
        excerpt: Bytes::copy_from_slice(input.bytes()?),
        error: Some(input.text()?).filter(|text| !text.is_empty()).map(str::to_owned),
        history: take_history(input)?,
        trace: None,
    })
}

fn take_string(input: &mut Reader<'_>, strings: &[Arc<str>]) -> Result<Arc<str>, Malformed> {
    let index = input.length()?;
    strings.get(index).cloned().ok_or(input.malformed("string index"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Outcome;
    use proptest::prelude::*;

    prop_compose! {
        fn row()(
            delivery: [u8; 16], event in "[a-z]{1,8}", url in "https://[a-z]{1,9}/", status in 0_usize..4,
            attempt in 0_u32..12, at: u32, next in proptest::option::of(1_u64..1 << 48),
            response_status in proptest::option::of(200_u16..600), excerpt in proptest::collection::vec(any::<u8>(), 0..1024),
            error in proptest::option::of("[a-z]{1,9}"), reason in 0_u8..8, trace in proptest::option::of(any::<[u8; 16]>()),
        ) -> LogRow {
            LogRow {
                delivery: DeliveryId::from_bytes(delivery),
                event_type: event.as_str().into(),
                url: url.as_str().into(),
                status: Status::ALL[status],
                attempt,
                at: UnixMillis(u64::from(at)),
                created_at: UnixMillis(3),
                next_attempt_at: next.map(UnixMillis),
                response_status,
                excerpt: excerpt.into(),
                error,
                reason: FailReason::from_code(reason).unwrap(),
                took_ms: at,
                history: vec![AttemptSummary { attempt: 1, at: UnixMillis(1), took_ms: 2, status: None, outcome: Outcome::Gone }],
                trace: trace.map(TraceId),
            }
        }
    }

    proptest! {
        #[test]
        fn pages_round_trip(rows in proptest::collection::vec(row(), 1..64), payload: Vec<u8>) {
            let key = PageKey([9; 8]);
            let mut builder = PageBuilder::new(key);
            for row in &rows {
                builder.push(row, Some(&payload));
            }
            let page = builder.finish().unwrap();
            prop_assert_eq!(usize::from(page.log[PAGE_ROW_COUNT_OFFSET]), rows.len());
            let payloads = PayloadPage::decode(&page.payloads.unwrap()).unwrap();
            prop_assert_eq!(payloads.key, key);
            prop_assert_eq!(payloads.payloads.len(), rows.len());
            prop_assert!(payloads.payloads.iter().all(|one| one.payload == payload));
            prop_assert_eq!(LogPage::decode(&page.log), Ok(LogPage { key, rows }));
        }

        #[test]
        fn any_bytes_are_a_page_or_an_error(bytes: Vec<u8>) {
            let _ = (LogPage::decode(&bytes), PayloadPage::decode(&bytes));
        }
    }

    #[test]
    fn a_page_is_full_at_64_rows_and_large_payloads_are_left_out() {
        let row = LogRow {
            delivery: DeliveryId::from_bytes([1; 16]),
            event_type: "a".into(),
            url: "u".into(),
            status: Status::Delivered,
            attempt: 1,
            at: UnixMillis(1),
            created_at: UnixMillis(1),
            next_attempt_at: None,
            response_status: Some(200),
            excerpt: Bytes::new(),
            error: None,
            reason: None,
            took_ms: 1,
            history: Vec::new(),
            trace: None,
        };
        let mut builder = PageBuilder::new(PageKey([0; 8]));
        for _ in 0..PAGE_ROWS_MAX {
            assert!(!builder.is_full());
            builder.push(&row, Some(&[0; PAYLOAD_MAX_BYTES + 1]));
        }
        assert!(builder.is_full());
        let page = builder.finish().unwrap();
        assert!(page.payloads.is_none());
        assert!(page.log.len() < PAGE_ROWS_MAX * 80);
    }
}
