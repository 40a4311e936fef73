//! Spans of events that carry a sampled `traceparent` (docs/OPERATIONS.md, "Tracing"): publish, wait, attempt.
//!
//! Owns: what a span says, the bounded queue between the walk and the exporter, OTLP's JSON form, the exporter. May
//! use: `domain`, `metrics`. May not slow a delivery: a span that finds the queue full is dropped and counted, and
//! where no collector is set there is no [`SpanSink`] and nothing is done but to see that.
//!
//! All three are children of the span that the event names. An attempt's span has the id that the receiver got in its
//! `traceparent`, so that what the receiver records hangs below it. A publish span's id is made from the event's, so
//! an event that is read twice gives the same span twice.

mod export;
mod otlp;

pub use export::{Collector, CollectorError, Exporter};

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::domain::clock::UnixMillis;
use crate::domain::delivery::Delivery;
use crate::domain::event::Event;
use crate::domain::ids::{ConfigId, DeliveryId, EventId};
use crate::domain::outcome::{AttemptResult, FaultKind, Outcome};
use crate::domain::trace::{SpanId, TraceContext};
use crate::metrics::SpanMetrics;

/// Spans that wait for the exporter, about 300 bytes each.
const QUEUE_MAX: usize = 8_192;

/// Takes spans from the walk. Cloning shares the queue.
#[derive(Clone)]
pub struct SpanSink {
    queue: mpsc::Sender<Span>,
    metrics: SpanMetrics,
}

/// A delivery's attempt that is to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct Traced {
    context: TraceContext,
    span: SpanId,
}

/// What an attempt's spans are made of.
pub struct AttemptFacts<'a> {
    /// The delivery, with the attempts before this one.
    pub delivery: &'a Delivery,
    /// Since when it waited for this attempt.
    pub waited_since: UnixMillis,
    /// When the attempt began.
    pub at: UnixMillis,
    /// The request's method.
    pub method: &'a http::Method,
    /// What came of it.
    pub result: &'a AttemptResult,
    /// What that means.
    pub outcome: Outcome,
}

/// One span; times in nanoseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    context: TraceContext,
    id: SpanId,
    start: u64,
    end: u64,
    event_type: Arc<str>,
    event: EventId,
    what: What,
}

/// What happened in it.
#[derive(Clone, Debug)]
enum What {
    /// From the event's stream time to its read.
    Publish,
    /// From the read, or the end of the attempt before, to the attempt.
    Wait { delivery: DeliveryId, config: ConfigId, attempt: u32 },
    /// One request.
    Attempt { delivery: DeliveryId, config: ConfigId, attempt: u32, sent: Sent },
}

/// What was sent and answered.
#[derive(Clone, Debug)]
struct Sent {
    method: http::Method,
    status: Option<u16>,
    fault: Option<FaultKind>,
    outcome: Outcome,
}

// === impl SpanSink ===

impl SpanSink {
    /// A sink and the queue behind it.
    pub(crate) fn new(metrics: SpanMetrics) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        (Self { queue, metrics }, spans)
    }

    /// The trace of an attempt that begins, where its event's `traceparent` is sampled.
    #[must_use]
    pub fn trace(&self, traceparent: Option<&str>) -> Option<Traced> {
        let context = TraceContext::parse(traceparent?).filter(TraceContext::is_sampled)?;
        // All zeros are no id; one in 2^64 attempts then shows an odd one.
        let random = rand::random::<u64>().max(1);
        Some(Traced { context, span: SpanId(random.to_be_bytes()) })
    }

    /// Records the publish span of an event that was read at `read_at`.
    pub fn published(&self, event: &Event, read_at: UnixMillis) {
        let context = event.traceparent.as_deref().and_then(TraceContext::parse);
        let Some(context) = context.filter(TraceContext::is_sampled) else { return };
        let digest = Sha256::digest(format!("publish {}", event.id.derived_nonce()));
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        let start = nanos(UnixMillis(event.id.stream_id().ms));
        self.record(Span {
            context,
            id: SpanId(id),
            start,
            end: nanos(read_at).max(start),
            event_type: event.event_type.shared().clone(),
            event: event.id,
            what: What::Publish,
        });
    }

    /// Records the wait before an attempt, and the attempt.
    pub fn attempted(&self, traced: Traced, facts: &AttemptFacts<'_>) {
        let AttemptFacts { delivery, .. } = facts;
        let (id, config, attempt) = (delivery.id, delivery.config, delivery.tried.attempts.saturating_add(1));
        let at = nanos(facts.at);
        let span = |span, start, end, what| Span {
            context: traced.context,
            id: span,
            start,
            end,
            event_type: Arc::clone(&delivery.event_type),
            event: id.event(),
            what,
        };
        let wait = What::Wait { delivery: id, config, attempt };
        let wait_id = SpanId(rand::random::<u64>().max(1).to_be_bytes());
        self.record(span(wait_id, nanos(facts.waited_since).min(at), at, wait));
        let sent = Sent {
            method: facts.method.clone(),
            status: facts.result.status(),
            fault: facts.result.reply.as_ref().err().map(|fault| fault.kind),
            outcome: facts.outcome,
        };
        let what = What::Attempt { delivery: id, config, attempt, sent };
        self.record(span(traced.span, at, at.saturating_add(length(facts.result.took)), what));
    }

    fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.metrics.dropped_full.increment(1);
        }
    }
}

// === impl Traced ===

impl Traced {
    /// The `traceparent` that the receiver gets: the attempt's span is the parent of what it does.
    #[must_use]
    pub fn header(&self) -> Arc<str> {
        self.context.header(self.span).into()
    }
}

const fn nanos(at: UnixMillis) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn length(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}
