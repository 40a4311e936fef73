//! One request and its answer: verify, check, process, write.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use serde::Deserialize;

use super::dedupe::Dedupe;
use super::stats::{Arrival, Fate, ReceiverStats};
use super::{Processed, ReceiverOptions};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::signature::SigningKey;
use crate::redis::connection::Result as RedisResult;

/// Largest body: four times the largest event.
const BODY_MAX: usize = 1024 * 1024;

/// What all connections of one receiver share.
pub(super) struct Exchange {
    options: ReceiverOptions,
    key: SigningKey,
    dedupe: Dedupe,
    stats: Arc<ReceiverStats>,
    clock: Clock,
    redis_failing: AtomicBool,
}

/// What a receiver reads of the body: the nonce is the event's identity (docs/WIRE.md section 10).
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    nonce: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
}

/// A status with the reason in the body.
struct Answer {
    fate: Fate,
    status: StatusCode,
    text: &'static str,
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(options: ReceiverOptions, dedupe: Dedupe, stats: Arc<ReceiverStats>) -> Self {
        let key = options.secret.signing_key();
        let redis_failing = AtomicBool::new(false);
        Self { options, key, dedupe, stats, clock: Clock::default(), redis_failing }
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.uri().path() == "/stats" && matches!(*request.method(), Method::GET | Method::DELETE) {
            if request.method() == Method::DELETE {
                self.stats.forget_delays();
            }
            return Ok(self.show());
        }
        self.stats.count_received();
        let answer = match self.receive(request).await {
            Ok(answer) | Err(answer) => answer,
        };
        self.stats.count(answer.fate);
        let mut response = Response::new(Full::new(Bytes::from_static(answer.text.as_bytes())));
        *response.status_mut() = answer.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// `GET /stats` and, with the delays begun anew, `DELETE /stats`: for people and load tests; not counted itself.
    fn show(&self) -> Response<Full<Bytes>> {
        // Numbers alone: writing them as JSON cannot fail.
        let json = serde_json::to_vec(&self.stats.counts()).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(json)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn receive(&self, request: Request<Incoming>) -> Result<Answer, Answer> {
        let (head, body) = request.into_parts();
        if !matches!(head.method, Method::POST | Method::PUT) {
            return Err(Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "webhooks are POSTed\n"));
        }
        let body = read(body).await?;
        let signature = head.headers.get("x-nudj-signature").map_or(&b""[..], HeaderValue::as_bytes);
        if !self.key.verify(&body, signature) {
            return Err(Answer {
                fate: Fate::BadSignature,
                status: StatusCode::UNAUTHORIZED,
                text: "X-Nudj-Signature is missing or is not this body's\n",
            });
        }
        let number = self.stats.count_verified();
        if self.options.hang {
            return future::pending().await;
        }
        let arrival = self.arrival(&head.headers, &body)?;
        self.stats.keep(&arrival);
        if self.options.gone_after.is_some_and(|first| number >= first) {
            return Err(Answer { fate: Fate::Gone, status: StatusCode::GONE, text: "gone\n" });
        }
        self.process_once(&arrival, &body).await
    }

    /// Check, process, write, in this order: written first, an event whose processing fails would be lost.
    async fn process_once(&self, arrival: &Arrival, body: &[u8]) -> Result<Answer, Answer> {
        if self.known(self.dedupe.contains(&arrival.nonce).await)? {
            return Ok(Answer { fate: Fate::Duplicate, status: StatusCode::OK, text: "seen\n" });
        }
        if !self.options.delay.is_zero() {
            tokio::time::sleep(self.options.delay).await;
        }
        if self.options.fail_rate > 0.0 && rand::random::<f64>() < self.options.fail_rate {
            return Err(Answer::failed(self.options.fail_status, "processing failed\n"));
        }
        let status = StatusCode::from_u16(self.options.status).unwrap_or(StatusCode::OK);
        if !status.is_success() {
            return Err(Answer::failed(self.options.status, "\n"));
        }
        if let Some(processed) = &self.options.processed {
            processed(&Processed { arrival, body });
        }
        self.known(self.dedupe.insert(&arrival.nonce).await)?;
        Ok(Answer { fate: Fate::Accepted, status, text: "ok\n" })
    }

    fn arrival(&self, headers: &http::HeaderMap, body: &[u8]) -> Result<Arrival, Answer> {
        let delivery_id = headers
            .get("x-nudj-delivery-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let envelope: Envelope<'_> = serde_json::from_slice(body)
            .map_err(|_| Answer::refused(StatusCode::BAD_REQUEST, "the body is not a JSON object\n"))?;
        let nonce = match envelope.nonce.or(envelope.id) {
            Some(nonce) => nonce.into_owned(),
            None if !delivery_id.is_empty() => delivery_id.clone(),
            None => return Err(Answer::refused(StatusCode::BAD_REQUEST, "the body has no nonce\n")),
        };
        let timestamp = envelope.timestamp.and_then(|text| UnixMillis::parse_iso8601(&text));
        Ok(Arrival { nonce, delivery_id, timestamp, at: self.clock.now() })
    }

    /// An answer of the dedupe store; while there is none, the sender is asked to come again.
    fn known<T>(&self, answer: RedisResult<T>) -> Result<T, Answer> {
        match answer {
            Ok(value) => {
                if self.redis_failing.load(Ordering::Relaxed) {
                    self.redis_failing.store(false, Ordering::Relaxed);
                    tracing::info!("Redis answers again");
                }
                Ok(value)
            }
            Err(error) => {
                if !self.redis_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "answering 503 until Redis answers");
                }
                Err(Answer::failed(503, "the dedupe store is away\n"))
            }
        }
    }
}

// === impl Answer ===

impl Answer {
    const fn refused(status: StatusCode, text: &'static str) -> Self {
        Self { fate: Fate::Refused, status, text }
    }

    fn failed(status: u16, text: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self { fate: Fate::Failed, status, text }
    }
}

/// The whole body, or why not: too large, or ended before its length.
async fn read(body: Incoming) -> Result<Bytes, Answer> {
    let too_large = Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 1 MiB\n");
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large);
    }
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large),
        Err(_) => Err(Answer::refused(StatusCode::BAD_REQUEST, "the body ended early\n")),
    }
}
