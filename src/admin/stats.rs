//! `GET /webhooks/configs/{id}/stats` (docs/WIRE.md section 12).

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::described::{ConfigIdText, Time};
use super::error::ApiError;
use super::state::AdminState;
use crate::domain::breaker::{BreakerState, Health};
use crate::domain::clock::UnixMillis;
use crate::domain::config::{DisabledReason, StoredConfig};
use crate::domain::delivery::FailReason;
use crate::domain::ids::{ConfigId, InvalidId};
use crate::domain::outcome::Outcome;
use crate::domain::owned_config::OwnedConfig;
use crate::domain::stats::Counts;
use crate::redis::stats::{self, ConfigStats};

const PROCEDURE: &str = "getWebhookStats";

/// A config's stats.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatsAnswer {
    #[schema(value_type = ConfigIdText)]
    webhook_config_id: String,
    /// Null when the config was deleted.
    #[schema(required)]
    active: Option<bool>,
    /// Only when Postrider disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disabled_reason: Option<DisabledReason>,
    last_hour: SpanStats,
    last_day: SpanStats,
    backlog: Backlog,
    failed: Kept,
    breaker: BreakerShown,
    #[schema(value_type = Option<Time>, required)]
    last_success_at: Option<String>,
    #[schema(required)]
    last_failure: Option<FailureShown>,
    /// When this was read.
    #[schema(value_type = Time)]
    at: String,
}

/// What happened in a span of time that ends now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpanStats {
    /// When the span begins.
    #[schema(value_type = Time)]
    from: String,
    deliveries: DeliveryCounts,
    attempts: AttemptCounts,
    latency_ms: Latency,
    /// Events for which no delivery was made because the config was inactive.
    skipped: u64,
}

/// Deliveries that ended in the span.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryCounts {
    delivered: u64,
    failed: u64,
    /// The failed ones by `failReason`; those that did not occur are left out.
    #[schema(value_type = BTreeMap<String, u64>)]
    failed_by_reason: BTreeMap<&'static str, u64>,
    /// Delivered of all that ended; null when none ended.
    #[schema(required, minimum = 0, maximum = 1)]
    success_rate: Option<f64>,
}

/// Attempts that ended in the span, by outcome.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptCounts {
    total: u64,
    delivered: u64,
    gone: u64,
    refused: u64,
    retryable: u64,
    /// Delivered of all; null when there was none.
    #[schema(required, minimum = 0, maximum = 1)]
    success_rate: Option<f64>,
}

/// How long attempts took, in milliseconds, from buckets; null when there was none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Latency {
    #[schema(required)]
    p50: Option<u64>,
    #[schema(required)]
    p95: Option<u64>,
    #[schema(required)]
    p99: Option<u64>,
}

/// What waits in Redis.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    deliveries: u64,
    bytes: u64,
    /// When the oldest waiting delivery came to be.
    #[schema(value_type = Option<Time>, required)]
    oldest_at: Option<String>,
    #[schema(required)]
    oldest_age_seconds: Option<u64>,
    /// Whether an older one may wait behind the first 10,000.
    oldest_is_bound: bool,
}

/// Failed deliveries that are kept for a retry by hand.
#[derive(Debug, Serialize, ToSchema)]
pub struct Kept {
    deliveries: u64,
    bytes: u64,
}

/// The breaker now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerShown {
    state: BreakerState,
    /// The last failure, while there is one that no success followed.
    #[schema(required)]
    reason: Option<String>,
    #[schema(value_type = Option<Time>, required)]
    since: Option<String>,
    /// Only while it is open.
    #[schema(value_type = Option<Time>, required)]
    next_probe_at: Option<String>,
    #[schema(value_type = Option<Time>, required)]
    failing_since: Option<String>,
}

/// The last attempt that did not succeed.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureShown {
    #[schema(value_type = Time)]
    at: String,
    #[schema(examples("HTTP 502"))]
    reason: String,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/webhooks/configs/{id}/stats", get(get_stats))
}

