//! Every metric, once: names and meanings in [`names`] (docs/OPERATIONS.md, "Metrics"), and what counts.
//!
//! Owns: names, labels, and the handles that the walk keeps so that counting costs one atomic add. May use:
//! `domain`. Labels come from closed sets: outcomes, reasons, operations, shards, workers; and of the configs, the
//! worst of a scrape ([`worst`]).
//! Counters and histograms are in-process. What is read from Redis for all replicas lies on the [`Board`], which one
//! of them shows; what each config's attempts came to, in [`ConfigMeters`]. Both are written anew at each scrape.

mod board;
mod configs;
mod exposition;
mod names;
mod process;
mod scrape;
mod worst;

use std::sync::Arc;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::domain::breaker::BreakerState;
use crate::domain::delivery::FailReason;
use crate::domain::outcome::{FaultKind, Outcome};

pub use board::Board;
pub use configs::{ConfigMeter, ConfigMeters};
pub use exposition::{Exposition, label};
pub use names::{BATCH_BUCKETS, COUNTERS, GAUGES, HISTOGRAMS, PROCESS, SECONDS_BUCKETS};
pub use scrape::Scrape;
pub use worst::{WORST, summed};

/// What the walk counts. Cloning shares the counters.
#[derive(Clone)]
pub struct WalkMetrics {
    /// Entries read from `events`.
    pub events_read: Counter,
    /// Entries that were kept in `rejected`.
    pub events_rejected: Counter,
    /// Events that no config wants.
    pub events_unrouted: Counter,
    /// Own or taken-over pending entries that were processed again.
    pub events_recovered: Counter,
    /// Events whose id lies ahead of Redis's clock.
    pub events_ahead: Counter,
    /// Fields of entries that are not in the producers' contract.
    pub unknown_fields: Counter,
    /// Events acknowledged.
    pub events_acknowledged: Counter,
    /// Deliveries made by routing.
    pub deliveries_routed: Counter,
    /// Deliveries not made because their config was inactive.
    pub deliveries_skipped: Counter,
    /// Deliveries that a crashed owner had already given a fate.
    pub deliveries_known: Counter,
    /// Attempts in flight.
    pub in_flight: Gauge,
    /// Deliveries in memory: in lanes, in flight and not yet settled.
    pub in_memory: Gauge,
    /// One attempt's duration.
    pub attempt_seconds: Histogram,
    /// From the event's stream time to its delivery.
    pub delivery_seconds: Histogram,
    /// Deliveries that ended delivered.
    pub delivered: Counter,
    /// Deliveries that were parked without an attempt.
    pub parked: Counter,
    /// Deliveries handed to their queue while their attempt was under way.
    pub handed_off: Counter,
    /// Retries scheduled.
    pub retries_scheduled: Counter,
    /// Deliveries claimed from queues.
    pub claimed: Counter,
    /// Outcomes in one settle flush.
    pub settle_batch: Histogram,
    /// Fates that were not applied because another owner had taken over.
    pub settles_lost: Counter,
    /// Refusals of fates for reasons of their own.
    pub settles_refused: Counter,
    /// Rows that log caps evicted.
    pub log_rows_evicted: Counter,
    /// Failed deliveries that their cap evicted.
    pub failed_evicted: Counter,
    /// Entries taken over from dead consumers.
    pub reclaimed: Counter,
    /// Leases that this replica lost.
    pub leases_lost: Counter,
    /// Configs disabled, by a 410 or by days of failures.
    pub configs_disabled: Counter,
    /// One settle flush as the worker sees it, from the pipeline's sending to its last answer.
    pub redis_settle_seconds: Histogram,
    /// One read of events that did not wait for any.
    pub redis_read_seconds: Histogram,
    /// One renewal of a lease.
    pub redis_lease_seconds: Histogram,
    /// Each config's attempts of the last minutes.
    pub configs: Arc<ConfigMeters>,
    /// What this replica reads from Redis for all.
    pub board: Arc<Board>,
    outcomes: [Counter; Outcome::ALL.len()],
    faults: [Counter; FaultKind::ALL.len()],
    failed: [Counter; FailReason::ALL.len()],
    breakers: [Counter; BreakerState::ALL.len()],
}

