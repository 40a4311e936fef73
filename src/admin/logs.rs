//! `GET /webhooks/logs` and `GET /webhooks/logs/{deliveryId}` (docs/WIRE.md section 7).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};

use super::auth::Caller;
use super::described::{ConfigIdText, CursorText, DeliveryIdText, EventTypeText, StatusWord, Time};
use super::error::ApiError;
use super::log_query::LogParameters;
use super::log_record::{LogDetail, LogsAnswer};
use super::state::AdminState;
use crate::domain::ids::{ConfigId, DeliveryId, InvalidId, OrganisationId};
use crate::domain::log_limit::limited;
use crate::domain::owned_config::OwnedConfig;
use crate::redis::log_search::{DeliveryDetail, find_deliveries, find_delivery};

const LIST: &str = "getWebhookLogs";
const ONE: &str = "getWebhookLog";

/// The routes of the log.
pub fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/logs", get(list)).route("/webhooks/logs/{deliveryId}", get(one))
}

/// List deliveries
///
/// Newest first, one record per delivery. A parameter with another name is refused, and so is one that is given
/// twice: a typing error must not widen a query silently.
#[utoipa::path(
    get,
    path = "/webhooks/logs",
    operation_id = "getWebhookLogs",
    tag = "logs",
    params(
        ("webhookConfigId" = inline(Option<ConfigIdText>), Query, description = "Only this config's deliveries."),
        ("event" = inline(Option<EventTypeText>), Query, description = "Only this event type."),
        ("status" = inline(Option<StatusWord>), Query, description = "Only this state."),
        ("since" = inline(Option<Time>), Query, description = "Not before this time of the last attempt."),
        ("until" = inline(Option<Time>), Query, description = "Before this time of the last attempt."),
        ("eventSubCategory" = inline(Option<EventTypeText>), Query, description = "Another name of event."),
        ("success" = Option<bool>, Query, description = "True: delivered. False: retrying or failed."),
        ("fromDate" = inline(Option<Time>), Query, description = "Another name of since."),
        ("startDate" = inline(Option<Time>), Query, description = "Another name of since."),
        ("toDate" = inline(Option<Time>), Query, description = "Another name of until."),
        ("endDate" = inline(Option<Time>), Query, description = "Another name of until."),
        ("limit" = Option<u32>, Query, description = "At most so many.", minimum = 1, maximum = 100),
        ("skip" = Option<u32>, Query, description = "Leave out so many first; not beside `cursor`.", minimum = 0,
            maximum = 10_000),
        ("cursor" = inline(Option<CursorText>), Query,
            description = "`nextCursor` of an earlier answer to the same filters."),
    ),
    responses((status = 200, description = "The deliveries that match.", body = LogsAnswer)),
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<LogsAnswer>, ApiError> {
    let mut parameters = LogParameters::parse(query.as_deref().unwrap_or_default())
        .map_err(|message| ApiError::bad_request(LIST, message))?;
    parameters.asked_by(&caller.organisation).map_err(|message| ApiError::bad_request(LIST, message))?;
    let configs = match parameters.config {
        Some(id) => vec![
            owned(&state, &caller.organisation, id)
                .ok_or_else(|| ApiError::not_found(LIST, "query.webhookConfigId: no such config"))?,
        ],
        None => owned_by(&state, &caller.organisation),
    };
    let answer = find_deliveries(&state.redis, &state.shards, &configs, &parameters.query).await;
    let answer = answer.map_err(|error| ApiError::from_redis(LIST, &error))?;
    if answer.unreadable > 0 {
        let organisation = caller.organisation.as_str();
        limited!(warn, organisation, unreadable = answer.unreadable, "parts of the log cannot be understood");
    }
    Ok(Json(answer.into()))
}

/// Read one delivery
///
/// With the body that was sent, and every attempt that is still known.
#[utoipa::path(
    get,
    path = "/webhooks/logs/{deliveryId}",
    operation_id = "getWebhookLog",
    tag = "logs",
    params(("deliveryId" = inline(DeliveryIdText), Path, description = "The delivery.")),
    responses((status = 200, description = "The delivery.", body = LogDetail)),
)]
pub(super) async fn one(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<LogDetail>, ApiError> {
    let id = delivery_id(path, ONE)?;
    let (_, detail) = find_one(&state, &caller.organisation, id, ONE).await?;
    Ok(Json(detail.into()))
}

/// The id in a path.
pub(super) fn delivery_id(
    path: Result<Path<String>, PathRejection>,
    procedure: &'static str,
) -> Result<DeliveryId, ApiError> {
    let malformed = |what: String| ApiError::bad_request(procedure, format!("path.deliveryId: {what}"));
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse().map_err(|error: InvalidId| malformed(error.to_string()))
}

/// A delivery of the organisation, and its config.
pub(super) async fn find_one(
    state: &AdminState,
    organisation: &OrganisationId,
    id: DeliveryId,
    procedure: &'static str,
) -> Result<(OwnedConfig, DeliveryDetail), ApiError> {
    // The sequence number is a config's alone; where an old keyspace used one twice, both are asked.
    let configs = owned_by(state, organisation);
    for config in configs.into_iter().filter(|config| config.id().sequence() == id.config()) {
        let found = find_delivery(&state.redis, &state.shards, &config, id).await;
        if let Some(detail) = found.map_err(|error| ApiError::from_redis(procedure, &error))? {
            return Ok((config, detail));
        }
    }
    Err(ApiError::not_found(procedure, "path.deliveryId: no such delivery"))
}

/// Every config of the organisation, deleted ones whose log may remain included.
pub(super) fn owned_by(state: &AdminState, organisation: &OrganisationId) -> Vec<OwnedConfig> {
    let configs = state.directory.configs();
    configs.of(organisation).iter().filter_map(|stored| OwnedConfig::prove(stored, organisation)).collect()
}

/// One config, if it is the organisation's.
fn owned(state: &AdminState, organisation: &OrganisationId, id: ConfigId) -> Option<OwnedConfig> {
    let configs = state.directory.configs();
    configs.get(organisation, id).and_then(|stored| OwnedConfig::prove(stored, organisation))
}
