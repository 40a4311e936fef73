//! `GET` and `PUT /webhooks/configs` (docs/WIRE.md section 6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::read_body;
use super::config_body::{ConfigBody, HEADER_MASK, Shape};
use super::config_certificate::ShownCertificate;
use super::config_edit::{Refusal, apply};
use super::described::{
    ConfigIdText, ConfigsBody, EntityFiltersMap, MaskedHeaders, RetryStatus, SubscriptionText, Time, UrlText,
};
use super::error::ApiError;
use super::state::AdminState;
use crate::domain::breaker::{BreakerState, Health};
use crate::domain::clock::UnixMillis;
use crate::domain::config::{BodyFormat, Config, DisabledReason, EntityFilters, HttpMethod, StoredConfig};
use crate::domain::rate_limit::RateLimit;
use crate::domain::retry_on::RetryOn;
use crate::domain::retry_policy::RetryPolicy;
use crate::redis::configs::{ChangeError, Edit, NewIds, change_configs};

const GET_CONFIGS: &str = "getWebhookConfigs";
const UPDATE_CONFIGS: &str = "updateWebhookConfigs";

/// Lets one change at a time through from this replica: they would otherwise only make each other try again.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

/// A config as answers show it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Config)]
pub(super) struct ShownConfig {
    #[schema(value_type = ConfigIdText)]
    id: String,
    #[schema(value_type = UrlText)]
    url: String,
    /// The event types that it wants.
    #[schema(value_type = Vec<SubscriptionText>, min_items = 1, max_items = 256)]
    events: Vec<String>,
    /// Whole in the answer that made it, masked ever after.
    #[schema(min_length = 1, max_length = 256, examples("whsec_****9f3a"))]
    secret: String,
    /// The secret before, while it still signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    previous_secret: Option<ShownSecret>,
    /// False pauses without deleting.
    active: bool,
    /// Equals `active`.
    is_enabled: bool,
    /// Automatic retries after the first attempt.
    #[schema(minimum = 0, maximum = 10)]
    max_retries: u32,
    retry_policy: RetryPolicy,
    /// Statuses that are retried besides 5xx.
    #[schema(value_type = Vec<RetryStatus>)]
    retry_on: RetryOn,
    #[schema(required)]
    rate_limit: Option<RateLimit>,
    #[schema(value_type = MaskedHeaders)]
    headers: BTreeMap<String, &'static str>,
    /// The method of its deliveries.
    http_method: HttpMethod,
    /// The format of their bodies.
    body_format: BodyFormat,
    #[schema(value_type = EntityFiltersMap)]
    entity_filters: EntityFilters,
    /// Whether deliveries also carry the headers of Standard Webhooks.
    standard_webhooks: bool,
    /// Whether the log keeps payloads.
    log_payloads: bool,
    /// What it shows to an endpoint that asks for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_certificate: Option<ShownCertificate>,
    #[schema(value_type = Time)]
    created_at: String,
    #[schema(value_type = Time)]
    updated_at: String,
    /// Only where Postrider disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disabled_reason: Option<DisabledReason>,
    /// Only where Postrider disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    disabled_at: Option<String>,
    /// Only while an active config fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    health: Option<ShownHealth>,
}

/// The secret before, while it still signs; always masked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PreviousSecret)]
struct ShownSecret {
    #[schema(examples("whsec_****9f3a"))]
    secret: String,
    /// Until when it signs.
    #[schema(value_type = Time)]
    until: String,
}

/// How an endpoint does, as answers show it; left out while nothing is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Health)]
struct ShownHealth {
    state: BreakerState,
    /// The last failure.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// Since when it has that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    since: Option<String>,
    /// When one delivery is sent to see whether it works again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    next_probe_at: Option<String>,
    /// Since when there is nothing but failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    failing_since: Option<String>,
}

/// The organisation's whole set.
#[derive(Serialize, ToSchema)]
#[schema(as = WrappedConfigs)]
pub(super) struct Wrapped {
    configs: Vec<ShownConfig>,
}

