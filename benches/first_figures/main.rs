//! First figures: deliveries per second of `postrider serve` draining a filled stream, beside a plain hyper
//! loop with the same signing, receiver and number of connections in the same run. Method: benches/README.md.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::cast_precision_loss)]

mod admin_api;
mod drain;
mod event;
mod process;
mod raw_client;
mod receiver;
mod report;
mod store;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};

use crate::process::{Layout, Spoken, cpu_micros};
use crate::raw_client::ClientArgs;
use crate::receiver::{ReceiverArgs, Seen};
use crate::report::{RAW, Report, Row, Run};
use crate::store::Durability;

/// Why the bench stopped: shown once, then the process ends with 1.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Figures of `postrider serve` beside a raw HTTP client.
#[derive(Debug, Parser)]
struct Args {
    /// Measure. `cargo bench` gives it; `cargo test --all-targets` does not, and then nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// Events drained, and requests of the raw client.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Repetitions of all parts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Connections of the raw client; as many as the drain had open unless given.
    #[arg(long)]
    connections: Option<usize>,
    /// Measure only one of the two.
    #[arg(long)]
    only: Option<Part>,
    /// Let the scheduler place the processes.
    #[arg(long)]
    no_pin: bool,
    /// Stop with an error after this many seconds.
    #[arg(long, default_value_t = 900)]
    time_limit: u64,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    role: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Raw,
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What this binary is when it starts itself again.
#[derive(Debug, Subcommand)]
enum Child {
    #[command(hide = true)]
    Receiver(ReceiverArgs),
    #[command(hide = true)]
    RawClient(ClientArgs),
}

/// Connections of the raw client where no drain has shown a number.
const CONNECTIONS_DEFAULT: usize = 256;
/// Longest wait for a child to come up.
const CHILD_LIMIT: Duration = Duration::from_secs(30);
/// Requests whose signature the receiver checks.
const CHECKED: u64 = 100;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.role {
        Some(Child::Receiver(receiver)) => receiver::run(receiver),
        Some(Child::RawClient(client)) => raw_client::run(client),
        None if args.bench => measure(&args),
        None => {
            eprintln!("first_figures measures under `cargo bench` only (or with --bench)");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("first_figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), Failure> {
    let layout = Layout::find(!args.no_pin);
    let deadline = Instant::now() + Duration::from_secs(args.time_limit);
    let mut runs = Vec::new();
    let mut connections = args.connections;
    for run in 1..=args.runs {
        let load_average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned();
        let mut rows = Vec::new();
        for part in order(run, args.only) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("not finished within {} s", args.time_limit).into());
            }
            let row = match part {
                Some(durability) => drain::measure(&layout, durability, args.events, left)?,
                None => raw(&layout, args.events, connections.unwrap_or(CONNECTIONS_DEFAULT), left)?,
            };
            if part.is_some() && connections.is_none() {
                connections = Some(usize::try_from(row.connections_peak)?);
            }
            eprintln!("run {run}: {} {:.0} req/s", row.what, row.per_second);
            rows.push(row);
        }
        runs.push(Run { run, load_average, rows });
    }
    let report = Report::new(&layout, runs);
    match args.output {
        Output::Text => report.print(),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

/// The parts of a run; `None` is the raw client. It stands between the drains, and every other run goes
/// backwards, so that a machine that slows down favours nobody. The first drain shows how many connections
/// the raw client is to have.
fn order(run: usize, only: Option<Part>) -> Vec<Option<Durability>> {
    let mut parts = vec![Some(Durability::EverySecond), None, Some(Durability::None)];
    if run.is_multiple_of(2) {
        parts.reverse();
    }
    parts.retain(|part| match only {
        Some(Part::Raw) => part.is_none(),
        Some(Part::Drain) => part.is_some(),
        None => true,
    });
    parts
}

/// Measures the raw client.
fn raw(layout: &Layout, requests: u64, connections: usize, limit: Duration) -> Result<Row, Failure> {
    let (mut receiver, port) = start_receiver(layout, requests)?;
    let receiver_before = cpu_micros(receiver.pid)?;
    let words = [
        ("--port", port.to_string()),
        ("--requests", requests.to_string()),
        ("--connections", connections.to_string()),
    ];
    let mut args = vec!["raw-client".to_owned()];
    args.extend(words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let started = Instant::now();
    let client = Spoken::this_binary(&layout.sender, &args)?;
    receiver.expect("first", CHILD_LIMIT)?;
    let first = started.elapsed();
    receiver.expect("done", limit)?;
    let last = started.elapsed();
    client.expect("done", CHILD_LIMIT)?;
    let sender_cpu = cpu_micros(client.pid)?;
    let seen = receiver_seen(&mut receiver)?;
    seen.check()?;
    let per_request = |micros: u64| micros as f64 / requests as f64;
    Ok(Row {
        what: RAW.to_owned(),
        requests,
        extra: seen.requests.saturating_sub(requests),
        per_second: seen.rate(requests),
        per_second_from_start: requests as f64 / last.as_secs_f64(),
        start_to_first_ms: first.as_secs_f64() * 1e3,
        sender_cpu_micros: per_request(sender_cpu),
        redis_cpu_micros: None,
        receiver_cpu_micros: per_request(cpu_micros(receiver.pid)? - receiver_before),
        sender_cores: sender_cpu as f64 / 1e6 / last.as_secs_f64(),
        connections: seen.connections,
        connections_peak: seen.connections_peak,
        body_bytes: seen.first_body_bytes,
        verified: seen.verified,
    })
}

/// Starts a receiver that expects `requests`, with a thread for each of its cores; gives its port too.
pub(crate) fn start_receiver(layout: &Layout, requests: u64) -> Result<(Spoken, u16), Failure> {
    let cores = if layout.receiver.is_empty() { layout.cores / 2 } else { layout.receiver.len() };
    let words = [
        ("--threads", cores.max(1).to_string()),
        ("--expect", requests.to_string()),
        ("--secret", event::SECRET.to_owned()),
        ("--check", CHECKED.to_string()),
    ];
    let mut args = vec!["receiver".to_owned()];
    args.extend(words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let receiver = Spoken::this_binary(&layout.receiver, &args)?;
    let line = receiver.line(CHILD_LIMIT)?;
    let port = line.strip_prefix("port ").ok_or_else(|| format!("the receiver said '{line}'"))?.parse()?;
    Ok((receiver, port))
}

/// Asks a receiver what it saw.
pub(crate) fn receiver_seen(receiver: &mut Spoken) -> Result<Seen, Failure> {
    receiver.say("report")?;
    Ok(serde_json::from_str(&receiver.line(CHILD_LIMIT)?)?)
}

// === impl Seen ===

impl Seen {
    /// Requests per second between the first hundredth and the last of `requests`.
    pub(crate) fn rate(&self, requests: u64) -> f64 {
        let micros = self.last_micros.saturating_sub(self.hundredth_micros);
        (requests - requests / 100) as f64 * 1e6 / micros as f64
    }

    /// A figure counts only when what arrived was what was meant: right signatures and the right size.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.wrong > 0 || self.verified < CHECKED.min(self.requests) {
            return Err(format!("{} signatures right, {} wrong", self.verified, self.wrong).into());
        }
        if self.first_body_bytes != event::BODY_BYTES as u64 {
            return Err(format!("bodies of {} bytes", self.first_body_bytes).into());
        }
        Ok(())
    }
}
