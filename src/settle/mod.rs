//! Settle: gives every delivery its next durable fate, and acknowledges an event once all of its deliveries
//! have one.
//!
//! Owns: what a worker holds in memory (jobs, tickets, credit), the verdict on an attempt, the flush. Reads and
//! writes: `delivery:*`, `queue:*`, `failed:*`, `log:*`, `bodies:*`, `events` (XACK) through `redis`. May use:
//! `domain`, `redis`, `settings`, `metrics`. Woken by: an outcome, or a write that failed
//! and is due again.
//!
//! The order of writes is the promise: an event enters the `XACK` of a later flush than the writes that it
//! depends on, after every one of their answers was read and was no error. A pipeline does not stop at an
//! error, so an acknowledgement never travels beside a write that it depends on.

mod aside;
mod company;
mod counted;
mod credit;
mod entry;
mod flush;
mod job;
mod plan;
mod rows;
mod settler;
mod verdict;

pub use credit::{Credit, CreditHold};
pub use job::{Attempted, Consumer, Hold, Job, Ticket};
pub use settler::{Chores, Settler, SettlerParts};
pub use verdict::{RetryRules, Verdict, judge};
