//! The admin API: routes, who may call them, and the error envelope (docs/WIRE.md sections 6 to 9).
//!
//! Owns: HTTP in front of `redis`. May use: `redis`, `domain`, `settings`, `metrics`. No handler formats a key
//! or names a Redis command, and no function here reads a config, a delivery or a log without an organisation.
//!
//! A request passes, from the outside in: the headers for browsers ([`page_headers`]), the limits on requests in
//! flight, on time and on bodies (here and [`body_guard`]), the [`gate`], which knows from [`access`] who may call
//! what, and the handler. Each resource has a file with its routes.

pub mod access;
pub mod audit;
pub mod auth;
pub mod body;
pub mod body_guard;
pub mod client_address;
pub mod config_body;
mod config_by_id;
mod config_certificate;
mod config_choices;
pub mod config_edit;
mod config_events;
mod config_pace;
mod config_test;
pub mod configs;
mod connection;
mod described;
mod described_texts;
pub mod error;
mod event_types;
mod gate;
pub mod job_body;
pub mod jobs;
mod log_aliases;
pub mod log_curl;
mod log_event;
pub mod log_query;
pub mod log_record;
mod log_retry;
pub mod log_stream;
pub mod logs;
pub mod openapi;
pub mod ops;
mod page_headers;
mod places;
pub mod publish;
pub mod publish_body;
mod query;
pub mod rejected;
mod rejected_record;
pub mod server;
pub mod state;
pub mod stats;
pub mod throttle;
pub mod tls;
pub mod tokens;
pub mod trace;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use self::body_guard::BodyBudget;
use self::error::{ApiError, NO_PROCEDURE};
use self::gate::Gate;
use self::page_headers::Pages;
pub use self::server::serve;
use self::state::AdminState;
use crate::metrics;
use crate::settings::Settings;

/// What every route's path begins with.
pub const BASE_PATH: &str = "/api/v2/admin";

/// What all requests share.
struct Bounds {
    places: Semaphore,
    bodies: Arc<BodyBudget>,
    timeout: Duration,
}

/// The admin API: all routes behind their gate and within their limits.
pub fn router(state: AdminState) -> Router {
    let bounds = Arc::new(Bounds::new(&state.settings));
    let pages = Pages::new(&state.settings.admin);
    Router::new()
        .nest(BASE_PATH, resources())
        .route_layer(middleware::from_fn_with_state(Gate::new(state.clone()), gate::pass))
        .fallback(unknown_route)
        .layer(middleware::from_fn_with_state(bounds, keep_bounds))
        .layer(middleware::from_fn_with_state(pages, page_headers::tell))
        .with_state(state)
}

/// All routes; each has its row in [`access`].
fn resources() -> Router<AdminState> {
    let routes = [
        audit::routes(),
        config_by_id::routes(),
        config_test::routes(),
        configs::routes(),
        event_types::routes(),
        jobs::routes(),
        log_curl::routes(),
        log_retry::routes(),
        log_stream::routes(),
        logs::routes(),
        openapi::routes(),
        publish::routes(),
        rejected::routes(),
        stats::routes(),
        tokens::routes(),
        trace::routes(),
    ];
    routes.into_iter().fold(Router::new(), Router::merge)
}

/// Refuses what is over the limit of requests in flight (waiting would only move the queue into memory), guards the
/// body, and gives up on what takes too long.
async fn keep_bounds(State(bounds): State<Arc<Bounds>>, request: Request, next: Next) -> Response {
    let Ok(_place) = bounds.places.try_acquire() else {
        metrics::admin_refused("requests");
        let message = "too many requests in flight";
        return ApiError::unavailable(NO_PROCEDURE, message, Duration::from_secs(1)).into_response();
    };
    let (parts, body) = request.into_parts();
    let (body, _share) = bounds.bodies.guard(body);
    let answer = next.run(Request::from_parts(parts, body));
    match tokio::time::timeout(bounds.timeout, answer).await {
        Ok(response) => response,
        Err(_) => {
            metrics::admin_refused("request time");
            let seconds = bounds.timeout.as_secs_f64();
            let message = format!("not finished within {seconds} s; it may or may not have been carried out");
            ApiError::not_finished(NO_PROCEDURE, message).into_response()
        }
    }
}

async fn unknown_route() -> ApiError {
    ApiError::not_found(NO_PROCEDURE, "no such route")
}

// === impl Bounds ===

impl Bounds {
    fn new(settings: &Settings) -> Self {
        Self {
            places: Semaphore::new(settings.limits.admin_requests_max as usize),
            bodies: BodyBudget::new(&settings.admin),
            timeout: settings.admin.request_timeout,
        }
    }
}
