//! `GET /webhooks/audit` (docs/WIRE.md section 12), and the one way in which handlers write to the audit.

use std::fmt::Display;

use axum::extract::{RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::Caller;
use super::described::{EntryIdText, PlainText, Time, TokenIdText};
use super::error::ApiError;
use super::query::Query;
use super::state::AdminState;
use crate::domain::audit::{AuditEntry, Who};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::StreamId;
use crate::metrics;
use crate::redis::audit::{AuditPage, AuditQuery, read, record};

const PROCEDURE: &str = "getWebhookAudit";

/// The answer of `GET /webhooks/audit`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditAnswer {
    /// The changes, newest first.
    #[schema(max_items = 100)]
    edges: Vec<AuditRecord>,
    /// Where the next page begins; null when there is nothing more.
    #[schema(value_type = Option<EntryIdText>, required)]
    next_cursor: Option<String>,
}

/// One change.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its place in the audit.
    #[schema(value_type = EntryIdText)]
    id: String,
    /// When it was made.
    #[schema(value_type = Time)]
    at: String,
    /// Who made it.
    by: AuditActor,
    /// The procedure.
    #[schema(examples("updateWebhookConfigs"))]
    action: String,
    /// The id of what was changed.
    #[schema(examples("9b1d04c57ea2f3180000002f"))]
    target: String,
    /// A sentence, where there is more to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    what: String,
    /// As it was; null where it is new, or nothing was replaced. Secrets are masked, of headers only the names are
    /// told, and a member over 4 KiB is `{"leftOutBytes": n}`.
    #[schema(value_type = Option<Object>, required)]
    before: Option<Value>,
    /// As it is; null where it is gone.
    #[schema(value_type = Option<Object>, required)]
    after: Option<Value>,
}

/// Who made a change.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditActor {
    /// `token`; `cli`: the command line, straight in Redis; `system`: Postrider itself.
    #[schema(value_type = ActorKind)]
    kind: &'static str,
    /// The token's id.
    #[schema(value_type = Option<TokenIdText>, required)]
    token_id: Option<String>,
    /// The token's name.
    #[schema(required)]
    token_name: Option<String>,
}

/// The words of `kind`, as the description shows them.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // Never constructed.
enum ActorKind {
    Token,
    Cli,
    System,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/audit", get(list))
}

/// Writes to the audit of the caller's organisation what `procedure` has changed. Call it once the change is made
/// and before it is answered; changes of configs and tokens write theirs in the script that makes them.
///
/// Where the audit cannot be written the change stands, for undoing it could fail too: the entry goes to the
/// server's log, and `postrider_audit_failed_total` counts it.
pub async fn note(
    state: &AdminState,
    caller: &Caller,
    procedure: &'static str,
    target: impl Display,
    before: Option<Value>,
    after: Option<Value>,
) {
    let entry = AuditEntry::new(&caller.by(procedure), target, "", before, after);
    if let Err(error) = record(&state.redis, &caller.organisation, &entry).await {
        metrics::audit_failed();
        // Secrets were taken out where the entry was made.
        let entry = serde_json::to_string(&entry).unwrap_or_default();
        tracing::error!(%error, organisation = %caller.organisation, entry, "a change is missing in the audit");
    }
}

/// List changes
///
/// Newest first: who changed what of the organisation's, as it was and as it is.
#[utoipa::path(
    get,
    path = "/webhooks/audit",
    operation_id = "getWebhookAudit",
    tag = "audit",
    params(
        ("since" = inline(Option<Time>), Query, description = "Only changes from this time on."),
        ("until" = inline(Option<Time>), Query, description = "Only changes before this time."),
        ("action" = inline(Option<PlainText>), Query, description = "Only changes by this procedure."),
        ("target" = inline(Option<PlainText>), Query, description = "Only changes of what has this id."),
        ("limit" = Option<u32>, Query, description = "At most so many; 10 unless given.", minimum = 1, maximum = 100),
        ("cursor" = inline(Option<EntryIdText>), Query, description = "`nextCursor` of the page before."),
    ),
    responses((status = 200, description = "A page of changes.", body = AuditAnswer)),
)]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<AuditAnswer>, ApiError> {
    let mut parameters =
        Query::new(query.as_deref(), &["since", "until", "action", "target", "limit", "cursor"]);
    let (since, until) = parameters.window();
    let query = AuditQuery {
        since,
        until,
        action: parameters.text("action"),
        target: parameters.text("target"),
        before: parameters.cursor(),
        limit: parameters.limit(),
    };
    if !parameters.mistakes.is_empty() {
        return Err(ApiError::bad_request(PROCEDURE, parameters.mistakes.to_string()));
    }
    let page = read(&state.redis, &caller.organisation, &query).await;
    Ok(Json(page.map_err(|error| ApiError::from_redis(PROCEDURE, &error))?.into()))
}

impl From<AuditPage> for AuditAnswer {
    fn from(page: AuditPage) -> Self {
        Self {
            edges: page.entries.into_iter().map(AuditRecord::from).collect(),
            next_cursor: page.next.map(|id| id.to_string()),
        }
    }
}

impl From<(StreamId, AuditEntry)> for AuditRecord {
    fn from((id, entry): (StreamId, AuditEntry)) -> Self {
        let (kind, token_id, token_name) = match entry.by {
            Who::Token { id, name } => ("token", Some(id), Some(name)),
            Who::Cli => ("cli", None, None),
            Who::System => ("system", None, None),
        };
        Self {
            id: id.to_string(),
            at: UnixMillis(id.ms).to_string(),
            by: AuditActor { kind, token_id, token_name },
            action: entry.action,
            target: entry.target,
            what: entry.what,
            before: entry.before,
            after: entry.after,
        }
    }
}
