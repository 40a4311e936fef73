//! What must hold beyond the form of a single value: ranges, and relations between settings. Limits of the
//! operating system are checked where they are raised, at the start of the process.

use std::time::Duration;

use super::Settings;
use super::redis::SHARDS_MAX;
use crate::domain::event::DATA_MAX_BYTES;
use crate::domain::retry_policy::DELAY_MAX;

/// A rule that does not hold.
pub struct Broken {
    /// The setting at fault, then the others that the rule is about.
    pub about: Vec<&'static str>,
    /// What is expected.
    pub expected: String,
}

/// Longest deadline of one attempt: a claim lasts as long, and a crash is noticed only after it.
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Shortest deadline over connect and TLS.
pub const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// What a request of the admin API must be given at least, by the deadline of an attempt: a test of a config is
/// answered after its attempt, or else soon after that deadline.
#[must_use]
pub const fn least_admin_timeout(attempt: Duration) -> Duration {
    attempt.saturating_add(Duration::from_secs(10))
}

/// Checks every rule.
#[must_use]
pub fn check(settings: &Settings) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, about: &[&'static str], expected: String| {
        if !holds {
            broken.push(Broken { about: about.to_vec(), expected });
        }
    };
    redis(settings, &mut rule);
    process(settings, &mut rule);
    admin(settings, &mut rule);
    delivery(settings, &mut rule);
    health(settings, &mut rule);
    limits(settings, &mut rule);
    retention(settings, &mut rule);
    broken
}

fn redis(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let redis = &settings.redis;
    rule((1..=SHARDS_MAX).contains(&redis.shards), &["shards"], format!("1 to {SHARDS_MAX}"));
    let one = redis.secret_key.is_empty() || redis.secret_key_file.is_none();
    rule(one, &["secret-key-file", "secret-key"], "only one of secret-key and secret-key-file".into());
    rule(redis.lease >= Duration::from_secs(1), &["lease"], "at least 1s".into());
    let answer = redis.response_timeout;
    rule(answer >= Duration::from_millis(10), &["redis-response-timeout"], "at least 10ms".into());
}

fn process(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let process = &settings.process;
    let apart = process.listen != process.ops_listen || process.listen.port() == 0;
    rule(apart, &["ops-listen", "listen"], "another address than listen's".into());
    rule((1..=1024).contains(&process.workers), &["workers"], "1 to 1024".into());
}

fn admin(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let admin = &settings.admin;
    let enough = admin.request_timeout >= least_admin_timeout(settings.delivery.request_timeout);
    let longer = "at least 10s over request-timeout, for a test waits for its attempt".into();
    rule(enough, &["admin-request-timeout", "request-timeout"], longer);
    let both = admin.tls_cert.is_some() == admin.tls_key.is_some();
    rule(both, &["tls-cert", "tls-key"], "both of tls-cert and tls-key, or neither".into());
    rule(admin.connections_max >= 1, &["admin-connections-max"], "at least 1".into());
    rule((8..=1_000).contains(&admin.headers_max), &["admin-headers-max"], "8 to 1000".into());
    let head = (8 * 1024..=1024 * 1024).contains(&admin.head_bytes_max);
    rule(head, &["admin-head-bytes-max"], "8KiB to 1MiB".into());
    let body = (64 * 1024..=64 * 1024 * 1024).contains(&admin.body_bytes_max);
    rule(body, &["admin-body-bytes-max"], "64KiB to 64MiB".into());
    let fits = admin.bodies_bytes_max >= admin.body_bytes_max;
    let one = "at least admin-body-bytes-max, or the largest body never fits".into();
    rule(fits, &["admin-bodies-bytes-max", "admin-body-bytes-max"], one);
    for (name, value) in [
        ("tls-check", admin.tls_check),
        ("admin-head-timeout", admin.head_timeout),
        ("admin-body-timeout", admin.body_timeout),
        ("admin-write-timeout", admin.write_timeout),
    ] {
        rule(value >= Duration::from_millis(50), &[name], "at least 50ms".into());
    }
}

fn delivery(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let delivery = &settings.delivery;
    let (request, connect) = (delivery.request_timeout, delivery.connect_timeout);
    let range = Duration::from_millis(10)..=REQUEST_TIMEOUT_MAX;
    rule(range.contains(&request), &["request-timeout"], "10ms to 10m".into());
    rule(connect >= CONNECT_TIMEOUT_MIN, &["connect-timeout"], "at least 1ms".into());
    let inside = "at most request-timeout, which connecting is part of".into();
    rule(connect <= request, &["connect-timeout", "request-timeout"], inside);
}

fn health(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let health = &settings.health;
    rule(health.breaker_delay >= Duration::from_millis(10), &["breaker-delay"], "at least 10ms".into());
    let grows = health.breaker_delay <= health.breaker_delay_max;
    let least = "at least breaker-delay, which it is reached from".into();
    rule(grows, &["breaker-delay-max", "breaker-delay"], least);
    rule(health.breaker_delay_max <= DELAY_MAX, &["breaker-delay-max"], "at most 24h".into());
    rule(health.disable_attempts >= 1, &["disable-attempts"], "at least 1".into());
}

fn limits(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let limits = &settings.limits;
    for (name, value) in [
        ("in-flight-max", limits.in_flight_max),
        ("config-in-flight-max", limits.config_in_flight_max),
        ("deliveries-max", limits.deliveries_max),
        ("admin-requests-max", limits.admin_requests_max),
    ] {
        rule(value >= 1, &[name], "at least 1".into());
    }
    let inside = "at most in-flight-max, which it is a part of".into();
    let part = limits.config_in_flight_max <= limits.in_flight_max;
    rule(part, &["config-in-flight-max", "in-flight-max"], inside);
    rule((1..=10_000).contains(&limits.read_count_max), &["read-count-max"], "1 to 10000".into());
    let one_event = 2 * DATA_MAX_BYTES as u64;
    let fits = limits.delivery_bytes_max >= one_event;
    rule(fits, &["delivery-bytes-max"], "at least 512KiB, or the largest event never fits".into());
    let second = Duration::from_secs(1);
    rule(limits.lane_wait_max <= second, &["lane-wait-max"], "at most 1s: then it is parked anyway".into());
}

fn retention(settings: &Settings, rule: &mut impl FnMut(bool, &[&'static str], String)) {
    let kept = &settings.retention;
    for (name, value) in [
        ("log-rows-max", kept.log_rows_max),
        ("failed-max", kept.failed_max),
        ("queue-max", kept.queue_max),
        ("rejected-max", kept.rejected_max),
    ] {
        rule(value >= 1, &[name], "at least 1".into());
    }
    for (name, value) in [
        ("log-bytes-max", kept.log_bytes_max),
        ("payload-bytes-max", kept.payload_bytes_max),
        ("failed-bytes-max", kept.failed_bytes_max),
        ("queue-bytes-max", kept.queue_bytes_max),
    ] {
        rule(value >= 64 * 1024, &[name], "at least 64KiB".into());
    }
    for (name, value) in [("log-age-max", kept.log_age_max), ("overdue-max", kept.overdue_max)] {
        rule(value >= Duration::from_secs(1), &[name], "at least 1s".into());
    }
}
