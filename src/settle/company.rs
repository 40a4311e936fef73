//! Deliveries that are to be parked and can wait for company: a script over sixty-four costs Redis a fraction of
//! sixty-four scripts, and everybody waits while it runs one.
//!
//! Each waits for a tenth of a second at most. Nobody looks at them sooner: their endpoint hangs, their breaker is
//! open, or others wait before them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::Entry;
use super::settler::Settler;
use crate::domain::ids::{ConfigId, ShardNumber};
use crate::redis::deliveries::BATCH_MAX;

/// Longest wait for company.
const WAIT: Duration = Duration::from_millis(100);

/// What waits for company, by the queue that it goes to.
pub(super) struct Company<T> {
    groups: HashMap<(ShardNumber, ConfigId), (Instant, Vec<T>)>,
}

// === impl Company ===

impl<T> Default for Company<T> {
    fn default() -> Self {
        Self { groups: HashMap::new() }
    }
}

impl<T> Company<T> {
    /// Lets one wait; gives back its group when that is as large as a script takes.
    fn add(&mut self, queue: (ShardNumber, ConfigId), one: T, now: Instant) -> Option<Vec<T>> {
        let (_, group) = self.groups.entry(queue).or_insert_with(|| (now + WAIT, Vec::new()));
        group.push(one);
        if group.len() < BATCH_MAX { None } else { self.groups.remove(&queue).map(|(_, group)| group) }
    }

    /// Those that have waited until `now`.
    fn take_ready(&mut self, now: Instant) -> Vec<T> {
        self.groups.extract_if(|_, (until, _)| *until <= now).flat_map(|(_, (_, group))| group).collect()
    }

    fn take_all(&mut self) -> Vec<T> {
        self.groups.drain().flat_map(|(_, (_, group))| group).collect()
    }

    /// When the first of them has waited long enough.
    fn next(&self) -> Option<Instant> {
        self.groups.values().map(|(until, _)| *until).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

// === impl Settler ===

impl Settler {
    /// Lets an entry wait for others of its config.
    pub(super) fn gather(&self, entry: Entry) {
        entry.job.settling.set(true);
        let queue = (entry.job.delivery.id.event().shard(), entry.job.delivery.config);
        let mut company = self.company.borrow_mut();
        let first = company.is_empty();
        let group = company.add(queue, entry, Instant::now());
        drop(company);
        if let Some(group) = group {
            self.queue.borrow_mut().extend(group);
        } else if !first {
            return;
        }
        self.wake.notify_one();
    }

    /// Queues what waits for company, and has waited long enough.
    pub(super) fn take_company(&self) {
        let mut company = self.company.borrow_mut();
        let now = Instant::now();
        if company.next().is_some_and(|until| until <= now) {
            self.queue.borrow_mut().extend(company.take_ready(now));
        }
    }

    /// When something has waited for company long enough.
    pub(super) fn next_company(&self) -> Option<Instant> {
        self.company.borrow().next()
    }

    /// Waits for no company any more: what waits holds memory that others want.
    pub fn hurry(&self) {
        let waited = self.company.borrow_mut().take_all();
        if !waited.is_empty() {
            self.queue.borrow_mut().extend(waited);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ConfigSequence;

    #[test]
    fn a_group_goes_when_it_fills_a_script_or_has_waited_and_another_one_waits_on() {
        let queue = |number| (ShardNumber(0), ConfigId::new([1; 8], ConfigSequence(number)));
        let mut company = Company::default();
        for one in 1..BATCH_MAX {
            assert_eq!(company.add(queue(1), one, Instant::now()), None);
        }
        assert_eq!(
            company.add(queue(1), BATCH_MAX, Instant::now()).map(|group| group.len()),
            Some(BATCH_MAX)
        );
        assert!(company.is_empty() && company.next().is_none());
        let began = Instant::now();
        assert_eq!(company.add(queue(2), 1, began), None);
        assert_eq!(company.add(queue(3), 2, began + WAIT / 2), None);
        assert_eq!(company.add(queue(2), 3, began + WAIT / 2), None);
        assert_eq!(company.next(), Some(began + WAIT), "since the first of the group");
        assert_eq!(company.take_ready(began + WAIT / 2), Vec::<usize>::new());
        assert_eq!(company.take_ready(began + WAIT), [1, 3]);
        assert_eq!((company.next(), company.take_all()), (Some(began + WAIT + WAIT / 2), vec![2]));
    }
}
