//! What each config's attempts of the last minutes came to, in this replica: for the worst of a scrape.
//!
//! Owns: a meter for each config that has lately had attempts, at most [`METERS_MAX`]; what lies beyond shares one.
//! May use: `domain` and this room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SECONDS_BUCKETS;
use super::exposition::{Exposition, label};
use super::worst::{summed, worst};
use crate::domain::ids::ConfigId;

/// What is shown is of so many slices...
const SLICES: usize = 5;
/// ... of this length.
const SLICE: Duration = Duration::from_secs(60);

/// Configs with a meter of their own: 8 MiB of them.
const METERS_MAX: usize = 16_384;

/// The last bucket has no upper bound.
const BUCKETS: usize = SECONDS_BUCKETS.len() + 1;

/// The meters of a replica.
#[derive(Debug)]
pub struct ConfigMeters {
    epoch: Instant,
    meters: Mutex<HashMap<ConfigId, Arc<ConfigMeter>>>,
    /// Of the configs for which there was no room.
    others: Arc<ConfigMeter>,
}

/// One config's attempts.
#[derive(Debug, Default)]
pub struct ConfigMeter {
    in_flight: AtomicU32,
    slices: Mutex<[Slice; SLICES]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// Which slice since the epoch, from 1.
    number: u64,
    counts: Counts,
}

/// Attempts of a span of time.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    failed: u32,
    took: [u32; BUCKETS],
}

// === impl ConfigMeters ===

impl Default for ConfigMeters {
    fn default() -> Self {
        Self { epoch: Instant::now(), meters: Mutex::default(), others: Arc::default() }
    }
}

impl ConfigMeters {
    /// The meter of `config`, made at the first use.
    #[must_use]
    pub fn of(&self, config: ConfigId) -> Arc<ConfigMeter> {
        let mut meters = self.meters();
        if let Some(meter) = meters.get(&config) {
            return Arc::clone(meter);
        }
        if meters.len() >= METERS_MAX {
            return Arc::clone(&self.others);
        }
        Arc::clone(meters.entry(config).or_default())
    }

    /// Counts an attempt that is over.
    pub fn attempted(&self, meter: &ConfigMeter, delivered: bool, took: Duration) {
        meter.count(self.slice_number(), delivered, took);
    }

    /// Forgets meters that nobody uses and that have nothing to show.
    pub fn forget_unused(&self) {
        let number = self.slice_number();
        let shows = |meter: &ConfigMeter| meter.recent(number).took.iter().any(|count| *count > 0);
        self.meters().retain(|_, meter| Arc::strong_count(meter) > 1 || shows(meter));
    }

    /// Writes the worst configs by failed attempts, by time and by attempts in flight.
    pub fn write(&self, out: &mut Exposition) {
        let number = self.slice_number();
        let all: Vec<(ConfigId, u32, Counts)> = self
            .meters()
            .iter()
            .map(|(config, meter)| (*config, meter.in_flight.load(Ordering::Relaxed), meter.recent(number)))
            .collect();
        let others = self.others.recent(number);
        let failed = all.iter().map(|(config, _, counts)| (*config, f64::from(counts.failed))).collect();
        write_all(out, "postrider_config_failed_attempts", summed(failed, f64::from(others.failed)));
        let in_flight = all.iter().map(|(config, in_flight, _)| (*config, f64::from(*in_flight))).collect();
        let more = f64::from(self.others.in_flight.load(Ordering::Relaxed));
        write_all(out, "postrider_config_in_flight", summed(in_flight, more));
        write_all(out, "postrider_config_attempt_p95_seconds", slowest(&all, others));
    }

    fn slice_number(&self) -> u64 {
        self.epoch.elapsed().as_secs() / SLICE.as_secs() + 1
    }

    fn meters(&self) -> MutexGuard<'_, HashMap<ConfigId, Arc<ConfigMeter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Times cannot be summed: the others' is taken of all their attempts together.
fn slowest(all: &[(ConfigId, u32, Counts)], mut others: Counts) -> Vec<(String, f64)> {
    let timed = all.iter().map(|(config, _, counts)| (*config, counts.p95(), counts)).collect();
    let (named, rest) = worst(timed);
    rest.iter().for_each(|(_, _, counts)| others.add(counts));
    let named = named.into_iter().map(|(config, p95, _)| (label("config", config), p95));
    named.chain([(label("config", "other"), others.p95())]).collect()
}

fn write_all(out: &mut Exposition, name: &'static str, samples: Vec<(String, f64)>) {
    out.begin(name);
    samples.iter().for_each(|(labels, value)| out.sample(name, labels, *value));
}

// === impl ConfigMeter ===

impl ConfigMeter {
    /// An attempt begins.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt has ended, however it did.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, number: u64, delivered: bool, took: Duration) {
        let mut slices = self.slices();
        let slice = &mut slices[usize::try_from(number % SLICES as u64).unwrap_or(0)];
        if slice.number != number {
            *slice = Slice { number, counts: Counts::default() };
        }
        slice.counts.failed += u32::from(!delivered);
        let seconds = took.as_secs_f64();
        slice.counts.took[SECONDS_BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
    }

