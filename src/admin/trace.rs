//! `GET /webhooks/trace` (docs/WIRE.md section 12): where is my event?

use axum::extract::{RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::auth::Caller;
use super::described::{ConfigIdText, EntryIdText, EventPlace, EventTypeText, NonceText, Time};
use super::error::ApiError;
use super::log_record::LogRecord;
use super::logs::owned_by;
use super::state::AdminState;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{Config, StoredConfig, Tombstone};
use crate::domain::event::check_nonce;
use crate::domain::ids::{DeliveryId, EventId, OrganisationId, ShardNumber, StreamId};
use crate::domain::interest::Interest;
use crate::domain::owned_config::OwnedConfig;
use crate::redis::log_search::find_delivery;
use crate::redis::trace::{self, Entry, Found, Progress};
use crate::redis::trace_search::{Search, search_copies, search_nonce};

const PROCEDURE: &str = "getWebhookTrace";

/// Deliveries that are shown with all of their attempts.
const DELIVERIES_MAX: usize = 100;

/// What is asked for.
enum Wanted {
    Nonce(String),
    Event(EventId),
    /// A stream id, of whichever shard.
    Entry(StreamId),
}

/// Where an event is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    #[schema(value_type = TraceState)]
    state: &'static str,
    /// The same in a sentence.
    explanation: String,
    /// What is known of it; null when it was not found.
    #[schema(required)]
    event: Option<TracedEvent>,
    /// Why it was rejected; null when it was not.
    #[schema(required)]
    rejected: Option<Rejected>,
    /// Its deliveries, each as `GET /webhooks/logs/{deliveryId}` has it, without the payload.
    #[schema(max_items = 100)]
    deliveries: Vec<LogRecord>,
    /// Configs of the organisation without a delivery of it, and why, as far as that can be told now.
    without_delivery: Vec<WithoutDelivery>,
    /// Where it was looked for.
    searched: Vec<String>,
    /// Where it may be all the same.
    not_searched: Vec<String>,
}

/// The event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedEvent {
    shard: u16,
    /// The id of its entry in the stream.
    #[schema(value_type = EntryIdText)]
    id: String,
    /// The nonce that its deliveries carry, where it is known.
    #[schema(value_type = Option<NonceText>, required)]
    nonce: Option<String>,
    #[schema(value_type = Option<EventTypeText>, required)]
    event: Option<String>,
    #[schema(value_type = Time)]
    created_at: String,
    /// Whether the stream still holds it.
    in_stream: bool,
}

/// Why an event was rejected.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RejectedBecause)]
pub struct Rejected {
    /// Its entry's id among the rejected ones of its shard.
    id: String,
    /// The field that was wrong; `id` for the entry as a whole.
    field: String,
    /// What was wrong, and what is expected.
    problem: String,
}

/// A config without a delivery of the event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WithoutDelivery {
    #[schema(value_type = ConfigIdText)]
    webhook_config_id: String,
    #[schema(value_type = NoDelivery)]
    reason: &'static str,
}

/// The words of `state`, as the description shows them.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // Never constructed.
enum TraceState {
    Unread,
    InProgress,
    Routed,
    Unrouted,
    Rejected,
    NotFound,
}

/// Why a config has no delivery of an event, as the description shows it.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code)] // Never constructed.
enum NoDelivery {
    Waiting,
    #[serde(rename = "not subscribed")]
    NotSubscribed,
    Inactive,
    #[serde(rename = "other config")]
    OtherConfig,
    #[serde(rename = "created later")]
    CreatedLater,
    Filtered,
    Deleted,
    Unknown,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/trace", get(get_trace))
}

