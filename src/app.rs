//! The life of the process: build, start, ready, signal, drain, stop.
//!
//! Start: listeners are bound (a port in use is told before anything else), the embedded Redis starts or the
//! external one is awaited, the keyspace is opened, the configs are read whole, the workers start. Stop, in this
//! order and why: the workers drain while the admin API still answers, so that those who watch can see it; then
//! the listeners close; the embedded Redis stops last, when nobody writes to it any more.

mod control;
mod health;
mod start;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::control::Control;
use self::start::{Listeners, open_redis};
pub use crate::admin::openapi::text as openapi_text;
use crate::admin::ops::Readiness;
use crate::redis::connection::RedisError;
use crate::redis::embedded::EmbeddedError;
use crate::settings::Settings;

/// Threads of the control runtime: the admin API, the followers, the metrics.
const CONTROL_THREADS: usize = 2;

/// Longest wait for what is left of the control runtime.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Why the process ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to stop, and drained.
    Drained,
    /// It was asked to stop twice, and stopped at once.
    Hurried,
}

/// Why the process could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener's address cannot be had.
    #[error("{setting} {address}: {cause}")]
    Listen {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
    /// The embedded Redis could not be started.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// Redis cannot be used as it is set up.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// A part of the process could not be made.
    #[error("{what}: {cause}")]
    Build {
        /// The part.
        what: &'static str,
        /// Why not.
        cause: String,
    },
}

/// Runs a replica until it is asked to stop.
///
/// # Errors
/// When it cannot start.
pub fn serve(settings: Settings) -> Result<ExitReason, AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| build("control runtime", error))?;
    let ended = runtime.block_on(run(settings));
    match ended {
        // The workers' threads still run; who asked twice does not wait for them.
        Ok(ExitReason::Hurried) => runtime.shutdown_background(),
        _ => runtime.shutdown_timeout(LAST_TASKS),
    }
    ended
}

async fn run(settings: Settings) -> Result<ExitReason, AppError> {
    let mut signals = Signals::new()?;
    let prometheus = start::install_metrics()?;
    start::raise_file_limit(&settings);
    let readiness = Arc::new(Readiness::new());
    let starting = readiness.latch("started");
    let (stop_control, control_stopped) = watch::channel(false);
    let Listeners { admin, ops } = Listeners::bind(&settings).await?;
    start::serve_ops(ops, Arc::clone(&readiness), prometheus, control_stopped.clone());
    let settings = Arc::new(settings);
    let opened = tokio::select! {
        opened = open_redis(&settings) => opened?,
        () = signals.next() => return Ok(ExitReason::Drained),
    };
    let (redis, embedded) = opened;
    let ended = match Control::start(&settings, redis, &readiness, control_stopped).await {
        Ok(control) => {
            let serving = control.serve_admin(admin);
            starting.set(true);
            tracing::info!("ready");
            signals.next().await;
            starting.set(false);
            let ended = drain(control, &mut signals).await;
            stop_control.send_replace(true);
            // Callers in flight are answered, within the listener's own limit of time.
            if let (Ok(ExitReason::Drained), Some(serving)) = (&ended, serving) {
                let _ = serving.await;
            }
            ended
        }
        Err(error) => Err(error),
    };
    stop_control.send_replace(true);
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    ended
}

/// Lets the workers drain; a second signal ends the process at once.
async fn drain(control: Control, signals: &mut Signals) -> Result<ExitReason, AppError> {
    tracing::info!("stopping: no further events are read; attempts in flight may end");
    tokio::select! {
        () = control.drain() => Ok(ExitReason::Drained),
        () = signals.next() => {
            tracing::warn!("stopped at once by a second signal");
            Ok(ExitReason::Hurried)
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(|error| build("signal handlers", error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

// === impl AppError ===

fn build(what: &'static str, cause: impl std::fmt::Display) -> AppError {
    AppError::Build { what, cause: cause.to_string() }
}

/// Binds one address; port 0 takes a free one.
async fn bind(setting: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, AppError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|cause| AppError::Listen { setting, address, cause })?;
    if let Ok(bound) = listener.local_addr() {
        tracing::info!(address = %bound, "{setting}");
    }
    Ok(listener)
}
