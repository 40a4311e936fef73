//! The record of a delivery: the packed string under `delivery:<id>` while it is queued or failed (format:
//! docs/REDIS.md, "Delivery record").

use std::sync::Arc;

use bytes::Bytes;

use super::{AttemptSummary, Delivery, FailReason, HISTORY_MAX, LastAttempt, Tried};
use crate::domain::clock::UnixMillis;
use crate::domain::codec::{Malformed, Reader, put_bytes, put_length};
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::outcome::Outcome;
use crate::domain::trace::{TRACEPARENT_LEN, TraceContext, TraceId};

/// Byte offset of the config id in a record: scripts compare it.
pub const RECORD_CONFIG_OFFSET: usize = 4;

/// Byte offset of `next_attempt_at` in a record: scripts write it from Redis's `TIME`.
pub const RECORD_NEXT_ATTEMPT_OFFSET: usize = 40;

/// Bodies above this are kept once under `body:<stream id>` for all deliveries of the event that wait.
pub const BODY_INLINE_MAX_BYTES: usize = 4096;

/// Bytes from a record's front that hold its [`RecordHead`]: the fixed fields, the longest event type, a `traceparent`.
pub const RECORD_HEAD_MAX_BYTES: usize =
    48 + 2 + crate::domain::config::EVENT_TYPE_MAX_BYTES + 1 + TRACEPARENT_LEN;

const RECORD_VERSION: u8 = 1;

/// First byte of the mark of a delivered delivery; scripts write it.
const MARK_VERSION: u8 = 0;

/// Byte offset of the attempts in a mark, behind the config id.
const MARK_ATTEMPTS_OFFSET: usize = RECORD_CONFIG_OFFSET + 12;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In its config's queue; `pending` while no attempt was made, else `retrying`.
    Waiting,
    /// In its config's failed set.
    Failed(FailReason),
}

/// The body in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// In the record itself.
    Inline(Bytes),
    /// Under `body:<stream id>`, with this many bytes.
    Apart(u32),
}

/// The value of `delivery:<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Queued or failed.
    pub standing: Standing,
    /// The config that it goes to.
    pub config: ConfigId,
    /// When the delivery came to be.
    pub created_at: UnixMillis,
    /// When it is due; scripts write it.
    pub next_attempt_at: UnixMillis,
    /// The event's type.
    pub event_type: Arc<str>,
    /// The event's `traceparent`.
    pub traceparent: Option<Arc<str>>,
    /// The attempts so far.
    pub tried: Tried,
    /// The bytes to send.
    pub body: RecordBody,
}

/// The front of a record: what a reader of many needs, without answers and bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Queued or failed.
    pub standing: Standing,
    /// The config that it goes to.
    pub config: ConfigId,
    /// Attempts made.
    pub attempts: u32,
    /// Those of them that were asked for by hand.
    pub by_hand: u32,
    /// When the delivery came to be.
    pub created_at: UnixMillis,
    /// When the last attempt began.
    pub last_at: Option<UnixMillis>,
    /// When it is due.
    pub next_attempt_at: UnixMillis,
    /// The event's type.
    pub event_type: Arc<str>,
    /// The event's `traceparent`.
    traceparent: Option<Arc<str>>,
    /// Whether the body lies under `body:<stream id>`.
    apart: bool,
}

// === impl DeliveryRecord ===

impl DeliveryRecord {
    /// The record of a delivery that goes to its queue or its failed set with these attempts behind it.
    #[must_use]
    pub fn of(delivery: &Delivery, tried: Tried, standing: Standing) -> Self {
        let body = if delivery.body.len() > BODY_INLINE_MAX_BYTES {
            RecordBody::Apart(u32::try_from(delivery.body.len()).unwrap_or(u32::MAX))
        } else {
            RecordBody::Inline(delivery.body.clone())
        };
        Self {
            standing,
            config: delivery.config,
            created_at: delivery.created_at,
            next_attempt_at: UnixMillis(0),
            event_type: Arc::clone(&delivery.event_type),
            traceparent: delivery.traceparent.clone(),
            tried,
            body,
        }
    }

    /// The delivery to attempt. `apart` is the body where the record says that it lies apart.
    #[must_use]
    pub fn into_delivery(self, id: DeliveryId, apart: Option<Bytes>) -> Option<Delivery> {
        let body = match self.body {
            RecordBody::Inline(body) => body,
            RecordBody::Apart(_) => apart?,
        };
        Some(Delivery {
            id,
            config: self.config,
            event_type: self.event_type,
            traceparent: self.traceparent,
            body,
            created_at: self.created_at,
            tried: self.tried,
        })
    }

