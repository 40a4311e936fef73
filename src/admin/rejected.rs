//! `GET /webhooks/rejected` and what an operator does with an entry of it (docs/WIRE.md section 12).

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit::note;
use super::auth::Caller;
use super::body::{Mistakes, read_body};
use super::described::{
    EntryIdText, NonceText, OrganisationIdText, PlainText, RejectReasonWord, RejectedIdText,
};
use super::error::ApiError;
use super::query::Query;
use super::rejected_record::{RejectedRecord, Repair, RequeueBody, SHOWN_IN_LIST};
use super::state::AdminState;
use crate::domain::ids::OrganisationId;
use crate::domain::rejected::{RejectReason, RejectedEntry, RejectedId};
use crate::redis::connection::RedisError;
use crate::redis::rejected::{self, RejectedQuery};

const LIST: &str = "getRejectedEvents";
const ONE: &str = "getRejectedEvent";
const REQUEUE: &str = "requeueRejectedEvent";
const DELETE: &str = "deleteRejectedEvent";

/// The answer of `GET /webhooks/rejected`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RejectedAnswer {
    /// The entries, newest first.
    #[schema(max_items = 100)]
    edges: Vec<RejectedRecord>,
    /// Where the next page begins; null when there is nothing more.
    #[schema(value_type = Option<RejectedIdText>, required)]
    next_cursor: Option<String>,
}

/// An entry that is an event again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Requeued {
    /// The event's id in the stream.
    #[schema(value_type = EntryIdText)]
    id: String,
    /// The nonce that its deliveries carry.
    #[schema(value_type = NonceText)]
    nonce: String,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/webhooks/rejected", get(list))
        .route("/webhooks/rejected/{id}", get(one).delete(delete))
        .route("/webhooks/rejected/{id}/requeue", post(requeue))
}

/// List rejected entries
///
/// Stream entries that could not be understood, of all shards, newest first. A filtered page may be short or empty:
/// go on with `cursor` until `nextCursor` is null.
#[utoipa::path(
    get,
    path = "/webhooks/rejected",
    operation_id = "getRejectedEvents",
    tag = "rejected",
    params(
        ("reason" = inline(Option<RejectReasonWord>), Query, description = "Only entries rejected for this."),
        ("field" = inline(Option<PlainText>), Query, description = "Only entries in which this field was wrong."),
        ("organisationId" = inline(Option<OrganisationIdText>), Query,
            description = "Only entries that name this organisation."),
        ("limit" = Option<u32>, Query, description = "At most so many; 10 unless given.", minimum = 1, maximum = 100),
        ("cursor" = inline(Option<RejectedIdText>), Query, description = "`nextCursor` of the page before."),
    ),
    responses((status = 200, description = "A page of entries.", body = RejectedAnswer)),
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    _caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<RejectedAnswer>, ApiError> {
    let mut parameters =
        Query::new(query.as_deref(), &["reason", "field", "organisationId", "limit", "cursor"]);
    let reasons = RejectReason::ALL.map(RejectReason::as_str).join(", ");
    let query = RejectedQuery {
        reason: parameters.take("reason", &format!("one of {reasons}"), RejectReason::parse),
        field: parameters.text("field"),
        organisation: parameters
            .take("organisationId", "an organisation's id", |text| OrganisationId::new(text).ok()),
        before: parameters.cursor(),
        limit: parameters.limit(),
    };
    if !parameters.mistakes.is_empty() {
        return Err(ApiError::bad_request(LIST, parameters.mistakes.to_string()));
    }
    let page = rejected::list(&state.redis, &state.shards, &query).await;
    let page = page.map_err(|error| ApiError::from_redis(LIST, &error))?;
    let show = |entry: &RejectedEntry| RejectedRecord::new(entry, Some(SHOWN_IN_LIST));
    let next_cursor = page.next.map(|id| id.to_string());
    Ok(Json(RejectedAnswer { edges: page.entries.iter().map(show).collect(), next_cursor }))
}

