//! Asking: one kept connection, and the times of its answers.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::store::{NAMESPACE, Store};
use crate::{Failure, pause};

/// Between two queries beside deliveries: 20 a second.
const EVERY: Duration = Duration::from_millis(50);

/// The queries, what p99 is wanted of each in ms, and the query string. `CONFIG` stands for a config's id.
pub(crate) fn kinds() -> [(&'static str, u32, &'static str); 5] {
    [
        ("one config, first page of 10", 5, "webhookConfigId=CONFIG"),
        ("one config, first page of 100", 5, "webhookConfigId=CONFIG&limit=100"),
        ("one config, status=failed", 5, "webhookConfigId=CONFIG&status=failed&limit=100"),
        ("100 configs, first page of 10", 20, ""),
        ("100 configs, first page of 100", 20, "limit=100"),
    ]
}

/// A kept connection to the admin API.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Empty<Bytes>>,
    token: String,
}

/// How long answers took.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

/// Queries that go on beside something else.
pub(crate) struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Times, Failure>>,
}

/// A token of the organisation.
pub(crate) fn token(store: &Store, organisation: &str) -> Result<String, Failure> {
    let output = Command::new(Path::new(env!("CARGO_BIN_EXE_postrider")))
        .args(["token", "create", "--redis-url", &store.url(), "--namespace", NAMESPACE])
        .args(["--organisation", organisation, "--role", "admin", "--output", "json"])
        .output()?;
    let made: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(made["token"].as_str().ok_or("no token was made")?.to_owned())
}

// === impl Client ===

impl Client {
    pub(crate) fn connect(port: u16, token: &str) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, Failure>(sender)
        })?;
        Ok(Self { runtime, sender, token: format!("Bearer {token}") })
    }

    /// The body, and the time from sending to its last byte.
    pub(crate) fn get(&mut self, query: &str) -> Result<(String, Duration), Failure> {
        let request = Request::get(format!("/api/v2/admin/webhooks/logs?{query}"))
            .header("host", "localhost")
            .header("authorization", &self.token)
            .body(Empty::new())?;
        let began = Instant::now();
        let sender = &mut self.sender;
        let (status, body) = self.runtime.block_on(async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, Failure>((status, body))
        })?;
        let took = began.elapsed();
        let body = String::from_utf8(body.to_vec())?;
        if status.is_success() { Ok((body, took)) } else { Err(format!("{query}: {status} {body}").into()) }
    }
}

// === impl Times ===

impl Times {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |hundredths: usize| {
            let place = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
            sorted.get(place).copied().unwrap_or_default().as_secs_f64() * 1_000.0
        };
        write!(
            f,
            "p50 {:>6.2} ms  p99 {:>6.2} ms  max {:>6.2} ms ({})",
            at(50),
            at(99),
            at(100),
            sorted.len()
        )
    }
}

// === impl Asking ===

impl Asking {
    pub(crate) fn start(port: u16, token: &str, logs: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, token) = (Arc::clone(&stop), token.to_owned());
        let logs: Vec<String> = logs.iter().take(crate::fill::CONFIGS_EACH as usize).cloned().collect();
        let thread = std::thread::spawn(move || {
            let mut client = Client::connect(port, &token)?;
            let (mut times, mut number) = (Times::default(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let (_, _, query) = kinds()[number % kinds().len()];
                times.add(client.get(&query.replace("CONFIG", &logs[number % logs.len()]))?.1);
                number += 1;
                pause(EVERY.saturating_sub(began.elapsed()));
            }
            Ok(times)
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Result<Times, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the asking thread panicked")?
    }
}
