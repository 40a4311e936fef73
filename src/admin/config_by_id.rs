//! One config by its id: read, deleted, paused, resumed, its secret rotated (docs/WIRE.md sections 3, 6 and 11).

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::auth::Caller;
use super::body::{Mistakes, read_body, whole_number};
use super::config_body::SECRET_MASK;
use super::config_edit::Refusal;
use super::configs::{ShownConfig, change, show};
use super::described::ConfigIdText;
use super::error::ApiError;
use super::state::AdminState;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{Config, OVERLAP_DEFAULT, OVERLAP_MAX, StoredConfig, Tombstone};
use crate::domain::ids::{ConfigId, InvalidId};
use crate::domain::signature::Secret;
use crate::redis::configs::Edit;

const GET: &str = "getWebhookConfig";
const DELETE: &str = "deleteWebhookConfig";
const PAUSE: &str = "pauseWebhookConfig";
const RESUME: &str = "resumeWebhookConfig";
const ROTATE: &str = "rotateWebhookSecret";

/// The `{id}` of a path.
pub(super) type IdPath = Result<Path<String>, PathRejection>;

/// The body of a rotation.
#[derive(Debug, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(PartialEq, Eq))]
struct Rotation {
    /// The new secret, 1 to 256 bytes; made where it is left out.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$")]
    secret: Option<Secret>,
    /// Seconds for which the present one signs too: 0 to 2,592,000, 86,400 unless given.
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Duration,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/webhooks/configs/{id}", get(get_config).delete(delete_config))
        .route("/webhooks/configs/{id}/pause", post(pause_config))
        .route("/webhooks/configs/{id}/resume", post(resume_config))
        .route("/webhooks/configs/{id}/rotate-secret", post(rotate_secret))
}

/// One config.
#[utoipa::path(get, path = "/webhooks/configs/{id}", operation_id = "getWebhookConfig", tag = "configs",
    params(("id" = inline(ConfigIdText), Path, description = "The config's id")),
    responses((status = 200, description = "The config, as in the list", body = ShownConfig)))]
pub(super) async fn get_config(
    State(state): State<AdminState>,
    caller: Caller,
    path: IdPath,
) -> Result<Json<ShownConfig>, ApiError> {
    let id = config_id(path, GET)?;
    let set = state.directory.configs();
    if !set.complete {
        let wait = Duration::from_secs(1);
        return Err(ApiError::unavailable(GET, "starting: configs are not read yet", wait));
    }
    match set.get(&caller.organisation, id).map(|stored| &**stored) {
        Some(StoredConfig::Config(config)) => Ok(Json(show(&state, config))),
        Some(StoredConfig::Tombstone(_)) | None => Err(unknown(GET)),
    }
}

/// Deletes a config. What waits for it ends as failed; its log stays readable until it ages out.
#[utoipa::path(delete, path = "/webhooks/configs/{id}", operation_id = "deleteWebhookConfig", tag = "configs",
    params(("id" = inline(ConfigIdText), Path, description = "The config's id")),
    responses((status = 204, description = "Deleted")))]
pub(super) async fn delete_config(
    State(state): State<AdminState>,
    caller: Caller,
    path: IdPath,
) -> Result<StatusCode, ApiError> {
    let id = config_id(path, DELETE)?;
    let now = state.clock.now();
    let edit = |stored: &[Config], _: &mut _| {
        let before = find(stored, id)?;
        let tombstone = Tombstone {
            id,
            organisation: before.organisation.clone(),
            deleted_at: now,
            log_payloads: before.log_payloads,
        };
        let writes = vec![StoredConfig::Tombstone(tombstone)];
        Ok(Edit { writes, what: format!("config {id}: deleted"), answer: () })
    };
    change(&state, &caller, DELETE, edit).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses a config: new events make no delivery for it, and what waits keeps waiting. Idempotent.
#[utoipa::path(post, path = "/webhooks/configs/{id}/pause", operation_id = "pauseWebhookConfig", tag = "configs",
    params(("id" = inline(ConfigIdText), Path, description = "The config's id")),
    responses((status = 200, description = "The config, inactive", body = ShownConfig)))]
pub(super) async fn pause_config(
    State(state): State<AdminState>,
    caller: Caller,
    path: IdPath,
) -> Result<Json<ShownConfig>, ApiError> {
    let id = config_id(path, PAUSE)?;
    let config = change_one(&state, &caller, PAUSE, id, "paused", |config, _| config.active = false).await?;
    Ok(Json(show(&state, &config)))
}

/// Resumes a config that was paused or disabled, and forgets what was known of its failures. Idempotent.
#[utoipa::path(post, path = "/webhooks/configs/{id}/resume", operation_id = "resumeWebhookConfig", tag = "configs",
    params(("id" = inline(ConfigIdText), Path, description = "The config's id")),
    responses((status = 200, description = "The config, active", body = ShownConfig)))]
pub(super) async fn resume_config(
    State(state): State<AdminState>,
    caller: Caller,
    path: IdPath,
) -> Result<Json<ShownConfig>, ApiError> {
    let id = config_id(path, RESUME)?;
    let resume = |config: &mut Config, _| {
        config.active = true;
        config.disabled = None;
    };
    let config = change_one(&state, &caller, RESUME, id, "resumed", resume).await?;
    Ok(Json(show(&state, &config)))
}

