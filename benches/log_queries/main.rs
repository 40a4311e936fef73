//! Log queries over full logs: how long each takes, whether deep pages cost more than first ones, and what the
//! queries cost deliveries. Method: benches/README.md.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::cast_precision_loss)]

#[path = "../first_figures/admin_api.rs"]
mod admin_api;
mod fill;
#[path = "../first_figures/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../isolation/publisher.rs"]
#[allow(dead_code)]
mod publisher;
mod queries;
#[path = "../isolation/receiver.rs"]
#[allow(dead_code)]
mod receiver;
#[path = "../isolation/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../isolation/store.rs"]
#[allow(dead_code)]
mod store;

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::process::wait_until;
use crate::queries::{Client, Times};
use crate::receiver::Receiver;
use crate::server::Server;
use crate::store::Store;

/// Why the bench stopped: shown once, then the process ends with 1.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Endpoints that deliveries go to beside the queries.
const ENDPOINTS: u32 = 20;

/// Log queries over full logs.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Measure. `cargo bench` gives it; `cargo test --all-targets` does not, and then nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// Configs with a full log; 100 belong to each organisation.
    #[arg(long, default_value_t = 1_000)]
    configs: u32,
    /// Rows of each log.
    #[arg(long, default_value_t = 10_000)]
    rows: u32,
    /// Rows of each page of a log.
    #[arg(long, default_value_t = 32)]
    rows_per_page: u32,
    /// Failed deliveries of each config that are older than its log, which have a record and no row.
    #[arg(long, default_value_t = 500)]
    older_failed: u32,
    /// How often each query is asked.
    #[arg(long, default_value_t = 1_000)]
    samples: u32,
    /// Events of each drain; 0 leaves the deliveries out.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Pairs of drains, one of each with queries.
    #[arg(long, default_value_t = 9)]
    pairs: u32,
    /// Let the scheduler place the processes.
    #[arg(long)]
    no_pin: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        eprintln!("log_queries measures under `cargo bench` only (or with --bench)");
        return ExitCode::SUCCESS;
    }
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log_queries: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), Failure> {
    let layout = process::Layout::find(!args.no_pin);
    println!("{} cores; {}", layout.cores, layout.words);
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    receiver::take_cores(&layout)?;
    let directory = tempfile::tempdir()?;
    let store = Store::start(&layout.receiver, directory.path())?;
    let receiver = Receiver::start()?;
    store.put_configs(ENDPOINTS, receiver.port)?;
    let before = Instant::now();
    let filled = fill::fill(&store, args)?;
    let logs = &filled.logs;
    println!(
        "{} logs of {} rows, {} a page, written in {:.0?}",
        logs.len(),
        args.rows,
        args.rows_per_page,
        before.elapsed()
    );
    let token = queries::token(&store, &fill::organisation(0))?;
    let server = Server::start(&layout, &store, directory.path())?;
    let mut client = Client::connect(server.admin_port, &token)?;
    empty_log(args, &mut client, &filled.empty)?;
    each_query(args, &mut client, logs)?;
    let met = deep(&mut client, &format!("webhookConfigId={}&", logs[0]), "one config")?;
    if met != fill::deliveries(args) {
        return Err(format!("the walk met {met} deliveries of {}", fill::deliveries(args)).into());
    }
    deep(&mut client, "", "100 configs")?;
    if args.events > 0 {
        beside(args, &store, &receiver, &server, &token, logs)?;
    }
    Ok(())
}

/// The first page of a log without a row, which reads nothing: what HTTP, the round trips and the machine take.
fn empty_log(args: &Args, client: &mut Client, config: &str) -> Result<(), Failure> {
    let mut times = Times::default();
    for _ in 0..args.samples {
        let (body, took) = client.get(&format!("webhookConfigId={config}"))?;
        let body: serde_json::Value = serde_json::from_str(&body)?;
        if body["totalCount"] != 0 {
            return Err(format!("the empty log: {body}").into());
        }
        times.add(took);
    }
    println!("{:<44} {times}   what every query takes at least", "an empty log");
    Ok(())
}