/// Read one rejected entry
///
/// With everything that was kept of it.
#[utoipa::path(
    get,
    path = "/webhooks/rejected/{id}",
    operation_id = "getRejectedEvent",
    tag = "rejected",
    params(("id" = inline(RejectedIdText), Path, description = "The entry.")),
    responses((status = 200, description = "The entry.", body = RejectedRecord)),
)]
pub(super) async fn one(
    State(state): State<AdminState>,
    _caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<RejectedRecord>, ApiError> {
    let entry = find(&state, ONE, path_id(ONE, path)?).await?;
    Ok(Json(RejectedRecord::new(&entry, None)))
}

/// Repair a rejected entry
///
/// And make it an event again: in one step it leaves the rejected ones and enters the stream.
#[utoipa::path(
    post,
    path = "/webhooks/rejected/{id}/requeue",
    operation_id = "requeueRejectedEvent",
    tag = "rejected",
    params(("id" = inline(RejectedIdText), Path, description = "The entry.")),
    request_body(content = Option<RequeueBody>, description = "What to repair; without a body it is put back as it is."),
    responses((status = 202, description = "It is an event again.", body = Requeued)),
)]
pub(super) async fn requeue(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<(StatusCode, Json<Requeued>), ApiError> {
    let id = path_id(REQUEUE, path)?;
    let bytes = read_body(request.into_body(), REQUEUE).await?;
    let refused = |mistakes: Mistakes| ApiError::bad_request(REQUEUE, mistakes.to_string());
    let mut repair = Repair::parse(&bytes).map_err(refused)?;
    let entry = match find(&state, REQUEUE, id).await {
        Err(error) if !repair.mistakes.is_empty() => {
            if error.status() == StatusCode::NOT_FOUND {
                repair.mistakes.add("path.id", NO_ENTRY);
            }
            return Err(refused(repair.mistakes));
        }
        found => found?,
    };
    let repaired = entry.repaired(&repair.fixes, state.clock.now()).map_err(|still| repair.add(&still));
    let fields = repaired.ok().filter(|_| repair.mistakes.is_empty());
    let Some(fields) = fields else { return Err(refused(repair.mistakes)) };
    let text =
        |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
    let (nonce, organisation) = (text(&fields.nonce), text(&fields.organisation_id));
    let event = rejected::requeue(&state.redis, &state.shards, id, fields).await;
    let event = event.map_err(|error| ApiError::from_redis(REQUEUE, &error))?;
    let Some(event) = event else { return Err(unknown(REQUEUE)) };
    let changed: Vec<&str> = repair.fixes.iter().map(|(name, _)| *name).collect();
    let after = json!({ "eventId": event.stream_id().to_string(), "nonce": nonce, "repaired": changed });
    let caller = under(caller, OrganisationId::new(&organisation).ok());
    note(&state, &caller, REQUEUE, id, Some(summary(&entry)), Some(after)).await;
    Ok((StatusCode::ACCEPTED, Json(Requeued { id: event.stream_id().to_string(), nonce })))
}

/// Remove a rejected entry
///
/// For good.
#[utoipa::path(
    delete,
    path = "/webhooks/rejected/{id}",
    operation_id = "deleteRejectedEvent",
    tag = "rejected",
    params(("id" = inline(RejectedIdText), Path, description = "The entry.")),
    responses((status = 204, description = "It is gone.")),
)]
pub(super) async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id = path_id(DELETE, path)?;
    let entry = find(&state, DELETE, id).await?;
    let from_redis = |error: RedisError| ApiError::from_redis(DELETE, &error);
    if !rejected::remove(&state.redis, &state.shards, id).await.map_err(from_redis)? {
        return Err(unknown(DELETE));
    }
    let caller = under(caller, entry.organisation());
    note(&state, &caller, DELETE, id, Some(summary(&entry)), None).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The change stands in the audit of the organisation that it concerns, where there is one to be told.
fn under(caller: Caller, organisation: Option<OrganisationId>) -> Caller {
    match organisation {
        Some(organisation) => Caller { organisation, ..caller },
        None => caller,
    }
}

/// What the audit says of an entry: not its fields, which may hold personal data.
fn summary(entry: &RejectedEntry) -> serde_json::Value {
    json!({
        "eventId": entry.event_id,
        "reason": entry.reason().as_str(),
        "field": entry.field,
        "expected": entry.problem,
    })
}

fn path_id(
    procedure: &'static str,
    path: Result<Path<String>, PathRejection>,
) -> Result<RejectedId, ApiError> {
    let malformed = |what: String| ApiError::bad_request(procedure, format!("path.id: {what}"));
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse().map_err(|error: crate::domain::ids::InvalidId| malformed(error.to_string()))
}

async fn find(
    state: &AdminState,
    procedure: &'static str,
    id: RejectedId,
) -> Result<RejectedEntry, ApiError> {
    let found = rejected::find(&state.redis, &state.shards, id).await;
    found.map_err(|error| ApiError::from_redis(procedure, &error))?.ok_or_else(|| unknown(procedure))
}

const NO_ENTRY: &str = "no such entry";

fn unknown(procedure: &'static str) -> ApiError {
    ApiError::not_found(procedure, format!("path.id: {NO_ENTRY}"))
}
