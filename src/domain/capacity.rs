//! How much Redis, CPU, connections and network a load needs: arithmetic alone, from a load, the limits that are set
//! and what single things cost (docs/OPERATIONS.md, "Sizing"). No measuring here.

use std::time::Duration;

use serde::Serialize;

/// A load, evenly spread over its endpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Events a second.
    pub rate: f64,
    /// Bytes of an event's `data`.
    pub data_bytes: f64,
    /// Configs that get events.
    pub endpoints: f64,
    /// Deliveries of one event.
    pub fan_out: f64,
    /// Share of attempts that fail and are tried again, 0 to 1.
    pub fail_share: f64,
    /// How long endpoints, or all replicas, are away at worst.
    pub outage: Duration,
    /// How long an endpoint takes to answer.
    pub latency: Duration,
    /// Cores of one replica.
    pub cores: f64,
}

/// The limits that are set, per config where nothing else is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Delays between the attempts, one a retry.
    pub delays: Vec<Duration>,
    /// Rows of the log.
    pub log_rows: f64,
    /// Bytes of the log.
    pub log_bytes: f64,
    /// Bytes of stored payloads.
    pub payload_bytes: f64,
    /// Age of rows, payloads and failed deliveries.
    pub age: Duration,
    /// Failed deliveries, and their bytes.
    pub failed: (f64, f64),
    /// Waiting deliveries, and their bytes.
    pub queue: (f64, f64),
    /// How long delivered events stay in the stream, over all configs.
    pub events_age: Duration,
    /// Attempts in flight of a replica.
    pub in_flight: f64,
    /// Attempts in flight of a config over all replicas.
    pub config_in_flight: f64,
    /// Idle connections of a replica.
    pub idle_connections: f64,
}

/// What single things cost. The default is what was measured (docs/OPERATIONS.md, "Sizing"; a test measures again).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Redis bytes of an entry of `events` over its `data`.
    pub event_bytes: f64,
    /// Bytes of the outgoing body over `data`.
    pub body_bytes: f64,
    /// Redis bytes of a waiting or failed delivery over its body, its place in the queue included.
    pub delivery_bytes: f64,
    /// Redis bytes of a row of the log.
    pub log_row_bytes: f64,
    /// Redis bytes of a stored payload over its length.
    pub payload_bytes: f64,
    /// Redis bytes of a config.
    pub config_bytes: f64,
    /// Redis bytes of a token.
    pub token_bytes: f64,
    /// Bytes of the AOF for an event and a delivery, over `data` and payload.
    pub aof_bytes: f64,
    /// CPU of a replica for one attempt, microseconds.
    pub server_us: f64,
    /// CPU of Redis for one event and its delivery, microseconds, the producer's `XADD` included.
    pub redis_us: f64,
}

/// One part of Redis's memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How much of it, in its own unit.
    pub count: f64,
    /// Bytes.
    pub bytes: f64,
}

/// What the load needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// Redis's memory while all is well, by part.
    pub steady: Vec<Part>,
    /// Its sum.
    pub steady_bytes: f64,
    /// With one endpoint away for the outage.
    pub one_endpoint_away_bytes: f64,
    /// With all endpoints away for the outage.
    pub all_endpoints_away_bytes: f64,
    /// With no replica running for the outage.
    pub no_replica_bytes: f64,
    /// What `maxmemory` should be: the worst of these at 80 %.
    pub maxmemory_bytes: f64,
    /// What the machine of Redis should have.
    pub machine_bytes: f64,
    /// Attempts a second.
    pub attempts: f64,
    /// Events a second that one replica can take.
    pub events_per_replica: f64,
    /// Cores of all replicas.
    pub cores: f64,
    /// Replicas, one of which may be away.
    pub replicas: f64,
    /// Share of one core that Redis uses.
    pub redis_core_share: f64,
    /// Attempts in flight, over all replicas.
    pub in_flight: f64,
    /// The same of one endpoint.
    pub in_flight_per_endpoint: f64,
    /// For `--in-flight-max`.
    pub in_flight_max: f64,
    /// For `--config-in-flight-max`.
    pub config_in_flight_max: f64,
    /// For the hard limit of open files of a replica.
    pub open_files: f64,
    /// Bytes a second to the endpoints.
    pub network_out: f64,
    /// Bytes a second into Redis.
    pub redis_in: f64,
    /// Bytes a second out of Redis.
    pub redis_out: f64,
    /// Bytes a second that the AOF grows, until it is written anew.
    pub aof_growth: f64,
    /// What these limits do not bear.
    pub warnings: Vec<String>,
}