/// Gives a config a new secret, which signs at once; the one before signs beside it for a while.
#[utoipa::path(post, path = "/webhooks/configs/{id}/rotate-secret", operation_id = "rotateWebhookSecret",
    tag = "configs", params(("id" = inline(ConfigIdText), Path, description = "The config's id")),
    request_body = Option<Rotation>,
    responses((status = 200, description = "The config, with the new secret, shown this once",
        body = ShownConfig)))]
pub(super) async fn rotate_secret(
    State(state): State<AdminState>,
    caller: Caller,
    path: IdPath,
    request: Request,
) -> Result<Json<ShownConfig>, ApiError> {
    let id = config_id(path, ROTATE)?;
    let bytes = read_body(request.into_body(), ROTATE).await?;
    let rotation =
        Rotation::parse(&bytes).map_err(|mistakes| ApiError::bad_request(ROTATE, mistakes.to_string()))?;
    let secret = rotation.secret.unwrap_or_else(Secret::generate);
    let rotate = |config: &mut Config, now| config.rotate(secret.clone(), rotation.overlap_seconds, now);
    let config = change_one(&state, &caller, ROTATE, id, "secret rotated", rotate).await?;
    Ok(Json(ShownConfig::of(&config, true, state.clock.now())))
}

/// Changes one config of the caller; writes nothing where nothing changes.
async fn change_one(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    id: ConfigId,
    what: &str,
    mut edit: impl FnMut(&mut Config, UnixMillis),
) -> Result<Config, ApiError> {
    let now = state.clock.now();
    let edit = |stored: &[Config], _: &mut _| {
        let before = find(stored, id)?;
        let mut after = before.clone();
        edit(&mut after, now);
        let mut writes = Vec::new();
        if after != *before {
            after.changed(now);
            writes.push(StoredConfig::Config(after.clone()));
        }
        Ok(Edit { writes, what: format!("config {id}: {what}"), answer: after })
    };
    change(state, caller, procedure, edit).await
}

/// The id of a path.
pub(super) fn config_id(path: IdPath, procedure: &'static str) -> Result<ConfigId, ApiError> {
    let malformed = |what: String| ApiError::bad_request(procedure, format!("path.id: {what}"));
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse().map_err(|error: InvalidId| malformed(error.to_string()))
}

/// Unknown, deleted, or another organisation's.
pub(super) fn unknown(procedure: &'static str) -> ApiError {
    ApiError::not_found(procedure, NO_CONFIG)
}

const NO_CONFIG: &str = "path.id: no config has this id";

fn find(stored: &[Config], id: ConfigId) -> Result<&Config, Refusal> {
    stored.iter().find(|config| config.id == id).ok_or_else(|| Refusal::NotFound(NO_CONFIG.to_owned()))
}

// === impl Rotation ===

impl Rotation {
    /// Parses a body; an empty one asks for the defaults. An unknown field is refused: an overlap that was misspelt
    /// would keep a leaked secret in use.
    fn parse(bytes: &[u8]) -> Result<Self, Mistakes> {
        let mut rotation = Self { secret: None, overlap_seconds: OVERLAP_DEFAULT };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(rotation);
        }
        let mut mistakes = Mistakes::default();
        let fields = match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => {
                mistakes.add("body", "expected an object");
                return Err(mistakes);
            }
            Err(error) => {
                mistakes.add("body", format_args!("invalid JSON: {error}"));
                return Err(mistakes);
            }
        };
        for (name, value) in fields {
            match name.as_str() {
                "secret" | "overlapSeconds" if value.is_null() => {}
                "secret" => rotation.secret = mistakes.keep("body.secret", secret(&value)),
                "overlapSeconds" => {
                    let seconds = whole_number(&value).filter(|seconds| *seconds <= OVERLAP_MAX.as_secs());
                    let wrong = format!("expected an integer from 0 to {}", OVERLAP_MAX.as_secs());
                    let seconds = mistakes.keep("body.overlapSeconds", seconds.ok_or(wrong));
                    rotation.overlap_seconds = Duration::from_secs(seconds.unwrap_or_default());
                }
                other => {
                    mistakes.add(format_args!("body.{other}"), "unknown; expected secret, overlapSeconds")
                }
            }
        }
        if mistakes.is_empty() { Ok(rotation) } else { Err(mistakes) }
    }
}

fn secret(value: &Value) -> Result<Secret, &'static str> {
    match value.as_str() {
        Some(text) if text.starts_with(SECRET_MASK) => Err("a masked secret; send a new one or leave it out"),
        Some(text) => Secret::new(text).ok_or("expected 1 to 256 bytes without control characters"),
        None => Err("expected a string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_understood_or_every_mistake_is_told() {
        let parse = |text: &str| Rotation::parse(text.as_bytes()).map_err(|mistakes| mistakes.to_string());
        let seconds = |text: &str| parse(text).unwrap().overlap_seconds.as_secs();
        assert_eq!(["", " ", "{}", r#"{"overlapSeconds": null}"#].map(seconds), [86_400; 4]);
        assert_eq!(seconds(r#"{"overlapSeconds": 0, "secret": "x"}"#), 0);
        assert_eq!(
            parse(r#"{"overlapSeconds": 2592001, "secret": "whsec_****abcd", "overlap": null}"#).unwrap_err(),
            "body.overlap: unknown; expected secret, overlapSeconds; \
             body.overlapSeconds: expected an integer from 0 to 2592000; \
             body.secret: a masked secret; send a new one or leave it out"
        );
        assert_eq!(parse("[]").unwrap_err(), "body: expected an object");
        assert!(parse("{").unwrap_err().starts_with("body: invalid JSON"));
    }
}
