//! `GET /webhooks/logs` and `GET /webhooks/logs/{deliveryId}` (docs/WIRE.md section 7).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};

use super::auth::{READ_LOGS, authenticate};
use super::error::ApiError;
use super::log_query::LogParameters;
use super::log_record::{LogDetail, LogsAnswer};
use super::state::AdminState;
use crate::domain::ids::{ConfigId, DeliveryId, InvalidId, OrganisationId};
use crate::domain::owned_config::OwnedConfig;
use crate::redis::log_search::{DeliveryDetail, find_deliveries, find_delivery};

const LIST: &str = "getWebhookLogs";
const ONE: &str = "getWebhookLog";

/// The routes of the log.
pub fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/logs", get(list)).route("/webhooks/logs/{deliveryId}", get(one))
}

async fn list(
    State(state): State<AdminState>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<LogsAnswer>, ApiError> {
    let caller = authenticate(&state, &headers, LIST, READ_LOGS).await?;
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
        tracing::warn!(organisation, unreadable = answer.unreadable, "parts of the log cannot be understood");
    }
    Ok(Json(answer.into()))
}

async fn one(
    State(state): State<AdminState>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<LogDetail>, ApiError> {
    let caller = authenticate(&state, &headers, ONE, READ_LOGS).await?;
    let malformed = |what: String| ApiError::bad_request(ONE, format!("path.deliveryId: {what}"));
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    let id: DeliveryId = text.parse().map_err(|error: InvalidId| malformed(error.to_string()))?;
    let detail = find_own(&state, &caller.organisation, id, ONE).await?;
    Ok(Json(detail.into()))
}

/// One delivery of the organisation.
///
/// # Errors
/// 404 where the organisation's logs do not know it.
pub(super) async fn find_own(
    state: &AdminState,
    organisation: &OrganisationId,
    id: DeliveryId,
    procedure: &'static str,
) -> Result<DeliveryDetail, ApiError> {
    // The sequence number is a config's alone; where an old keyspace used one twice, both are asked.
    let configs = owned_by(state, organisation);
    for config in configs.iter().filter(|config| config.id().sequence() == id.config()) {
        let found = find_delivery(&state.redis, &state.shards, config, id).await;
        if let Some(detail) = found.map_err(|error| ApiError::from_redis(procedure, &error))? {
            return Ok(detail);
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