fn each_query(args: &Args, client: &mut Client, logs: &[String]) -> Result<(), Failure> {
    let own = &logs[..logs.len().min(fill::CONFIGS_EACH as usize)];
    let one = |number: u32| &own[number as usize % own.len()];
    for (what, wanted_ms, query) in queries::kinds() {
        let mut times = Times::default();
        for number in 0..args.samples {
            let (body, took) = client.get(&query.replace("CONFIG", one(number)))?;
            times.add(took);
            let wanted = fill::wanted(args, query, own.len());
            let body: serde_json::Value = serde_json::from_str(&body)?;
            let count = body["totalCount"].as_u64().unwrap_or_default();
            let is_floor = body["totalCountIsFloor"] == true;
            if count > wanted || (count < wanted && !is_floor) {
                return Err(format!("{what}: {count} deliveries (floor: {is_floor}) of {wanted}").into());
            }
        }
        println!("{what:<44} {times}   wanted: p99 under {wanted_ms} ms");
    }
    Ok(())
}

/// Walks to the end, at most 1,000 pages, and compares the first tenth with the last; gives the number of deliveries,
/// each met once.
fn deep(client: &mut Client, filter: &str, what: &str) -> Result<u64, Failure> {
    let (mut all, mut next, mut met) = (Vec::new(), String::new(), HashSet::new());
    while all.len() < 1_000 {
        let (body, took) = client.get(&format!("{filter}limit=100{next}"))?;
        all.push(took);
        let body: serde_json::Value = serde_json::from_str(&body)?;
        for edge in body["edges"].as_array().into_iter().flatten() {
            let id = edge["deliveryId"].as_str().unwrap_or_default();
            if !met.insert(id.to_owned()) {
                return Err(format!("the walk over {what} met {id:?} twice").into());
            }
        }
        let Some(cursor) = body["nextCursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    // The first page counts what matches; those behind it do not.
    let pages = all.get(1..).unwrap_or_default();
    let tenth = (pages.len() / 10).max(1);
    let (mut first, mut last, mut every) = (Times::default(), Times::default(), Times::default());
    pages.iter().take(tenth).for_each(|took| first.add(*took));
    pages.iter().rev().take(tenth).for_each(|took| last.add(*took));
    pages.iter().for_each(|took| every.add(*took));
    println!("walk over {what}: {} pages of 100; first {:.2?}; the others {every}", all.len(), all[0]);
    println!("    first tenth of them {first}");
    println!("    last tenth          {last}");
    Ok(met.len() as u64)
}

/// Deliveries with and without 20 queries a second, in turn: drains of one machine differ by more than what is looked
/// for, so each is compared with its neighbour, and the median of these ratios counts.
fn beside(
    args: &Args,
    store: &Store,
    receiver: &Receiver,
    server: &Server,
    token: &str,
    logs: &[String],
) -> Result<(), Failure> {
    drain(store, receiver, server, args.events)?;
    let (mut without, mut with, mut asked) = (Vec::new(), Vec::new(), Times::default());
    for pair in 0..args.pairs {
        // Each comes first as often, for the later one of two finds more in Redis.
        for turn in [pair % 2 == 0, pair % 2 != 0] {
            if turn {
                without.push(drain(store, receiver, server, args.events)?);
            } else {
                let asking = queries::Asking::start(server.admin_port, token, logs);
                with.push(drain(store, receiver, server, args.events)?);
                asked.extend(asking.stop()?);
            }
        }
    }
    println!("queries beside deliveries: {asked}");
    println!("deliveries/s without {without:.0?}");
    println!("             with    {with:.0?}");
    let mut ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    println!("with 20 queries a second / without: median {median:.3} of {ratios:.2?} (at least 0.95)");
    Ok(())
}

/// Adds events as fast as Redis takes them and waits until they arrived; gives deliveries a second.
fn drain(store: &Store, receiver: &Receiver, server: &Server, events: u64) -> Result<f64, Failure> {
    let before = receiver.arrived();
    let began = Instant::now();
    publisher::preload(store, 0..ENDPOINTS, events)?;
    wait_until(Duration::from_secs(300), || receiver.arrived() - before >= events)
        .map_err(|error| server.with_log(error))?;
    Ok(events as f64 / began.elapsed().as_secs_f64())
}

/// Sleeps on a thread that may block.
#[allow(clippy::disallowed_methods)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