    /// Packs the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + self.inline_len());
        let (failed, reason) = match self.standing {
            Standing::Waiting => (0, 0),
            Standing::Failed(reason) => (1, reason.code()),
        };
        out.push(RECORD_VERSION);
        out.push(failed);
        out.push(reason);
        out.push(u8::from(matches!(self.body, RecordBody::Apart(_))));
        out.extend_from_slice(&self.config.bytes());
        out.extend_from_slice(&self.tried.attempts.to_be_bytes());
        out.extend_from_slice(&self.tried.by_hand.to_be_bytes());
        out.extend_from_slice(&self.created_at.0.to_be_bytes());
        let last_at = self.tried.last.as_ref().map_or(0, |last| last.at.0);
        out.extend_from_slice(&last_at.to_be_bytes());
        out.extend_from_slice(&self.next_attempt_at.0.to_be_bytes());
        put_bytes(&mut out, self.event_type.as_bytes());
        put_bytes(&mut out, self.traceparent.as_deref().unwrap_or_default().as_bytes());
        put_last(&mut out, self.tried.last.as_ref());
        put_history(&mut out, &self.tried.history);
        match &self.body {
            RecordBody::Inline(body) => put_bytes(&mut out, body),
            RecordBody::Apart(len) => out.extend_from_slice(&len.to_be_bytes()),
        }
        out
    }

    /// Unpacks a record.
    ///
    /// # Errors
    /// When the bytes are not a record of a version that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let head = RecordHead::take(&mut input)?;
        let last = take_last(&mut input, head.last_at.unwrap_or_default())?;
        let history = take_history(&mut input)?;
        let body = if head.apart {
            RecordBody::Apart(input.u32()?)
        } else {
            RecordBody::Inline(Bytes::copy_from_slice(input.bytes()?))
        };
        let tried = Tried { attempts: head.attempts, by_hand: head.by_hand, last, history };
        Ok(Self {
            standing: head.standing,
            config: head.config,
            created_at: head.created_at,
            next_attempt_at: head.next_attempt_at,
            event_type: head.event_type,
            traceparent: head.traceparent,
            tried,
            body,
        })
    }

    /// Whether these bytes are no record but the mark that a delivered one leaves, while its event is pending or after
    /// it was asked for by hand.
    #[must_use]
    pub fn is_mark(bytes: &[u8]) -> bool {
        bytes.first() == Some(&MARK_VERSION)
    }

    /// The attempts that a mark tells: of a delivery that was delivered when it was asked for by hand.
    #[must_use]
    pub fn marked_attempts(bytes: &[u8], config: ConfigId) -> Option<u32> {
        let of = bytes.get(RECORD_CONFIG_OFFSET..MARK_ATTEMPTS_OFFSET)?;
        let attempts = bytes.get(MARK_ATTEMPTS_OFFSET..)?.first_chunk()?;
        (Self::is_mark(bytes) && of == config.bytes()).then_some(u32::from_be_bytes(*attempts))
    }

    /// The record's front.
    #[must_use]
    pub fn head(&self) -> RecordHead {
        RecordHead {
            standing: self.standing,
            config: self.config,
            attempts: self.tried.attempts,
            by_hand: self.tried.by_hand,
            created_at: self.created_at,
            last_at: self.tried.last.as_ref().map(|last| last.at),
            next_attempt_at: self.next_attempt_at,
            event_type: Arc::clone(&self.event_type),
            traceparent: self.traceparent.clone(),
            apart: matches!(self.body, RecordBody::Apart(_)),
        }
    }

    fn inline_len(&self) -> usize {
        match &self.body {
            RecordBody::Inline(body) => body.len(),
            RecordBody::Apart(_) => 0,
        }
    }
}

// === impl RecordHead ===

impl RecordHead {
    /// The trace that the event belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        Some(TraceContext::parse(self.traceparent.as_deref()?)?.trace)
    }

    /// Unpacks the head from a record, or from its first [`RECORD_HEAD_MAX_BYTES`].
    ///
    /// # Errors
    /// As [`DeliveryRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::take(&mut Reader::new(bytes))
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        if input.u8()? != RECORD_VERSION {
            return Err(input.malformed("record version 1"));
        }
        let failed = input.u8()?;
        let reason = FailReason::from_code(input.u8()?).map_err(|()| input.malformed("fail reason"))?;
        let standing = match (failed, reason) {
            (0, None) => Standing::Waiting,
            (1, Some(reason)) => Standing::Failed(reason),
            _ => return Err(input.malformed("standing")),
        };
        Ok(Self {
            standing,
            apart: input.u8()? != 0,
            config: ConfigId::from_bytes(input.array()?),
            attempts: input.u32()?,
            by_hand: input.u32()?,
            created_at: UnixMillis(input.u64()?),
            last_at: Some(input.u64()?).filter(|at| *at != 0).map(UnixMillis),
            next_attempt_at: UnixMillis(input.u64()?),
            event_type: Arc::from(input.text()?),
            traceparent: Some(input.text()?).filter(|text| !text.is_empty()).map(Arc::from),
        })
    }
}

