//! A worker: one core's share of a replica, a thread with a current-thread runtime.
//!
//! Owns: the rooms of the walk as one worker has them (its connections to Redis and to endpoints, its lanes, its
//! settler), its tick, its leases, its drain. May use: every room of the walk, `upkeep`, `redis`, `settings`,
//! `metrics`. An event lives on one worker from intake to settle; only permits, turns and the snapshot are shared.

mod build;
mod duties;
mod lag;
mod life;

pub use duties::{Duty, duties_of};
pub use life::{Drained, Shared, spawn};
