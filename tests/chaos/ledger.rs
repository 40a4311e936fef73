//! The ledger: what the publisher knows of every `XADD`, what the receivers saw of every request, and when faults
//! were done. Nothing is judged here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use postrider::domain::ids::StreamId;

/// What is known of one `XADD`. Events have numbers; event n has the nonce `n-<n>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Redis answered with the entry's id.
    Acknowledged(StreamId),
    /// Redis answered with an error, whose first word is kept.
    Refused(String),
    /// The connection ended before the answer: it may have been applied.
    Unknown,
}

/// One request as it arrived, complete and with its body.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) endpoint: usize,
    pub(crate) event: usize,
    /// `x-nudj-delivery-id`
    pub(crate) delivery: String,
    /// Whether the signature was the one of the endpoint's secret at that moment.
    pub(crate) verified: bool,
    pub(crate) at: Instant,
    /// The receiver's own view: it took the event and answered 2xx.
    pub(crate) taken: bool,
    /// When the answer was written, or given up.
    pub(crate) ended: Option<Instant>,
}

/// A fault that was done, at once or over a time.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) at: Instant,
    pub(crate) until: Option<Instant>,
}

/// Everything that was noted in one scenario.
#[derive(Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
}

/// The ledger's content.
#[derive(Clone, Default)]
pub(crate) struct Book {
    pub(crate) notes: Vec<Note>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) faults: Vec<Fault>,
    /// Requests whose body named no event of the publisher's.
    pub(crate) strangers: usize,
    seen: HashMap<(usize, usize), usize>,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an arrival; gives its index and which request of this delivery it is, from 1.
    pub(crate) fn arrived(&self, arrival: Arrival) -> (usize, usize) {
        let mut book = self.book();
        let nth = book.seen.entry((arrival.endpoint, arrival.event)).or_default();
        *nth += 1;
        let nth = *nth;
        book.arrivals.push(arrival);
        (book.arrivals.len() - 1, nth)
    }

    /// Notes what the receiver did about an arrival.
    pub(crate) fn answered(&self, index: usize, taken: bool) {
        let mut book = self.book();
        book.arrivals[index].taken = taken;
        book.arrivals[index].ended = Some(Instant::now());
    }

    /// Notes a fault that was done just now.
    pub(crate) fn fault(&self, what: impl Into<String>) {
        self.fault_since(what, Instant::now());
    }

    /// Notes a fault that began then and ends now.
    pub(crate) fn fault_since(&self, what: impl Into<String>, at: Instant) {
        let until = Some(Instant::now());
        self.book().faults.push(Fault { what: what.into(), at, until });
    }

    /// Requests at one endpoint.
    pub(crate) fn arrivals_at(&self, endpoint: usize) -> usize {
        self.book().arrivals.iter().filter(|one| one.endpoint == endpoint).count()
    }
}

// === impl Book ===

impl Book {
    /// How many events Redis acknowledged, refused, and left open.
    pub(crate) fn published(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Note) -> bool| self.notes.iter().filter(|note| wanted(note)).count();
        (
            count(|note| matches!(note, Note::Acknowledged(_))),
            count(|note| matches!(note, Note::Refused(_))),
            count(|note| matches!(note, Note::Unknown)),
        )
    }
}