/// Find an event
///
/// Where it is and what became of it. Exactly one of the two parameters is given.
#[utoipa::path(
    get, path = "/webhooks/trace", operation_id = "getWebhookTrace", tag = "inspect",
    params(
        ("nonce" = inline(Option<NonceText>), Query, description = "The event's nonce; this or `id`."),
        ("id" = inline(Option<EventPlace>), Query, description = "What names the event; this or `nonce`."),
    ),
    responses((status = 200, description = "Where the event is, or where it was not found.", body = TraceAnswer)),
)]
pub(super) async fn get_trace(
    State(state): State<AdminState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<TraceAnswer>, ApiError> {
    let wanted = wanted(query.as_deref().unwrap_or_default())
        .map_err(|message| ApiError::bad_request(PROCEDURE, message))?;
    let configs = owned_by(&state, &caller.organisation);
    let (events, search) = places(&state, &caller.organisation, &configs, wanted).await?;
    let mut found = None;
    for id in events {
        let now = state.clock.now();
        let one = trace::find_event(&state.redis, &state.shards, &caller.organisation, &configs, id, now);
        let one = one.await.map_err(|error| ApiError::from_redis(PROCEDURE, &error))?;
        let known = one.entry.is_some() || one.rejected.is_some() || !one.deliveries.is_empty();
        found = Some((id, one)).filter(|_| known);
        if known {
            break;
        }
    }
    let Some((id, found)) = found else { return Ok(Json(TraceAnswer::not_found(search))) };
    answer(&state, &caller.organisation, &configs, id, found, search).await.map(Json)
}

/// Exactly one of the two parameters.
fn wanted(query: &str) -> Result<Wanted, String> {
    let mut wanted = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "nonce" && name != "id" {
            let shown: String = name.chars().take(64).collect();
            return Err(format!("query.{shown}: not supported; known are nonce, id"));
        }
        if wanted.is_some() {
            return Err(format!("query.{name}: expected one of nonce and id, once"));
        }
        wanted = Some(match name.as_ref() {
            "nonce" => match check_nonce(value.into_owned()) {
                Ok(nonce) => Wanted::Nonce(nonce),
                Err(wrong) => return Err(format!("query.nonce: {}", wrong.problem)),
            },
            _ => derived(&value)
                .or_else(|| value.parse::<DeliveryId>().ok().map(DeliveryId::event))
                .map(Wanted::Event)
                .or_else(|| {
                    let id = value.parse::<StreamId>().ok().filter(|id| id.to_string() == value);
                    id.map(Wanted::Entry)
                })
                .ok_or("query.id: expected a stream id as 1777626000000-0, an evt_ nonce or a delivery id")?,
        });
    }
    wanted.ok_or_else(|| "query.nonce: expected this or query.id".to_owned())
}

/// The place that a nonce names which Postrider made: `evt_<shard>_<stream id>`.
fn derived(nonce: &str) -> Option<EventId> {
    let (shard, id) = nonce.strip_prefix("evt_")?.split_once('_')?;
    let event = EventId::new(ShardNumber(shard.parse().ok()?), id.parse().ok()?).ok()?;
    Some(event).filter(|event| event.derived_nonce() == nonce)
}

async fn places(
    state: &AdminState,
    organisation: &OrganisationId,
    configs: &[OwnedConfig],
    wanted: Wanted,
) -> Result<(Vec<EventId>, Search), ApiError> {
    let from_redis = |error| ApiError::from_redis(PROCEDURE, &error);
    let named = |events: Vec<EventId>| {
        let searched = events.iter().map(|id| format!("{} of shard {}", id.stream_id(), id.shard().0));
        (events.clone(), Search { searched: searched.collect(), ..Search::default() })
    };
    let nonce = match wanted {
        Wanted::Event(id) => return Ok(named(vec![id])),
        Wanted::Entry(id) => return Ok(named(trace::in_every_shard(&state.shards, id))),
        Wanted::Nonce(nonce) => nonce,
    };
    let (redis, shards) = (&state.redis, &state.shards);
    let (known, place) = match derived(&nonce) {
        Some(id) => (Some(id), format!("{} of shard {}", id.stream_id(), id.shard().0)),
        None => {
            let published = trace::published_as(redis, shards, organisation, &nonce).await;
            (published.map_err(from_redis)?, "nonces of the publish endpoint".to_owned())
        }
    };
    let search = match known {
        Some(id) => search_copies(redis, shards, organisation, id, &nonce).await,
        None => search_nonce(redis, shards, organisation, configs, &nonce).await,
    };
    let mut search = search.map_err(from_redis)?;
    search.searched.insert(0, place);
    // Where nothing is left of the event itself, the newest of its replays stands for it.
    Ok((search.event.into_iter().chain(search.copies.iter().copied()).collect(), search))
}

