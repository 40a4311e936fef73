//! The floor, the trim behind it, and the gauges that only Redis can answer.
//!
//! Every replica raises the floor and looks at Redis's memory. The gauges are read and shown by one of them for all,
//! so that they can be summed: by whoever holds the shard's sampling lease. When it is gone its gauges are gone with
//! it, and another replica takes the lease.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::ids::ConfigId;
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::intake::MemoryPressure;
use crate::lanes::Breakers;
use crate::metrics::{Board, Sampled, WORST, label, summed};
use crate::redis::backlog::{self, Waiting};
use crate::redis::connection::{Link, Result};
use crate::redis::events::{self, Floor};
use crate::redis::keys::ShardKeys;
use crate::redis::publish::MEMORY_SHARE_MAX;
use crate::redis::server_state::{self, ServerState};
use crate::redis::{sampling, shard_state};
use crate::settings::Settings;

/// How often the floor is raised and memory is looked at; the gauges that cost more, in every such round while
/// events come.
const EVERY: Duration = Duration::from_secs(5);
/// The same while Redis is nearly full.
const EVERY_NEARLY_FULL: Duration = Duration::from_secs(1);
/// Rounds between two looks at the gauges while no event comes.
const QUIET_ROUNDS: u32 = 3;
/// The sampling lease: three rounds. What a sampler that died has shown is missing for as long.
const LEASE: Duration = Duration::from_secs(15);

/// What a sampler works with.
pub struct SamplerParts {
    /// The worker's connection.
    pub link: Rc<Link>,
    /// The shard.
    pub keys: ShardKeys,
    /// The replica's name.
    pub replica: String,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// Told of Redis's memory.
    pub pressure: Arc<MemoryPressure>,
    /// Hold the trim back.
    pub settings: Arc<Settings>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Says who may be sent to.
    pub breakers: Arc<Breakers>,
    /// Shows what was read.
    pub board: Arc<Board>,
}

/// Keeps one shard's floor and gauges, for its replica.
pub struct Sampler {
    parts: SamplerParts,
    floor: Option<String>,
    quiet: u32,
    /// The replica holds the sampling lease, as of the last round.
    holds: bool,
    /// The replica stops, and lets others have it.
    leaving: bool,
    /// The configs for which most waited at the last look: they are always counted.
    heaviest: Vec<ConfigId>,
}

// === impl Sampler ===

impl Sampler {
    /// A sampler that has looked at nothing.
    #[must_use]
    pub const fn new(parts: SamplerParts) -> Self {
        Self { parts, floor: None, quiet: 0, holds: false, leaving: false, heaviest: Vec::new() }
    }

    /// How long to wait for the next round.
    #[must_use]
    pub fn period(&self) -> Duration {
        if self.parts.pressure.is_high() { EVERY_NEARLY_FULL } else { EVERY }
    }

    /// Gives the gauges to another replica, for this one stops. The floor is kept as before.
    ///
    /// # Errors
    /// Redis's.
    pub async fn let_go(&mut self) -> Result<()> {
        self.leaving = true;
        self.holds = false;
        self.parts.board.hold(self.parts.keys.shard.0, None);
        sampling::let_go(&self.parts.link, &self.parts.keys, &self.parts.replica).await
    }

    /// Raises the shard's floor, trims behind it where it moved, and sets the gauges.
    ///
    /// # Errors
    /// Redis's.
    pub async fn run_once(&mut self) -> Result<()> {
        let asked = Instant::now();
        let holds = self.lease().await?;
        let parts = &self.parts;
        let server = server_state::read(&parts.link, holds && self.is_first()).await?;
        let share = server.memory_share();
        parts.pressure.set(share.is_some_and(|share| share >= MEMORY_SHARE_MAX));
        let floor = events::raise_floor(&parts.link, &parts.keys).await?;
        let moved = floor.floor != self.floor;
        let retention = &parts.settings.retention;
        if let Some(at) = floor.floor.as_deref().filter(|_| moved || !retention.events_age.is_zero()) {
            events::trim_behind(&parts.link, &parts.keys, at, parts.clock.now(), retention).await?;
        }
        #[allow(clippy::cast_precision_loss)] // Gauges are floats; milliseconds stay far below 2^52.
        Sampled::whole("postrider_clock_offset_seconds", parts.clock.offset_ms() as f64 / 1_000.0);
        self.quiet = if moved || floor.pending > 0 { 0 } else { self.quiet + 1 };
        if holds {
            if self.is_first() {
                show_server(&self.parts.board, &server);
            }
            if !self.holds || self.quiet.is_multiple_of(QUIET_ROUNDS) {
                self.set_gauges(&floor).await?;
            }
            // Only now: what could not be read anew is not shown for longer than the lease that it was read under.
            self.parts.board.hold(self.parts.keys.shard.0, Some((asked + LEASE).into_std()));
        }
        self.holds = holds;
        self.floor = floor.floor;
        Ok(())
    }

    /// Whether the gauges are this replica's to show.
    async fn lease(&mut self) -> Result<bool> {
        let parts = &self.parts;
        let holds = !self.leaving && sampling::hold(&parts.link, &parts.keys, &parts.replica, LEASE).await?;
        if !holds {
            parts.board.hold(parts.keys.shard.0, None);
            self.holds = false;
        }
        Ok(holds)
    }

