//! `postrider capacity`: what a load needs of Redis, CPU, connections and network; from figures that were measured
//! once, or from a live Redis. The arithmetic is `domain::capacity`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::connect::Connected;
use super::error::CliError;
use super::flags::AllSettings;
use super::output::{Output, OutputFormat, TextTable};
use super::{Context, block_on, connect};
use crate::domain::capacity::{Figures, Limits, Load, Needs};
use crate::domain::config::MAX_RETRIES_DEFAULT;
use crate::redis::sample::{self, Sample};
use crate::settings::Settings;
use crate::settings::text::{duration, size};

#[derive(Debug, Args)]
pub(super) struct CapacityArgs {
    /// Events a second; with --sample, what Redis saw
    #[arg(long, value_name = "NUMBER", required_unless_present = "sample", value_parser = positive)]
    rate: Option<f64>,
    /// Bytes of an event's data; with --sample, the mean of the newest events
    #[arg(long, value_name = "BYTES", required_unless_present = "sample", value_parser = size::parse)]
    size: Option<u64>,
    /// Configs that get events, evenly; with --sample, those that there are
    #[arg(long, value_name = "NUMBER", required_unless_present = "sample", value_parser = positive)]
    endpoints: Option<f64>,
    /// Deliveries of one event
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = positive)]
    fan_out: f64,
    /// Share of attempts that fail and are tried again, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = share)]
    fail_share: f64,
    /// How long an endpoint, all endpoints or all replicas are away at worst
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    outage: Duration,
    /// How long an endpoint takes to answer
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration::parse)]
    latency: Duration,
    /// Cores of one replica
    #[arg(long, value_name = "NUMBER", default_value = "4", value_parser = positive)]
    cores: f64,
    /// Weigh keys of a live Redis and watch its rates, instead of trusting the figures
    #[arg(long)]
    sample: bool,
    /// How long rates are watched
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse, requires = "sample")]
    sample_for: Duration,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    settings: AllSettings,
}

/// How many elements make a weight trustworthy.
const ELEMENTS_MIN: u64 = 100;

/// How far the answer may be off, in percent: allocation classes, page sizes, uneven endpoints.
const UNCERTAIN_MEASURED_ONCE: u32 = 30;
const UNCERTAIN_SAMPLED: u32 = 15;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    rate: f64,
    data_bytes: f64,
    endpoints: f64,
    fan_out: f64,
    fail_share: f64,
    outage_seconds: f64,
    latency_seconds: f64,
    cores_per_replica: f64,
    /// What each thing costs, and which of these figures were sampled.
    figures: Figures,
    sampled: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    uncertainty_percent: u32,
    #[serde(flatten)]
    needs: Needs,
}

/// What the live Redis showed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    watched_seconds: f64,
    events_per_second: f64,
    commands_per_second: f64,
    redis_core_share: f64,
    network_in: f64,
    network_out: f64,
    aof_growth: f64,
    used_memory: u64,
    maxmemory: u64,
    keys_scanned: u64,
    scanned_whole: bool,
}

pub(super) fn run(args: CapacityArgs, context: &mut Context) -> Result<(), CliError> {
    let format = args.output;
    let report = if args.sample {
        let connected = connect::redis_with(args.settings.0.clone(), context)?;
        let sample = block_on(take(&connected, args.sample_for))?;
        Report::of(&args, &connected.settings, Some(&sample))?
    } else {
        let settings = args.settings.0.clone().load(&context.every)?.settings;
        Report::of(&args, &settings, None)?
    };
    if format == OutputFormat::Json {
        return Ok(context.output.json(&report)?);
    }
    report.print(&mut context.output)
}

async fn take(connected: &Connected, watch: Duration) -> Result<Sample, CliError> {
    let shards = connected.shards().await?;
    sample::take(&connected.redis, &shards, watch).await.map_err(|error| connected.failed(&error))
}

// === impl Report ===

