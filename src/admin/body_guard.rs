//! What a request's body may cost: its size, its time, its pace, and the bytes of all bodies together.
//!
//! Owns: the budget of bytes, and a wrapper around each body that ends it where it passes a limit. It works below
//! the handlers, so none can forget it; [`super::body`] turns the faults into answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::metrics;
use crate::settings::admin::AdminSettings;

/// How much of a body that is too large is read and thrown away, in times its limit, so that its sender can read
/// the answer instead of meeting a closed connection.
const DISCARD_TIMES: u64 = 4;
/// How long a body may take before its pace is judged.
const PACE_GRACE: Duration = Duration::from_secs(5);

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It has more bytes than the route takes.
    #[error("at most {max} bytes are accepted")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// It did not arrive in time, or too slowly.
    #[error("it did not arrive in time")]
    Slow,
    /// The bodies of all requests together have too many bytes.
    #[error("the bodies of all requests are too large at present")]
    Crowded,
    /// Its sender went away.
    #[error("ended early")]
    Ended,
}

/// Limits of one body.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes_max: u64,
    timeout: Duration,
    rate_min: u64,
}

/// The bytes of all bodies that are in memory.
#[derive(Debug)]
pub(super) struct BodyBudget {
    limits: Limits,
    max: u64,
    used: AtomicU64,
}

/// One request's part of the budget; given back when the last owner drops it.
pub(super) struct Share {
    budget: Arc<BodyBudget>,
    held: AtomicU64,
}

/// A body that keeps to the limits.
struct GuardedBody {
    inner: Body,
    share: Arc<Share>,
    begun: Instant,
    received: u64,
    deadline: Pin<Box<Sleep>>,
    done: bool,
}

// === impl BodyBudget ===

impl BodyBudget {
    pub(super) fn new(settings: &AdminSettings) -> Arc<Self> {
        let limits = Limits {
            bytes_max: settings.body_bytes_max,
            timeout: settings.body_timeout,
            rate_min: settings.body_rate_min,
        };
        Arc::new(Self { limits, max: settings.bodies_bytes_max, used: AtomicU64::new(0) })
    }

    /// The body under guard, and its share: to be kept until the request is answered, for handlers keep what they
    /// read.
    pub(super) fn guard(self: &Arc<Self>, body: Body) -> (Body, Arc<Share>) {
        let share = Arc::new(Share { budget: Arc::clone(self), held: AtomicU64::new(0) });
        if body.is_end_stream() {
            return (body, share);
        }
        let begun = Instant::now();
        let guarded = GuardedBody {
            inner: body,
            share: Arc::clone(&share),
            begun,
            received: 0,
            deadline: Box::pin(tokio::time::sleep_until(self.limits.deadline(begun, 0))),
            done: false,
        };
        (Body::new(guarded), share)
    }
}

// === impl Limits ===

impl Limits {
    /// When a body that has brought `received` bytes is too slow.
    fn deadline(&self, begun: Instant, received: u64) -> Instant {
        let whole = begun + self.timeout;
        let Some(seconds) = received.checked_div(self.rate_min) else { return whole };
        whole.min(begun + PACE_GRACE + Duration::from_secs(seconds))
    }
}

// === impl Share ===

impl Share {
    fn take(&self, bytes: u64) -> bool {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.max {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn give_back(&self) {
        let held = self.held.swap(0, Ordering::Relaxed);
        self.budget.used.fetch_sub(held, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

// === impl GuardedBody ===

impl GuardedBody {
    /// Takes a frame's bytes into account.
    fn count(&mut self, bytes: u64) -> Result<Counted, BodyFault> {
        let limits = self.share.budget.limits;
        self.received += bytes;
        if self.received > limits.bytes_max {
            self.share.give_back();
            let too_much = self.received > limits.bytes_max.saturating_mul(DISCARD_TIMES);
            return if too_much { Err(self.too_large()) } else { Ok(Counted::Discarded) };
        }
        if !self.share.take(bytes) {
            metrics::admin_refused("bodies");
            return Err(BodyFault::Crowded);
        }
        self.deadline.as_mut().reset(limits.deadline(self.begun, self.received));
        Ok(Counted::Kept)
    }

    fn too_large(&self) -> BodyFault {
        metrics::admin_refused("body size");
        BodyFault::TooLarge { max: self.share.budget.limits.bytes_max }
    }

    fn is_over(&self) -> bool {
        self.received > self.share.budget.limits.bytes_max
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let most = self.share.budget.limits.bytes_max.saturating_mul(DISCARD_TIMES);
        if self.inner.size_hint().lower() > most {
            return Poll::Ready(Some(Err(self.too_large())));
        }
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(_) if self.is_over() => return Poll::Ready(Some(Err(self.too_large()))),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyFault::Ended))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    std::task::ready!(self.deadline.as_mut().poll(context));
                    metrics::admin_refused("slow body");
                    return Poll::Ready(Some(Err(BodyFault::Slow)));
                }
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            match self.count(bytes) {
                Ok(Counted::Kept) => return Poll::Ready(Some(Ok(frame))),
                Ok(Counted::Discarded) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
        }
    }
}

/// What becomes of a frame.
enum Counted {
    Kept,
    Discarded,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let polled = self.next(context);
        self.done = !matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn budget(bytes_max: u64, max: u64) -> Arc<BodyBudget> {
        let settings =
            AdminSettings { body_bytes_max: bytes_max, bodies_bytes_max: max, ..AdminSettings::default() };
        BodyBudget::new(&settings)
    }

    async fn fault(body: Body) -> Option<BodyFault> {
        let error = body.collect().await.err()?;
        error.into_inner().downcast_ref().copied()
    }

    #[tokio::test]
    async fn a_share_is_held_until_it_is_dropped() {
        let budget = budget(100, 150);
        let (body, share) = budget.guard(Body::from(vec![0; 100]));
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 100);
        assert_eq!(budget.used.load(Ordering::Relaxed), 100);
        let (second, _second_share) = budget.guard(Body::from(vec![0; 51]));
        assert_eq!(fault(second).await, Some(BodyFault::Crowded));
        assert_eq!(budget.used.load(Ordering::Relaxed), 100);
        drop(share);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        let (third, _third_share) = budget.guard(Body::from(vec![0; 51]));
        assert_eq!(fault(third).await, None);
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_thrown_away_and_costs_nothing() {
        let budget = budget(100, 1_000);
        for size in [101, 400, 401, 100_000] {
            let (body, share) = budget.guard(Body::from(vec![0; size]));
            assert_eq!(fault(body).await, Some(BodyFault::TooLarge { max: 100 }), "{size}");
            assert_eq!(budget.used.load(Ordering::Relaxed), 0);
            drop(share);
        }
    }

    #[test]
    fn a_body_has_to_keep_its_pace_after_five_seconds() {
        let begun = Instant::now();
        let limits = Limits { bytes_max: 1 << 20, timeout: Duration::from_secs(30), rate_min: 1_024 };
        let left = |limits: Limits, received| limits.deadline(begun, received) - begun;
        assert_eq!(left(limits, 0), Duration::from_secs(5));
        assert_eq!(left(limits, 10 * 1_024), Duration::from_secs(15));
        assert_eq!(left(limits, 1 << 20), Duration::from_secs(30));
        assert_eq!(left(Limits { rate_min: 0, ..limits }, 0), Duration::from_secs(30));
    }
}
