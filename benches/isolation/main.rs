//! Isolation: what endpoints that hang, backlogs of dead endpoints and many configs cost the others, each beside
//! a baseline of the same run. Method: benches/README.md.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::cast_precision_loss)]

#[path = "../first_figures/admin_api.rs"]
mod admin_api;
mod parts;
#[path = "../first_figures/process.rs"]
#[allow(dead_code)]
mod process;
mod publisher;
mod receiver;
mod server;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Why the bench stopped: shown once, then the process ends with 1.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a misbehaving endpoint costs the others.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Measure. `cargo bench` gives it; `cargo test --all-targets` does not, and then nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// Measure only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Events whose draining gives the capacity, and the throughput beside backlogs.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Events a second; half of the measured capacity unless given.
    #[arg(long)]
    rate: Option<u64>,
    /// Seconds of each steady load.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Deliveries that wait for each of the ten dead endpoints.
    #[arg(long, default_value_t = 100_000)]
    backlog: u64,
    /// Configs of the part `memory`; a tenth of them hangs.
    #[arg(long, default_value_t = 10_000)]
    configs: u32,
    /// Let the scheduler place the processes.
    #[arg(long)]
    no_pin: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// 10 of 100 endpoints begin to hang: the others' p99 from publish to arrival.
    Hanging,
    /// Ten dead endpoints with a backlog each: the others' throughput.
    Backlog,
    /// Many configs, a tenth of which hang: the replica's memory, and the others' p99.
    Memory,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        eprintln!("isolation measures under `cargo bench` only (or with --bench)");
        return ExitCode::SUCCESS;
    }
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isolation: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), Failure> {
    raise_file_limit()?;
    let layout = process::Layout::find(!args.no_pin);
    println!("{} cores; {}", layout.cores, layout.words);
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    receiver::take_cores(&layout)?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Part::Hanging) {
        parts::hanging(args, &layout)?;
    }
    if wanted(Part::Backlog) {
        parts::backlog(args, &layout)?;
    }
    if wanted(Part::Memory) {
        parts::memory(args, &layout)?;
    }
    Ok(())
}

/// The receiver holds thousands of connections open.
fn raise_file_limit() -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Sleeps on the bench's main thread.
#[allow(clippy::disallowed_methods)] // The main thread of a bench may block.
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
