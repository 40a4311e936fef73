//! Bounds on what is kept in Redis: each by count and by bytes.

use std::time::Duration;

/// Retention settings, all per config except `events` and `rejected`.
#[derive(Clone, Debug)]
pub struct RetentionSettings {
    /// Rows of the attempt log.
    pub log_rows_max: u64,
    /// Bytes of the attempt log.
    pub log_bytes_max: u64,
    /// Bytes of stored payloads.
    pub payload_bytes_max: u64,
    /// Age at which an idle log expires, and at which a failed delivery goes.
    pub log_age_max: Duration,
    /// Failed deliveries that can be retried by hand.
    pub failed_max: u64,
    /// Bytes of their records.
    pub failed_bytes_max: u64,
    /// Deliveries that wait in the queue.
    pub queue_max: u64,
    /// Bytes of their records.
    pub queue_bytes_max: u64,
    /// How long past its time a delivery may wait before it ends as failed ("expired").
    pub overdue_max: Duration,
    /// Rejected stream entries that are kept.
    pub rejected_max: u64,
    /// Bytes of their names and values.
    pub rejected_bytes_max: u64,
    /// How long delivered events stay in the stream, for replays; zero trims at once.
    pub events_age: Duration,
    /// Bytes of one shard's stream above which the oldest of these go before their time.
    pub events_bytes_max: u64,
}

const MIB: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            log_rows_max: 10_000,
            log_bytes_max: 8 * MIB,
            payload_bytes_max: 8 * MIB,
            log_age_max: DAY * 30,
            failed_max: 10_000,
            failed_bytes_max: 64 * MIB,
            queue_max: 100_000,
            queue_bytes_max: 64 * MIB,
            overdue_max: DAY * 3,
            rejected_max: 10_000,
            rejected_bytes_max: 64 * MIB,
            events_age: Duration::ZERO,
            events_bytes_max: 256 * MIB,
        }
    }
}
