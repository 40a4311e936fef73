//! Serving a router on a listener: HTTP/1.1 through hyper, over TLS where there is a certificate, with limits on
//! connections, on a request's head and on standing still, and a drain at the end.
//!
//! HTTP/2 is not offered: callers are services and proxies with a few connections each, and its streams would need
//! limits of their own.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::Gauge;
use axum::Router;
use axum::extract::Extension;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client_address::Peer;
use super::connection::Unstalled;
use super::places::{Place, Places};
use super::tls::Certificates;
use crate::domain::log_limit::limited;
use crate::metrics;
use crate::settings::admin::AdminSettings;

/// Pause after a failed accept: mostly a want of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells handlers whose answer has no end of its own that the process stops: the drain must not wait for them.
#[derive(Clone, Debug)]
pub struct Stopping(pub watch::Receiver<bool>);

/// How a listener is served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Limits; what concerns bodies and callers is the router's.
    pub limits: Arc<AdminSettings>,
    /// Where connections speak TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Counts open connections.
    pub connections: Option<Gauge>,
}

/// What a connection needs; cheap to clone.
#[derive(Clone)]
struct Connections {
    serving: Serving,
    http: http1::Builder,
    router: Router,
}

/// The router as hyper calls it, for one connection.
struct FromPeer {
    router: TowerToHyperService<Router>,
    peer: Peer,
}

/// One open connection: its place, and its part of the gauge.
struct Open {
    _place: Place,
    gauge: Option<Gauge>,
}

/// [`serve_as`] without TLS and with the default limits.
pub async fn serve(listener: TcpListener, router: Router, shutdown: watch::Receiver<bool>) {
    let serving = Serving { limits: Arc::default(), certificates: None, connections: None };
    serve_as(listener, router, serving, shutdown).await;
}

/// Serves until `shutdown` is true or its sender is gone; then accepts no more, answers what is in flight and
/// returns, at the latest after the drain's timeout; what is still open then is cut off.
pub async fn serve_as(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    mut shutdown: watch::Receiver<bool>,
) {
    let router = router.layer(Extension(Stopping(shutdown.clone())));
    let graceful = GracefulShutdown::new();
    let places = Places::new(&serving.limits);
    let drain_timeout = serving.limits.drain_timeout;
    let connections = Connections::new(serving, router);
    // Those that are open when this function returns end with it.
    let mut tasks = JoinSet::new();
    loop {
        let accept = async {
            let place = places.one().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = place.and_then(|place| places.give(place, peer.ip())) else {
                    metrics::admin_refused("connections");
                    continue;
                };
                let open = Open::new(place, connections.serving.connections.clone());
                let (connections, watcher) = (connections.clone(), graceful.watcher());
                while tasks.try_join_next().is_some() {}
                tasks.spawn(async move {
                    connections.run(stream, Peer(peer), watcher).await;
                    drop(open);
                });
            }
            Err(error) => {
                limited!(warn, %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = drain_timeout.as_secs(), "requests were still in flight at the drain's end");
    }
}

// === impl Connections ===

impl Connections {
    fn new(serving: Serving, router: Router) -> Self {
        let mut http = http1::Builder::new();
        let head = usize::try_from(serving.limits.head_bytes_max).unwrap_or(usize::MAX);
        http.timer(TokioTimer::new())
            .header_read_timeout(serving.limits.head_timeout)
            .max_headers(serving.limits.headers_max as usize)
            .max_header_size(head)
            // hyper's buffer holds a head whole.
            .max_buf_size(head);
        Self { serving, http, router }
    }

    async fn run(&self, stream: TcpStream, peer: Peer, watcher: Watcher) {
        // Answers are small and written at once; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let limits = &self.serving.limits;
        let Some(certificates) = &self.serving.certificates else {
            return self.speak(Unstalled::new(stream, limits.write_timeout), peer, watcher).await;
        };
        let handshake = certificates.acceptor().accept(Unstalled::new(stream, limits.write_timeout));
        match tokio::time::timeout(limits.head_timeout, handshake).await {
            Ok(Ok(stream)) => self.speak(stream, peer, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with the admin API failed"),
            Err(_) => tracing::debug!("a TLS handshake with the admin API took too long"),
        }
    }

    async fn speak<S>(&self, stream: S, peer: Peer, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = FromPeer { router: TowerToHyperService::new(self.router.clone()), peer };
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection of the admin API ended early");
        }
    }
}

// === impl FromPeer ===

impl Service<Request<Incoming>> for FromPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

// === impl Open ===

impl Open {
    fn new(place: Place, gauge: Option<Gauge>) -> Self {
        gauge.iter().for_each(|gauge| gauge.increment(1.0));
        Self { _place: place, gauge }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.iter().for_each(|gauge| gauge.decrement(1.0));
    }
}
