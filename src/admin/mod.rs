//! The admin API: routes, who may call them, and the error envelope (docs/WIRE.md sections 6 to 9).
//!
//! Owns: HTTP in front of `redis`. May use: `redis`, `domain`, `settings`, `metrics`. No handler formats a key
//! or names a Redis command, and no function here reads a config, a delivery or a log without an organisation.
//!
//! | route | procedure | roles |
//! |---|---|---|
//! | `GET /api/v2/admin/webhooks/configs` | `getWebhookConfigs` | viewer, manager, admin, operator |
//! | `PUT /api/v2/admin/webhooks/configs` | `updateWebhookConfigs` | admin, operator |
//! | `POST /api/v2/admin/webhooks/events` | `publishWebhookEvents` | publisher, admin, operator |
//! | `GET /api/v2/admin/webhooks/logs`, `.../logs/{deliveryId}` | `getWebhookLogs`, `getWebhookLog` | admin, operator |

pub mod auth;
pub mod error;
pub mod state;

use axum::Router;

use self::error::{ApiError, NO_PROCEDURE};
use self::state::AdminState;

/// What every route's path begins with.
pub const BASE_PATH: &str = "/api/v2/admin";

/// All routes of the admin API.
pub fn router(state: AdminState) -> Router {
    let resources = Router::new();
    // Mounted here once it exists: `.merge(logs::routes())`, whose paths begin with `/webhooks/logs`.
    Router::new()
        .nest(BASE_PATH, resources)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .with_state(state)
}

async fn unknown_route() -> ApiError {
    ApiError::not_found(NO_PROCEDURE, "no such route")
}

async fn unknown_method() -> ApiError {
    ApiError::method_not_supported(NO_PROCEDURE)
}