impl Report {
    fn of(args: &CapacityArgs, settings: &Settings, sample: Option<&Sample>) -> Result<Self, CliError> {
        let missing = |flag: &str, why: &str| CliError::Usage(format!("{flag} is needed: {why}"));
        let seen_rate = sample.map(|sample| sample.events).filter(|rate| *rate > 0.0);
        let rate = args
            .rate
            .or(seen_rate)
            .ok_or_else(|| missing("--rate", "no event came while Redis was watched"))?;
        let seen_size = sample.and_then(|sample| sample.data_bytes);
        let data_bytes = args.size.map(|bytes| bytes as f64).or(seen_size);
        let data_bytes = data_bytes.ok_or_else(|| missing("--size", "the stream holds no event"))?;
        let configs =
            sample.and_then(|sample| sample.weights.get("configs")).map(|weight| weight.elements as f64);
        let endpoints = args.endpoints.or(configs.filter(|count| *count > 0.0));
        let endpoints = endpoints.ok_or_else(|| missing("--endpoints", "there is no config"))?;
        let (outage, latency) = (args.outage, args.latency);
        let CapacityArgs { fan_out, fail_share, cores, .. } = *args;
        let load = Load { rate, data_bytes, endpoints, fan_out, fail_share, outage, latency, cores };
        let (figures, sampled) =
            sample.map_or_else(Default::default, |sample| figures_of(sample, data_bytes));
        Ok(Self {
            rate,
            data_bytes,
            endpoints,
            fan_out,
            fail_share,
            outage_seconds: outage.as_secs_f64(),
            latency_seconds: latency.as_secs_f64(),
            cores_per_replica: cores,
            figures,
            uncertainty_percent: if sampled.is_empty() { UNCERTAIN_MEASURED_ONCE } else { UNCERTAIN_SAMPLED },
            sampled,
            seen: sample.map(Seen::of),
            needs: Needs::of(&load, &limits_of(settings), &figures),
        })
    }

    fn print(&self, output: &mut Output) -> Result<(), CliError> {
        let Self { rate, data_bytes, endpoints, fan_out, needs, .. } = self;
        output.line(format_args!(
            "{rate:.0} events/s of {data_bytes:.0} bytes, {fan_out} deliveries each, to {endpoints:.0} endpoints that \
             answer in {:.0} ms; {:.1} % of attempts fail",
            self.latency_seconds * 1_000.0,
            self.fail_share * 100.0
        ))?;
        if let Some(seen) = &self.seen {
            seen.print(output)?;
        }
        let mut table = TextTable::new(&["REDIS MEMORY", "COUNT", "BYTES"]);
        for part in &needs.steady {
            table.row([part.name.into(), format!("{:.0}", part.count), bytes(part.bytes)]);
        }
        let outage = duration::show(&Duration::from_secs_f64(self.outage_seconds));
        for (name, sum) in [
            ("all is well".to_owned(), needs.steady_bytes),
            (format!("one endpoint away for {outage}"), needs.one_endpoint_away_bytes),
            (format!("all endpoints away for {outage}"), needs.all_endpoints_away_bytes),
            (format!("no replica for {outage}"), needs.no_replica_bytes),
        ] {
            table.row([name, String::new(), bytes(sum)]);
        }
        output.table(&table)?;
        let mut table = TextTable::new(&["SET OR PROVIDE", "VALUE", "WHY"]);
        for (name, value, why) in self.advice() {
            table.row([name.into(), value, why]);
        }
        output.table(&table)?;
        for warning in &needs.warnings {
            output.line(format_args!("WARN  {warning}"))?;
        }
        let measured = match self.sampled.as_slice() {
            [] => "figures measured once on another machine: docs/OPERATIONS.md, 'Sizing'; --sample weighs yours".into(),
            sampled => format!("sampled: {}; the rest measured once on another machine", sampled.join(", ")),
        };
        output.line(format_args!(
            "Within about {} % if endpoints share the load evenly. {measured}",
            self.uncertainty_percent
        ))?;
        Ok(())
    }

    fn advice(&self) -> Vec<(&'static str, String, String)> {
        let needs = &self.needs;
        let per_second = |value: f64| format!("{}/s", bytes(value));
        vec![
            ("maxmemory", bytes(needs.maxmemory_bytes), "the worst of the above is 80 % of it".into()),
            (
                "memory of Redis's machine",
                bytes(needs.machine_bytes),
                "copies while the AOF is written anew".into(),
            ),
            (
                "replicas",
                format!("{:.0} of {} cores", needs.replicas, self.cores_per_replica),
                format!("{:.1} cores at 60 %, and one replica may be away", needs.cores),
            ),
            (
                "a replica takes",
                format!("{:.0} events/s", needs.events_per_replica),
                format!("{:.0} us of CPU an attempt", self.figures.server_us),
            ),
            (
                "Redis's one core",
                format!("{:.0} %", needs.redis_core_share * 100.0),
                format!("{:.0} us an event with its delivery", self.figures.redis_us),
            ),
            (
                "--in-flight-max",
                format!("{:.0}", needs.in_flight_max),
                format!("{:.0} attempts/s make {:.0} in flight", needs.attempts, needs.in_flight),
            ),
            (
                "--config-in-flight-max",
                format!("{:.0}", needs.config_in_flight_max),
                format!("{:.1} in flight for one endpoint", needs.in_flight_per_endpoint),
            ),
            ("open files of a replica", format!("{:.0}", needs.open_files), "its connections".into()),
            (
                "network to endpoints",
                per_second(needs.network_out),
                "bodies and heads, without TLS handshakes".into(),
            ),
            (
                "network of Redis",
                format!("{} in, {} out", per_second(needs.redis_in), per_second(needs.redis_out)),
                "without its own replication".into(),
            ),
            (
                "growth of the AOF",
                per_second(needs.aof_growth),
                "until written anew: give the disk three times maxmemory".into(),
            ),
        ]
    }
}

