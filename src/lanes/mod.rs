//! Lanes: what a replica keeps for one config. A lane decides whether a delivery is attempted at once, waits in
//! memory, or is parked in Redis.
//!
//! Owns: the permits and windows, the rate and the gate of each config (shared by all workers of the replica), each worker's queues, the sweep
//! that hands over what has no fate after a second. May use: `domain`, `settings`, `metrics`, and the next
//! rooms, `attempt` and `settle`. Never Redis. Woken by: intake and retry (a delivery),
//! an attempt that ends (a permit), the worker's tick (the sweep).
//!
//! A fast endpoint is held back by credit (intake waits) and never parked; a slow one is parked and slows nobody;
//! nothing waits in memory for over a second.

mod admission;
mod breaker;
mod doubt;
mod gate;
mod lane;
mod obstructed;
mod pace;
mod permits;
mod probing;
mod sending;
mod sweep;
mod window;

pub(crate) use admission::HELD_LOOK;
pub use admission::{Lanes, LanesParts};
pub use breaker::{Breaker, Breakers, ProbeEnd, Report};
pub use gate::Gate;
pub use pace::{Pace, Rate};
pub use permits::{LanePermits, Permit, Permits};