/// The deliveries that replays made of the event; not those of `id`, which are found already.
async fn replayed(
    state: &AdminState,
    organisation: &OrganisationId,
    configs: &[OwnedConfig],
    id: EventId,
    copies: &[EventId],
) -> Result<Vec<(usize, DeliveryId)>, ApiError> {
    let mut deliveries = Vec::new();
    for copy in copies.iter().filter(|copy| **copy != id) {
        let now = state.clock.now();
        let found = trace::find_event(&state.redis, &state.shards, organisation, configs, *copy, now).await;
        deliveries.extend(found.map_err(|error| ApiError::from_redis(PROCEDURE, &error))?.deliveries);
    }
    Ok(deliveries)
}

async fn answer(
    state: &AdminState,
    organisation: &OrganisationId,
    configs: &[OwnedConfig],
    id: EventId,
    mut found: Found,
    mut search: Search,
) -> Result<TraceAnswer, ApiError> {
    found.deliveries.extend(replayed(state, organisation, configs, id, &search.copies).await?);
    let mut deliveries = Vec::new();
    for (config, delivery) in found.deliveries.iter().take(DELIVERIES_MAX) {
        let detail = find_delivery(&state.redis, &state.shards, &configs[*config], *delivery).await;
        let detail = detail.map_err(|error| ApiError::from_redis(PROCEDURE, &error))?;
        deliveries.extend(detail.map(|detail| LogRecord::from(detail.view)));
    }
    if found.deliveries.len() > DELIVERIES_MAX {
        search.not_searched.push(format!("{} more deliveries", found.deliveries.len() - DELIVERIES_MAX));
    }
    for index in &found.unread_logs {
        let config = configs[*index].id();
        search.not_searched.push(format!("the log of config {config} some time after the event"));
    }
    let known_type = found.entry.as_ref().map(|entry| entry.event.clone());
    let event_type = known_type.or_else(|| deliveries.first().map(|record| record.event().to_owned()));
    let missing = configs
        .iter()
        .enumerate()
        .filter(|(index, _)| !found.deliveries.iter().any(|(config, _)| config == index));
    let set = state.directory.configs();
    let without_delivery: Vec<WithoutDelivery> = missing
        .filter_map(|(_, owned)| {
            let stored = set.get(organisation, owned.id())?;
            // What was deleted before the event has nothing to do with it.
            let gone = |tombstone: &Tombstone| tombstone.deleted_at.0 < id.stream_id().ms;
            if matches!(&**stored, StoredConfig::Tombstone(tombstone) if gone(tombstone)) {
                return None;
            }
            let reason = reason(stored, found.entry.as_ref(), event_type.as_deref(), id);
            Some(WithoutDelivery { webhook_config_id: owned.id().to_string(), reason })
        })
        .collect();
    let (state_word, explanation) = verdict(&found, &without_delivery);
    let nonce = found.entry.as_ref().map(|entry| entry.nonce.clone().unwrap_or_else(|| id.derived_nonce()));
    Ok(TraceAnswer {
        state: state_word,
        explanation,
        event: Some(TracedEvent {
            shard: id.shard().0,
            id: id.stream_id().to_string(),
            nonce,
            event: event_type,
            created_at: UnixMillis(id.stream_id().ms).to_string(),
            in_stream: found.entry.is_some(),
        }),
        rejected: found.rejected.map(|entry| Rejected {
            id: entry.id,
            field: entry.field,
            problem: entry.problem,
        }),
        deliveries,
        without_delivery,
        searched: search.searched,
        not_searched: search.not_searched,
    })
}

