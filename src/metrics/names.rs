//! Every metric's name and meaning, once (docs/OPERATIONS.md, "Metrics"), and the bounds of histograms.

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
    (
        "postrider_admin_refused_total",
        "Requests and connections to the admin API that a limit refused, by limit.",
    ),
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
    ("postrider_configs", "Configs by state: active, paused, disabled."),
    ("postrider_floor_age_seconds", "How far the floor lies behind while anything is above it, by shard."),
    (
        "postrider_backlog_deliveries",
        "Deliveries that wait in queues, by shard; counted of at most 1,000 configs.",
    ),
    ("postrider_retries_due", "Of those, due now at configs that may be sent to, by shard."),
    (
        "postrider_config_backlog",
        "Deliveries that wait in queues, of the 50 configs with most and of all others.",
    ),
    (
        "postrider_config_breaker_open",
        "1 for a config whose breaker is open or half-open, at most 50, and the count of others.",
    ),
    (
        "postrider_config_failed_attempts",
        "Failed attempts of the last 5 minutes, of the 50 configs with most and of all others.",
    ),
    (
        "postrider_config_attempt_p95_seconds",
        "95th percentile of the last 5 minutes' attempts, of the 50 slowest configs and of all others.",
    ),
    ("postrider_config_in_flight", "Attempts in flight, of the 50 configs with most and of all others."),
    (
        "postrider_config_certificate_expiry_timestamp_seconds",
        "When client certificates end, in seconds since 1970, of the 50 active configs whose end first.",
    ),
    ("postrider_redis_memory_bytes", "Memory that Redis uses."),
    ("postrider_redis_memory_max_bytes", "Redis's maxmemory; 0 where it is not set."),
    ("postrider_redis_commands_per_second", "Commands that Redis processed in the last second."),
    ("postrider_redis_clients", "Connections to Redis."),
    ("postrider_redis_evicted_keys", "Keys that Redis has evicted since its start."),
    ("postrider_redis_aof_enabled", "1 where Redis has an append-only file."),
    ("postrider_redis_aof_bytes", "Size of the append-only file."),
    (
        "postrider_redis_persistence_failing",
        "1 where Redis's last write of this kind failed: aof, aof_rewrite, snapshot.",
    ),
    ("postrider_redis_replicas", "Replicas that follow this Redis."),
    ("postrider_redis_replica_lag_bytes", "How far the slowest of them is behind."),
    ("postrider_ready", "Whether a condition of readiness holds, by condition."),
    (
        "postrider_loop_lag_seconds",
        "How late a worker's loop ran at worst in the last 15 to 30 s, by worker.",
    ),
    ("postrider_worker_leased", "Whether a worker holds its leases, by worker."),
    ("postrider_build_info", "1; the label is the version that runs."),
];

/// Histograms: name and meaning.
pub const HISTOGRAMS: &[(&str, &str)] = &[
    ("postrider_attempt_seconds", "Duration of one attempt."),
    ("postrider_delivery_seconds", "From an event's stream time to its delivery."),
    ("postrider_settle_batch_size", "Outcomes in one settle flush."),
    (
        "postrider_redis_seconds",
        "Time that Redis took to answer a worker, by operation: settle, read, lease.",
    ),
];

/// Of the process itself, under the names that Prometheus's own clients use: name and meaning.
pub const PROCESS: &[(&str, &str)] = &[
    ("process_cpu_seconds_total", "Processor time of the process."),
    ("process_resident_memory_bytes", "Memory that the process occupies."),
    ("process_virtual_memory_bytes", "Address space of the process."),
    ("process_threads", "Threads of the process."),
    ("process_open_fds", "Open files and sockets of the process."),
    ("process_max_fds", "How many of them the process may have."),
    ("process_start_time_seconds", "When the process started, in seconds since 1970."),
];

/// Buckets of the histograms in seconds.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];

/// Buckets of batch sizes.
pub const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
