//! `POST /webhooks/configs/{id}/test`: an event for one config, through the whole pipeline (docs/WIRE.md section 11).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::audit;
use super::auth::Caller;
use super::body::{Ignored, Mistakes, read_body};
use super::config_by_id::{IdPath, config_id, unknown};
use super::described::{ConfigIdText, DeliveryIdText, EventTypeText, NonceText, StatusWord};
use super::error::ApiError;
use super::log_record::LogRecord;
use super::state::AdminState;
use crate::domain::catalogue;
use crate::domain::config::StoredConfig;
use crate::domain::event::{DATA_MAX_BYTES, EventFields, JsonScratch};
use crate::domain::ids::{ConfigId, DeliveryId, OrganisationId};
use crate::domain::log_limit::limited;
use crate::domain::log_view::DeliveryView;
use crate::domain::owned_config::OwnedConfig;
use crate::redis::log_search::find_delivery;
use crate::redis::publish::{Item, MemoryWatch, Published, publish};
use crate::settings::Settings;

const TEST: &str = "testWebhookConfig";

/// Longest time that a test may ask to wait for its result, in seconds.
const WAIT_MAX: u64 = 60;
/// What it waits beyond the deadline of an attempt unless it says otherwise, for the event to be read and settled.
const WAIT_BEYOND: Duration = Duration::from_secs(5);
/// What is left of the time for a request when a test stops waiting, so that it is answered.
const WAIT_BEFORE: Duration = Duration::from_secs(3);

/// Tests that wait at a time in one replica; a further one is published and answered at once.
const WAITING_MAX: usize = 32;

/// First and longest pause between two looks at the log.
const LOOK_MIN: Duration = Duration::from_millis(25);
const LOOK_MAX: Duration = Duration::from_millis(800);

/// What a caller is told to wait when Redis is nearly full.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(5);

/// The body of a test.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // Its schema; the body is parsed by hand, so that the bytes of data are kept.
struct TestBody {
    /// The event's type, `webhook.test` unless given; any will do, whatever the config subscribes to.
    #[schema(value_type = Option<EventTypeText>)]
    event: Option<String>,
    /// The event's data; a sample unless given.
    #[schema(value_type = Option<Object>)]
    data: Option<serde_json::Value>,
}

/// The answer: the event's nonce, and the delivery as the log shows it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TestedDelivery)]
struct Tested {
    #[schema(value_type = NonceText)]
    nonce: String,
    /// How long the attempt took; not there without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u32, required = false)]
    duration_ms: Option<u32>,
    #[serde(flatten)]
    record: LogRecord,
}

/// The answer while nothing of the delivery is known.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UntoldDelivery)]
struct Untold {
    #[schema(value_type = NonceText)]
    nonce: String,
    #[schema(value_type = DeliveryIdText)]
    delivery_id: String,
    #[schema(value_type = ConfigIdText)]
    webhook_config_id: String,
    #[schema(value_type = EventTypeText)]
    event: String,
    #[schema(value_type = StatusWord)]
    status: &'static str,
    attempts: u32,
}

/// What the two are made in.
#[derive(Clone)]
pub(super) struct Shared {
    memory: Arc<MemoryWatch>,
    waiting: Arc<Semaphore>,
}

/// The route of this file.
pub(super) fn routes() -> Router<AdminState> {
    let shared = Shared { memory: Arc::default(), waiting: Arc::new(Semaphore::new(WAITING_MAX)) };
    Router::new().route("/webhooks/configs/{id}/test", post(test_config)).layer(Extension(shared))
}

/// Test a config
///
/// Sends an event to this config alone, and answers what came of its first attempt.
#[utoipa::path(post, path = "/webhooks/configs/{id}/test", operation_id = "testWebhookConfig", tag = "configs",
    params(("id" = inline(ConfigIdText), Path, description = "The config's id"),
        ("wait" = Option<u64>, Query, description = "Longest wait for the result in seconds; 5 more than an attempt may take (35) unless given.",
            minimum = 0, maximum = 60)),
    request_body = Option<TestBody>,
    responses((status = 200, description = "The delivery after its first attempt", body = Tested),
        (status = 202, description = "Published; there is no result yet", body = Untold)))]
