//! `GET /webhooks/logs/stream`: attempts of the caller's organisation as they are logged, as server-sent events
//! (docs/WIRE.md section 12). One task a stream: it reads, sends, and ends with its client, its token or the process.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use super::auth::Caller;
use super::described::{ConfigIdText, EventTypeText, StatusWord, Time};
use super::error::ApiError;
use super::log_event::{TailFilter, event_text};
use super::server::Stopping;
use super::state::AdminState;
use crate::domain::config::StoredConfig;
use crate::domain::ids::{ConfigId, OrganisationId};
use crate::domain::log_limit::limited;
use crate::domain::owned_config::OwnedConfig;
use crate::metrics;
use crate::redis::log_tail::{LOGS_MAX, LogTail, Look, TailStart};
use crate::redis::tokens::find_token;

const PROCEDURE: &str = "streamWebhookLogs";

/// Time between two comments that keep a quiet stream open.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pause after a look that found everything: many writes then cost one look.
const PAUSE: Duration = Duration::from_millis(100);
/// Events that wait for the client; further ones wait in Redis.
const WAITING_MAX: usize = 64;
/// Longest time for a client to take one event.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a caller is told to wait when no place is free.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// One organisation gets this part of the places.
const SHARE: u32 = 4;
/// Tells a browser how long to wait before it connects again.
const HELLO: &str = ": connected\nretry: 2000\n\n";

/// The open streams, by organisation.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<OrganisationId, u32>>>);

/// One open stream; its end frees the place.
struct Place {
    places: Places,
    organisation: OrganisationId,
    /// Why it ended, for the metric.
    ended: &'static str,
}

/// One stream's task.
struct Streaming {
    state: AdminState,
    caller: Caller,
    filter: TailFilter,
    tail: LogTail,
    client: mpsc::Sender<Bytes>,
    place: Place,
    stop: Option<watch::Receiver<bool>>,
    heartbeat: Interval,
    /// What is followed, to see whether it changed.
    configs: Vec<OwnedConfig>,
}

/// Why a look was left.
enum Turn {
    Found(Look),
    /// Configs came or went.
    Configs(Vec<OwnedConfig>),
    End(&'static str),
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/logs/stream", get(follow)).layer(Extension(Places::default()))
}

/// Follow the log
///
/// Server-sent events until the client goes: an event `attempt` for every attempt of the organisation as it is logged,
/// an event `fate` for what ended without one. `data` is one line of JSON with the names of a delivery.
#[utoipa::path(
    get,
    path = "/webhooks/logs/stream",
    operation_id = "streamWebhookLogs",
    tag = "logs",
    params(
        ("webhookConfigId" = inline(Option<ConfigIdText>), Query, description = "Only this config's."),
        ("event" = inline(Option<EventTypeText>), Query, description = "Only this event type."),
        ("status" = inline(Option<StatusWord>), Query, description = "Only this status after the attempt."),
        ("success" = Option<bool>, Query, description = "Only attempts that were, or were not, answered 2xx."),
        ("since" = inline(Option<Time>), Query, description = "Begin with what was logged from this time on."),
        ("until" = inline(Option<Time>), Query, description = "Only attempts before this time."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after the event with this id."),
    ),
    responses(
        (status = 200, description = "Events `attempt` and `fate`, a comment every 15 s while nothing happens.",
            content_type = "text/event-stream", body = String),
    ),
)]
pub(super) async fn follow(
    State(state): State<AdminState>,
    caller: Caller,
    Extension(places): Extension<Places>,
    stopping: Option<Extension<Stopping>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let filter = TailFilter::parse(query.as_deref().unwrap_or_default())
        .map_err(|message| ApiError::bad_request(PROCEDURE, message))?;
    let start = match (last_event(&headers)?, filter.since()) {
        (Some(place), _) => TailStart::After(place),
        (None, Some(since)) => TailStart::Since(since),
        (None, None) => TailStart::Now,
    };
    let configs = followed(&state, &caller.organisation, filter.config);
    if filter.config.is_some() && configs.is_empty() {
        return Err(ApiError::not_found(PROCEDURE, "query.webhookConfigId: no such config"));
    }
    let place = places.take(&caller.organisation, state.settings.limits.log_streams_max)?;
    let tail = LogTail::begin(&state.redis, start).await;
    let mut tail = tail.map_err(|error| ApiError::from_redis(PROCEDURE, &error))?;
    if !tail.follow(&configs, &state.shards) {
        let message =
            format!("the organisation has more than {LOGS_MAX} logs; name one in query.webhookConfigId");
        return Err(ApiError::conflict(PROCEDURE, message));
    }
    let (client, events) = mpsc::channel(WAITING_MAX);
    let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = stopping.map(|Extension(Stopping(stop))| stop);
    let streaming = Streaming { state, caller, filter, tail, client, place, stop, heartbeat, configs };
    tokio::spawn(streaming.run());
    Ok(answer(events))
}

