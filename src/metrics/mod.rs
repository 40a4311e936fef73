//! Every metric's name, once, with its meaning (docs/OPERATIONS.md, "Metrics").
//!
//! Owns: names, labels, and the handles that the walk keeps so that counting costs one atomic add. May use:
//! `domain`. Labels come from closed sets only: outcomes, reasons, operations, shards, workers.
//! Counters and histograms are in-process; gauges under [`Sampled`] are read from Redis by upkeep.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::domain::breaker::BreakerState;
use crate::domain::delivery::FailReason;
use crate::domain::outcome::{FaultKind, Outcome};

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

/// Gauges read from Redis by upkeep.
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
}

/// Counters: name and meaning.
pub const COUNTERS: &[(&str, &str)] = &[
    ("postrider_events_read_total", "Entries read from the events stream."),
    ("postrider_events_rejected_total", "Entries that could not be understood and were kept in rejected."),
    ("postrider_rejected_evicted_total", "Rejected entries that a cap evicted: they are lost, by shard."),
    ("postrider_events_unrouted_total", "Events that no config wants."),
    (
        "postrider_events_recovered_total",
        "Pending events that were processed again after a lost reply or a crash.",
    ),
    ("postrider_events_ahead_total", "Events whose stream id lies ahead of Redis's clock."),
    ("postrider_unknown_fields_total", "Fields of events that the producers' contract does not know."),
    (
        "postrider_events_acknowledged_total",
        "Events acknowledged: every delivery of theirs has a durable fate.",
    ),
    ("postrider_deliveries_routed_total", "Deliveries made by routing."),
    ("postrider_deliveries_skipped_total", "Deliveries not made because their config is inactive."),
    ("postrider_deliveries_known_total", "Deliveries of recovered events that had a fate already."),
    ("postrider_attempts_total", "Attempts by outcome."),
    ("postrider_attempt_faults_total", "Attempts that got no complete answer, by kind."),
    ("postrider_deliveries_delivered_total", "Deliveries that ended delivered."),
    ("postrider_deliveries_failed_total", "Deliveries that ended failed, by reason."),
    ("postrider_deliveries_parked_total", "Deliveries that wait in Redis without an attempt."),
    (
        "postrider_deliveries_handed_off_total",
        "Deliveries handed to their queue while their attempt was under way.",
    ),
    ("postrider_retries_scheduled_total", "Retries scheduled."),
    ("postrider_deliveries_claimed_total", "Deliveries claimed from queues."),
    ("postrider_settles_lost_total", "Fates not applied because another owner had taken over."),
    (
        "postrider_settles_refused_total",
        "Times that Redis refused a fate for a reason of its own; it is tried again.",
    ),
    ("postrider_audit_evicted_total", "Audit entries that a cap or their age evicted."),
    ("postrider_audit_failed_total", "Changes that were made and are missing in the audit."),
    ("postrider_log_streams_ended_total", "Live tails that ended, by reason."),
    ("postrider_log_rows_evicted_total", "Rows of attempt logs that a cap evicted."),
    (
        "postrider_failed_evicted_total",
        "Failed deliveries that a cap or their age evicted: they cannot be retried any more.",
    ),
    ("postrider_reclaimed_total", "Events taken over from dead consumers."),
    ("postrider_leases_lost_total", "Leases that this replica lost."),
    ("postrider_configs_disabled_total", "Configs disabled by a 410 or by days of nothing but failures."),
    (
        "postrider_breaker_transitions_total",
        "Moves of breakers that this replica made, by the state moved to.",
    ),
    (
        "postrider_operator_events_total",
        "Events about failing and disabled configs that this replica published.",
    ),
    ("postrider_redis_errors_total", "Failed operations on Redis, by operation."),
    ("postrider_stream_trimmed_total", "Entries trimmed from the events stream behind the floor."),
    ("postrider_spans_exported_total", "Spans that the collector took."),
    ("postrider_spans_dropped_total", "Spans that were not exported, by reason."),
    (
        "postrider_egress_faults_total",
        "Attempts that our own side kept from being made, by kind: the delivery waits and nothing is charged.",
    ),
    (
        "postrider_stored_unreadable_total",
        "Stored values that could not be read, by kind: configs, tokens, records, pages.",
    ),
    (
        "postrider_admin_auth_failures_total",
        "Requests to the admin API with a missing, malformed or unknown token.",
    ),
    ("postrider_admin_refused_total", "Requests to the admin API that a limit refused, by limit."),
];

/// Gauges: name and meaning.
pub const GAUGES: &[(&str, &str)] = &[
    ("postrider_attempts_in_flight", "Attempts in flight."),
    ("postrider_deliveries_in_memory", "Deliveries in memory: in lanes, in flight and not yet settled."),
    ("postrider_oldest_undelivered_seconds", "Age of the oldest event without a durable fate, by shard."),
    ("postrider_stream_entries", "Entries of the events stream, by shard."),
    ("postrider_stream_pending", "Events read and not yet acknowledged, by shard."),
    ("postrider_rejected_entries", "Entries kept in rejected, by shard."),
    ("postrider_rejected_bytes", "Bytes of names and values kept in rejected, by shard."),
    ("postrider_log_streams", "Live tails that are open."),
    ("postrider_due_configs", "Configs with deliveries waiting in their queue, by shard."),
    ("postrider_redis_memory_ratio", "Used memory over maxmemory; 0 where maxmemory is not set."),
    ("postrider_clock_offset_seconds", "Redis's clock minus this machine's."),
    ("postrider_live_replicas", "Replicas among which limits over all replicas are divided."),
    ("postrider_live_consumers", "Consumers that hold a lease, by shard."),
    ("postrider_breakers_open", "Configs whose breaker is open or half-open."),
    ("postrider_admin_connections", "Open connections to the admin API."),
    ("postrider_configs_failing", "Configs from which nothing but failures came since their last success."),
];

/// Histograms: name and meaning.
pub const HISTOGRAMS: &[(&str, &str)] = &[
    ("postrider_attempt_seconds", "Duration of one attempt."),
    ("postrider_delivery_seconds", "From an event's stream time to its delivery."),
    ("postrider_settle_batch_size", "Outcomes in one settle flush."),
];

/// Buckets of the histograms in seconds.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];

/// Buckets of batch sizes.
pub const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

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

/// Counts a request without a usable token.
pub fn admin_unauthorized() {
    counter!("postrider_admin_auth_failures_total").increment(1);
}

/// Counts a request that a limit of the admin API refused: `address`, `bodies`, `body size`, `request time`,
/// `requests`, `slow body`, `token rate`.
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
    pub fn new() -> Self {
        Self {
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
        Self::new()
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
    /// Sets a gauge of [`GAUGES`] for a shard.
    pub fn shard(name: &'static str, shard: u16, value: f64) {
        gauge!(name, "shard" => shard.to_string()).set(value);
    }

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
