//! A delivery: one event for one config, through all its attempts; and its record, the packed string under
//! `delivery:<id>` while it is queued or failed (format: docs/REDIS.md, "Delivery record").

mod record;

pub use record::{
    BODY_INLINE_MAX_BYTES, DeliveryRecord, RECORD_CONFIG_OFFSET, RECORD_HEAD_MAX_BYTES,
    RECORD_NEXT_ATTEMPT_OFFSET, RecordBody, RecordHead, Standing,
};
pub(super) use record::{put_history, skip_history, take_history};

use std::sync::Arc;

use bytes::Bytes;

use super::clock::UnixMillis;
use super::ids::{ConfigId, DeliveryId};
use super::outcome::{AttemptResult, Outcome};
use super::trace::{TraceContext, TraceId};

/// Attempts of which a record and a final log row keep a summary; the oldest go first.
pub const HISTORY_MAX: usize = 16;

/// What a worker carries of a delivery from routing (or from its queue) to settle.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The delivery's id.
    pub id: DeliveryId,
    /// The config that it goes to.
    pub config: ConfigId,
    /// The event's type, as it stands in the body and in `X-Nudj-Event`.
    pub event_type: Arc<str>,
    /// W3C `traceparent` of the event, sent along as it came.
    pub traceparent: Option<Arc<str>>,
    /// The bytes that are signed and sent, on every attempt the same.
    pub body: Bytes,
    /// The event's stream time: when the delivery came to be.
    pub created_at: UnixMillis,
    /// What has been tried so far.
    pub tried: Tried,
}

/// The attempts that a delivery has behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Attempts made, by hand included; the next one is number `attempts + 1`.
    pub attempts: u32,
    /// Those of them that were asked for by hand and do not count against `maxRetries`.
    pub by_hand: u32,
    /// The last attempt.
    pub last: Option<LastAttempt>,
    /// A summary of each, oldest first, at most [`HISTORY_MAX`].
    pub history: Vec<AttemptSummary>,
}

/// The last attempt, as the log shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAttempt {
    /// When it began.
    pub at: UnixMillis,
    /// The URL that was used.
    pub url: Arc<str>,
    /// The answer's status; `None` when no answer came.
    pub status: Option<u16>,
    /// First bytes of the answer's body.
    pub excerpt: Bytes,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// One attempt in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptSummary {
    /// Its number, from 1.
    pub attempt: u32,
    /// When it began.
    pub at: UnixMillis,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// The answer's status; `None` when no answer came.
    pub status: Option<u16>,
    /// Its outcome.
    pub outcome: Outcome,
}

/// Why a delivery ended as `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// Every automatic retry was used.
    Exhausted,
    /// The answer was final: 3xx, or a 4xx other than 410.
    Refused,
    /// The receiver answered 410, to this delivery or to another of its config.
    Gone,
    /// The guard denied the target.
    Blocked,
    /// It waited for longer than the limit past its time.
    Expired,
    /// The config's queue was full.
    BacklogFull,
    /// The config was deleted.
    Deleted,
}

// === impl Delivery ===

impl Delivery {
    /// The trace that the event belongs to, where its `traceparent` names one.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        Some(TraceContext::parse(self.traceparent.as_deref()?)?.trace)
    }
}

// === impl Tried ===

impl Tried {
    /// These attempts and one more, which began at `at` and used `url`.
    #[must_use]
    pub fn and(&self, at: UnixMillis, url: &Arc<str>, result: &AttemptResult) -> Self {
        let attempt = self.attempts.saturating_add(1);
        let mut history = self.history.clone();
        if history.len() >= HISTORY_MAX {
            history.remove(0);
        }
        history.push(AttemptSummary {
            attempt,
            at,
            took_ms: u32::try_from(result.took.as_millis()).unwrap_or(u32::MAX),
            status: result.status(),
            outcome: result.outcome(),
        });
        let (excerpt, error) = match &result.reply {
            Ok(answer) => (answer.excerpt.clone(), None),
            Err(fault) => (Bytes::new(), Some(fault.to_string())),
        };
        let last = LastAttempt { at, url: Arc::clone(url), status: result.status(), excerpt, error };
        Self { attempts: attempt, by_hand: self.by_hand, last: Some(last), history }
    }

    /// Attempts that count against `1 + maxRetries`.
    #[must_use]
    pub const fn automatic(&self) -> u32 {
        self.attempts.saturating_sub(self.by_hand)
    }
}

// === impl FailReason ===

impl FailReason {
    /// All reasons, in the order of their codes (1 is the first; 0 stands for none).
    pub const ALL: [Self; 7] = [
        Self::Exhausted,
        Self::Refused,
        Self::Gone,
        Self::Blocked,
        Self::Expired,
        Self::BacklogFull,
        Self::Deleted,
    ];

    /// The word in the API, the log and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Blocked => "blocked",
            Self::Expired => "expired",
            Self::BacklogFull => "backlog full",
            Self::Deleted => "deleted",
        }
    }

    /// The code in packed values, from 1.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The reason with this code; `None` for 0.
    ///
    /// # Errors
    /// `Err(())` for a code that no version has written.
    #[allow(clippy::result_unit_err)]
    pub fn from_code(code: u8) -> Result<Option<Self>, ()> {
        match code.checked_sub(1) {
            None => Ok(None),
            Some(index) => Self::ALL.get(usize::from(index)).copied().map(Some).ok_or(()),
        }
    }
}
