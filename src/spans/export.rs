//! The exporter: gathers spans into batches and posts them to a collector, on the control runtime.
//!
//! A batch that the collector does not take is tried three times and then dropped and counted. Meanwhile the queue
//! fills, and what finds it full is dropped and counted too: nothing waits for a collector. That it is away is logged
//! once, and once more when it is back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Span, SpanSink, otlp};
use crate::metrics::SpanMetrics;

/// Most spans of one request, and how long they are gathered.
const BATCH_MAX: usize = 512;
const GATHER_TIME: Duration = Duration::from_secs(1);

/// Longest wait for the collector's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Tries of one batch, and the pause after the first that failed; doubled after each.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How long a stopping process waits for what is left.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Where spans go.
#[derive(Clone)]
pub struct Collector {
    tls: Option<TlsConnector>,
    host: String,
    port: u16,
    authority: HeaderValue,
    path: http::Uri,
    /// Sent with every export; their values are secrets.
    headers: HeaderMap,
}

/// The running exporter.
pub struct Exporter {
    finish: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// The collector's URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("otlp-endpoint {0} cannot be used as an HTTP address")]
pub struct CollectorError(Url);

/// Why a batch was not taken.
enum Refused {
    /// It may be later: no answer, or one that asks to try again.
    ForNow(String),
    /// Never.
    ForGood(StatusCode),
}

struct Worker {
    collector: Collector,
    instance: Arc<str>,
    metrics: SpanMetrics,
    /// The last batch was not taken, and that was logged.
    away: bool,
}

// === impl Collector ===

impl Collector {
    /// The collector at a base URL; `tls` is used for https. `/v1/traces` is added unless the URL ends so. `headers` go
    /// along with every export.
    ///
    /// # Errors
    /// When the URL has no host, or a part that HTTP cannot carry.
    pub fn new(url: &Url, headers: &HeaderMap, tls: TlsConnector) -> Result<Self, CollectorError> {
        let wrong = || CollectorError(url.clone());
        let host = url.host_str().ok_or_else(wrong)?;
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        let base = url.path().trim_end_matches('/');
        let path = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
        Ok(Self {
            tls: (url.scheme() == "https").then_some(tls),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            authority: HeaderValue::from_str(&format!("{host}:{port}")).map_err(|_| wrong())?,
            path: path.parse().map_err(|_| wrong())?,
            headers: headers.clone(),
        })
    }

    async fn post(&self, body: Bytes) -> Result<(), Refused> {
        let for_now = |error: &dyn std::fmt::Display| Refused::ForNow(error.to_string());
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| for_now(&error))?;
        match &self.tls {
            None => self.exchange(stream, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|error| for_now(&error))?;
                let stream = tls.connect(name, stream).await.map_err(|error| for_now(&error))?;
                self.exchange(stream, body).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, body: Bytes) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let for_now = |error: hyper::Error| Refused::ForNow(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(for_now)?;
        let driver = tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.headers.clone());
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = sender.send_request(request).await.map_err(for_now)?;
        let status = answer.status();
        // Read to its end, so that the collector does not see its answer cut off.
        let _ = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await;
        drop(sender);
        driver.abort();
        match status.as_u16() {
            200..=299 => Ok(()),
            429 | 502 | 503 | 504 => Err(Refused::ForNow(format!("answered {status}"))),
            _ => Err(Refused::ForGood(status)),
        }
    }
}

// === impl Exporter ===

impl Exporter {
    /// Starts an exporter, and gives what feeds it. `instance` names the replica.
    #[must_use]
    pub fn start(collector: Collector, instance: &str) -> (SpanSink, Self) {
        let metrics = SpanMetrics::new();
        let (sink, spans) = SpanSink::new(metrics.clone());
        let (finish, finishing) = oneshot::channel();
        let worker = Worker { collector, instance: instance.into(), metrics, away: false };
        let task = tokio::spawn(worker.run(spans, finishing));
        (sink, Self { finish, task })
    }

    /// Sends what is left, as far as that is quick.
    pub async fn finish(self) {
        let _ = self.finish.send(());
        let _ = timeout(LAST_SPANS, self.task).await;
    }
}

// === impl Worker ===

impl Worker {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>, mut finishing: oneshot::Receiver<()>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                ended = gather(&mut spans, &mut batch) => {
                    if ended {
                        return;
                    }
                    tokio::select! {
                        () = self.export(&batch) => batch.clear(),
                        _ = &mut finishing => break,
                    }
                }
                _ = &mut finishing => break,
            }
        }
        spans.close();
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.export(&batch).await;
            batch.clear();
        }
    }

    /// Posts a batch until it is taken, or drops it.
    async fn export(&mut self, batch: &[Span]) {
        let count = batch.len() as u64;
        let body = Bytes::from(otlp::request(batch, &self.instance));
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            let posted = timeout(ANSWER_TIMEOUT, self.collector.post(body.clone())).await;
            let refused = posted.unwrap_or_else(|_| Err(Refused::ForNow("no answer in time".into())));
            match refused {
                Ok(()) => {
                    self.metrics.exported.increment(count);
                    if std::mem::take(&mut self.away) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(Refused::ForGood(status)) => {
                    self.note(&format_args!("answered {status}"));
                    break;
                }
                Err(Refused::ForNow(reason)) => self.note(&reason),
            }
            if attempt < TRIES {
                sleep(pause).await;
                pause *= 2;
            }
        }
        self.metrics.dropped_collector.increment(count);
    }

    fn note(&mut self, reason: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%reason, "the collector does not take spans; they are dropped until it does");
        }
    }
}

/// Waits for spans and gathers more for a while; true when none will come any more. What was gathered stays in
/// `batch` when this is given up.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) -> bool {
    if batch.is_empty() && spans.recv_many(batch, BATCH_MAX).await == 0 {
        return true;
    }
    let until = Instant::now() + GATHER_TIME;
    while batch.len() < BATCH_MAX {
        let room = BATCH_MAX - batch.len();
        match timeout_at(until, spans.recv_many(batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    false
}
