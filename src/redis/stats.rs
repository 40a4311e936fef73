//! The stats of a config: `stats:<config>:<hour>` and, for the last hour, `stats:<config>:<hour>:<ten minutes>`
//! (docs/REDIS.md, "Stats"); and what waits for it now.

use std::collections::HashMap;
use std::time::Duration;

use redis::Pipeline;

use super::connection::{During, Link, Redis, Result};
use super::keys::ShardKeys;
use super::scripts::ADD_STATS;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, DeliveryId, ShardNumber};
use crate::domain::owned_config::OwnedConfig;
use crate::domain::stats::{Counts, LastFailure};

const HOUR_MS: u64 = 3_600_000;
const TEN_MINUTES_MS: u64 = 600_000;

/// How long an hour's counts are kept: the day that is shown, and as long again for who looks late.
const HOUR_KEPT: Duration = Duration::from_secs(48 * 3_600);
/// How long ten minutes' counts are kept.
const TEN_MINUTES_KEPT: Duration = Duration::from_secs(2 * 3_600);

/// Calls of one pipeline.
const CALLS_MAX: usize = 500;

/// Waiting deliveries that are looked at for the oldest: those that are due first.
const OLDEST_LOOKED_AT: usize = 10_000;

/// What was counted, by shard and config.
pub type Counted = HashMap<(ShardNumber, ConfigId), Counts>;

/// A config's stats.
#[derive(Clone, Debug, Default)]
pub struct ConfigStats {
    /// The last six whole ten minutes and the present ones.
    pub last_hour: Counts,
    /// When that span begins.
    pub last_hour_from: UnixMillis,
    /// The last 24 whole hours and the present one.
    pub last_day: Counts,
    /// When that span begins.
    pub last_day_from: UnixMillis,
    /// Deliveries that wait.
    pub backlog: u64,
    /// Bytes of their records and bodies.
    pub backlog_bytes: u64,
    /// When the oldest of them came to be.
    pub oldest_waiting: Option<UnixMillis>,
    /// Whether there may be an older one.
    pub oldest_is_bound: bool,
    /// Failed deliveries that are kept.
    pub failed: u64,
    /// Bytes of their records and bodies.
    pub failed_bytes: u64,
}

/// Adds what was counted at `now`, and takes it out of `counted` as far as it was added.
///
/// # Errors
/// The first one of Redis; what it concerns stays.
pub async fn add(link: &Link, shards: &[ShardKeys], counted: &mut Counted, now: UnixMillis) -> Result<()> {
    while !counted.is_empty() {
        let chosen: Vec<(ShardNumber, ConfigId)> = counted.keys().copied().take(CALLS_MAX).collect();
        let mut pipeline = Pipeline::new();
        for place in &chosen {
            let keys = shards.get(usize::from(place.0.0));
            if let (Some(keys), Some(counts)) = (keys, counted.get(place)) {
                pipeline.add_command(add_command(keys, place.1, counts, now));
            }
        }
        let answers = link.pipeline("adding stats", &pipeline).await?;
        let mut refused = None;
        for (place, answer) in chosen.into_iter().zip(answers) {
            // What Redis refuses for a reason of its own is given up: stats are not worth a queue.
            counted.remove(&place);
            refused = refused.or(answer.err());
        }
        if let Some(error) = refused {
            return Err(error);
        }
    }
    Ok(())
}

fn add_command(keys: &ShardKeys, config: ConfigId, counts: &Counts, now: UnixMillis) -> redis::Cmd {
    let (hour, part) = (now.0 / HOUR_MS, now.0 % HOUR_MS / TEN_MINUTES_MS);
    let kept = [HOUR_KEPT, TEN_MINUTES_KEPT].map(|kept| kept.as_millis().to_string());
    let success = counts.last_success_at.unwrap_or_default().0.to_string();
    let (failed_at, failure) = match &counts.last_failure {
        Some((at, failure)) => (at.0.to_string(), failure.to_string()),
        None => ("0".to_owned(), String::new()),
    };
    let args = [&kept[0], &kept[1], &success, &failed_at, &failure].map(String::as_bytes);
    let fields =
        counts.fields().flat_map(|(name, count)| [name.into_bytes(), count.to_string().into_bytes()]);
    let stats = [keys.stats(config, hour), keys.recent_stats(config, hour, part)];
    ADD_STATS.call_batch([&stats[0], &stats[1]], &[], args, &fields.collect::<Vec<_>>())
}

