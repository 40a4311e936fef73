//! Retries that somebody asks for: a delivery that has ended waits in its queue again (docs/WIRE.md section 11).

use std::sync::Arc;

use bytes::Bytes;

use super::connection::{Redis, RedisError, Result};
use super::keys::ShardKeys;
use super::log_search::DeliveryDetail;
use super::scripts::{self, RETRY};
use crate::domain::delivery::{
    AttemptSummary, BODY_INLINE_MAX_BYTES, Delivery, DeliveryRecord, HISTORY_MAX, LastAttempt, Standing,
    Tried,
};
use crate::domain::log::Status;
use crate::domain::log_view::{AttemptLine, DeliveryView};
use crate::domain::outcome::Outcome;
use crate::domain::owned_config::OwnedConfig;
use crate::settings::retention::RetentionSettings;

/// What became of the wish to retry a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It waits in its queue, due now.
    Queued,
    /// It waits, or is tried, already.
    Waiting,
    /// It is not any more as the caller saw it.
    Changed,
    /// The config's queue is full.
    QueueFull,
    /// The bytes to send are no longer kept.
    PayloadGone,
}

/// Puts a delivery of `config` that was delivered or has failed back into its queue, due now. `seen` is what
/// [`super::log_search::find_delivery`] told of it; nothing happens where it has changed since, so a repeated call
/// asks for one attempt.
///
/// # Errors
/// Redis's.
pub async fn retry(
    redis: &Redis,
    shards: &[ShardKeys],
    config: &OwnedConfig,
    seen: &DeliveryDetail,
    retention: &RetentionSettings,
) -> Result<Retried> {
    let operation = "retrying a delivery";
    let view = &seen.view;
    if matches!(view.status, Status::Pending | Status::Retrying) {
        return Ok(Retried::Waiting);
    }
    let Some(payload) = &seen.payload else { return Ok(Retried::PayloadGone) };
    let shard = view.delivery.event().shard();
    let keys = shards.iter().find(|keys| keys.shard == shard);
    let keys = keys.ok_or_else(|| RedisError::answer(operation, format!("there is no shard {}", shard.0)))?;
    let (record, apart) = if seen.recorded { (Vec::new(), Bytes::new()) } else { revived(view, payload) };
    let id = config.id();
    let call = RETRY.call(
        [
            &keys.queue(id),
            &keys.due(),
            &keys.failed(id),
            &keys.size(id),
            &keys.delivery(view.delivery),
            &keys.body(view.delivery.event().stream_id()),
        ],
        [
            id.to_string().as_bytes(),
            &id.bytes(),
            view.delivery.to_string().as_bytes(),
            view.attempts.to_string().as_bytes(),
            retention.queue_max.to_string().as_bytes(),
            retention.queue_bytes_max.to_string().as_bytes(),
            &record,
            &apart,
        ],
    );
    let mut connection = redis.pooled(operation).await?;
    let answer: String = scripts::run(&mut connection, operation, &call).await?;
    match answer.as_str() {
        "queued" => Ok(Retried::Queued),
        "waiting" => Ok(Retried::Waiting),
        "changed" => Ok(Retried::Changed),
        "full" => Ok(Retried::QueueFull),
        "gone" => Ok(Retried::PayloadGone),
        other => Err(RedisError::answer(operation, other)),
    }
}

/// The record of a delivery that has none any more, from what its log tells; and the body where it lies apart. The
/// coming attempt counts as asked for by hand. After a success all before it do instead, and it stands for a first one:
/// should it fail, the delivery has its automatic retries again.
fn revived(view: &DeliveryView, payload: &Bytes) -> (Vec<u8>, Bytes) {
    let by_hand = if view.status == Status::Delivered { view.attempts } else { view.attempts.min(1) };
    let last = view.last_attempt_at.map(|at| LastAttempt {
        at,
        url: view.url.clone().unwrap_or_else(|| Arc::from("")),
        status: view.response_status,
        excerpt: view.excerpt.clone(),
        error: view.error.clone(),
    });
    let older = view.attempt_log.len().saturating_sub(HISTORY_MAX);
    let history = view.attempt_log.iter().skip(older).map(summary).collect();
    let delivery = Delivery {
        id: view.delivery,
        config: view.config,
        event_type: Arc::clone(&view.event_type),
        // The log does not keep it.
        traceparent: None,
        body: payload.clone(),
        created_at: view.created_at,
        tried: Tried::default(),
    };
    let tried = Tried { attempts: view.attempts, by_hand, last, history };
    let record = DeliveryRecord::of(&delivery, tried, Standing::Waiting).encode();
    let apart = if payload.len() > BODY_INLINE_MAX_BYTES { payload.clone() } else { Bytes::new() };
    (record, apart)
}

fn summary(line: &AttemptLine) -> AttemptSummary {
    let outcome = match line.response_status {
        _ if line.success => Outcome::Delivered,
        Some(status) => Outcome::of_status(status),
        None => Outcome::Retryable,
    };
    AttemptSummary {
        attempt: line.attempt,
        at: line.at,
        took_ms: line.took_ms,
        status: line.response_status,
        outcome,
    }
}