/// The resulting configs, in the request's own shape.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ConfigsAnswer)]
#[allow(clippy::large_enum_variant)] // One a request.
pub(super) enum PutAnswer {
    /// For one config.
    One(ShownConfig),
    /// For an array.
    All(Vec<ShownConfig>),
    /// For an array under the name `configs`.
    Wrapped(Wrapped),
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/webhooks/configs", get(list_configs).put(put_configs))
        .layer(Extension(Turn::default()))
}

/// List the organisation's configs
///
/// In the order of their making, secrets masked.
#[utoipa::path(
    get,
    path = "/webhooks/configs",
    operation_id = "getWebhookConfigs",
    tag = "configs",
    responses((status = 200, description = "The configs.", body = Vec<ShownConfig>)),
)]
pub(super) async fn list_configs(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let set = state.directory.configs();
    if !set.complete {
        let wait = Duration::from_secs(1);
        return Err(ApiError::unavailable(GET_CONFIGS, "starting: configs are not read yet", wait));
    }
    let mut configs: Vec<&Config> = set
        .of(&caller.organisation)
        .iter()
        .filter_map(|stored| match &**stored {
            StoredConfig::Config(config) => Some(config),
            StoredConfig::Tombstone(_) => None,
        })
        .collect();
    // The order of their making: ids begin with random digits and end with their number.
    configs.sort_by_key(|config| (config.created_at, config.id.sequence()));
    let shown: Vec<ShownConfig> = configs.into_iter().map(|config| show(&state, config)).collect();
    Ok(Json(shown).into_response())
}

/// A config with its health.
pub(super) fn show(state: &AdminState, config: &Config) -> ShownConfig {
    let health = state.directory.health();
    let known = health.get(&config.id).filter(|_| config.active).map(|known| ShownHealth::of(known));
    ShownConfig { health: known, ..ShownConfig::of(config, false, state.clock.now()) }
}

/// Make, change or delete configs
///
/// One object makes or changes one config; an array is the organisation's whole set, and what is not in it is
/// deleted. A config is taken for an existing one when it has the same `id`, else when it has none and the same
/// `url`. All or nothing.
#[utoipa::path(
    put,
    path = "/webhooks/configs",
    operation_id = "updateWebhookConfigs",
    tag = "configs",
    request_body = ConfigsBody,
    responses((
        status = 200,
        description = "The resulting configs, in the request's own shape. The secret of a new one is shown, once.",
        body = PutAnswer,
        headers(("X-Postrider-Ignored" = String, description = "Only where there are any: names of fields that \
                 nobody knows.")),
    )),
)]
pub(super) async fn put_configs(
    State(state): State<AdminState>,
    Extension(turn): Extension<Turn>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = read_body(request.into_body(), UPDATE_CONFIGS).await?;
    let body = ConfigBody::parse(&bytes, state.settings.delivery.allow_http)
        .map_err(|mistakes| ApiError::bad_request(UPDATE_CONFIGS, mistakes.to_string()))?;
    // A body with mistakes changes nothing: what is stored is only asked for the rest of them.
    let is_wrong = !body.mistakes.is_empty();
    let _turn = if is_wrong { None } else { Some(turn.0.lock().await) };
    let organisation = &caller.organisation;
    let now = state.clock.now();
    let deleted = |stored: &&Arc<StoredConfig>| matches!(&***stored, StoredConfig::Tombstone(_));
    let edit = |stored: &[Config], ids: &mut _| {
        let deleted = state.directory.configs().of(organisation).iter().filter(deleted).count();
        apply(&body, organisation, stored, deleted, ids, now)
    };
    let results = match change(&state, &caller, UPDATE_CONFIGS, edit).await {
        Err(error) if is_wrong && error.status().is_server_error() => {
            return Err(ApiError::bad_request(UPDATE_CONFIGS, body.mistakes.to_string()));
        }
        results => results?,
    };
    let mut shown = results.iter().map(|result| ShownConfig::of(&result.config, result.created, now));
    let answer = match body.shape {
        // A single object gives one result.
        Shape::Single => shown.next().map(PutAnswer::One),
        Shape::List => Some(PutAnswer::All(shown.collect())),
        Shape::Wrapped => Some(PutAnswer::Wrapped(Wrapped { configs: shown.collect() })),
    };
    let mut response = Json(answer).into_response();
    body.ignored.tell(&mut response);
    Ok(response)
}