pub(super) async fn test_config(
    State(state): State<AdminState>,
    caller: Caller,
    Extension(shared): Extension<Shared>,
    path: IdPath,
    request: Request,
) -> Result<Response, ApiError> {
    let id = config_id(path, TEST)?;
    let asked = parse_wait(request.uri().query())?;
    let bytes = read_body(request.into_body(), TEST).await?;
    let config = active_config(&state, &caller, id)?;
    let (event, item, ignored) = parse(&bytes, &caller.organisation, id)?;
    let from_redis = |error| ApiError::from_redis(TEST, &error);
    if shared.memory.is_full(&state.redis).await.map_err(from_redis)? {
        let message = "the store is nearly full; nothing was published";
        return Err(ApiError::unavailable(TEST, message, RETRY_AFTER_FULL));
    }
    let receipt = publish(&state.redis, &state.shards, &caller.organisation, &[item], None).await;
    let published = receipt.map_err(from_redis)?.events.into_iter().next();
    let Published { id: published, nonce, .. } =
        published.ok_or_else(|| ApiError::internal(TEST, "publishing told of no event"))?;
    let delivery = published.delivery(id.sequence());
    let after = json!({ "event": event, "deliveryId": delivery.to_string() });
    audit::note(&state, &caller, TEST, id, None, Some(after)).await;
    let place = shared.waiting.try_acquire().ok();
    let wait = if place.is_some() { wait(&state.settings, asked) } else { Duration::ZERO };
    let found = wait_for_result(&state, &config, delivery, wait).await;
    let status = if found.as_ref().is_some_and(is_told) { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = match found {
        Some(view) => {
            let duration_ms = view.attempt_log.last().map(|line| line.took_ms);
            (status, Json(Tested { nonce, duration_ms, record: view.into() })).into_response()
        }
        None => {
            let (delivery_id, webhook_config_id) = (delivery.to_string(), id.to_string());
            let untold =
                Untold { nonce, delivery_id, webhook_config_id, event, status: "pending", attempts: 0 };
            (status, Json(untold)).into_response()
        }
    };
    ignored.tell(&mut response);
    Ok(response)
}

/// The config, if something can be sent to it.
fn active_config(state: &AdminState, caller: &Caller, id: ConfigId) -> Result<OwnedConfig, ApiError> {
    let set = state.directory.configs();
    let stored = set.get(&caller.organisation, id).ok_or_else(|| unknown(TEST))?;
    match &**stored {
        StoredConfig::Config(config) if config.active => {
            OwnedConfig::prove(stored, &caller.organisation).ok_or_else(|| unknown(TEST))
        }
        StoredConfig::Config(config) => {
            let message = match config.disabled {
                None => "the config is paused: nothing is sent to it; resume it first",
                Some(_) => "the config is disabled: nothing is sent to it; resume it first",
            };
            Err(ApiError::conflict(TEST, message))
        }
        StoredConfig::Tombstone(_) => Err(unknown(TEST)),
    }
}

/// Looks at the delivery until its first attempt is over, or it ended without one, or the time is. The event is
/// published: a log that cannot be read only means that there is no result yet.
async fn wait_for_result(
    state: &AdminState,
    config: &OwnedConfig,
    delivery: DeliveryId,
    wait: Duration,
) -> Option<DeliveryView> {
    let end = Instant::now() + wait;
    let mut pause = LOOK_MIN;
    loop {
        let found = find_delivery(&state.redis, &state.shards, config, delivery).await;
        let found = found.inspect_err(|error| limited!(warn, %error, "looking for a test's result failed"));
        let view = found.ok().flatten().map(|detail| detail.view);
        if view.as_ref().is_some_and(is_told) || Instant::now() >= end {
            return view;
        }
        tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

fn is_told(view: &DeliveryView) -> bool {
    view.attempts > 0 || view.reason.is_some()
}

/// The event of a test: its type, its entry, and fields that nobody knows.
fn parse(
    bytes: &[u8],
    organisation: &OrganisationId,
    config: ConfigId,
) -> Result<(String, Item, Ignored), ApiError> {
    let mut mistakes = Mistakes::default();
    let mut ignored = Ignored::default();
    let mut event = catalogue::TEST.to_owned();
    let mut data = None;
    let given = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    let fields = serde_json::from_slice::<std::collections::BTreeMap<String, &RawValue>>(given);
    let fields = fields.map_err(|error| format!("expected an object: {error}"));
    for (name, value) in mistakes.keep("body", fields).unwrap_or_default() {
        match name.as_str() {
            _ if value.get() == "null" => {}
            "event" => {
                let text = serde_json::from_str(value.get()).map_err(|_| "expected a string");
                event = mistakes.keep("body.event", text).unwrap_or(event);
            }
            "data" if value.get().len() > DATA_MAX_BYTES => {
                let message = format!("body.data: at most {DATA_MAX_BYTES} bytes are accepted");
                return Err(ApiError::too_large(TEST, message));
            }
            "data" => data = Some(value.get().as_bytes().to_vec()),
            _ => ignored.add(&name),
        }
    }
    let fields = EventFields {
        event: Some(event.clone().into_bytes()),
        data: Some(data.unwrap_or_else(|| sample(&event).into_bytes())),
        config_id: Some(config.to_string().into_bytes()),
        ..EventFields::default()
    };
    match Item::new(organisation, fields, &mut JsonScratch::default()) {
        Ok(item) if mistakes.is_empty() => return Ok((event, item, ignored)),
        Ok(_) => {}
        Err(rejections) => rejections
            .into_iter()
            .for_each(|one| mistakes.add(format_args!("body.{}", one.field), one.problem)),
    }
    Err(ApiError::bad_request(TEST, mistakes.to_string()))
}

/// The data of a test that brings none: what the catalogue shows of the type.
fn sample(event: &str) -> String {
    let of_unknown =
        || serde_json::json!({ "message": format!("A test event of type {event}.") }).to_string();
    catalogue::sample(event).map_or_else(of_unknown, str::to_owned)
}

/// How long a test waits for its result: as asked, and less than a request may take.
fn wait(settings: &Settings, asked: Option<Duration>) -> Duration {
    let usual =
        settings.delivery.request_timeout.saturating_add(WAIT_BEYOND).min(Duration::from_secs(WAIT_MAX));
    asked.unwrap_or(usual).min(settings.admin.request_timeout.saturating_sub(WAIT_BEFORE))
}

/// `wait=N` of the query, seconds.
fn parse_wait(query: Option<&str>) -> Result<Option<Duration>, ApiError> {
    let mut mistakes = Mistakes::default();
    let mut wait = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name != "wait" {
            mistakes.add(format_args!("query.{name}"), "unknown; expected wait");
        } else if wait.is_some() {
            mistakes.add("query.wait", "given twice");
        } else {
            let number = value.parse::<u64>().ok().filter(|number| *number <= WAIT_MAX);
            let wrong = format!("expected an integer from 0 to {WAIT_MAX}");
            wait = Some(mistakes.keep("query.wait", number.ok_or(wrong)).unwrap_or_default());
        }
    }
    if mistakes.is_empty() {
        Ok(wait.map(Duration::from_secs))
    } else {
        Err(ApiError::bad_request(TEST, mistakes.to_string()))
    }
}
