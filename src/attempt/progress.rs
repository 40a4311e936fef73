//! How far an attempt has come, so that a timeout can say what was being waited for.

use std::cell::Cell;
use std::time::Duration;

use crate::domain::outcome::{Fault, FaultKind};

/// A step of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Name lookup.
    Lookup,
    /// The forward proxy, up to its tunnel.
    Proxy,
    /// TCP.
    Connect,
    /// TLS.
    Handshake,
    /// The request is being sent, or was; nothing was answered.
    Answer,
    /// The answer's head was read, with this status; its body was not.
    Body(u16),
}

/// The step that an attempt is at.
#[derive(Debug)]
pub(super) struct Progress(Cell<Step>);

// === impl Progress ===

impl Progress {
    pub(super) const fn new() -> Self {
        Self(Cell::new(Step::Answer))
    }

    pub(super) fn set(&self, step: Step) {
        self.0.set(step);
    }

    /// Whether the proxy is being waited for: that it does not come is no fault of the receiver's.
    pub(super) fn is_at_proxy(&self) -> bool {
        self.0.get() == Step::Proxy
    }

    /// The fault of an attempt whose deadline passed at this step.
    pub(super) fn timeout(&self, limit: Duration) -> Fault {
        let waited_for = match self.0.get() {
            Step::Lookup => "the name servers did not answer".to_owned(),
            Step::Connect | Step::Proxy => "no connection".to_owned(),
            Step::Handshake => "no TLS connection".to_owned(),
            Step::Answer => "no answer".to_owned(),
            Step::Body(status) => format!("answered {status}, but its body did not end"),
        };
        Fault::new(FaultKind::Timeout, format!("{waited_for} within {limit:?}"))
    }
}
