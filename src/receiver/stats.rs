//! What a receiver counts, and the arrivals that it keeps for judges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::delay::{DelaySummary, Delays};
use crate::domain::clock::UnixMillis;

/// Counters since the start. Each request counts once under `received` and once under what became of it, when it is
/// answered.
#[derive(Debug, Default)]
pub struct ReceiverStats {
    received: AtomicU64,
    verified: AtomicU64,
    bad_signature: AtomicU64,
    accepted: AtomicU64,
    duplicates: AtomicU64,
    failed: AtomicU64,
    gone: AtomicU64,
    refused: AtomicU64,
    delays: Delays,
    arrivals: Mutex<Vec<Arrival>>,
    arrivals_max: usize,
}

/// One verified request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The body's `nonce`: the event's, the same for every config and attempt.
    pub nonce: String,
    /// `X-Nudj-Delivery-Id`: the same for every attempt of one delivery. Empty when the header is missing.
    pub delivery_id: String,
    /// The body's `timestamp`, when it is one.
    pub timestamp: Option<UnixMillis>,
    /// When the request was complete, by this machine's clock.
    pub at: UnixMillis,
}

/// What `GET /stats` answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Requests whose head arrived; requests for `/stats` are not counted.
    pub received: u64,
    /// Requests whose signature is right.
    pub verified: u64,
    /// Events that were processed, each once.
    pub accepted: u64,
    /// Requests whose nonce had been processed.
    pub duplicates: u64,
    /// Events whose processing failed.
    pub failed: u64,
    /// Requests that were answered 410.
    pub gone: u64,
    /// Requests that are no webhook.
    pub refused: u64,
    /// Requests whose signature is missing or wrong.
    pub bad_signatures: u64,
    /// From the body's `timestamp` to the arrival, by this machine's clock, over verified requests, since the start or
    /// the last `DELETE /stats`.
    pub delay_ms: DelaySummary,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The signature is missing or wrong.
    BadSignature,
    /// Processed now.
    Accepted,
    /// Processed before.
    Duplicate,
    /// Processing failed, or Redis could not be asked.
    Failed,
    /// The endpoint is gone.
    Gone,
    /// Not a webhook: wrong method, too large, truncated, or without a nonce.
    Refused,
}

// === impl ReceiverStats ===

impl ReceiverStats {
    pub(super) fn new(arrivals_max: usize) -> Self {
        Self { arrivals_max, ..Self::default() }
    }

    /// Requests whose head arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Requests whose signature is right, whatever became of them.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// Requests whose signature is missing or wrong: answered 401.
    #[must_use]
    pub fn bad_signature(&self) -> u64 {
        self.bad_signature.load(Ordering::Relaxed)
    }

    /// Events that were processed, each once, and answered with the receiver's status.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests whose nonce had been processed: answered 200.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Events whose processing failed, on request or because Redis could not be asked.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Requests that were answered 410.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// Requests that are no webhook: wrong method, too large, truncated, without a nonce.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// All counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            received: self.received(),
            verified: self.verified(),
            accepted: self.accepted(),
            duplicates: self.duplicates(),
            failed: self.failed(),
            gone: self.gone(),
            refused: self.refused(),
            bad_signatures: self.bad_signature(),
            delay_ms: self.delays.summary(),
        }
    }

    /// The first verified requests, up to the receiver's `arrivals_max`, in the order of their arrival.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins the percentiles of the delays anew. Counts go on: two readings of a count can be subtracted, two of a
    /// percentile cannot.
    pub(super) fn forget_delays(&self) {
        self.delays.forget();
    }

    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a verified request and gives its number, from 1.
    pub(super) fn count_verified(&self) -> u64 {
        self.verified.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::BadSignature => &self.bad_signature,
            Fate::Accepted => &self.accepted,
            Fate::Duplicate => &self.duplicates,
            Fate::Failed => &self.failed,
            Fate::Gone => &self.gone,
            Fate::Refused => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn keep(&self, arrival: &Arrival) {
        if let Some(published) = arrival.timestamp {
            self.delays.add(arrival.at.0.saturating_sub(published.0));
        }
        if self.arrivals_max == 0 {
            return;
        }
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() < self.arrivals_max {
            arrivals.push(arrival.clone());
        }
    }
}