    /// The slices that are not older than the present one by [`SLICES`].
    fn recent(&self, number: u64) -> Counts {
        let mut sum = Counts::default();
        let recent = |slice: &&Slice| slice.number > 0 && slice.number + SLICES as u64 > number;
        self.slices().iter().filter(recent).for_each(|slice| sum.add(&slice.counts));
        sum
    }

    fn slices(&self) -> MutexGuard<'_, [Slice; SLICES]> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Counts ===

impl Counts {
    fn add(&mut self, other: &Self) {
        self.failed = self.failed.saturating_add(other.failed);
        self.took.iter_mut().zip(other.took).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }

    /// The time in seconds within which 95 of 100 attempts ended, interpolated within its bucket; 0 without attempts.
    fn p95(&self) -> f64 {
        let total: u64 = self.took.iter().map(|count| u64::from(*count)).sum();
        #[allow(clippy::cast_precision_loss)] // Counts stay far below 2^52.
        let rank = total as f64 * 0.95;
        let mut before = 0.0;
        for (bucket, count) in self.took.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if before + count >= rank {
                let low = bucket.checked_sub(1).map_or(0.0, |lower| SECONDS_BUCKETS[lower]);
                let high = SECONDS_BUCKETS.get(bucket).copied().unwrap_or(low);
                return low + (high - low) * (rank - before) / count;
            }
            before += count;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::worst::WORST;
    use super::*;
    use crate::domain::ids::ConfigSequence;

    fn config(number: u32) -> ConfigId {
        ConfigId::new([7; 8], ConfigSequence(number))
    }

    fn shown(meters: &ConfigMeters) -> Vec<String> {
        let mut out = Exposition::new();
        meters.write(&mut out);
        out.into_text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn value(lines: &[String], metric: &str, config: &str) -> f64 {
        let start = format!("{metric}{{config=\"{config}\"}} ");
        let line = lines.iter().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("{start}: {lines:#?}"))[start.len()..].parse().unwrap()
    }

    #[test]
    fn ten_thousand_configs_make_fifty_series_and_one() {
        let meters = ConfigMeters::default();
        let mut kept = Vec::new();
        for number in 1..=10_000 {
            let meter = meters.of(config(number));
            // Half of them are equally slow; one is slower.
            let took = if number == 10_000 { 40_000 } else { number };
            for _ in 0..number {
                meters.attempted(&meter, false, Duration::from_millis(u64::from(took)));
            }
            meter.begin();
            kept.push(meter);
        }
        let lines = shown(&meters);
        assert_eq!(lines.len(), 3 * (WORST + 1), "{lines:#?}");
        let failed = "postrider_config_failed_attempts";
        assert!((value(&lines, failed, &config(10_000).to_string()) - 10_000.0).abs() < 1e-9);
        let others: u32 = (1..=9_950).sum();
        assert!((value(&lines, failed, "other") - f64::from(others)).abs() < 1e-9);
        let in_flight = value(&lines, "postrider_config_in_flight", "other");
        assert!((in_flight - 9_950.0).abs() < 1e-9, "{in_flight}");
        let slowest = value(&lines, "postrider_config_attempt_p95_seconds", &config(10_000).to_string());
        assert!((30.0..=60.0).contains(&slowest), "{slowest}");
        assert_eq!(shown(&meters).len(), lines.len());
        let names =
            |lines: &[String]| lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        let (first, again): (std::collections::BTreeSet<String>, std::collections::BTreeSet<String>) =
            (names(&lines), names(&shown(&meters)));
        assert_eq!(first, again, "equal configs are named the same each time");
        kept.iter().for_each(|meter| meter.end());
        assert!(value(&shown(&meters), "postrider_config_in_flight", "other").abs() < 1e-9);
    }

    #[test]
    fn more_configs_than_there_is_room_for_share_a_meter() {
        let meters = ConfigMeters::default();
        for number in 0..=u32::try_from(METERS_MAX).unwrap() {
            let _ = meters.of(config(number));
        }
        let shared = meters.of(config(u32::MAX));
        meters.attempted(&shared, false, Duration::from_secs(2));
        let lines = shown(&meters);
        assert!((value(&lines, "postrider_config_failed_attempts", "other") - 1.0).abs() < 1e-9);
        assert!(value(&lines, "postrider_config_attempt_p95_seconds", "other") > 1.0);
        drop(shared);
        meters.forget_unused();
        assert!(meters.meters().is_empty());
    }

    #[test]
    fn a_slice_that_is_past_is_shown_no_more() {
        let meter = ConfigMeter::default();
        meter.count(1, false, Duration::from_millis(3));
        meter.count(5, true, Duration::from_millis(3));
        assert_eq!((meter.recent(5).failed, meter.recent(5).took.iter().sum::<u32>()), (1, 2));
        assert_eq!((meter.recent(6).failed, meter.recent(6).took.iter().sum::<u32>()), (0, 1));
        assert_eq!(meter.recent(10).took.iter().sum::<u32>(), 0);
        meter.count(6, false, Duration::from_millis(3));
        assert_eq!(meter.recent(6).failed, 1, "a slice is used anew");
    }
}