// === impl Seen ===

impl Seen {
    fn of(sample: &Sample) -> Self {
        Self {
            watched_seconds: sample.watched.as_secs_f64(),
            events_per_second: sample.events,
            commands_per_second: sample.commands,
            redis_core_share: sample.redis_core_share,
            network_in: sample.network.0,
            network_out: sample.network.1,
            aof_growth: sample.aof_growth,
            used_memory: sample.memory.0,
            maxmemory: sample.memory.1,
            keys_scanned: sample.scanned,
            scanned_whole: sample.whole,
        }
    }

    fn print(&self, output: &mut Output) -> Result<(), CliError> {
        let part = if self.scanned_whole { "all" } else { "the first" };
        output.line(format_args!(
            "Redis now, watched for {:.1} s: {:.0} events/s, {:.0} commands/s, {:.0} % of a core, AOF +{}/s, {} used; \
             {part} {} keys looked at",
            self.watched_seconds,
            self.events_per_second,
            self.commands_per_second,
            self.redis_core_share * 100.0,
            bytes(self.aof_growth),
            bytes(self.used_memory as f64),
            self.keys_scanned
        ))?;
        Ok(())
    }
}

/// The default figures, with what the sample can tell better, and the names of those.
fn figures_of(sample: &Sample, data_bytes: f64) -> (Figures, Vec<&'static str>) {
    let mut figures = Figures::default();
    let mut sampled = Vec::new();
    let mut set = |name, place: &mut f64, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            *place = value.max(0.0);
            sampled.push(name);
        }
    };
    // What lies over data holds only for the data that lie there.
    let mean = sample.data_bytes.unwrap_or(data_bytes);
    let body = mean + figures.body_bytes;
    let each = |kind| sample.each(kind, ELEMENTS_MIN);
    let queued =
        each("delivery").map(|record| record + each("queue").or(each("failed")).unwrap_or(80.0) - body);
    set("eventBytes", &mut figures.event_bytes, each("events").map(|bytes| bytes - mean));
    set("deliveryBytes", &mut figures.delivery_bytes, queued);
    set("logRowBytes", &mut figures.log_row_bytes, each("log"));
    let payload = each("bodies").map(|for_each_byte| (for_each_byte - 1.0) * body);
    set("payloadBytes", &mut figures.payload_bytes, payload);
    set("configBytes", &mut figures.config_bytes, each("configs"));
    set("tokenBytes", &mut figures.token_bytes, each("tokens"));
    // An idle Redis's own work would count as that of a few events.
    let busy = sample.events >= 100.0;
    set("redisUs", &mut figures.redis_us, busy.then(|| sample.redis_core_share * 1e6 / sample.events));
    (figures, sampled)
}

fn limits_of(settings: &Settings) -> Limits {
    let (retention, limits) = (&settings.retention, &settings.limits);
    let delays = (1..=MAX_RETRIES_DEFAULT).map(|retry| settings.delivery.schedule.base_delay(retry));
    Limits {
        delays: delays.collect(),
        log_rows: retention.log_rows_max as f64,
        log_bytes: retention.log_bytes_max as f64,
        payload_bytes: retention.payload_bytes_max as f64,
        age: retention.log_age_max,
        failed: (retention.failed_max as f64, retention.failed_bytes_max as f64),
        queue: (retention.queue_max as f64, retention.queue_bytes_max as f64),
        events_age: retention.events_age,
        in_flight: limits.in_flight_max.into(),
        config_in_flight: limits.config_in_flight_max.into(),
        idle_connections: limits.idle_connections_max.into(),
    }
}

fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < units.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e9 => Ok(number),
        _ => Err("expected a number above 0, up to 1000000000".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}
