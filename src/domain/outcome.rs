//! What became of one HTTP request, and what that means for its delivery (docs/WIRE.md section 4).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::retry_on::RetryOn;

/// How many bytes of an answer's body are kept.
pub const EXCERPT_MAX_BYTES: usize = 1024;

/// The status whose `Retry-After` is honoured without a config's wish.
const SERVICE_UNAVAILABLE: u16 = 503;

/// The classified result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 2xx.
    Delivered,
    /// 410: the receiver wants nothing more, ever.
    Gone,
    /// Final without retry: any other 4xx, a 3xx (redirects are not followed), a target that the guard blocks.
    Refused,
    /// 5xx, or no complete answer: timeout, connection, TLS, DNS, malformed HTTP.
    Retryable,
}

/// Why an attempt got no complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The deadline over the whole attempt passed.
    Timeout,
    /// The name has no address, or the resolver failed.
    Dns,
    /// TCP: refused, reset, unreachable.
    Connection,
    /// The handshake or the certificate.
    Tls,
    /// The answer was not HTTP, or the connection closed inside it.
    Protocol,
    /// The guard denies the target's address, or its scheme.
    Blocked,
}

/// A fault of the receiver's side: its kind and one line for the integrator. Never holds secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// One line, at most 256 bytes.
    pub message: String,
}

/// The receiver's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, 200 to 599.
    pub status: u16,
    /// First bytes of the body, at most [`EXCERPT_MAX_BYTES`].
    pub excerpt: Bytes,
    /// `Retry-After`, where it was present and could be parsed; not yet clamped.
    pub retry_after: Option<Duration>,
}

/// What one attempt gave: an answer, or a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    /// The answer or the fault.
    pub reply: Result<Answer, Fault>,
    /// From the first step (DNS) to the last byte that was read.
    pub took: Duration,
}

// === impl Outcome ===

impl Outcome {
    /// All outcomes, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Delivered, Self::Gone, Self::Refused, Self::Retryable];

    /// The classification of a final status line (1xx never gets here).
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Delivered,
            410 => Self::Gone,
            300..=499 => Self::Refused,
            _ => Self::Retryable,
        }
    }

    /// The label in metrics and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Retryable => "retryable",
        }
    }

    /// The code in packed values.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The outcome with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

// === impl FaultKind ===

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Timeout, Self::Dns, Self::Connection, Self::Tls, Self::Protocol, Self::Blocked];

    /// The label in metrics and the first word of the log's `error`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Blocked => "blocked",
        }
    }
}

// === impl Fault ===

const FAULT_MESSAGE_MAX_BYTES: usize = 256;

impl Fault {
    /// A fault whose message is cut at 256 bytes and kept on one line.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl fmt::Display) -> Self {
        let mut message = message.to_string();
        if message.len() > FAULT_MESSAGE_MAX_BYTES {
            let mut end = FAULT_MESSAGE_MAX_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        if message.contains(['\n', '\r']) {
            message = message.replace(['\n', '\r'], " ");
        }
        Self { kind, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

// === impl AttemptResult ===

impl AttemptResult {
    /// The outcome of this attempt.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match &self.reply {
            Ok(answer) => Outcome::of_status(answer.status),
            Err(Fault { kind: FaultKind::Blocked, .. }) => Outcome::Refused,
            Err(_) => Outcome::Retryable,
        }
    }

    /// The outcome of this attempt for a config that wants `retry_on` to be retried.
    #[must_use]
    pub fn outcome_with(&self, retry_on: RetryOn) -> Outcome {
        match self.status() {
            Some(status) if retry_on.contains(status) => Outcome::Retryable,
            _ => self.outcome(),
        }
    }

    /// For how long the receiver asks to be left alone: `Retry-After` of a 503, and of what is in `retry_on`.
    #[must_use]
    pub fn asked_to_wait(&self, retry_on: RetryOn) -> Option<Duration> {
        let answer = self.reply.as_ref().ok()?;
        let honoured = answer.status == SERVICE_UNAVAILABLE || retry_on.contains(answer.status);
        answer.retry_after.filter(|_| honoured)
    }

    /// The answer's status, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.reply.as_ref().ok().map(|answer| answer.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_classified_as_the_contract_says() {
        for (status, outcome) in [
            (200, Outcome::Delivered),
            (204, Outcome::Delivered),
            (299, Outcome::Delivered),
            (301, Outcome::Refused),
            (304, Outcome::Refused),
            (400, Outcome::Refused),
            (401, Outcome::Refused),
            (408, Outcome::Refused),
            (410, Outcome::Gone),
            (425, Outcome::Refused),
            (429, Outcome::Refused),
            (500, Outcome::Retryable),
            (503, Outcome::Retryable),
            (599, Outcome::Retryable),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn a_blocked_target_is_final_and_every_other_fault_is_retried() {
        for kind in FaultKind::ALL {
            let result = AttemptResult { reply: Err(Fault::new(kind, "x")), took: Duration::ZERO };
            let wanted = if kind == FaultKind::Blocked { Outcome::Refused } else { Outcome::Retryable };
            assert_eq!(result.outcome(), wanted);
        }
    }

    #[test]
    fn a_fault_message_is_one_short_line() {
        let fault = Fault::new(FaultKind::Dns, format!("a\nb{}", "é".repeat(300)));
        assert!(fault.message.len() <= 256 && !fault.message.contains('\n'));
    }
}