/// Memory of a Redis that holds nothing, with its scripts and connections.
const BASE_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
/// How long an event stays in the stream: read, delivered, acknowledged, trimmed.
const IN_STREAM_SECONDS: f64 = 3.0;
/// Head of a request and its TLS records, and of the answer's acknowledgement.
const REQUEST_HEAD_BYTES: f64 = 800.0;
/// A command's own bytes for an event on its way into and out of Redis.
const COMMAND_BYTES: f64 = 200.0;
/// Longest payload that is kept.
const PAYLOAD_MAX: f64 = super::log::PAYLOAD_MAX_BYTES as f64;
/// How full `maxmemory` may be at worst: publishing stops at 0.85.
const FULL: f64 = 0.8;
/// How much of the machine's memory `maxmemory` may be.
const OF_MACHINE: f64 = 0.7;
/// How busy cores may be on average: bursts need the rest.
const BUSY: f64 = 0.6;
/// Files that a replica needs besides connections to endpoints.
const OTHER_FILES: f64 = 1_024.0;

// === impl Figures ===

impl Default for Figures {
    fn default() -> Self {
        Self {
            event_bytes: 130.0,
            body_bytes: 135.0,
            delivery_bytes: 420.0,
            log_row_bytes: 95.0,
            payload_bytes: 140.0,
            config_bytes: 390.0,
            token_bytes: 240.0,
            aof_bytes: 800.0,
            server_us: 30.0,
            redis_us: 11.0,
        }
    }
}

// === impl Needs ===

impl Needs {
    /// What `load` needs under `limits`, where things cost what `figures` says.
    #[must_use]
    pub fn of(load: &Load, limits: &Limits, figures: &Figures) -> Self {
        let deliveries = load.rate * load.fan_out;
        let attempts = deliveries * expected_attempts(load.fail_share, limits.delays.len());
        let memory = Memory { load, limits, figures, deliveries, attempts };
        let steady = memory.steady();
        let steady_bytes: f64 = steady.iter().map(|part| part.bytes).sum();
        let away = memory.away();
        let no_replica = load.rate * load.outage.as_secs_f64() * memory.event();
        let worst = (away * load.endpoints).max(no_replica);
        let maxmemory_bytes = round_up((steady_bytes + worst) / FULL, 64.0 * 1024.0 * 1024.0);

        let cores = attempts * figures.server_us / 1e6 / BUSY;
        let replicas = (cores / load.cores).ceil().max(1.0) + 1.0;
        let per_event = (attempts / load.rate.max(f64::MIN_POSITIVE)).max(1.0);
        let in_flight = attempts * load.latency.as_secs_f64();
        let in_flight_per_endpoint = in_flight / load.endpoints.max(1.0);
        // Twice the average, with one replica away.
        let in_flight_max = power_of_two(2.0 * in_flight / (replicas - 1.0)).max(limits.in_flight);
        let config_in_flight_max = power_of_two(2.0 * in_flight_per_endpoint).max(limits.config_in_flight);
        let body = memory.body();
        let kept = body.min(PAYLOAD_MAX);
        let mut needs = Self {
            steady,
            steady_bytes,
            one_endpoint_away_bytes: steady_bytes + away,
            all_endpoints_away_bytes: steady_bytes + away * load.endpoints,
            no_replica_bytes: steady_bytes + no_replica,
            maxmemory_bytes,
            machine_bytes: maxmemory_bytes / OF_MACHINE,
            attempts,
            events_per_replica: load.cores * BUSY * 1e6 / figures.server_us / per_event,
            cores,
            replicas,
            redis_core_share: (load.rate.max(attempts)) * figures.redis_us / 1e6,
            in_flight,
            in_flight_per_endpoint,
            in_flight_max,
            config_in_flight_max,
            open_files: in_flight_max + limits.idle_connections + OTHER_FILES,
            network_out: attempts * (body + REQUEST_HEAD_BYTES),
            redis_in: load.rate * (load.data_bytes + COMMAND_BYTES) + attempts * (kept + COMMAND_BYTES),
            redis_out: load.rate * (load.data_bytes + COMMAND_BYTES),
            aof_growth: load.rate * load.data_bytes + attempts * (kept + figures.aof_bytes),
            warnings: Vec::new(),
        };
        needs.warnings = needs.warn(load, limits, &memory);
        needs
    }