/// Why a config has no delivery of the event, as far as the config tells as it is now.
fn reason(
    stored: &StoredConfig,
    entry: Option<&Entry>,
    event_type: Option<&str>,
    id: EventId,
) -> &'static str {
    let config: &Config = match stored {
        StoredConfig::Config(config) => config,
        StoredConfig::Tombstone(_) => return "deleted",
    };
    let only = entry.and_then(|entry| entry.only_config.as_deref());
    let interest = Interest::of(config);
    if only.is_some_and(|only| only != config.id.to_string()) {
        "other config"
    } else if only.is_none() && event_type.is_some_and(|event| !interest.covers(event)) {
        "not subscribed"
    } else if entry.is_some_and(|entry| entry.progress != Progress::Done) {
        "waiting"
    } else if config.created_at.0 > id.stream_id().ms {
        "created later"
    } else if !config.active {
        "inactive"
    } else if only.is_none() && event_type.is_some_and(|event| interest.filters(event)) {
        "filtered"
    } else {
        "unknown"
    }
}

fn verdict(found: &Found, without: &[WithoutDelivery]) -> (&'static str, String) {
    let progress = found.entry.as_ref().map(|entry| entry.progress);
    if let Some(rejected) = &found.rejected {
        return ("rejected", format!("it was rejected: {}: {}", rejected.field, rejected.problem));
    }
    let count = found.deliveries.len();
    match progress {
        Some(Progress::Unread) => ("unread", "it waits in the stream; no worker has read it yet".to_owned()),
        Some(Progress::InProgress) => {
            ("inProgress", format!("a worker has it; {count} deliveries have a record or a row so far"))
        }
        _ if count > 0 => ("routed", format!("it was routed; {count} deliveries of it are known")),
        _ if without.iter().any(|config| config.reason == "unknown") => {
            let text = "it was taken from the stream and nothing of it is known: no config wanted it then, or \
                        its rows were evicted or not reached";
            ("unrouted", text.to_owned())
        }
        _ if without.iter().any(|config| config.reason == "inactive") => {
            ("unrouted", "no delivery was made: the configs that want it are inactive".to_owned())
        }
        _ => ("unrouted", "no delivery was made: no config wanted it".to_owned()),
    }
}

// === impl TraceAnswer ===

impl TraceAnswer {
    fn not_found(search: Search) -> Self {
        Self {
            state: "notFound",
            explanation: "no event of this organisation was found there".to_owned(),
            event: None,
            rejected: None,
            deliveries: Vec::new(),
            without_delivery: Vec::new(),
            searched: search.searched,
            not_searched: search.not_searched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_exactly_one_event() {
        for (query, named) in [
            ("", "query.nonce"),
            ("nonce=", "query.nonce"),
            ("nonce=a&id=1-0", "query.id: expected one of nonce and id"),
            ("nonce=a&nonce=b", "query.nonce: expected one"),
            ("id=dlv_1", "query.id"),
            ("id=", "query.id"),
            ("noce=a", "query.noce"),
            ("nonce=a%07", "query.nonce: expected 1 to 256 bytes without control"),
            ("id=05-1", "query.id"),
        ] {
            let error = wanted(query).map(|_| ()).unwrap_err();
            assert!(error.contains(named), "{query}: {error}");
        }
        assert!(matches!(wanted("nonce=evt_0_5-1"), Ok(Wanted::Nonce(_))));
        assert!(matches!(wanted("id=evt_0_5-1"), Ok(Wanted::Event(id)) if id.stream_id().ms == 5));
        assert!(matches!(wanted("id=5-1"), Ok(Wanted::Entry(_))));
        assert!(matches!(wanted("id=dlv_000000001f06fbnfev40000000"), Ok(Wanted::Event(_))));
    }
}
