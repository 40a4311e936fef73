//! One HTTP request to an endpoint: the walk's fourth step.
//!
//! Owns: the guard, name lookup, connections and their reuse, TLS, the request's bytes, and what the receiver's
//! answer or silence is called. May use: `domain`, `settings`. May not touch Redis, count metrics, or decide what
//! an outcome means for a delivery.
//!
//! [`Egress`] is shared by the workers of a replica; each worker has an [`Attempter`] of its own on its
//! current-thread runtime, with its own idle connections, so that nothing but a counter crosses cores.
//!
//! An attempt never fails: whatever the receiver does is in its [`AttemptResult`]. It may be that none is made, for a
//! fault of ours ([`Obstacle`]: the forward proxy, the source address, this machine's files and ports). One deadline holds over name
//! lookup, connect, TLS, head and body; redirects are not followed; of the answer, at most 1 KiB is kept and
//! 64 KiB read (docs/WIRE.md section 4).
//!
//! **The race of kept connections.** A server may close an idle connection in the moment in which a request is
//! sent on it (RFC 9112 section 9.3.1). Such a request is sent again at once, once, on a fresh connection, within
//! the same attempt and deadline, provided that no byte of an answer came. The server may have acted on it: that
//! is one of the duplicates which receivers tell by the delivery's id. On a fresh connection nothing is ever sent
//! twice.

mod connection;
mod egress;
mod fault;
pub mod guard;
mod identity;
mod names;
mod obstacle;
mod pool;
mod progress;
mod proxy;
mod request;
pub mod retry_after;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

pub use self::connection::ANSWER_READ_MAX_BYTES;
use self::connection::{Broken, Connection};
pub use self::egress::{Egress, EgressError};
use self::obstacle::NoWay;
pub use self::obstacle::{Obstacle, ObstacleKind};
use self::pool::Pool;
use self::progress::Progress;
pub use self::request::Outgoing;
use crate::domain::config::Endpoint;
use crate::domain::outcome::{Answer, AttemptResult, Fault};

/// The status by which a proxy asks for credentials (RFC 9110 section 15.5.8).
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// Makes the attempts of one worker. Not `Send`: its connections live and die on the worker's runtime.
pub struct Attempter {
    egress: Arc<Egress>,
    pool: RefCell<Pool>,
}

/// What became of a request.
enum Sent {
    /// A complete answer came.
    Answered(Answer),
    /// None came.
    Failed(Fault),
    /// Nothing went out: sending was forbidden meanwhile.
    Forbidden,
    /// Nothing went out, for a fault of ours.
    Obstructed(Obstacle),
}

/// What became of a call for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The attempt was made.
    Made(AttemptResult),
    /// Sending was forbidden before anything was sent.
    Forbidden,
    /// It could not be made, for a fault of ours: the receiver got nothing, and is not to be blamed.
    Obstructed(Obstacle),
}

// === impl Attempter ===

impl Attempter {
    /// An attempter without connections.
    #[must_use]
    pub fn new(egress: Arc<Egress>) -> Self {
        Self { pool: RefCell::new(Pool::new(Arc::clone(&egress))), egress }
    }

    /// Makes one attempt. Dropping the future closes its connection.
    ///
    /// # Errors
    /// A fault of ours that kept it from being made.
    pub async fn try_attempt(
        &self,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
    ) -> Result<AttemptResult, Obstacle> {
        match self.attempt_if(endpoint, outgoing, &|| true).await {
            Ended::Made(result) => Ok(result),
            Ended::Obstructed(obstacle) => Err(obstacle),
            Ended::Forbidden => unreachable!("nothing forbade it"),
        }
    }

