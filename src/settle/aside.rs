//! Entries that Redis refused for a reason of their own (a key of another type, a value that no script expects):
//! they wait for themselves, longer each time, so that the others go on. They stay in memory, and hold their
//! credit.

use std::time::Duration;

use tokio::time::Instant;

use super::entry::Entry;
use super::settler::Settler;
use crate::domain::log_limit::limited;
use crate::redis::connection::RedisError;

/// From so many refusals on an entry is written alone: one of its company may be at fault.
pub(super) const ALONE_FROM: u32 = 3;

/// Shortest and longest wait after a refusal.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long an entry waits after so many refusals: twice as long each time.
pub(super) fn wait_after(failures: u32) -> Duration {
    WAIT_MIN.saturating_mul(1 << failures.min(16)).min(WAIT_MAX)
}

// === impl Settler ===

impl Settler {
    /// Lets these entries wait, after Redis refused to write them.
    pub(super) fn set_aside(&self, entries: Vec<Entry>, error: &RedisError) {
        let now = Instant::now();
        self.parts.metrics.settles_refused.increment(entries.len() as u64);
        for mut entry in entries {
            // One that waits for long must not keep others from being sent.
            entry.outcome = None;
            entry.failures += 1;
            let wait = wait_after(entry.failures);
            if wait == WAIT_MAX {
                let id = entry.job.delivery.id;
                limited!(error, delivery = %id, config = %entry.job.delivery.config, failures = entry.failures,
                    %error, "Redis refuses a delivery's fate; it waits in memory and is tried every 30 s");
            }
            self.aside.borrow_mut().push((now + wait, entry));
        }
    }

    /// Queues what has waited long enough.
    pub(super) fn take_back(&self) {
        let mut aside = self.aside.borrow_mut();
        if aside.is_empty() {
            return;
        }
        let now = Instant::now();
        let (ready, rest) = aside.drain(..).partition::<Vec<_>, _>(|(until, _)| *until <= now);
        *aside = rest;
        self.queue.borrow_mut().extend(ready.into_iter().map(|(_, entry)| entry));
    }

    /// When the first of them has waited long enough.
    pub(super) fn next_back(&self) -> Option<Instant> {
        self.aside.borrow().iter().map(|(until, _)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_entry_waits_longer_each_time_up_to_half_a_minute() {
        assert_eq!(wait_after(1), Duration::from_millis(40));
        assert_eq!(wait_after(ALONE_FROM), Duration::from_millis(160));
        assert_eq!(wait_after(11), WAIT_MAX);
        assert_eq!(wait_after(u32::MAX), WAIT_MAX);
    }
}
