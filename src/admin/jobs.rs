//! `POST /webhooks/configs/{id}/recover` and `.../replay`, and the jobs that they begin (docs/WIRE.md section 11).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::audit;
use super::auth::Caller;
use super::body::read_body;
use super::described::{ConfigIdText, JobIdText};
use super::error::ApiError;
use super::job_body::{Counted, JobRequest, JobRequestBody, ReplayRequestBody, ShownJob, ShownJobs};
use super::state::AdminState;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{Config, StoredConfig};
use crate::domain::ids::ConfigId;
use crate::domain::job::{Job, JobId, JobKind, JobState, Selection};
use crate::domain::owned_config::OwnedConfig;
use crate::redis::jobs::{self, Begun, StoredJob};
use crate::redis::{recover, replay};

const RECOVER: &str = "recoverWebhookConfig";
const REPLAY: &str = "replayWebhookConfig";
const LIST: &str = "getWebhookJobs";
const ONE: &str = "getWebhookJob";
const CANCEL: &str = "cancelWebhookJob";

/// A live config of the caller's organisation, and the proof of it.
struct Mine {
    config: Config,
    owned: OwnedConfig,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/webhooks/configs/{id}/recover", post(recover_failed))
        .route("/webhooks/configs/{id}/replay", post(replay_events))
        .route("/webhooks/configs/{id}/jobs", get(list))
        .route("/webhooks/configs/{id}/jobs/{jobId}", get(one))
        .route("/webhooks/configs/{id}/jobs/{jobId}/cancel", post(cancel))
}

/// Puts a config's failed deliveries back into its queue, or counts them.
#[utoipa::path(
    post,
    path = "/webhooks/configs/{id}/recover",
    operation_id = "recoverWebhookConfig",
    tag = "by hand",
    params(("id" = inline(ConfigIdText), Path, description = "The config")),
    request_body = Option<JobRequestBody>,
    responses(
        (status = 200, description = "A dry run: how many would be recovered", body = Counted),
        (status = 202, description = "The job has begun", body = ShownJob),
    )
)]
pub(super) async fn recover_failed(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let mine = live(&state, &caller, RECOVER, path)?;
    let asked = parse(request, RECOVER).await?;
    let now = state.clock.now();
    let selection = selection(&asked, asked.since.unwrap_or_default(), now);
    let found = recover::count(&state.redis, &state.shards, &mine.owned, &selection).await;
    let count = found.map_err(|error| ApiError::from_redis(RECOVER, &error))?;
    let total = Counted { count, count_is_floor: false };
    if asked.dry_run {
        return Ok(Json(total).into_response());
    }
    begin(&state, &caller, RECOVER, JobKind::Recover, &mine, &asked, selection, total).await
}

/// Brings retained events to a config again, or counts them.
#[utoipa::path(
    post,
    path = "/webhooks/configs/{id}/replay",
    operation_id = "replayWebhookConfig",
    tag = "by hand",
    params(("id" = inline(ConfigIdText), Path, description = "The config")),
    request_body = ReplayRequestBody,
    responses(
        (status = 200, description = "A dry run: how many would be replayed", body = Counted),
        (status = 202, description = "The job has begun", body = ShownJob),
    )
)]
pub(super) async fn replay_events(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let mine = live(&state, &caller, REPLAY, path)?;
    let asked = parse(request, REPLAY).await?;
    let Some(since) = asked.since else {
        return Err(ApiError::bad_request(REPLAY, "body.since: missing; it is required"));
    };
    let now = state.clock.now();
    check_retained(&state, since, now).await?;
    let selection = selection(&asked, since, now);
    let found = replay::count(&state.redis, &state.shards, &mine.config, &selection).await;
    let found = found.map_err(|error| ApiError::from_redis(REPLAY, &error))?;
    let total = Counted { count: found.count, count_is_floor: found.is_floor };
    if asked.dry_run {
        return Ok(Json(total).into_response());
    }
    begin(&state, &caller, REPLAY, JobKind::Replay, &mine, &asked, selection, total).await
}

