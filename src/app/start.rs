//! What is set up before the workers: listeners, metrics, limits of the process, Redis.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{AppError, bind, build};
use crate::admin::ops::{Readiness, ops_router};
use crate::admin::server;
use crate::admin::tls::Certificates;
use crate::metrics::{self, BATCH_BUCKETS, SECONDS_BUCKETS};
use crate::redis::connection::Redis;
use crate::redis::embedded::EmbeddedRedis;
use crate::redis::keyspace;
use crate::settings::Settings;

/// Histograms gather samples until they are read; without a scrape this bounds them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Files that the process needs beside its attempts and the admin API's callers: Redis, listeners, logs.
const OTHER_FILES: u64 = 256;

/// First and longest pause between two tries to reach Redis at the start.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The bound listeners.
pub(super) struct Listeners {
    pub(super) admin: Option<AdminListener>,
    pub(super) ops: TcpListener,
}

/// The admin API's listener, and its certificate where it has one.
pub(super) struct AdminListener {
    pub(super) listener: TcpListener,
    pub(super) certificates: Option<Arc<Certificates>>,
}

// === impl Listeners ===

impl Listeners {
    pub(super) async fn bind(settings: &Settings) -> Result<Self, AppError> {
        let process = &settings.process;
        let ops = bind("ops-listen", process.ops_listen).await?;
        if !process.roles.admin {
            return Ok(Self { admin: None, ops });
        }
        let certificates = match (&settings.admin.tls_cert, &settings.admin.tls_key) {
            (Some(cert), Some(key)) => {
                let loaded = Certificates::load(cert, key).map_err(|error| build("TLS", error))?;
                Some(Arc::new(loaded))
            }
            _ => None,
        };
        let listener = bind("listen", process.listen).await?;
        Ok(Self { admin: Some(AdminListener { listener, certificates }), ops })
    }
}

/// Installs the recorder of this process's metrics.
pub(super) fn install_metrics() -> Result<PrometheusHandle, AppError> {
    let buckets = |builder: PrometheusBuilder, suffix: &str, values: &[f64]| {
        builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), values)
    };
    let handle = buckets(PrometheusBuilder::new(), "_seconds", SECONDS_BUCKETS)
        .and_then(|builder| buckets(builder, "_batch_size", BATCH_BUCKETS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| build("metrics", error))?;
    metrics::describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Serves `/livez`, `/readyz` and `/metrics` from now on, also while Redis is awaited.
pub(super) fn serve_ops(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    prometheus: PrometheusHandle,
    stop: watch::Receiver<bool>,
) {
    tokio::spawn(server::serve(listener, ops_router(readiness, prometheus), stop));
}

/// Raises the limit of open files to what the system allows, and says where that is too little for the limits
/// that were set.
pub(super) fn raise_file_limit(settings: &Settings) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let wanted = u64::from(settings.limits.in_flight_max)
        + u64::from(settings.limits.idle_connections_max)
        + u64::from(settings.admin.connections_max)
        + OTHER_FILES;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < wanted) {
        tracing::warn!(
            files,
            wanted,
            "the limit of open files is below in-flight-max + idle-connections-max + \
             admin-connections-max + {OTHER_FILES}: raise 'ulimit -n', or lower those settings"
        );
    }
}

/// Starts the embedded Redis, or waits for the external one; checks that it can be used.
pub(super) async fn open_redis(settings: &Settings) -> Result<(Redis, Option<EmbeddedRedis>), AppError> {
    let (url, embedded) = match &settings.redis.url {
        Some(url) => (url.clone(), None),
        None => {
            let process = &settings.process;
            let embedded = EmbeddedRedis::start(&process.data_dir, process.embedded_redis_port).await?;
            (embedded.url().to_owned(), Some(embedded))
        }
    };
    let redis = Redis::new(&url, &settings.redis)?;
    let mut pause = PAUSE_MIN;
    loop {
        match keyspace::check_server(&redis.link(), settings.redis.allow_eviction).await {
            Ok(()) => return Ok((redis, embedded)),
            Err(error) if error.is_connection() => {
                tracing::warn!(%error, "Redis cannot be reached; trying again");
            }
            Err(error) => {
                if let Some(embedded) = embedded {
                    embedded.stop().await;
                }
                return Err(error.into());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