    fn warn(&self, load: &Load, limits: &Limits, memory: &Memory<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        let per_endpoint = memory.deliveries / load.endpoints.max(1.0);
        let room = memory.queue_room();
        let wanted = per_endpoint * load.outage.as_secs_f64();
        if wanted > room {
            warnings.push(format!(
                "the queue of an endpoint holds {room:.0} deliveries and is full after {:.0} s of its outage; what \
                 comes then ends as failed (backlog full): raise --queue-max and --queue-bytes-max",
                room / per_endpoint.max(f64::MIN_POSITIVE)
            ));
        }
        if self.redis_core_share > BUSY {
            warnings.push(format!(
                "Redis would use {:.0} % of one core, and it has only one for commands: spread organisations over \
                 several Redis servers",
                self.redis_core_share * 100.0
            ));
        }
        if self.in_flight_per_endpoint > limits.config_in_flight {
            warnings.push(format!(
                "an endpoint needs {:.0} attempts in flight and may have {:.0}: its deliveries are parked without \
                 end; raise --config-in-flight-max, or have it answer sooner",
                self.in_flight_per_endpoint, limits.config_in_flight
            ));
        }
        if memory.body() > PAYLOAD_MAX {
            warnings.push("bodies over 16 KiB are delivered, but not kept with their log rows".into());
        }
        let rows = memory.log_rows();
        let hours = rows / (memory.attempts / load.endpoints.max(1.0)).max(f64::MIN_POSITIVE) / 3_600.0;
        if rows < per_endpoint * limits.age.as_secs_f64() && hours < 24.0 {
            warnings.push(format!(
                "the log of an endpoint reaches {hours:.1} h back: its cap is {rows:.0} rows (--log-rows-max, \
                 --log-bytes-max)"
            ));
        }
        warnings
    }
}

/// What goes into Redis's memory.
struct Memory<'a> {
    load: &'a Load,
    limits: &'a Limits,
    figures: &'a Figures,
    deliveries: f64,
    attempts: f64,
}

// === impl Memory ===

