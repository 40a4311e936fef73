//! Upkeep: keeps the keyspace within its bounds, beside the walk.
//!
//! Owns: the floor and the trim behind it, log and failed caps, disabling after a 410 or days of failures, the shared
//! records of health and the events about them, the observation of leases
//! and the takeover of dead consumers, the end of deleted configs, the jobs that somebody asked for by hand, the gauges
//! sampled from Redis. May use: `domain`, `redis`, `settings`,
//! `metrics`, `settle` (its chores), `intake` (whom it tells of taken-over entries),
//! `lanes` (whose permits it tells which replicas live, and whose breakers it carries). Woken by: its period only;
//! every step may be repeated, and any replica finishes what another began.

mod ages;
mod chores;
mod health;
mod jobs;
mod observer;
mod operator_events;
mod sampler;
mod tombstones;

pub use ages::AgeRotation;
pub use chores::ChoreRunner;
pub use health::{HealthKeeper, HealthKeeperParts};
pub use jobs::{JobRunner, JobRunnerParts};
pub use observer::Observer;
pub use operator_events::OperatorEvents;
pub use sampler::Sampler;
pub use tombstones::TombstoneKeeper;
