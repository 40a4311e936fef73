//! Bounds on what a replica holds in memory and has in flight.

use std::time::Duration;

/// Limits of one replica.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// Attempts in flight over all configs.
    pub in_flight_max: u32,
    /// Attempts in flight for one config, over all live replicas.
    pub config_in_flight_max: u32,
    /// Deliveries in memory, in flight and queued in lanes; intake stops at it.
    pub deliveries_max: u32,
    /// Bytes of bodies in memory; intake stops at it.
    pub delivery_bytes_max: u64,
    /// Entries asked for in one read of the stream.
    pub read_count_max: u32,
    /// Longest wait in a lane's memory queue before a delivery is parked.
    pub lane_wait_max: Duration,
    /// Idle connections to endpoints, over all lanes; the oldest go first.
    pub idle_connections_max: u32,
    /// How long an idle connection to an endpoint is kept: under the limits of common servers.
    pub idle_connection_timeout: Duration,
    /// Requests in flight at the admin API.
    pub admin_requests_max: u32,
    /// Live tails of logs that are open at the admin API.
    pub log_streams_max: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            in_flight_max: 4_096,
            config_in_flight_max: 1_024,
            deliveries_max: 16_384,
            delivery_bytes_max: 128 * 1024 * 1024,
            read_count_max: 256,
            lane_wait_max: Duration::from_millis(250),
            idle_connections_max: 4_096,
            idle_connection_timeout: Duration::from_secs(15),
            admin_requests_max: 512,
            log_streams_max: 64,
        }
    }
}
