//! Serving a router on a listener: HTTP/1.1 through hyper, with a limit on connections and on the time that a
//! request's head may take, and a drain at the end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::patience::Patient;

/// Longest time for a request's head; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 4_096;
/// How long requests in flight may take once the process stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: mostly a want of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells handlers whose answer has no end of its own that the process stops: the drain must not wait for them.
#[derive(Clone, Debug)]
pub struct Stopping(pub watch::Receiver<bool>);

/// Serves until `shutdown` is true or its sender is gone; then accepts no more, answers what is in flight and
/// returns, at the latest after [`DRAIN_TIMEOUT`].
pub async fn serve(listener: TcpListener, router: Router, mut shutdown: watch::Receiver<bool>) {
    let router = router.layer(Extension(Stopping(shutdown.clone())));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and written at once; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(Patient::new(stream)), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of the admin API ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = DRAIN_TIMEOUT.as_secs(), "requests were still in flight at the drain's end");
    }
}
