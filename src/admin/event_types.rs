//! `GET /webhooks/event-types` (docs/WIRE.md section 5): the catalogue, for programs. The same for every caller.

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::auth::Caller;
use super::described::{CategoryWord, EventTypeText, StandingWord};
use super::state::AdminState;
use crate::domain::catalogue::{self, KnownEvent};

/// The known event types.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypesAnswer {
    /// By category. Every type that has the right shape can be published and subscribed to, also one that is
    /// not in this list.
    event_types: Vec<ShownEventType>,
}

/// A known event type.
#[derive(Serialize, ToSchema)]
struct ShownEventType {
    /// The type, as `event` of a delivery and in `events` of a config.
    #[schema(value_type = EventTypeText)]
    event: &'static str,
    /// What it is about.
    #[schema(value_type = CategoryWord)]
    category: &'static str,
    /// When it occurs.
    #[schema(examples("a reward was credited to a user"))]
    description: &'static str,
    /// Hyphenated names of the same occurrence.
    #[schema(value_type = Vec<EventTypeText>, examples(json!(["reward-distribution"])))]
    aliases: Vec<&'static str>,
    #[schema(value_type = StandingWord)]
    status: &'static str,
    /// The JSON Schema (draft 2020-12) of `data`. Fields may be added to what it describes.
    #[schema(value_type = Object, examples(json!({"type": "object"})))]
    schema: Option<Box<RawValue>>,
    /// A realistic `data` that fits the schema; what test events carry.
    #[schema(value_type = Object, examples(json!({"user": {"id": "6650aa17bd00000000000002"}})))]
    sample: Option<Box<RawValue>>,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/event-types", get(list_event_types))
}

/// List the known event types
///
/// Each with a JSON Schema of its `data` and a sample. The list limits nothing: any type that has the right shape
/// can be published and subscribed to.
#[utoipa::path(
    get,
    path = "/webhooks/event-types",
    operation_id = "getWebhookEventTypes",
    tag = "events",
    responses((status = 200, description = "The catalogue.", body = EventTypesAnswer)),
)]
pub(super) async fn list_event_types(_caller: Caller) -> Json<EventTypesAnswer> {
    Json(EventTypesAnswer { event_types: catalogue::ALL.iter().map(ShownEventType::of).collect() })
}

// === impl ShownEventType ===

impl ShownEventType {
    fn of(known: &KnownEvent) -> Self {
        // The catalogue's texts are JSON, as its tests show.
        let raw = |text: &str| RawValue::from_string(text.trim_end().to_owned()).ok();
        Self {
            event: known.name,
            category: known.category.as_str(),
            description: known.when,
            aliases: known.aliases().collect(),
            status: known.standing().as_str(),
            schema: raw(known.schema()),
            sample: raw(known.sample),
        }
    }
}
