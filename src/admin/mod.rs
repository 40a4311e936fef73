//! The admin API: routes, who may call them, and the error envelope (docs/WIRE.md sections 6 to 9).
//!
//! Owns: HTTP in front of `redis`. May use: `redis`, `domain`, `settings`, `metrics`. No handler formats a key
//! or names a Redis command, and no function here reads a config, a delivery or a log without an organisation.
//!
//! | route | procedure | roles |
//! |---|---|---|
//! | `GET /api/v2/admin/webhooks/configs` | `getWebhookConfigs` | viewer, manager, admin, operator |
//! | `PUT /api/v2/admin/webhooks/configs` | `updateWebhookConfigs` | admin, operator |
//! | `GET .../webhooks/configs/{id}` | `getWebhookConfig` | viewer, manager, admin, operator |
//! | `DELETE .../webhooks/configs/{id}` | `deleteWebhookConfig` | admin, operator |
//! | `POST .../webhooks/configs/{id}/pause`, `.../resume` | `pauseWebhookConfig`, `resumeWebhookConfig` | manager, admin, operator |
//! | `POST .../webhooks/configs/{id}/rotate-secret` | `rotateWebhookSecret` | admin, operator |
//! | `POST .../webhooks/configs/{id}/test` | `testWebhookConfig` | manager, admin, operator |
//! | `POST .../webhooks/logs/{deliveryId}/retry` | `retryWebhookDelivery` | admin, operator |
//! | `POST /api/v2/admin/webhooks/events` | `publishWebhookEvents` | publisher, admin, operator |
//! | `GET /api/v2/admin/webhooks/event-types` | `getWebhookEventTypes` | all |
//! | `GET /api/v2/admin/openapi.json` | `getOpenApi` | none asked for |
//! | `POST /api/v2/admin/webhooks/configs/{id}/recover`, `.../replay` | `recoverWebhookConfig`, `replayWebhookConfig` | admin, operator |
//! | `GET /api/v2/admin/webhooks/configs/{id}/jobs`, `.../jobs/{jobId}` | `getWebhookJobs`, `getWebhookJob` | viewer, manager, admin, operator |
//! | `POST /api/v2/admin/webhooks/configs/{id}/jobs/{jobId}/cancel` | `cancelWebhookJob` | admin, operator |
//! | `GET /api/v2/admin/webhooks/logs`, `.../logs/{deliveryId}` | `getWebhookLogs`, `getWebhookLog` | admin, operator |

pub mod auth;
pub mod body;
pub mod config_body;
mod config_by_id;
mod config_choices;
pub mod config_edit;
mod config_events;
mod config_pace;
mod config_test;
pub mod configs;
mod described;
pub mod error;
mod event_types;
pub mod job_body;
pub mod jobs;
mod log_aliases;
pub mod log_query;
pub mod log_record;
mod log_retry;
pub mod logs;
pub mod openapi;
pub mod ops;
pub mod publish;
pub mod publish_body;
pub mod server;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use self::error::{ApiError, NO_PROCEDURE};
pub use self::server::serve;
use self::state::AdminState;

/// What every route's path begins with.
pub const BASE_PATH: &str = "/api/v2/admin";

/// All routes of the admin API.
pub fn router(state: AdminState) -> Router {
    let places = Arc::new(Semaphore::new(state.settings.limits.admin_requests_max as usize));
    let resources = [
        config_by_id::routes(),
        config_test::routes(),
        configs::routes(),
        event_types::routes(),
        jobs::routes(),
        log_retry::routes(),
        logs::routes(),
        openapi::routes(),
        publish::routes(),
    ];
    let resources = resources.into_iter().fold(Router::new(), Router::merge);
    Router::new()
        .nest(BASE_PATH, resources)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(places, bound_requests))
        .with_state(state)
}

/// Refuses what is over the limit of requests in flight: waiting would only move the queue into memory.
async fn bound_requests(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match places.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => {
            let message = "too many requests in flight";
            ApiError::unavailable(NO_PROCEDURE, message, Duration::from_secs(1)).into_response()
        }
    }
}

async fn unknown_route() -> ApiError {
    ApiError::not_found(NO_PROCEDURE, "no such route")
}

async fn unknown_method() -> ApiError {
    ApiError::method_not_supported(NO_PROCEDURE)
}