fn put_last(out: &mut Vec<u8>, last: Option<&LastAttempt>) {
    let Some(last) = last else { return out.push(0) };
    out.push(1);
    out.extend_from_slice(&last.status.unwrap_or(0).to_be_bytes());
    put_bytes(out, last.url.as_bytes());
    put_bytes(out, &last.excerpt);
    put_bytes(out, last.error.as_deref().unwrap_or_default().as_bytes());
}

fn take_last(input: &mut Reader<'_>, at: UnixMillis) -> Result<Option<LastAttempt>, Malformed> {
    if input.u8()? == 0 {
        return Ok(None);
    }
    let status = Some(input.u16()?).filter(|status| *status != 0);
    let url = Arc::from(input.text()?);
    let excerpt = Bytes::copy_from_slice(input.bytes()?);
    let error = Some(input.text()?).filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(Some(LastAttempt { at, url, status, excerpt, error }))
}

/// Appends the summaries of a delivery's attempts, as records and log rows carry them.
pub(in crate::domain) fn put_history(out: &mut Vec<u8>, history: &[AttemptSummary]) {
    put_length(out, history.len());
    for one in history {
        put_length(out, usize::try_from(one.attempt).unwrap_or(usize::MAX));
        out.extend_from_slice(&one.at.0.to_be_bytes());
        out.extend_from_slice(&one.took_ms.to_be_bytes());
        out.extend_from_slice(&one.status.unwrap_or(0).to_be_bytes());
        out.push(one.outcome.code());
    }
}

/// Reads what [`put_history`] wrote.
pub(in crate::domain) fn take_history(input: &mut Reader<'_>) -> Result<Vec<AttemptSummary>, Malformed> {
    let count = input.length()?;
    if count > HISTORY_MAX {
        return Err(input.malformed("at most 16 attempts"));
    }
    (0..count)
        .map(|_| {
            Ok(AttemptSummary {
                attempt: u32::try_from(input.length()?).unwrap_or(u32::MAX),
                at: UnixMillis(input.u64()?),
                took_ms: input.u32()?,
                status: Some(input.u16()?).filter(|status| *status != 0),
                outcome: Outcome::from_code(input.u8()?).ok_or(input.malformed("outcome"))?,
            })
        })
        .collect()
}

/// Passes over what [`put_history`] wrote.
pub(in crate::domain) fn skip_history(input: &mut Reader<'_>) -> Result<(), Malformed> {
    let count = input.length()?;
    if count > HISTORY_MAX {
        return Err(input.malformed("at most 16 attempts"));
    }
    for _ in 0..count {
        input.length()?;
        // Time, duration, status, outcome.
        input.slice(8 + 4 + 2 + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn tried()(
            attempts in 0_u32..20, by_hand in 0_u32..3, url in "https://[a-z]{1,20}/", status in proptest::option::of(200_u16..600),
            excerpt: Vec<u8>, error in proptest::option::of("[a-z ]{1,20}"), at in 1_u64..1 << 48,
        ) -> Tried {
            let last = (attempts > 0).then(|| LastAttempt {
                at: UnixMillis(at), url: url.as_str().into(), status, excerpt: excerpt.clone().into(), error: error.clone(),
            });
            let history = (1..=attempts.min(16)).map(|attempt| AttemptSummary {
                attempt, at: UnixMillis(at), took_ms: attempt, status, outcome: Outcome::Retryable,
            }).collect();
            Tried { attempts, by_hand, last, history }
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(tried in tried(), body: Vec<u8>, apart: bool, reason in 0_u8..8, trace in proptest::option::of("[0-9a-f-]{5,55}")) {
            let standing = FailReason::from_code(reason).unwrap().map_or(Standing::Waiting, Standing::Failed);
            let record = DeliveryRecord {
                standing,
                config: ConfigId::from_bytes([7; 12]),
                created_at: UnixMillis(5),
                next_attempt_at: UnixMillis(9),
                event_type: "reward.earned".into(),
                traceparent: trace.map(|t| t.as_str().into()),
                tried,
                body: if apart { RecordBody::Apart(70_000) } else { RecordBody::Inline(body.into()) },
            };
            let packed = record.encode();
            prop_assert_eq!(&packed[RECORD_CONFIG_OFFSET..RECORD_CONFIG_OFFSET + 12], &[7; 12]);
            prop_assert_eq!(&packed[RECORD_NEXT_ATTEMPT_OFFSET..RECORD_NEXT_ATTEMPT_OFFSET + 8], &9_u64.to_be_bytes());
            let head = RecordHead::decode(&packed[..packed.len().min(RECORD_HEAD_MAX_BYTES)]).unwrap();
            prop_assert_eq!(head, record.head());
            prop_assert_eq!(DeliveryRecord::decode(&packed), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
            let _ = DeliveryRecord::decode(&bytes);
        }
    }
}