/// A config's jobs.
#[utoipa::path(
    get,
    path = "/webhooks/configs/{id}/jobs",
    operation_id = "getWebhookJobs",
    tag = "by hand",
    params(("id" = inline(ConfigIdText), Path, description = "The config")),
    responses((status = 200, description = "The jobs, the newest first", body = ShownJobs))
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ShownJobs>, ApiError> {
    let owned = known(&state, &caller, LIST, path.map(|Path(id)| id))?;
    let failed = |error| ApiError::from_redis(LIST, &error);
    let mut shown = Vec::new();
    for StoredJob { job, .. } in &jobs::list(&state.redis, &owned).await.map_err(failed)? {
        let progress = jobs::progress(&state.redis, &state.shards, job.id).await.map_err(failed)?;
        shown.push(ShownJob::of(job, &progress));
    }
    Ok(Json(ShownJobs { jobs: shown }))
}

/// One job of a config.
#[utoipa::path(
    get,
    path = "/webhooks/configs/{id}/jobs/{jobId}",
    operation_id = "getWebhookJob",
    tag = "by hand",
    params(("id" = inline(ConfigIdText), Path, description = "The config"), ("jobId" = inline(JobIdText), Path, description = "The job")),
    responses((status = 200, description = "The job", body = ShownJob))
)]
pub(super) async fn one(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ShownJob>, ApiError> {
    let (_, stored) = found(&state, &caller, ONE, path).await?;
    shown(&state, ONE, &stored.job).await.map(Json)
}

/// Cancels a job. What it has moved stays moved.
#[utoipa::path(
    post,
    path = "/webhooks/configs/{id}/jobs/{jobId}/cancel",
    operation_id = "cancelWebhookJob",
    tag = "by hand",
    params(("id" = inline(ConfigIdText), Path, description = "The config"), ("jobId" = inline(JobIdText), Path, description = "The job")),
    responses((status = 200, description = "The job, cancelled", body = ShownJob))
)]
pub(super) async fn cancel(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ShownJob>, ApiError> {
    let (owned, mut stored) = found(&state, &caller, CANCEL, path).await?;
    let failed = |error| ApiError::from_redis(CANCEL, &error);
    if stored.job.state == JobState::Running {
        let ended = stored.job.ended(JobState::Cancelled, state.clock.now(), None);
        jobs::end(&state.redis, &stored, &ended).await.map_err(failed)?;
        // Where it ended by itself in this moment, that stands.
        let now = jobs::find(&state.redis, &owned, stored.job.id).await.map_err(failed)?;
        stored = now.ok_or_else(|| no_such_job(CANCEL))?;
        let (before, after) = (json!({ "state": "running" }), json!({ "state": stored.job.state }));
        audit::note(&state, &caller, CANCEL, stored.job.id, Some(before), Some(after)).await;
    }
    match stored.job.state {
        JobState::Cancelled => shown(&state, CANCEL, &stored.job).await.map(Json),
        JobState::Done | JobState::Failed | JobState::Running => {
            Err(ApiError::conflict(CANCEL, "path.jobId: the job has ended; there is nothing to cancel"))
        }
    }
}

#[allow(clippy::too_many_arguments)] // What makes a job; each is used once.
async fn begin(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    kind: JobKind,
    mine: &Mine,
    asked: &JobRequest,
    selection: Selection,
    total: Counted,
) -> Result<Response, ApiError> {
    if !mine.config.active {
        let message = "path.id: the config is inactive, so nothing is sent to it; set active to true first";
        return Err(ApiError::conflict(procedure, message));
    }
    let job = Job {
        id: JobId::new(rand::random()),
        kind,
        state: JobState::Running,
        config: mine.config.id,
        organisation: caller.organisation.clone(),
        selection,
        rate_per_second: asked.rate_per_second,
        total: total.count,
        total_is_floor: total.count_is_floor,
        who: format!("token {} ({})", caller.token_id, caller.token_name),
        started_at: state.clock.now(),
        ended_at: None,
        reason: None,
    };
    let begun = jobs::begin(&state.redis, &mine.owned, &job).await;
    match begun.map_err(|error| ApiError::from_redis(procedure, &error))? {
        Begun::Begun => {
            let shown = ShownJob::of(&job, &[]);
            let after = serde_json::to_value(&shown).ok();
            audit::note(state, caller, procedure, job.config, None, after).await;
            Ok((StatusCode::ACCEPTED, Json(shown)).into_response())
        }
        Begun::Busy(other) => {
            let message = format!("path.id: {other} of this config runs; wait for its end, or cancel it");
            Err(ApiError::conflict(procedure, message))
        }
        Begun::TooMany => Err(ApiError::conflict(procedure, "too many jobs run; try again later")),
    }
}

/// 409 where events are not retained, or not from `since` on.
async fn check_retained(state: &AdminState, since: UnixMillis, now: UnixMillis) -> Result<(), ApiError> {
    let age = state.settings.retention.events_age;
    if age.is_zero() {
        let message =
            "delivered events are not retained here (events-age is 0), so there is nothing to replay";
        return Err(ApiError::conflict(REPLAY, message));
    }
    let found = replay::retained_since(&state.redis, &state.shards).await;
    match found.map_err(|error| ApiError::from_redis(REPLAY, &error))? {
        Some(from) if since < from => {
            let from = from.min(now);
            let message =
                format!("body.since: events are retained from {from} on; give that time or a later one");
            Err(ApiError::conflict(REPLAY, message))
        }
        _ => Ok(()),
    }
}

fn selection(asked: &JobRequest, since: UnixMillis, now: UnixMillis) -> Selection {
    let until = asked.until.map_or(now, |until| until.min(now));
    Selection { since, until, event: asked.event.clone() }
}

async fn parse(request: Request, procedure: &'static str) -> Result<JobRequest, ApiError> {
    let bytes = read_body(request.into_body(), procedure).await?;
    JobRequest::parse(&bytes).map_err(|mistakes| ApiError::bad_request(procedure, mistakes.to_string()))
}

async fn shown(state: &AdminState, procedure: &'static str, job: &Job) -> Result<ShownJob, ApiError> {
    let progress = jobs::progress(&state.redis, &state.shards, job.id).await;
    let progress = progress.map_err(|error| ApiError::from_redis(procedure, &error))?;
    Ok(ShownJob::of(job, &progress))
}

/// A config, or the tombstone of one, of the caller's organisation.
fn known(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    id: Result<String, PathRejection>,
) -> Result<OwnedConfig, ApiError> {
    let id = config_id(procedure, id)?;
    let set = state.directory.configs();
    let stored = set.get(&caller.organisation, id);
    stored
        .and_then(|stored| OwnedConfig::prove(stored, &caller.organisation))
        .ok_or_else(|| ApiError::not_found(procedure, "path.id: no such config"))
}

fn live(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    path: Result<Path<String>, PathRejection>,
) -> Result<Mine, ApiError> {
    let owned = known(state, caller, procedure, path.map(|Path(id)| id))?;
    let set = state.directory.configs();
    match set.get(&caller.organisation, owned.id()).map(|stored| &**stored) {
        Some(StoredConfig::Config(config)) => Ok(Mine { config: config.clone(), owned }),
        _ => Err(ApiError::not_found(procedure, "path.id: no such config")),
    }
}

async fn found(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<(OwnedConfig, StoredJob), ApiError> {
    let (config, job) = match path {
        Ok(Path((config, job))) => (Ok(config), job),
        Err(rejection) => (Err(rejection), String::new()),
    };
    let owned = known(state, caller, procedure, config)?;
    let id: JobId =
        job.parse().map_err(|error| ApiError::bad_request(procedure, format!("path.jobId: {error}")))?;
    let stored = jobs::find(&state.redis, &owned, id).await;
    let stored = stored.map_err(|error| ApiError::from_redis(procedure, &error))?;
    stored.map(|stored| (owned, stored)).ok_or_else(|| no_such_job(procedure))
}

fn no_such_job(procedure: &'static str) -> ApiError {
    ApiError::not_found(procedure, "path.jobId: no such job of this config")
}

fn config_id(procedure: &'static str, id: Result<String, PathRejection>) -> Result<ConfigId, ApiError> {
    let malformed = |what: String| ApiError::bad_request(procedure, format!("path.id: {what}"));
    let text = id.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse::<ConfigId>().map_err(|error| malformed(error.to_string()))
}
