//! `POST /webhooks/logs/{deliveryId}/retry` (docs/WIRE.md section 11).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::audit;
use super::auth::Caller;
use super::described::DeliveryIdText;
use super::error::ApiError;
use super::log_record::LogRecord;
use super::logs::{delivery_id, find_one};
use super::state::AdminState;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{DisabledReason, StoredConfig};
use crate::domain::log::Status;
use crate::domain::log_view::DeliveryView;
use crate::redis::by_hand::{self, Retried};

const RETRY: &str = "retryWebhookDelivery";

/// The route of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/logs/{deliveryId}/retry", post(retry_delivery))
}

/// Send a delivery once more
///
/// One that was delivered or has failed: the same bytes, to the config's present URL.
#[utoipa::path(post, path = "/webhooks/logs/{deliveryId}/retry", operation_id = "retryWebhookDelivery", tag = "logs",
    params(("deliveryId" = inline(DeliveryIdText), Path, description = "The delivery.")),
    responses((status = 202, description = "The delivery, which waits for its attempt", body = LogRecord)))]
pub(super) async fn retry_delivery(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<LogRecord>), ApiError> {
    let id = delivery_id(path, RETRY)?;
    let (config, seen) = find_one(&state, &caller.organisation, id, RETRY).await?;
    let configs = state.directory.configs();
    if let Some(reason) = unable(configs.get(&caller.organisation, config.id()).map(|stored| &**stored)) {
        return Err(ApiError::conflict(RETRY, reason));
    }
    let retention = &state.settings.retention;
    let retried = by_hand::retry(&state.redis, &state.shards, &config, &seen, retention).await;
    match retried.map_err(|error| ApiError::from_redis(RETRY, &error))? {
        Retried::Queued => {}
        refused => return Err(ApiError::conflict(RETRY, reason(refused))),
    }
    let before = json!({ "status": seen.view.status.as_str(), "attempts": seen.view.attempts });
    audit::note(&state, &caller, RETRY, id, Some(before), Some(json!({ "status": "retrying" }))).await;
    // Its attempt may be over already: what is shown is how it stands now. It was put back in any case, so a log that
    // cannot be read is no reason to say otherwise.
    let now = find_one(&state, &caller.organisation, id, RETRY).await;
    let view = now.map_or_else(|_| waiting(seen.view, state.clock.now()), |(_, now)| now.view);
    Ok((StatusCode::ACCEPTED, Json(view.into())))
}

/// A delivery that was put back into its queue at `now`.
fn waiting(seen: DeliveryView, now: UnixMillis) -> DeliveryView {
    let (status, next) = match seen.attempts {
        0 => (Status::Pending, None),
        _ => (Status::Retrying, Some(now)),
    };
    DeliveryView { status, next_attempt_at: next, reason: None, ..seen }
}

/// Why nothing can be sent to a config now.
fn unable(stored: Option<&StoredConfig>) -> Option<&'static str> {
    match stored {
        Some(StoredConfig::Config(config)) if config.active => None,
        Some(StoredConfig::Config(config)) => Some(match config.disabled.as_ref().map(|one| one.reason) {
            None => "its config is paused; resume it first",
            Some(DisabledReason::Gone) => "its config is disabled (gone); resume it first",
            Some(DisabledReason::Failing) => "its config is disabled (failing); resume it first",
        }),
        Some(StoredConfig::Tombstone(_)) | None => Some("its config was deleted"),
    }
}

const fn reason(refused: Retried) -> &'static str {
    match refused {
        Retried::Queued | Retried::Waiting => "it waits for an attempt already",
        Retried::Changed => "it changed meanwhile; nothing was done, look at it again",
        Retried::QueueFull => "its config's queue is full; nothing was done, try again later",
        Retried::PayloadGone => {
            "its payload is no longer kept (payloadOmitted), so the same bytes cannot be sent"
        }
    }
}