/// What the exporter of spans counts.
#[derive(Clone)]
pub struct SpanMetrics {
    /// Spans that the collector took.
    pub exported: Counter,
    /// Spans that found the queue full.
    pub dropped_full: Counter,
    /// Spans that the collector did not take.
    pub dropped_collector: Counter,
}

/// What each replica sees of Redis by itself, and shows by itself.
pub struct Sampled;

/// Describes every metric to the recorder; called once, after the recorder is installed.
pub fn describe() {
    for (name, text) in COUNTERS {
        describe_counter!(*name, *text);
    }
    for (name, text) in GAUGES {
        describe_gauge!(*name, *text);
    }
    for (name, text) in HISTOGRAMS {
        describe_histogram!(*name, *text);
    }
    gauge!("postrider_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Counts a failed operation on Redis.
pub fn redis_error(operation: &'static str) {
    counter!("postrider_redis_errors_total", "operation" => operation).increment(1);
}

/// Counts an attempt that could not be made for a fault of ours: `proxy`, `source`, `resources`.
pub fn egress_fault(kind: &'static str) {
    counter!("postrider_egress_faults_total", "kind" => kind).increment(1);
}

/// Counts a stored value that could not be read: `config`, `token`, `record`, `page`.
pub fn stored_unreadable(kind: &'static str) {
    counter!("postrider_stored_unreadable_total", "kind" => kind).increment(1);
}

/// Counts rejected entries that a cap evicted.
pub fn rejected_evicted(shard: u16, count: u64) {
    counter!("postrider_rejected_evicted_total", "shard" => shard.to_string()).increment(count);
}

/// Counts audit entries that a cap or their age evicted.
pub fn audit_evicted(count: u64) {
    counter!("postrider_audit_evicted_total").increment(count);
}

/// Counts a change that was made and is missing in the audit.
pub fn audit_failed() {
    counter!("postrider_audit_failed_total").increment(1);
}

/// A live tail began.
pub fn log_stream_began() {
    gauge!("postrider_log_streams").increment(1.0);
}

/// A live tail ended, for a `reason` of a closed set.
pub fn log_stream_ended(reason: &'static str) {
    gauge!("postrider_log_streams").decrement(1.0);
    counter!("postrider_log_streams_ended_total", "reason" => reason).increment(1);
}

/// The gauge of how late a worker's loop ran, at worst in the last seconds.
pub fn loop_lag(worker: usize) -> Gauge {
    gauge!("postrider_loop_lag_seconds", "worker" => worker.to_string())
}

/// The gauge of whether a worker holds its leases.
pub fn worker_leased(worker: usize) -> Gauge {
    gauge!("postrider_worker_leased", "worker" => worker.to_string())
}

/// Counts a request without a usable token.
pub fn admin_unauthorized() {
    counter!("postrider_admin_auth_failures_total").increment(1);
}

/// Counts a request that a limit of the admin API refused: `address`, `bodies`, `body size`, `request time`,
/// `requests`, `slow body`, `token rate`; or a connection, `connections`.
pub fn admin_refused(limit: &'static str) {
    counter!("postrider_admin_refused_total", "limit" => limit).increment(1);
}

/// The admin API's open connections.
pub fn admin_connections() -> Gauge {
    gauge!("postrider_admin_connections")
}

// === impl WalkMetrics ===

impl WalkMetrics {
    /// Registers the handles with the recorder that is installed.
    #[must_use]
    pub fn new(configs: Arc<ConfigMeters>, board: Arc<Board>) -> Self {
        let redis = |operation| histogram!("postrider_redis_seconds", "operation" => operation);
        Self {
            redis_settle_seconds: redis("settle"),
            redis_read_seconds: redis("read"),
            redis_lease_seconds: redis("lease"),
            configs,
            board,
            events_read: counter!("postrider_events_read_total"),
            events_rejected: counter!("postrider_events_rejected_total"),
            events_unrouted: counter!("postrider_events_unrouted_total"),
            events_recovered: counter!("postrider_events_recovered_total"),
            events_ahead: counter!("postrider_events_ahead_total"),
            unknown_fields: counter!("postrider_unknown_fields_total"),
            events_acknowledged: counter!("postrider_events_acknowledged_total"),
            deliveries_routed: counter!("postrider_deliveries_routed_total"),
            deliveries_skipped: counter!("postrider_deliveries_skipped_total"),
            deliveries_known: counter!("postrider_deliveries_known_total"),
            in_flight: gauge!("postrider_attempts_in_flight"),
            in_memory: gauge!("postrider_deliveries_in_memory"),
            attempt_seconds: histogram!("postrider_attempt_seconds"),
            delivery_seconds: histogram!("postrider_delivery_seconds"),
            delivered: counter!("postrider_deliveries_delivered_total"),
            parked: counter!("postrider_deliveries_parked_total"),
            handed_off: counter!("postrider_deliveries_handed_off_total"),
            retries_scheduled: counter!("postrider_retries_scheduled_total"),
            claimed: counter!("postrider_deliveries_claimed_total"),
            settle_batch: histogram!("postrider_settle_batch_size"),
            settles_lost: counter!("postrider_settles_lost_total"),
            settles_refused: counter!("postrider_settles_refused_total"),
            log_rows_evicted: counter!("postrider_log_rows_evicted_total"),
            failed_evicted: counter!("postrider_failed_evicted_total"),
            reclaimed: counter!("postrider_reclaimed_total"),
            leases_lost: counter!("postrider_leases_lost_total"),
            configs_disabled: counter!("postrider_configs_disabled_total"),
            outcomes: Outcome::ALL
                .map(|outcome| counter!("postrider_attempts_total", "outcome" => outcome.as_str())),
            faults: FaultKind::ALL
                .map(|kind| counter!("postrider_attempt_faults_total", "kind" => kind.as_str())),
            failed: FailReason::ALL
                .map(|reason| counter!("postrider_deliveries_failed_total", "reason" => reason.as_str())),
            breakers: BreakerState::ALL
                .map(|state| counter!("postrider_breaker_transitions_total", "to" => state.as_str())),
        }
    }

    /// The counter of attempts with this outcome.
    pub const fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[outcome as usize]
    }

    /// The counter of attempts with this fault.
    pub const fn fault(&self, kind: FaultKind) -> &Counter {
        &self.faults[kind as usize]
    }

    /// The counter of breakers' moves to this state.
    pub const fn breaker_to(&self, state: BreakerState) -> &Counter {
        &self.breakers[state as usize]
    }

    /// The counter of deliveries that failed for this reason.
    pub const fn failed(&self, reason: FailReason) -> &Counter {
        &self.failed[reason as usize]
    }
}

impl Default for WalkMetrics {
    fn default() -> Self {
        Self::new(Arc::default(), Arc::default())
    }
}

// === impl SpanMetrics ===

impl SpanMetrics {
    /// Registers the handles with the recorder that is installed.
    #[must_use]
    pub fn new() -> Self {
        let dropped = |reason: &'static str| counter!("postrider_spans_dropped_total", "reason" => reason);
        Self {
            exported: counter!("postrider_spans_exported_total"),
            dropped_full: dropped("queue full"),
            dropped_collector: dropped("collector"),
        }
    }
}

impl Default for SpanMetrics {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Sampled ===

impl Sampled {
    /// Sets a gauge of [`GAUGES`].
    pub fn whole(name: &'static str, value: f64) {
        gauge!(name).set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_declared_once_and_has_the_prefix() {
        let mut names: Vec<&str> =
            [COUNTERS, GAUGES, HISTOGRAMS].concat().iter().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| name.starts_with("postrider_")));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(COUNTERS.iter().all(|(name, _)| name.ends_with("_total")));
    }
}
