//! `POST /webhooks/events` (docs/WIRE.md section 9).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::read_body;
use super::described::{EventsBody, NonceText};
use super::error::ApiError;
use super::publish_body::PublishBody;
use super::state::AdminState;
use crate::redis::publish::{MemoryWatch, Receipt, publish};

const PROCEDURE: &str = "publishWebhookEvents";

/// Most replicas of Redis that `?wait=` may ask for.
const WAIT_MAX: u32 = 16;
/// What a caller is told to wait when Redis is nearly full: delivering frees memory within seconds.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(5);
/// What a caller is told to wait when too few replicas acknowledged.
const RETRY_AFTER_WAIT: Duration = Duration::from_secs(1);

/// What was published.
#[derive(Serialize, ToSchema)]
#[schema(as = Published)]
pub(super) struct Answer {
    /// In the request's order.
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<AnswerEvent>,
}

/// One event that is in the stream.
#[derive(Serialize, ToSchema)]
#[schema(as = PublishedEvent)]
struct AnswerEvent {
    #[schema(value_type = NonceText)]
    nonce: String,
    /// The id of its entry in the stream.
    #[schema(pattern = "^[0-9]+-[0-9]+$", examples("1777626000000-0"))]
    id: String,
    /// Only when it is true: the nonce was known, nothing was published, and `id` is the first one's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/webhooks/events", post(publish_events))
        .layer(Extension(Arc::new(MemoryWatch::default())))
}

/// Publish one event or many
///
/// All or nothing. Nonces are remembered for 24 hours: a request that got no answer can be repeated if it has them.
#[utoipa::path(
    post,
    path = "/webhooks/events",
    operation_id = "publishWebhookEvents",
    tag = "events",
    params(("wait" = Option<u32>, Query, description = "Answer only when so many replicas of Redis have the write.",
        minimum = 0, maximum = 16)),
    request_body = EventsBody,
    responses((
        status = 202,
        description = "Everything is in the stream.",
        body = Answer,
        headers(("X-Postrider-Ignored" = String, description = "Only where there are any: names of fields that \
                 nobody knows.")),
    )),
)]
pub(super) async fn publish_events(
    State(state): State<AdminState>,
    Extension(memory): Extension<Arc<MemoryWatch>>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let wait = parse_wait(request.uri().query())?;
    let bytes = read_body(request.into_body(), PROCEDURE).await?;
    let body =
        PublishBody::parse(&bytes, &caller.organisation).map_err(|refusal| refusal.into_error(PROCEDURE))?;
    let from_redis = |error| ApiError::from_redis(PROCEDURE, &error);
    if memory.is_full(&state.redis).await.map_err(from_redis)? {
        let message = "the store is nearly full; nothing was published";
        return Err(ApiError::unavailable(PROCEDURE, message, RETRY_AFTER_FULL));
    }
    let receipt = publish(&state.redis, &state.shards, &caller.organisation, &body.items, wait)
        .await
        .map_err(from_redis)?;
    let mut response = answer(receipt, wait)?;
    body.ignored.tell(&mut response);
    Ok(response)
}

fn answer(receipt: Receipt, wait: Option<u32>) -> Result<Response, ApiError> {
    if let (Some(wanted), Some(reached)) = (wait, receipt.acknowledged)
        && reached < wanted
    {
        let message = format!(
            "published, but only {reached} of {wanted} replicas of the store acknowledged it in time; \
             repeating is safe for events with a nonce"
        );
        return Err(ApiError::unavailable(PROCEDURE, message, RETRY_AFTER_WAIT));
    }
    let event = |event: crate::redis::publish::Published| AnswerEvent {
        nonce: event.nonce,
        id: event.id.stream_id().to_string(),
        duplicate: event.duplicate,
    };
    let answer = Answer { events: receipt.events.into_iter().map(event).collect() };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// `wait=N` of the query; zero asks for nothing.
fn parse_wait(query: Option<&str>) -> Result<Option<u32>, ApiError> {
    let mut wait = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name == "wait" {
            let number = value.parse().ok().filter(|number| *number <= WAIT_MAX);
            wait = Some(number.ok_or_else(|| {
                let message = format!("query.wait: expected an integer from 0 to {WAIT_MAX}");
                ApiError::bad_request(PROCEDURE, message)
            })?);
        }
    }
    Ok(wait.filter(|count| *count > 0))
}