/// Read a config's stats
///
/// How its endpoint does: what was delivered and failed in the last hour and day, latencies, what waits, the breaker.
#[utoipa::path(
    get, path = "/webhooks/configs/{id}/stats", operation_id = "getWebhookStats", tag = "inspect",
    params(("id" = inline(ConfigIdText), Path, description = "The config.")),
    responses((status = 200, description = "The config's stats.", body = StatsAnswer)),
)]
pub(super) async fn get_stats(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<StatsAnswer>, ApiError> {
    let malformed = |what: String| ApiError::bad_request(PROCEDURE, format!("path.id: {what}"));
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    let id: ConfigId = text.parse().map_err(|error: InvalidId| malformed(error.to_string()))?;
    let unknown = || ApiError::not_found(PROCEDURE, "path.id: no such config");
    let configs = state.directory.configs();
    let stored = configs.get(&caller.organisation, id).ok_or_else(unknown)?;
    let owned = OwnedConfig::prove(stored, &caller.organisation).ok_or_else(unknown)?;
    let now = state.clock.now();
    let read = stats::read(&state.redis, &state.shards, &owned, now)
        .await
        .map_err(|error| ApiError::from_redis(PROCEDURE, &error))?;
    let health = state.directory.health().get(&id).cloned();
    Ok(Json(StatsAnswer::of(stored, &read, health.as_deref(), now)))
}

// === impl StatsAnswer ===

impl StatsAnswer {
    fn of(stored: &StoredConfig, stats: &ConfigStats, health: Option<&Health>, now: UnixMillis) -> Self {
        let config = match stored {
            StoredConfig::Config(config) => Some(config),
            StoredConfig::Tombstone(_) => None,
        };
        // The ten minutes are of the same hours as the day, which therefore knows every last one.
        let day = &stats.last_day;
        let last_success = day.last_success_at.max(health.and_then(|health| health.last_success_at));
        let last_failure = day.last_failure.as_ref();
        Self {
            webhook_config_id: stored.id().to_string(),
            active: config.map(|config| config.active),
            disabled_reason: config
                .and_then(|config| config.disabled.as_ref())
                .map(|disabled| disabled.reason),
            last_hour: SpanStats::of(&stats.last_hour, stats.last_hour_from),
            last_day: SpanStats::of(day, stats.last_day_from),
            backlog: Backlog {
                deliveries: stats.backlog,
                bytes: stats.backlog_bytes,
                oldest_at: stats.oldest_waiting.map(|at| at.to_string()),
                oldest_age_seconds: stats.oldest_waiting.map(|at| now.since(at).as_secs()),
                oldest_is_bound: stats.oldest_is_bound,
            },
            failed: Kept { deliveries: stats.failed, bytes: stats.failed_bytes },
            breaker: BreakerShown::of(health),
            last_success_at: last_success.map(|at| at.to_string()),
            last_failure: last_failure
                .map(|(at, reason)| FailureShown { at: at.to_string(), reason: reason.to_string() }),
            at: now.to_string(),
        }
    }
}

// === impl SpanStats ===

impl SpanStats {
    fn of(counts: &Counts, from: UnixMillis) -> Self {
        let failed = counts.failed.iter().sum();
        let by_reason = FailReason::ALL.iter().zip(counts.failed).filter(|(_, count)| *count > 0);
        let of = |outcome: Outcome| counts.attempts[usize::from(outcome.code())];
        let total = counts.attempts_made();
        Self {
            from: from.to_string(),
            deliveries: DeliveryCounts {
                delivered: counts.delivered,
                failed,
                failed_by_reason: by_reason.map(|(reason, count)| (reason.as_str(), count)).collect(),
                success_rate: share(counts.delivered, counts.delivered + failed),
            },
            attempts: AttemptCounts {
                total,
                delivered: of(Outcome::Delivered),
                gone: of(Outcome::Gone),
                refused: of(Outcome::Refused),
                retryable: of(Outcome::Retryable),
                success_rate: share(of(Outcome::Delivered), total),
            },
            latency_ms: Latency {
                p50: counts.percentile_ms(0.50),
                p95: counts.percentile_ms(0.95),
                p99: counts.percentile_ms(0.99),
            },
            skipped: counts.skipped,
        }
    }
}

// === impl BreakerShown ===

impl BreakerShown {
    fn of(health: Option<&Health>) -> Self {
        let Some(health) = health else {
            let state = BreakerState::Closed;
            return Self { state, reason: None, since: None, next_probe_at: None, failing_since: None };
        };
        let known = |at: UnixMillis| (at != UnixMillis::default()).then(|| at.to_string());
        Self {
            state: health.state,
            reason: Some(health.reason.clone()).filter(|reason| !reason.is_empty()),
            since: known(health.since),
            next_probe_at: known(health.until).filter(|_| health.state == BreakerState::Open),
            failing_since: health.failing_since.map(|at| at.to_string()),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
