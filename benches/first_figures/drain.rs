//! Postrider draining a stream that was filled beforehand: `postrider serve` with its default settings, one
//! config, one endpoint. The config exists before the server starts, as in a restart under backlog.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;

use crate::process::{Guarded, Layout, Spoken, cpu_micros, wait_until};
use crate::report::Row;
use crate::store::{Durability, NAMESPACE, Store};
use crate::{Failure, admin_api, event, receiver_seen, start_receiver};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");
/// Longest wait for a step of the preparation.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A `postrider serve`, ready.
struct Server {
    process: Guarded,
    admin_port: u16,
}

/// Prepares and measures one drain of `events` events.
pub(crate) fn measure(
    layout: &Layout,
    durability: Durability,
    events: u64,
    limit: Duration,
) -> Result<Row, Failure> {
    let directory = tempfile::tempdir()?;
    let store = Store::start(&layout.receiver, directory.path(), free_port()?, durability)?;
    let (mut receiver, receiver_port) = start_receiver(layout, events)?;
    configure(layout, &store, directory.path(), receiver_port)?;
    store.preload(events)?;

    let redis_before = cpu_micros(store.pid())?;
    let receiver_before = cpu_micros(receiver.pid)?;
    let started = Instant::now();
    let log = directory.path().join("drain.log");
    let process = spawn(layout, &store, free_port()?, free_port()?, &log)?;
    let outcome = watch(&receiver, &process, &store, started, limit);
    let (first, last) = outcome.map_err(|error| with_log(error, &log))?;
    let seen = receiver_seen(&mut receiver)?;
    let per_event = |micros: u64| micros as f64 / events as f64;
    let sender_cpu = cpu_micros(process.pid)?;
    let row = Row {
        what: durability.word().to_owned(),
        requests: events,
        extra: seen.requests.saturating_sub(events),
        per_second: seen.rate(events),
        per_second_from_start: events as f64 / last.as_secs_f64(),
        start_to_first_ms: first.as_secs_f64() * 1e3,
        sender_cpu_micros: per_event(sender_cpu),
        redis_cpu_micros: Some(per_event(cpu_micros(store.pid())? - redis_before)),
        receiver_cpu_micros: per_event(cpu_micros(receiver.pid)? - receiver_before),
        sender_cores: sender_cpu as f64 / 1e6 / last.as_secs_f64(),
        connections: seen.connections,
        connections_peak: seen.connections_peak,
        body_bytes: seen.first_body_bytes,
        verified: seen.verified,
    };
    seen.check()?;
    process.stop(STEP_LIMIT)?;
    Ok(row)
}

/// From the start of the process to the first and to the last arrival; returns when all is acknowledged too.
fn watch(
    receiver: &Spoken,
    process: &Guarded,
    store: &Store,
    started: Instant,
    limit: Duration,
) -> Result<(Duration, Duration), Failure> {
    receiver.expect("first", STEP_LIMIT)?;
    let first = started.elapsed();
    receiver.expect("done", limit)?;
    let last = started.elapsed();
    wait_until(STEP_LIMIT, || store.pending().is_ok_and(|pending| pending == 0))
        .map_err(|error| format!("entries stay unacknowledged: {error}"))?;
    if process.runs() { Ok((first, last)) } else { Err("postrider serve ended early".into()) }
}

/// Lets the server make its keyspace, makes a token, puts the config, and ends the server again.
fn configure(layout: &Layout, store: &Store, directory: &Path, receiver_port: u16) -> Result<(), Failure> {
    let log = directory.join("configure.log");
    let server = ready(layout, store, &log).map_err(|error| with_log(error, &log))?;
    let token = create_token(store)?;
    let config = serde_json::json!({
        "url": format!("http://127.0.0.1:{receiver_port}/figures"),
        "events": [event::EVENT_TYPE],
        "secret": event::SECRET,
    });
    let path = "/api/v2/admin/webhooks/configs";
    let body = Some(config.to_string());
    let (status, answer) = admin_api::call(server.admin_port, Method::PUT, path, Some(&token), body)?;
    if status != 200 {
        return Err(format!("PUT {path} answered {status}: {answer}").into());
    }
    server.process.stop(STEP_LIMIT)
}

fn ready(layout: &Layout, store: &Store, log: &Path) -> Result<Server, Failure> {
    let (admin_port, ops_port) = (free_port()?, free_port()?);
    let process = spawn(layout, store, admin_port, ops_port, log)?;
    let answers = || {
        admin_api::call(ops_port, Method::GET, "/readyz", None, None).is_ok_and(|(status, _)| status == 200)
    };
    let mut ended = false;
    wait_until(STEP_LIMIT, || {
        ended = !process.runs();
        ended || answers()
    })?;
    if ended { Err("postrider serve ended".into()) } else { Ok(Server { process, admin_port }) }
}

fn spawn(
    layout: &Layout,
    store: &Store,
    admin_port: u16,
    ops_port: u16,
    log: &Path,
) -> Result<Guarded, Failure> {
    let (admin, ops) = (format!("127.0.0.1:{admin_port}"), format!("127.0.0.1:{ops_port}"));
    let url = store.url();
    let args = ["serve", "--redis-url", &url, "--namespace", NAMESPACE, "--listen", &admin]
        .into_iter()
        .chain(["--ops-listen", &ops, "--allow-http", "--allow-target", "127.0.0.0/8"])
        .chain(["--admin-rate-limit", "0"])
        .map(str::to_owned);
    Guarded::start(&layout.sender, Path::new(BINARY), &args.collect::<Vec<_>>(), log)
}

fn create_token(store: &Store) -> Result<String, Failure> {
    let output = Command::new(BINARY)
        .args(["token", "create", "--redis-url", &store.url(), "--namespace", NAMESPACE])
        .args(["--organisation", event::ORGANISATION, "--role", "admin", "--output", "json"])
        .output()?;
    if !output.status.success() {
        return Err(format!("token create: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["token"].as_str().ok_or("token create gave no token")?.to_owned())
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The error with the end of the server's own words: the directory they lie in is about to go.
fn with_log(error: Failure, log: &Path) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("{error}\nend of its output:\n{tail}").into()
}