/// Changes the caller's configs, and says what kept it from being done.
pub(super) async fn change<R>(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    edit: impl FnMut(&[Config], &mut NewIds) -> Result<Edit<R>, Refusal>,
) -> Result<R, ApiError> {
    let by = caller.by(procedure);
    match change_configs(&state.redis, &state.directory, &caller.organisation, &by, edit).await {
        Ok(results) => Ok(results),
        Err(ChangeError::Refused(Refusal::Invalid(mistakes))) => {
            Err(ApiError::bad_request(procedure, mistakes.to_string()))
        }
        Err(ChangeError::Refused(Refusal::NotFound(message))) => Err(ApiError::not_found(procedure, message)),
        Err(ChangeError::Refused(Refusal::Conflict(message))) => Err(ApiError::conflict(procedure, message)),
        Err(ChangeError::Contended) => {
            let message = "others kept changing this organisation's configs; nothing was changed, try again";
            Err(ApiError::conflict(procedure, message))
        }
        Err(error @ (ChangeError::Refused(Refusal::Exhausted) | ChangeError::Exhausted)) => {
            Err(ApiError::internal(procedure, format_args!("no config number is left: {error:?}")))
        }
        Err(ChangeError::Redis(error)) => Err(ApiError::from_redis(procedure, &error)),
    }
}

// === impl ShownConfig ===

impl ShownConfig {
    /// The config as answers of `now` show it, its secret whole where `whole`.
    pub(super) fn of(config: &Config, whole: bool, now: UnixMillis) -> Self {
        let secret = if whole { config.secret.expose().to_owned() } else { config.secret.masked() };
        Self {
            id: config.id.to_string(),
            url: config.url.as_str().to_owned(),
            events: config.events.iter().map(|event| event.as_str().to_owned()).collect(),
            secret,
            previous_secret: config.previous_secret_at(now).map(|previous| ShownSecret {
                secret: previous.secret.masked(),
                until: previous.until.to_string(),
            }),
            active: config.active,
            is_enabled: config.active,
            max_retries: config.max_retries,
            retry_policy: config.retry_policy,
            retry_on: config.retry_on,
            rate_limit: config.rate_limit,
            headers: config.headers.as_map().keys().map(|name| (name.clone(), HEADER_MASK)).collect(),
            http_method: config.http_method,
            body_format: config.body_format,
            entity_filters: config.entity_filters.clone(),
            standard_webhooks: config.standard_webhooks,
            log_payloads: config.log_payloads,
            client_certificate: config.client_certificate.as_ref().map(ShownCertificate::of),
            created_at: config.created_at.to_string(),
            updated_at: config.updated_at.to_string(),
            disabled_reason: config.disabled.as_ref().map(|disabled| disabled.reason),
            disabled_at: config
                .disabled
                .as_ref()
                .map(|disabled| disabled.at)
                .map(|at: UnixMillis| at.to_string()),
            health: None,
        }
    }
}

// === impl ShownHealth ===

impl ShownHealth {
    fn of(health: &Health) -> Self {
        let known = |at: UnixMillis| (at != UnixMillis::default()).then(|| at.to_string());
        Self {
            state: health.state,
            reason: health.reason.clone(),
            since: known(health.since),
            next_probe_at: known(health.until).filter(|_| health.state == BreakerState::Open),
            failing_since: health.failing_since.map(|at| at.to_string()),
        }
    }
}
