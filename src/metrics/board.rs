//! What one replica has read from Redis for all of them, shown only while its lease as the sampler of a shard lasts.
//!
//! Owns: the values between two looks, and the moment from which they must not be shown any more. May use: `domain`
//! and this room. A replica that dies takes its values with it; one that is cut off stops showing them by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::exposition::{Exposition, label};

/// The shard whose sampler also tells what is not of a shard: Redis as a whole, and the configs.
const WHOLE: u16 = 0;

/// The values of a replica, by shard.
#[derive(Debug, Default)]
pub struct Board {
    shards: Mutex<BTreeMap<u16, Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    /// Until when this replica samples the shard for all.
    until: Option<Instant>,
    /// By metric, then by labels.
    values: BTreeMap<&'static str, BTreeMap<String, f64>>,
}

// === impl Board ===

impl Board {
    /// This replica samples `shard` until then; `None`: another one does.
    pub fn hold(&self, shard: u16, until: Option<Instant>) {
        self.shards().entry(shard).or_default().until = until;
    }

    /// Sets a gauge of a shard.
    pub fn shard(&self, name: &'static str, shard: u16, value: f64) {
        self.shard_all(name, shard, [(String::new(), value)]);
    }

    /// Replaces all samples of a gauge of a shard; each has its labels beside `shard`.
    pub fn shard_all(
        &self,
        name: &'static str,
        shard: u16,
        samples: impl IntoIterator<Item = (String, f64)>,
    ) {
        let of_shard = label("shard", shard);
        let labelled = |labels: String| {
            if labels.is_empty() { of_shard.clone() } else { format!("{labels},{of_shard}") }
        };
        let samples = samples.into_iter().map(|(labels, value)| (labelled(labels), value)).collect();
        self.shards().entry(shard).or_default().values.insert(name, samples);
    }

    /// Sets a gauge that is of no shard.
    pub fn whole(&self, name: &'static str, value: f64) {
        self.whole_all(name, [(String::new(), value)]);
    }

    /// Replaces all samples of a gauge that is of no shard.
    pub fn whole_all(&self, name: &'static str, samples: impl IntoIterator<Item = (String, f64)>) {
        self.shards().entry(WHOLE).or_default().values.insert(name, samples.into_iter().collect());
    }

    /// Writes what this replica may show at `now`.
    pub fn write(&self, now: Instant, out: &mut Exposition) {
        let shards = self.shards();
        let mut metrics: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
        for shard in shards.values().filter(|shard| shard.until.is_some_and(|until| now < until)) {
            for (name, samples) in &shard.values {
                let samples = samples.iter().map(|(labels, value)| (labels.as_str(), *value));
                metrics.entry(name).or_default().extend(samples);
            }
        }
        for (name, samples) in metrics {
            out.begin(name);
            samples.into_iter().for_each(|(labels, value)| out.sample(name, labels, value));
        }
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<u16, Shard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(board: &Board, now: Instant) -> Vec<String> {
        let mut out = Exposition::new();
        board.write(now, &mut out);
        out.into_text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn values_are_shown_while_the_lease_lasts_and_no_longer() {
        let (board, now) = (Board::default(), Instant::now());
        board.shard("postrider_due_configs", 0, 7.0);
        board.shard("postrider_due_configs", 1, 9.0);
        board.whole("postrider_breakers_open", 2.0);
        assert!(shown(&board, now).is_empty(), "nobody may show what another one shows");
        board.hold(0, Some(now + Duration::from_secs(15)));
        assert_eq!(shown(&board, now), ["postrider_breakers_open 2", "postrider_due_configs{shard=\"0\"} 7"]);
        board.hold(1, Some(now + Duration::from_secs(30)));
        assert_eq!(shown(&board, now).len(), 3);
        assert_eq!(
            shown(&board, now + Duration::from_secs(15)),
            ["postrider_due_configs{shard=\"1\"} 9"],
            "a sampler that stands still does not show old values"
        );
        board.hold(1, None);
        board.hold(0, None);
        assert!(shown(&board, now).is_empty());
    }

    #[test]
    fn a_family_is_replaced_whole() {
        let (board, now) = (Board::default(), Instant::now());
        board.hold(0, Some(now + Duration::from_secs(15)));
        let of = |configs: &[&str]| configs.iter().map(|id| (label("config", id), 1.0)).collect::<Vec<_>>();
        board.shard_all("postrider_config_backlog", 0, of(&["a", "b"]));
        board.shard_all("postrider_config_backlog", 0, of(&["c"]));
        assert_eq!(shown(&board, now), ["postrider_config_backlog{config=\"c\",shard=\"0\"} 1"]);
    }
}
