//! The floor, the trim behind it, and the gauges that only Redis can answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::clock::{Clock, UnixMillis};
use crate::intake::MemoryPressure;
use crate::metrics::Sampled;
use crate::redis::connection::{Link, Result};
use crate::redis::events::{self, Floor};
use crate::redis::keys::ShardKeys;
use crate::redis::publish::MEMORY_SHARE_MAX;
use crate::redis::shard_state;
use crate::settings::Settings;

/// How often the floor is raised and memory is looked at; the gauges that cost more, in every such round while
/// events come.
const EVERY: Duration = Duration::from_secs(5);
/// The same while Redis is nearly full.
const EVERY_NEARLY_FULL: Duration = Duration::from_secs(1);
/// Rounds between two looks at the gauges while no event comes.
const QUIET_ROUNDS: u32 = 3;

/// Keeps one shard's floor and gauges, for its replica.
pub struct Sampler {
    link: Rc<Link>,
    keys: ShardKeys,
    clock: Arc<Clock>,
    pressure: Arc<MemoryPressure>,
    settings: Arc<Settings>,
    floor: Option<String>,
    quiet: u32,
}

// === impl Sampler ===

impl Sampler {
    /// A sampler that has looked at nothing; the settings hold the trim back.
    #[must_use]
    pub const fn new(
        link: Rc<Link>,
        keys: ShardKeys,
        clock: Arc<Clock>,
        pressure: Arc<MemoryPressure>,
        settings: Arc<Settings>,
    ) -> Self {
        Self { link, keys, clock, pressure, settings, floor: None, quiet: 0 }
    }

    /// How long to wait for the next round.
    #[must_use]
    pub fn period(&self) -> Duration {
        if self.pressure.is_high() { EVERY_NEARLY_FULL } else { EVERY }
    }

    /// Raises the shard's floor, trims behind it where it moved, and sets the gauges.
    ///
    /// # Errors
    /// Redis's.
    pub async fn run_once(&mut self) -> Result<()> {
        let share = shard_state::memory(&self.link).await?;
        self.pressure.set(share.is_some_and(|share| share >= MEMORY_SHARE_MAX));
        Sampled::whole("postrider_redis_memory_ratio", share.unwrap_or(0.0));
        let floor = events::raise_floor(&self.link, &self.keys).await?;
        let moved = floor.floor != self.floor;
        let retention = &self.settings.retention;
        if let Some(at) = floor.floor.as_deref().filter(|_| moved || !retention.events_age.is_zero()) {
            events::trim_behind(&self.link, &self.keys, at, self.clock.now(), retention).await?;
        }
        self.quiet = if moved || floor.pending > 0 { 0 } else { self.quiet + 1 };
        if self.quiet.is_multiple_of(QUIET_ROUNDS) {
            self.set_gauges(&floor).await?;
        }
        self.floor = floor.floor;
        Ok(())
    }

    async fn set_gauges(&self, floor: &Floor) -> Result<()> {
        let state = shard_state::read(&self.link, &self.keys, floor.floor.as_deref()).await?;
        let (shard, now) = (self.keys.shard.0, self.clock.now());
        let age = state.oldest_undelivered.map_or(Duration::ZERO, |id| now.since(UnixMillis(id.ms)));
        Sampled::shard("postrider_oldest_undelivered_seconds", shard, age.as_secs_f64());
        #[allow(clippy::cast_precision_loss)] // Gauges are floats; counts stay far below 2^52.
        for (name, value) in [
            ("postrider_stream_entries", state.entries),
            ("postrider_stream_pending", floor.pending),
            ("postrider_due_configs", state.due_configs),
            ("postrider_live_consumers", state.consumers),
            ("postrider_rejected_entries", state.rejected),
            ("postrider_rejected_bytes", state.rejected_bytes),
        ] {
            Sampled::shard(name, shard, value as f64);
        }
        #[allow(clippy::cast_precision_loss)]
        Sampled::whole("postrider_clock_offset_seconds", self.clock.offset_ms() as f64 / 1_000.0);
        Ok(())
    }
}
