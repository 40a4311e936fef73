//! Intake: reads the stream of one shard for one worker, checks each entry, and feeds the lanes.
//!
//! Owns: the worker's membership of the group (name and lease), who of the replica's workers blocks on the
//! stream, the recovery of own pending entries. Reads `events`, writes `rejected`, through `redis`. May use:
//! `domain`, `redis`, `settings`, `metrics` and the rooms after it. Woken by: new entries, credit that comes
//! back, a minute passing.

mod membership;
mod pressure;
mod reader;
mod recovery;
mod turn;

pub use membership::Membership;
pub use pressure::MemoryPressure;
pub(crate) use reader::BLOCK;
pub use reader::{Intake, IntakeParts};
pub use turn::ReadTurn;