impl Memory<'_> {
    fn body(&self) -> f64 {
        self.load.data_bytes + self.figures.body_bytes
    }

    fn event(&self) -> f64 {
        self.load.data_bytes + self.figures.event_bytes
    }

    fn delivery(&self) -> f64 {
        self.body() + self.figures.delivery_bytes
    }

    /// Deliveries that the queue of one config holds: its bytes are those of the records.
    fn queue_room(&self) -> f64 {
        let (count, bytes) = self.limits.queue;
        count.min(bytes / self.record()).floor()
    }

    /// About what a record weighs by the config's own count: without Redis's share.
    fn record(&self) -> f64 {
        self.body() + 100.0
    }

    /// Rows of one config's log: as many as come within their age, up to the caps.
    fn log_rows(&self) -> f64 {
        let come = self.attempts / self.load.endpoints.max(1.0) * self.limits.age.as_secs_f64();
        come.min(self.limits.log_rows).min(self.limits.log_bytes / self.figures.log_row_bytes).floor()
    }

    /// Bytes that one endpoint adds while it is away: its queue, up to the caps.
    fn away(&self) -> f64 {
        let come = self.deliveries / self.load.endpoints.max(1.0) * self.load.outage.as_secs_f64();
        come.min(self.queue_room()) * self.delivery()
    }

    /// Waiting retries: of each delay, as many as begin it while it lasts.
    fn waiting(&self) -> f64 {
        let mut share = 1.0;
        let mut waiting = 0.0;
        for delay in &self.limits.delays {
            share *= self.load.fail_share;
            waiting += self.deliveries * share * delay.as_secs_f64();
        }
        waiting.min(self.queue_room() * self.load.endpoints)
    }

    fn failed(&self) -> f64 {
        let attempts = i32::try_from(self.limits.delays.len()).unwrap_or(i32::MAX).saturating_add(1);
        let come = self.deliveries * self.load.fail_share.powi(attempts) * self.limits.age.as_secs_f64();
        let (count, bytes) = self.limits.failed;
        come.min(count.min(bytes / self.record()) * self.load.endpoints)
    }

    fn steady(&self) -> Vec<Part> {
        let Self { load, limits, figures, .. } = self;
        let part = |name, count: f64, each: f64| Part { name, count, bytes: count * each };
        let rows = self.log_rows() * load.endpoints;
        let payload = self.body() + figures.payload_bytes;
        let payloads = if self.body() > PAYLOAD_MAX {
            0.0
        } else {
            rows.min(limits.payload_bytes / self.body() * load.endpoints)
        };
        vec![
            part("empty Redis, scripts, connections", 1.0, BASE_BYTES),
            part("events", load.rate * (IN_STREAM_SECONDS + limits.events_age.as_secs_f64()), self.event()),
            part("waiting deliveries", self.waiting(), self.delivery()),
            part("failed deliveries", self.failed(), self.delivery()),
            part("log rows", rows, figures.log_row_bytes),
            part("payloads", payloads, payload),
            part("configs", load.endpoints, figures.config_bytes),
            part("tokens", load.endpoints, figures.token_bytes),
        ]
    }
}

/// Attempts of a delivery when each fails with the same probability: 1 + f + f^2 ...
fn expected_attempts(fail_share: f64, retries: usize) -> f64 {
    let mut share = 1.0;
    let mut attempts = 1.0;
    for _ in 0..retries {
        share *= fail_share;
        attempts += share;
    }
    attempts
}

fn round_up(value: f64, step: f64) -> f64 {
    (value / step).ceil() * step
}

