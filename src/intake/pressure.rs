//! Whether Redis is so full that reading must not outrun trimming. Reading does not stop: reading, delivering and
//! trimming is what frees memory.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::ids::StreamId;
use crate::redis::connection::Result;
use crate::redis::events;

use super::reader::Intake;

/// Entries that one read takes at most while Redis is nearly full.
pub(super) const READ_COUNT: u32 = 64;

/// Whether Redis is nearly full; sampled by upkeep, read by the replica's workers.
#[derive(Debug, Default)]
pub struct MemoryPressure(AtomicBool);

// === impl MemoryPressure ===

impl MemoryPressure {
    /// Says what was sampled.
    pub fn set(&self, high: bool) {
        if self.0.swap(high, Ordering::Relaxed) != high {
            if high {
                tracing::warn!("Redis is nearly full: events are read a few at a time, as they are trimmed");
            } else {
                tracing::info!("Redis has room again");
            }
        }
    }

    /// Whether Redis is nearly full.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Intake ===

impl Intake {
    /// Whether what was read last is acknowledged and lies behind the floor; trims behind it then.
    pub(super) async fn is_behind_floor(&self, last: StreamId) -> Result<bool> {
        let parts = &self.parts;
        if parts.settler.holds_any(parts.keys.shard) {
            return Ok(false);
        }
        let floor = events::raise_floor(&parts.link, &parts.keys).await?.floor;
        let Some(floor) = floor.filter(|floor| floor.parse::<StreamId>().is_ok_and(|floor| floor >= last))
        else {
            return Ok(false);
        };
        let retention = &parts.settings.retention;
        events::trim_behind(&parts.link, &parts.keys, &floor, parts.clock.now(), retention).await?;
        Ok(true)
    }
}
