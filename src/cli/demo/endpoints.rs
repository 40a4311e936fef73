//! The demo's three receivers, and the configs that point at them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::Url;

use super::super::error::CliError;
use super::super::http::{self, Call};
use super::super::output::printable;
use crate::domain::catalogue;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::ConfigId;
use crate::domain::signature::Secret;
use crate::domain::token::TokenText;
use crate::receiver::{Receiver, ReceiverOptions};

/// How long a new token or config may take to be known to the server.
const KNOWN_WAIT: Duration = Duration::from_secs(5);

/// Pause between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// All receivers.
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
}

/// One receiver and its config.
pub(super) struct Endpoint {
    /// What it is called in the summary.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) behaviour: &'static str,
    /// The receiver.
    pub(super) receiver: Receiver,
    /// Its config, once it is registered.
    pub(super) config: Option<ConfigId>,
    /// Whether every request is answered at once with success: its latencies are the server's.
    pub(super) healthy: bool,
    arrivals: Arc<Mutex<Arrivals>>,
    secret: Secret,
}

/// What is kept of the events that were processed.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Milliseconds from publishing to processing, one each.
    pub(super) latencies_ms: Vec<u64>,
    /// When the last one was processed.
    pub(super) last: UnixMillis,
}

// === impl Endpoints ===

impl Endpoints {
    /// Starts the receivers.
    pub(super) async fn start(events: u32) -> Result<Self, CliError> {
        let half_way = Some(u64::from(events) / 2 + 1);
        let all = vec![
            Endpoint::start("healthy", "answers 200", 0.0, None).await?,
            Endpoint::start("flaky", "fails 20 % with 503", 0.2, None).await?,
            Endpoint::start("gone", "answers 410 from half-way on", 0.0, half_way).await?,
        ];
        Ok(Self { all })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.all.iter()
    }

    /// Puts their configs over the admin API and waits until the server shows them.
    pub(super) async fn register(&mut self, admin: &Url, token: &TokenText) -> Result<(), CliError> {
        let url = admin
            .join("api/v2/admin/webhooks/configs")
            .map_err(|error| CliError::Failure(error.to_string()))?;
        // Without Postrider's own events: the demo adds up what it has published itself.
        let events: Vec<&str> = catalogue::of_producers().map(|event| event.name).collect();
        let configs: Vec<Value> = self
            .iter()
            .map(|endpoint| {
                json!({"url": endpoint.url(), "events": events, "secret": endpoint.secret.expose(), "maxRetries": 3})
            })
            .collect();
        let body = Value::from(configs).to_string().into_bytes();
        // A new token reaches the server through the stream of changes.
        self.ask(http::Method::PUT, &url, token, Some(body), |status, _| status != 401).await?;
        let wanted = self.all.len();
        let listed = |_, answer: &Value| answer.as_array().is_some_and(|configs| configs.len() == wanted);
        let answer = self.ask(http::Method::GET, &url, token, None, listed).await?;
        for endpoint in &mut self.all {
            let is_its = |config: &&Value| config["url"] == endpoint.url();
            let config = answer.as_array().and_then(|configs| configs.iter().find(is_its));
            let id = config.and_then(|config| config["id"].as_str()).and_then(|id| id.parse().ok());
            endpoint.config = id;
            if id.is_none() {
                return Err(CliError::Failure(format!("the server has no config for {}", endpoint.url())));
            }
        }
        Ok(())
    }

    /// Repeats a request until its answer will do.
    async fn ask(
        &self,
        method: http::Method,
        url: &Url,
        token: &TokenText,
        body: Option<Vec<u8>>,
        will_do: impl Fn(u16, &Value) -> bool,
    ) -> Result<Value, CliError> {
        let started = Instant::now();
        loop {
            let (method, body) = (method.clone(), body.clone());
            let answer = http::call(Call {
                method,
                url,
                token: token.expose(),
                organisation: None,
                body,
                patience: http::CALL_TIMEOUT,
            })
            .await;
            let answer = answer.map_err(|error| CliError::Failure(format!("the admin API: {error}")))?;
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let done = will_do(answer.status.as_u16(), &json);
            if done && answer.status.is_success() {
                return Ok(json);
            }
            if done || started.elapsed() > KNOWN_WAIT {
                let text = printable(&String::from_utf8_lossy(&answer.body));
                return Err(CliError::Failure(format!("the admin API answered {}: {text}", answer.status)));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    async fn start(
        name: &'static str,
        behaviour: &'static str,
        fail_rate: f64,
        gone_after: Option<u64>,
    ) -> Result<Self, CliError> {
        let secret = Secret::generate();
        let arrivals = Arc::new(Mutex::new(Arrivals::default()));
        let kept = Arc::clone(&arrivals);
        let options = ReceiverOptions {
            fail_rate,
            gone_after,
            processed: Some(Arc::new(move |processed| {
                let mut arrivals = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let at = processed.arrival.at;
                if let Some(published) = processed.arrival.timestamp {
                    arrivals.latencies_ms.push(at.since(published).as_millis() as u64);
                }
                arrivals.last = arrivals.last.max(at);
            })),
            ..ReceiverOptions::new(secret.clone())
        };
        let receiver = Receiver::start(options)
            .await
            .map_err(|error| CliError::Failure(format!("cannot start a receiver: {error}")))?;
        let healthy = fail_rate == 0.0 && gone_after.is_none();
        Ok(Self { name, behaviour, receiver, config: None, healthy, arrivals, secret })
    }

    /// Where events are sent.
    pub(super) fn url(&self) -> String {
        format!("http://{}/{}", self.receiver.addr(), self.name)
    }

    /// Looks at what arrived.
    pub(super) fn arrivals<T>(&self, look: impl FnOnce(&Arrivals) -> T) -> T {
        look(&self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
