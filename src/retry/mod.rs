//! Retry: claims what is due and feeds the lanes, a second source beside intake.
//!
//! Owns: the scheduler of one worker on one shard, and the visits that changed configs ask for. Reads `due`,
//! `queue:*`, `delivery:*`, `body:*` through `redis`; writes claims, and takes probes in `health`. May use: `domain`, `redis`, `settings`,
//! `metrics`, `lanes`, `settle`. Woken by: the next due time, at most a second; a delivery
//! that is due sooner; permits that wait for a backlog; a config that changed.
//!
//! A visit to a config claims only as many deliveries as there are permits free now, at most 64. The claim's
//! score is its token, so a crash needs no second mechanism: the deliveries are due again when it is past.

mod load;
mod probe;
mod scheduler;
mod unserved;

pub use scheduler::{Scheduler, SchedulerParts, Visits};
