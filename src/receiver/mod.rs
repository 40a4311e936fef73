//! The receiver that tests, the demo and load tests use: what an integrator would write, by the book
//! (docs/WIRE.md section 10). It verifies `X-Nudj-Signature` over the raw body before anything else, then
//! looks the nonce up, processes, and only then records it; what it has seen it answers with 200 and does not
//! process again. On request it is slow, fails a share, hangs, or is gone. `GET /stats` answers what it counted.
//! `DELETE /stats` begins the delays' percentiles anew.
//!
//! Owns: its listener and connections. May use: `domain`, and `redis` for the nonces that it has seen.

mod dedupe;
mod delay;
mod exchange;
mod stats;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::dedupe::Dedupe;
pub use self::delay::DelaySummary;
use self::exchange::Exchange;
pub use self::stats::{Arrival, Counts, ReceiverStats};
use crate::domain::signature::Secret;
use crate::redis::connection::Redis;
use crate::redis::seen::SeenNonces;
use crate::settings::redis::RedisSettings;

/// How long a stopping receiver lets requests finish.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// How long the accept loop waits after an error (too many open files): it then goes on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Called once for each event that is processed, before its nonce is recorded and its request answered.
pub type ProcessedHook = Arc<dyn Fn(&Processed<'_>) + Send + Sync>;

/// What a [`ProcessedHook`] is told.
#[derive(Clone, Copy, Debug)]
pub struct Processed<'a> {
    /// When and as what it arrived.
    pub arrival: &'a Arrival,
    /// The verified body.
    pub body: &'a [u8],
}

/// How a receiver behaves.
#[derive(Clone)]
pub struct ReceiverOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret of the config that points here.
    pub secret: Secret,
    /// Where nonces are remembered for 24 hours; `None` remembers the last million in memory.
    pub dedupe_redis_url: Option<String>,
    /// Namespace of the nonces' keys, one per receiver.
    pub dedupe_namespace: String,
    /// How long processing one event takes.
    pub delay: Duration,
    /// Share of events whose processing fails, 0 to 1.
    pub fail_rate: f64,
    /// The answer to those.
    pub fail_status: u16,
    /// The answer to an event that was processed; one that is not 2xx leaves the nonce unrecorded.
    pub status: u16,
    /// Never answers a request whose signature is right.
    pub hang: bool,
    /// Answers 410 from this verified request on, counted from 1, and processes nothing more.
    pub gone_after: Option<u64>,
    /// Most arrivals that are kept for [`ReceiverStats::arrivals`]; 0 keeps none.
    pub arrivals_max: usize,
    /// Called for each event that is processed.
    pub processed: Option<ProcessedHook>,
}

/// A running receiver. Dropping it ends it at once; [`Receiver::stop`] lets requests finish first.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    stats: Arc<ReceiverStats>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

// === impl ReceiverOptions ===

impl ReceiverOptions {
    /// A receiver on a free loopback port that answers 200 and remembers nonces in memory.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            secret,
            dedupe_redis_url: None,
            dedupe_namespace: "postrider".into(),
            delay: Duration::ZERO,
            fail_rate: 0.0,
            fail_status: 503,
            status: 200,
            hang: false,
            gone_after: None,
            arrivals_max: 0,
            processed: None,
        }
    }

    fn dedupe(&self) -> io::Result<Dedupe> {
        let Some(url) = &self.dedupe_redis_url else {
            return Ok(Dedupe::Memory(Default::default()));
        };
        let settings = RedisSettings { namespace: self.dedupe_namespace.clone(), ..RedisSettings::default() };
        let redis = Redis::new(url, &settings).map_err(io::Error::other)?;
        Ok(Dedupe::Redis(Box::new(SeenNonces::new(redis))))
    }

    /// Each answer must be a status that ends a request (RFC 9110 section 15).
    fn check(&self) -> io::Result<()> {
        for status in [self.status, self.fail_status] {
            if !(200..=599).contains(&status) {
                let what = format!("{status} is no final HTTP status; expected 200 to 599");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        if !(0.0..=1.0).contains(&self.fail_rate) {
            let what = format!("fail rate {}: expected 0 to 1", self.fail_rate);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(())
    }
}

impl fmt::Debug for ReceiverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor a URL that may hold a password.
        f.debug_struct("ReceiverOptions").field("listen", &self.listen).finish_non_exhaustive()
    }
}

// === impl Receiver ===

impl Receiver {
    /// Listens and serves on the current runtime.
    ///
    /// # Errors
    /// When an option is impossible, the address cannot be listened on, or the dedupe URL cannot be used.
    pub async fn start(options: ReceiverOptions) -> io::Result<Self> {
        options.check()?;
        let dedupe = options.dedupe()?;
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let stats = Arc::new(ReceiverStats::new(options.arrivals_max));
        let exchange = Arc::new(Exchange::new(options, dedupe, Arc::clone(&stats)));
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, exchange, stopped));
        Ok(Self { addr, stats, stop, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its counters, which live on after it stopped.
    #[must_use]
    pub fn stats(&self) -> Arc<ReceiverStats> {
        Arc::clone(&self.stats)
    }

    /// Accepts nothing more, lets requests finish for half a second, then closes every connection.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.accepting).await
            && error.is_panic()
        {
            tracing::error!(%error, "the receiver's accept loop panicked");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The connections are the loop's: they end with it.
        self.accepting.abort();
    }
}

/// Runs a receiver until Ctrl-C or SIGTERM. `started` is given the receiver's address and counters once it listens, to
/// show them.
///
/// # Errors
/// Those of [`Receiver::start`], or when signals cannot be waited for.
pub async fn run(
    options: ReceiverOptions,
    started: impl FnOnce(SocketAddr, Arc<ReceiverStats>),
) -> io::Result<()> {
    // Before anybody learns that it runs: who then ends it must find the signals waited for.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let receiver = Receiver::start(options).await?;
    started(receiver.addr(), receiver.stats());
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    receiver.stop().await;
    Ok(())
}

async fn accept(listener: TcpListener, exchange: Arc<Exchange>, mut stopped: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An error means that the receiver was dropped.
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve(stream, &exchange, &graceful, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_GRACE, graceful.shutdown()).await.is_err() {
        tracing::debug!(open = connections.len(), "closing connections that did not finish");
    }
}

fn serve(
    stream: TcpStream,
    exchange: &Arc<Exchange>,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
) {
    // Answers are small and complete: waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    let exchange = Arc::clone(exchange);
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&exchange);
        async move { exchange.answer(request).await }
    });
    // No timers: idle connections are the sender's to close, and a load test counts every microsecond.
    let connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    connections.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}