fn power_of_two(value: f64) -> f64 {
    value.max(1.0).log2().ceil().exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    fn load() -> Load {
        Load {
            rate: 1_000.0,
            data_bytes: 420.0,
            endpoints: 100.0,
            fan_out: 1.0,
            fail_share: 0.0,
            outage: Duration::ZERO,
            latency: Duration::from_millis(50),
            cores: 4.0,
        }
    }

    fn limits() -> Limits {
        Limits {
            delays: [12, 148, 1_808].map(Duration::from_secs).to_vec(),
            log_rows: 10_000.0,
            log_bytes: 8.0 * MIB,
            payload_bytes: 8.0 * MIB,
            age: Duration::from_secs(30 * 86_400),
            failed: (10_000.0, 64.0 * MIB),
            queue: (100_000.0, 64.0 * MIB),
            events_age: Duration::ZERO,
            in_flight: 4_096.0,
            config_in_flight: 1_024.0,
            idle_connections: 4_096.0,
        }
    }

    fn needs(change: impl FnOnce(&mut Load, &mut Limits)) -> Needs {
        let (mut load, mut limits) = (load(), limits());
        change(&mut load, &mut limits);
        Needs::of(&load, &limits, &figures())
    }

    fn figures() -> Figures {
        Figures {
            event_bytes: 90.0,
            body_bytes: 150.0,
            delivery_bytes: 350.0,
            log_row_bytes: 110.0,
            payload_bytes: 60.0,
            config_bytes: 400.0,
            token_bytes: 300.0,
            aof_bytes: 600.0,
            server_us: 30.0,
            redis_us: 11.0,
        }
    }

    fn part(needs: &Needs, name: &str) -> f64 {
        needs.steady.iter().find(|part| part.name == name).unwrap().count
    }

    #[test]
    fn a_load_without_failures_needs_what_each_thing_costs() {
        let needs = needs(|_, _| {});
        assert_eq!(part(&needs, "events"), 3_000.0);
        assert_eq!(part(&needs, "waiting deliveries"), 0.0);
        assert_eq!(part(&needs, "failed deliveries"), 0.0);
        assert_eq!(part(&needs, "log rows"), 1_000_000.0, "the cap of each of 100");
        assert_eq!(needs.attempts, 1_000.0);
        assert_eq!(needs.in_flight, 50.0, "Little: 1,000 a second for 50 ms");
        assert_eq!(needs.replicas, 2.0, "one does it, one may be away");
        assert_eq!(needs.in_flight_max, 4_096.0, "never below what is set");
        let sum: f64 = needs.steady.iter().map(|part| part.bytes).sum();
        assert_eq!(needs.steady_bytes, sum);
        assert_eq!(needs.one_endpoint_away_bytes, sum, "no outage");
        assert!(needs.maxmemory_bytes >= sum / 0.8 && needs.maxmemory_bytes % (64.0 * MIB) == 0.0);
    }

    #[test]
    fn failures_are_tried_again_wait_and_end() {
        let needs = needs(|load, _| load.fail_share = 0.5);
        assert_eq!(needs.attempts, 1_875.0, "1 + 1/2 + 1/4 + 1/8");
        let waiting = 1_000.0 * (0.5 * 12.0 + 0.25 * 148.0 + 0.125 * 1_808.0);
        assert_eq!(part(&needs, "waiting deliveries"), waiting);
        assert_eq!(part(&needs, "failed deliveries"), 1_000_000.0, "the cap of each of 100");
    }

    #[test]
    fn an_outage_fills_queues_up_to_their_caps() {
        let hour = |load: &mut Load, _: &mut Limits| load.outage = Duration::from_secs(3_600);
        let all = needs(hour);
        let one = all.one_endpoint_away_bytes - all.steady_bytes;
        assert_eq!(one, 36_000.0 * (420.0 + 150.0 + 350.0));
        assert!((all.all_endpoints_away_bytes - all.steady_bytes - 100.0 * one).abs() < 1.0);
        assert_eq!(all.no_replica_bytes - all.steady_bytes, 3_600_000.0 * 510.0);
        assert!(!all.warnings.iter().any(|warning| warning.contains("backlog full")), "{:?}", all.warnings);
        let capped = needs(|load, limits| {
            hour(load, limits);
            limits.queue.0 = 1_000.0;
        });
        assert_eq!(capped.one_endpoint_away_bytes - capped.steady_bytes, 1_000.0 * 920.0);
        assert!(
            capped.warnings.iter().any(|warning| warning.contains("full after 100 s")),
            "{:?}",
            capped.warnings
        );
    }

    #[test]
    fn what_the_limits_do_not_bear_is_said() {
        let slow = needs(|load, _| {
            load.endpoints = 1.0;
            load.latency = Duration::from_secs(2);
        });
        assert_eq!((slow.in_flight, slow.config_in_flight_max), (2_000.0, 4_096.0));
        assert!(slow.warnings.iter().any(|warning| warning.contains("--config-in-flight-max")));
        let many = needs(|load, _| load.rate = 100_000.0);
        assert!(many.warnings.iter().any(|warning| warning.contains("one core")), "{:?}", many.warnings);
        assert_eq!(many.replicas, 3.0, "100,000 x 30 us at 60 % are 5 cores: two of four, and one more");
        let large = needs(|load, _| load.data_bytes = 20_000.0);
        assert_eq!(part(&large, "payloads"), 0.0);
        assert!(large.warnings.iter().any(|warning| warning.contains("16 KiB")));
    }
}
