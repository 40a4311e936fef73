//! The floor, the trim behind it, and the gauges that only Redis can answer.

use std::time::Duration;

use crate::domain::clock::{Clock, UnixMillis};
use crate::metrics::Sampled;
use crate::redis::connection::{Link, Result};
use crate::redis::events;
use crate::redis::keys::ShardKeys;
use crate::redis::shard_state;

/// Raises a shard's floor, trims behind it (`events_age` holds the trim back), and sets its gauges.
///
/// # Errors
/// Redis's.
pub async fn sample(link: &Link, keys: &ShardKeys, clock: &Clock, events_age: Duration) -> Result<()> {
    let floor = events::raise_floor(link, keys).await?;
    if let Some(floor) = &floor.floor {
        let trimmed = events::trim(link, keys, &held_back(floor, clock.now(), events_age)).await?;
        metrics::counter!("postrider_stream_trimmed_total").increment(trimmed);
    }
    let state = shard_state::read(link, keys, floor.floor.as_deref()).await?;
    let shard = keys.shard.0;
    let age = state.oldest_undelivered.map_or(Duration::ZERO, |id| clock.now().since(UnixMillis(id.ms)));
    Sampled::shard("postrider_oldest_undelivered_seconds", shard, age.as_secs_f64());
    #[allow(clippy::cast_precision_loss)] // Gauges are floats; counts stay far below 2^52.
    for (name, value) in [
        ("postrider_stream_entries", state.entries),
        ("postrider_stream_pending", floor.pending),
        ("postrider_due_configs", state.due_configs),
        ("postrider_live_consumers", state.consumers),
    ] {
        Sampled::shard(name, shard, value as f64);
    }
    Sampled::whole("postrider_redis_memory_ratio", state.memory_share.unwrap_or(0.0));
    #[allow(clippy::cast_precision_loss)]
    Sampled::whole("postrider_clock_offset_seconds", clock.offset_ms() as f64 / 1_000.0);
    Ok(())
}

/// The trim's bound: the floor, or the retained age where that is earlier.
fn held_back(floor: &str, now: UnixMillis, events_age: Duration) -> String {
    let age = u64::try_from(events_age.as_millis()).unwrap_or(u64::MAX);
    let kept_from = now.0.saturating_sub(age);
    let floor_ms = floor.split('-').next().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0);
    if age > 0 && kept_from < floor_ms { format!("{kept_from}-0") } else { floor.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_holds_the_trim_back_and_never_drives_it_forward() {
        let now = UnixMillis(10_000);
        assert_eq!(held_back("9000-3", now, Duration::ZERO), "9000-3");
        assert_eq!(held_back("9000-3", now, Duration::from_secs(5)), "5000-0");
        assert_eq!(held_back("4000-1", now, Duration::from_secs(5)), "4000-1");
    }
}