fn answer(events: mpsc::Receiver<Bytes>) -> Response {
    let body = stream::unfold(events, |mut events| async {
        let event = events.recv().await?;
        Some((Ok::<Bytes, Infallible>(event), events))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that gather answers would gather this one for ever.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

fn last_event(headers: &HeaderMap) -> Result<Option<crate::redis::log_tail::TailPlace>, ApiError> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let place = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = "last-event-id: expected the id of an event of this stream";
    place.map(Some).ok_or_else(|| ApiError::bad_request(PROCEDURE, wrong))
}

/// The configs whose logs are followed: those that live, then deleted ones as long as there is room, for the last
/// rows of what waited for them.
fn followed(state: &AdminState, organisation: &OrganisationId, only: Option<ConfigId>) -> Vec<OwnedConfig> {
    let set = state.directory.configs();
    let mut stored: Vec<_> =
        set.of(organisation).iter().filter(|stored| only.is_none_or(|id| stored.id() == id)).collect();
    let deleted = |stored: &StoredConfig| matches!(stored, StoredConfig::Tombstone(_));
    stored.sort_by_key(|stored| (deleted(stored), std::cmp::Reverse(stored.id().sequence())));
    let living = stored.iter().filter(|stored| !deleted(stored)).count();
    stored.truncate(living.max(LOGS_MAX / state.shards.len().max(1)));
    stored.into_iter().filter_map(|stored| OwnedConfig::prove(stored, organisation)).collect()
}

// === impl Places ===

impl Places {
    fn take(&self, organisation: &OrganisationId, most: u32) -> Result<Place, ApiError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(organisation).copied().unwrap_or(0);
        if open.values().sum::<u32>() >= most || own >= (most / SHARE).max(1) {
            let message = "too many log streams are open; close one, or try again later";
            return Err(ApiError::unavailable(PROCEDURE, message, RETRY_AFTER));
        }
        open.insert(organisation.clone(), own + 1);
        metrics::log_stream_began();
        Ok(Place { places: self.clone(), organisation: organisation.clone(), ended: "refused" })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.organisation) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.organisation);
            }
        }
        metrics::log_stream_ended(self.ended);
    }
}

// === impl Streaming ===

impl Streaming {
    async fn run(mut self) {
        let mut news = self.state.directory.subscribe_position();
        self.place.ended = match self.send(Bytes::from_static(HELLO.as_bytes())).await {
            Err(reason) => reason,
            Ok(()) => loop {
                match self.turn(&mut news).await {
                    Turn::End(reason) => break reason,
                    Turn::Configs(configs) => {
                        // Too many by now: those that fit are followed, as nobody can be answered 409 any more.
                        self.tail.follow(&configs, &self.state.shards);
                        self.configs = configs;
                    }
                    Turn::Found(look) => {
                        if let Err(reason) = self.pass_on(look).await {
                            break reason;
                        }
                    }
                }
            },
        };
    }

    /// Waits for rows and, meanwhile, for everything that ends the stream or changes what it follows.
    async fn turn(&mut self, news: &mut watch::Receiver<crate::domain::ids::StreamId>) -> Turn {
        let Self { state, caller, filter, tail, client, stop, heartbeat, configs, .. } = self;
        let mut look = pin!(tail.look());
        loop {
            tokio::select! {
                found = &mut look => return match found {
                    Ok(found) => Turn::Found(found),
                    Err(error) => {
                        limited!(warn, %error, "a log stream ends: the logs cannot be read");
                        Turn::End("redis")
                    }
                },
                () = stopped(stop) => return Turn::End("shutdown"),
                () = client.closed() => return Turn::End("client"),
                _ = heartbeat.tick() => {
                    // Where events wait already, none is needed.
                    let _ = client.try_send(Bytes::from_static(b": heartbeat\n\n"));
                }
                changed = news.changed() => {
                    if changed.is_err() || !is_known(state, caller).await {
                        return Turn::End("token");
                    }
                    let now = followed(state, &caller.organisation, filter.config);
                    if now != *configs {
                        return Turn::Configs(now);
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, look: Look) -> Result<(), &'static str> {
        for found in &look.rows {
            if self.filter.wants(&found.row) {
                self.send(event_text(found)).await?;
            }
        }
        if !look.more {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopped(&mut self.stop) => return Err("shutdown"),
            }
        }
        Ok(())
    }

    /// Gives an event to the client, who may be slow, but not for long; the token is looked at again, for a client
    /// may take as long as it wants with what is there.
    async fn send(&mut self, event: Bytes) -> Result<(), &'static str> {
        if !is_known(&self.state, &self.caller).await {
            return Err("token");
        }
        tokio::select! {
            sent = tokio::time::timeout(PATIENCE, self.client.send(event)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("client"),
                Err(_) => Err("slow"),
            },
            () = stopped(&mut self.stop) => Err("shutdown"),
        }
    }
}

/// Waits for the process to stop; for ever where nobody says so.
async fn stopped(stop: &mut Option<watch::Receiver<bool>>) {
    match stop {
        // An error means that the sender is gone, which ends the process's parts as `true` does.
        Some(stop) => drop(stop.wait_for(|stop| *stop).await),
        None => std::future::pending().await,
    }
}

/// Whether the caller's token is still there. One that the directory does not know may be one that it does not know
/// yet: Redis is asked. Where that fails the stream goes on, and the next change asks again.
async fn is_known(state: &AdminState, caller: &Caller) -> bool {
    let token = match state.directory.token(&caller.token_hash) {
        Some(token) => return token.role == caller.role,
        None => find_token(&state.redis, &caller.token_hash).await,
    };
    token.is_ok_and(|token| token.is_some_and(|token| token.role == caller.role))
}