/// Reads a config's stats.
///
/// # Errors
/// Redis's.
pub async fn read(
    redis: &Redis,
    shards: &[ShardKeys],
    config: &OwnedConfig,
    now: UnixMillis,
) -> Result<ConfigStats> {
    let operation = "reading stats";
    let mut connection = redis.pooled(operation).await?;
    let hour = now.0 / HOUR_MS;
    let part = now.0 / TEN_MINUTES_MS;
    let mut stats = ConfigStats {
        last_hour_from: UnixMillis(part.saturating_sub(6) * TEN_MINUTES_MS),
        last_day_from: UnixMillis(hour.saturating_sub(24) * HOUR_MS),
        ..ConfigStats::default()
    };
    for keys in shards {
        let id = config.id();
        let mut pipeline = Pipeline::new();
        for hour in hour.saturating_sub(24)..=hour {
            pipeline.cmd("HGETALL").arg(keys.stats(id, hour));
        }
        for part in part.saturating_sub(6)..=part {
            pipeline.cmd("HGETALL").arg(keys.recent_stats(id, part / 6, part % 6));
        }
        let spans: Vec<HashMap<String, String>> =
            pipeline.query_async(&mut connection).await.during(operation)?;
        for (index, fields) in spans.into_iter().enumerate() {
            let span = if index <= 24 { &mut stats.last_day } else { &mut stats.last_hour };
            span.add(counts_of(fields));
        }
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ZCARD").arg(keys.queue(id));
        pipeline.cmd("ZCARD").arg(keys.failed(id));
        pipeline.cmd("HMGET").arg(keys.size(id)).arg("queueBytes").arg("failedBytes");
        pipeline.cmd("ZRANGE").arg(keys.queue(id)).arg(0).arg(OLDEST_LOOKED_AT - 1);
        type Answer = (u64, u64, (Option<i64>, Option<i64>), Vec<Vec<u8>>);
        let (queued, failed, (queue_bytes, failed_bytes), members): Answer =
            pipeline.query_async(&mut connection).await.during(operation)?;
        stats.backlog += queued;
        stats.failed += failed;
        stats.backlog_bytes += u64::try_from(queue_bytes.unwrap_or(0)).unwrap_or(0);
        stats.failed_bytes += u64::try_from(failed_bytes.unwrap_or(0)).unwrap_or(0);
        stats.oldest_is_bound |= queued > OLDEST_LOOKED_AT as u64;
        stats.oldest_waiting = stats.oldest_waiting.into_iter().chain(oldest_of(&members)).min();
    }
    Ok(stats)
}

/// When the oldest came to be: a delivery's id says it.
fn oldest_of(members: &[Vec<u8>]) -> Option<UnixMillis> {
    let ids =
        members.iter().filter_map(|member| std::str::from_utf8(member).ok()?.parse::<DeliveryId>().ok());
    ids.map(|id| UnixMillis(id.event().stream_id().ms)).min()
}

fn counts_of(fields: HashMap<String, String>) -> Counts {
    let mut counts = Counts::default();
    let time = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).map(UnixMillis);
    counts.last_success_at = time("lastSuccessAt");
    counts.last_failure = time("lastFailureAt")
        .map(|at| (at, LastFailure::Text(fields.get("lastFailure").cloned().unwrap_or_default())));
    for (name, count) in &fields {
        if let Ok(count) = count.parse() {
            counts.take_field(name, count);
        }
    }
    counts
}