    /// The first shard's sampler also tells of Redis as a whole.
    const fn is_first(&self) -> bool {
        self.parts.keys.shard.0 == 0
    }

    async fn set_gauges(&mut self, floor: &Floor) -> Result<()> {
        let SamplerParts { link, keys, clock, board, .. } = &self.parts;
        let state = shard_state::read(link, keys, floor.floor.as_deref()).await?;
        let (shard, now) = (keys.shard.0, clock.now());
        let age = |at: Option<u64>| at.map_or(0.0, |at| now.since(UnixMillis(at)).as_secs_f64());
        let oldest = state.oldest_undelivered.map(|id| id.ms);
        board.shard("postrider_oldest_undelivered_seconds", shard, age(oldest));
        let floor_at = floor.floor.as_deref().and_then(|id| id.split('-').next()?.parse().ok());
        board.shard("postrider_floor_age_seconds", shard, age(oldest.and(floor_at.filter(|at| *at > 0))));
        for (name, value) in [
            ("postrider_stream_entries", state.entries),
            ("postrider_stream_pending", floor.pending),
            ("postrider_due_configs", state.due_configs),
            ("postrider_live_consumers", state.consumers),
            ("postrider_rejected_entries", state.rejected),
            ("postrider_rejected_bytes", state.rejected_bytes),
        ] {
            board.shard(name, shard, float(value));
        }
        self.set_backlog(state.due_configs).await
    }

    /// The backlog of the shard: counted where few configs wait, else of the heaviest and of a sample of the others.
    async fn set_backlog(&mut self, due_configs: u64) -> Result<()> {
        let SamplerParts { link, keys, clock, board, .. } = &self.parts;
        let mut found = match due_configs {
            0 => Vec::new(),
            _ => backlog::look(link, keys, &self.heaviest, clock.now()).await?,
        };
        found.sort_unstable_by_key(|waiting| std::cmp::Reverse(waiting.deliveries));
        let scale = scale_of(&found, due_configs);
        let sum = |count: &dyn Fn(&Waiting) -> u64| -> f64 {
            let weight = |waiting: &Waiting| if waiting.drawn { scale } else { 1.0 };
            found.iter().map(|waiting| float(count(waiting)) * weight(waiting)).sum()
        };
        let total = sum(&|waiting| waiting.deliveries);
        let due = sum(&|waiting| if self.may_send(waiting.config) { waiting.due } else { 0 });
        let by_config: Vec<(ConfigId, f64)> =
            found.iter().take(WORST).map(|waiting| (waiting.config, float(waiting.deliveries))).collect();
        let named: f64 = by_config.iter().map(|(_, deliveries)| deliveries).sum();
        let shard = keys.shard.0;
        board.shard("postrider_backlog_deliveries", shard, total);
        board.shard("postrider_retries_due", shard, due);
        board.shard_all("postrider_config_backlog", shard, summed(by_config, (total - named).max(0.0)));
        self.heaviest = found.iter().take(WORST).map(|waiting| waiting.config).collect();
        Ok(())
    }

    /// Whether what is due for `config` has only this system to wait for.
    fn may_send(&self, config: ConfigId) -> bool {
        matches!(self.parts.snapshot.load().lookup(config), Lookup::Active(_))
            && self.parts.breakers.of(config).shut_for(std::time::Instant::now()).is_none()
    }
}

/// For how many configs each of the drawn ones stands.
fn scale_of(found: &[Waiting], due_configs: u64) -> f64 {
    let drawn = found.iter().filter(|waiting| waiting.drawn).count();
    let told = found.len() - drawn;
    if drawn < backlog::QUEUES_MAX - WORST {
        return 1.0;
    }
    (float(due_configs) - float(told as u64)).max(float(drawn as u64)) / float(drawn as u64)
}

fn show_server(board: &Board, server: &ServerState) {
    let flag = |set: bool| f64::from(u8::from(set));
    for (name, value) in [
        ("postrider_redis_memory_ratio", server.memory_share().unwrap_or(0.0)),
        ("postrider_redis_memory_bytes", server.memory),
        ("postrider_redis_memory_max_bytes", server.memory_max),
        ("postrider_redis_commands_per_second", server.commands_per_second),
        ("postrider_redis_clients", server.clients),
        ("postrider_redis_evicted_keys", server.evicted_keys),
        ("postrider_redis_aof_enabled", flag(server.aof)),
        ("postrider_redis_aof_bytes", server.aof_bytes),
        ("postrider_redis_replicas", server.replicas),
        ("postrider_redis_replica_lag_bytes", server.replica_lag),
    ] {
        board.whole(name, value);
    }
    let failing = [
        ("aof", server.aof_failing),
        ("aof_rewrite", server.aof_rewrite_failing),
        ("snapshot", server.snapshot_failing),
    ];
    let failing = failing.map(|(what, failing)| (label("what", what), flag(failing)));
    board.whole_all("postrider_redis_persistence_failing", failing);
}

#[allow(clippy::cast_precision_loss)] // Gauges are floats; counts stay far below 2^52.
const fn float(count: u64) -> f64 {
    count as f64
}
