//! `GET /webhooks/logs/{deliveryId}/curl` (docs/WIRE.md section 12).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::described::DeliveryIdText;
use super::error::ApiError;
use super::logs::find_one;
use super::state::AdminState;
use crate::domain::config::{Config, HttpMethod, StoredConfig};
use crate::domain::curl::{self, Request};
use crate::domain::ids::{DeliveryId, InvalidId, OrganisationId};
use crate::redis::log_search::DeliveryDetail;

const PROCEDURE: &str = "getWebhookLogCurl";

/// What an attempt is sent as, unless its config has a `User-Agent` of its own.
const AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// A request that can be repeated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurlAnswer {
    #[schema(value_type = DeliveryIdText)]
    delivery_id: String,
    /// The attempt that is repeated; 0 while there was none.
    attempt: u32,
    /// A script for a POSIX shell. It asks for the secret in the variable WEBHOOK_SECRET.
    command: String,
    /// The variables that the script needs.
    #[schema(examples("WEBHOOK_SECRET", "HEADER_X_API_KEY"))]
    variables: Vec<String>,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/logs/{deliveryId}/curl", get(get_curl))
}

/// Repeat an attempt with curl
///
/// A shell script that sends the same method, URL, headers and bytes. It holds no secret.
#[utoipa::path(
    get, path = "/webhooks/logs/{deliveryId}/curl", operation_id = "getWebhookLogCurl", tag = "inspect",
    params(
        ("deliveryId" = inline(DeliveryIdText), Path, description = "The delivery."),
        ("attempt" = Option<u32>, Query, description = "Which attempt; the last one unless given.",
            minimum = 1, maximum = 4_294_967_295_u32),
    ),
    responses((status = 200, description = "A shell script that repeats the request.", body = CurlAnswer)),
)]
pub(super) async fn get_curl(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<CurlAnswer>, ApiError> {
    let id = path
        .map_err(|rejection| rejection.body_text())
        .and_then(|Path(text)| text.parse::<DeliveryId>().map_err(|error: InvalidId| error.to_string()));
    let wanted = attempt_of(query.as_deref().unwrap_or_default());
    let (id, wanted) = match (id, wanted) {
        (Ok(id), Ok(wanted)) => (id, wanted),
        (id, wanted) => {
            let mistakes = [id.err().map(|what| format!("path.deliveryId: {what}")), wanted.err()];
            let message = mistakes.into_iter().flatten().collect::<Vec<_>>().join("; ");
            return Err(ApiError::bad_request(PROCEDURE, message));
        }
    };
    let (_, detail) = find_one(&state, &caller.organisation, id, PROCEDURE).await?;
    answer(&state, &caller.organisation, &detail, wanted).map(Json)
}

fn answer(
    state: &AdminState,
    organisation: &OrganisationId,
    detail: &DeliveryDetail,
    wanted: Option<u32>,
) -> Result<CurlAnswer, ApiError> {
    let view = &detail.view;
    let attempt = wanted.unwrap_or(view.attempts);
    if attempt > view.attempts || wanted == Some(0) {
        let message = format!("query.attempt: the delivery has {} attempts", view.attempts);
        return Err(ApiError::not_found(PROCEDURE, message));
    }
    let url = match detail.urls.get(&attempt) {
        Some(url) => Some(url),
        None if attempt == view.attempts => view.url.as_ref(),
        None => None,
    };
    let gone = |what: &str| ApiError::conflict(PROCEDURE, format!("{what} is no longer kept"));
    let url = url.ok_or_else(|| gone("that attempt's URL"))?;
    let payload = detail.payload.as_deref().ok_or_else(|| gone("the payload"))?;
    let body = std::str::from_utf8(payload).map_err(|_| gone("the payload as text"))?;
    let configs = state.directory.configs();
    let config = configs.get(organisation, view.config).and_then(|stored| match &**stored {
        StoredConfig::Config(config) => Some(config),
        StoredConfig::Tombstone(_) => None,
    });
    let hidden: Vec<&str> = config.map(hidden_names).unwrap_or_default();
    let id = view.delivery.to_string();
    let mut headers = vec![
        ("Content-Type", "application/json"),
        ("X-Nudj-Event", view.event_type.as_ref()),
        ("X-Nudj-Delivery-Id", id.as_str()),
    ];
    if !hidden.iter().any(|name| name.eq_ignore_ascii_case("user-agent")) {
        headers.push(("User-Agent", AGENT));
    }
    headers.extend(detail.traceparent.as_deref().map(|value| ("traceparent", value)));
    let variables = std::iter::once(curl::SECRET_VARIABLE.to_owned())
        .chain(hidden.iter().map(|name| curl::variable(name)))
        .collect();
    let method = config.map_or(HttpMethod::Post, |config| config.http_method).to_http();
    let command = curl::script(&Request { method: method.as_str(), url, headers, hidden, body });
    Ok(CurlAnswer { delivery_id: id, attempt, command, variables })
}

fn hidden_names(config: &Config) -> Vec<&str> {
    config.headers.as_map().keys().map(String::as_str).collect()
}

/// `attempt=N` of the query; another parameter is refused.
fn attempt_of(query: &str) -> Result<Option<u32>, String> {
    let mut attempt = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "attempt" {
            let shown: String = name.chars().take(64).collect();
            return Err(format!("query.{shown}: not supported; known is attempt"));
        }
        if attempt.is_some() {
            return Err("query.attempt: given more than once".to_owned());
        }
        let number = value.parse::<u32>().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
        attempt = Some(number.ok_or("query.attempt: expected a whole number from 1")?);
    }
    Ok(attempt)
}