    /// As [`Self::try_attempt`], where `may_send` still allows it when the connection is there: a process may have
    /// stood still since.
    pub async fn attempt_if(
        &self,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
        may_send: &dyn Fn() -> bool,
    ) -> Ended {
        let started = Instant::now();
        let limit = self.egress.request_timeout;
        let progress = Progress::new();
        let sending = self.send(endpoint, outgoing, &progress, may_send);
        let deadline = tokio::time::Instant::from_std(started + limit);
        let reply = match tokio::time::timeout_at(deadline, sending).await {
            Ok(Sent::Forbidden) => return Ended::Forbidden,
            Ok(Sent::Obstructed(obstacle)) => return Ended::Obstructed(obstacle),
            Ok(Sent::Answered(answer)) => Ok(answer),
            Ok(Sent::Failed(fault)) => Err(fault),
            Err(_) => match self.egress.proxy_to(endpoint).filter(|_| progress.is_at_proxy()) {
                Some(proxy) => {
                    return Ended::Obstructed(proxy.obstacle(format_args!("no tunnel within {limit:?}")));
                }
                None => Err(progress.timeout(limit)),
            },
        };
        Ended::Made(AttemptResult { reply, took: started.elapsed() })
    }

    /// Closes connections that have been idle for longer than the limit; to be called about once a second.
    pub fn close_idle(&self) {
        self.pool.borrow_mut().close_idle(Instant::now());
    }

    /// Idle connections of this worker.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.pool.borrow().len()
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
        progress: &Progress,
        may_send: &dyn Fn() -> bool,
    ) -> Sent {
        if let Err(fault) = self.egress.check_scheme(endpoint) {
            return Sent::Failed(fault);
        }
        let kept = poll_fn(|cx| Poll::Ready(self.pool.borrow_mut().take(endpoint, cx))).await;
        let mut gone = None;
        if let Some(connection) = kept {
            if !may_send() {
                return Sent::Forbidden;
            }
            match self.exchange(connection, endpoint, outgoing, progress).await {
                Ok(answer) => return self.answered(endpoint, answer),
                Err(Broken { fault, received: true }) => return Sent::Failed(fault),
                Err(Broken { fault, received: false }) => {
                    tracing::debug!(config = %endpoint.config, %fault, "a kept connection was gone; sending again");
                    gone = Some(fault);
                }
            }
        }
        let connection = match self.egress.connect(endpoint, progress).await {
            Ok(connection) => connection,
            Err(NoWay::Fault(fault)) => return Sent::Failed(fault),
            // What went out on the kept connection counts as sent, although no answer came.
            Err(NoWay::Obstacle(obstacle)) => {
                return gone.map_or(Sent::Obstructed(obstacle), Sent::Failed);
            }
        };
        if !may_send() {
            // What went out on the kept connection counts as sent, although no answer came.
            return gone.map_or(Sent::Forbidden, Sent::Failed);
        }
        match self.exchange(connection, endpoint, outgoing, progress).await {
            Ok(answer) => self.answered(endpoint, answer),
            Err(broken) => Sent::Failed(broken.fault),
        }
    }

    /// An answer to a request in absolute form may be the proxy's own: 407 is.
    fn answered(&self, endpoint: &Endpoint, answer: Answer) -> Sent {
        match self.egress.proxy_to(endpoint) {
            Some(proxy) if !endpoint.tls && answer.status == PROXY_AUTHENTICATION_REQUIRED => {
                Sent::Obstructed(proxy.obstacle("it wants other credentials (407)"))
            }
            _ => Sent::Answered(answer),
        }
    }

    async fn exchange(
        &self,
        mut connection: Box<Connection>,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
        progress: &Progress,
    ) -> Result<Answer, Broken> {
        let mut request = request::build(endpoint, outgoing, connection.take_headers());
        if let Some(proxy) = self.egress.proxy_to(endpoint).filter(|_| !endpoint.tls) {
            proxy.address(&mut request, endpoint);
        }
        let answer = connection.exchange(request, progress).await?;
        if poll_fn(|cx| Poll::Ready(connection.is_keepable(cx))).await {
            self.pool.borrow_mut().keep(endpoint.config, connection, Instant::now());
        }
        Ok(answer)
    }
}

impl fmt::Debug for Attempter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempter")
            .field("idle_connections", &self.idle_connections())
            .finish_non_exhaustive()
    }
}
