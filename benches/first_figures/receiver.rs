//! The receiver of the figures: no HTTP library, so that it costs less than what is measured. It finds the end
//! of the head and `content-length`, counts, and answers a fixed 200 on a connection that stays open.
//!
//! A process of its own (this binary with `receiver`), so that its CPU time can be read apart. It speaks in
//! lines on stdout (`port N`, `first`, `done`) and answers `report` on stdin with one line of JSON.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use postrider::domain::signature::{Secret, SigningKey};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::Failure;

/// What the receiver is told on its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReceiverArgs {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Threads, each with a current-thread runtime.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Requests after which `done` is said.
    #[arg(long)]
    pub(crate) expect: u64,
    /// Secret that the first requests are checked with.
    #[arg(long)]
    pub(crate) secret: String,
    /// How many of the first requests are checked.
    #[arg(long, default_value_t = 100)]
    pub(crate) check: u64,
}

/// What the receiver saw. Times are in microseconds after the first request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    /// Complete requests.
    pub(crate) requests: u64,
    /// Requests whose signature was checked and right.
    pub(crate) verified: u64,
    /// Requests whose signature was checked and wrong or missing.
    pub(crate) wrong: u64,
    /// Body bytes of the first request.
    pub(crate) first_body_bytes: u64,
    /// Connections accepted in all.
    pub(crate) connections: u64,
    /// Most connections open at once.
    pub(crate) connections_peak: u64,
    /// When the first hundredth of what was expected was there.
    pub(crate) hundredth_micros: u64,
    /// When all that was expected was there; 0 while it is not.
    pub(crate) last_micros: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    verified: AtomicU64,
    wrong: AtomicU64,
    first_body_bytes: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    peak: AtomicU64,
    first: OnceLock<Instant>,
    hundredth_micros: AtomicU64,
    last_micros: AtomicU64,
}

struct Shared {
    counters: Counters,
    expect: u64,
    check: u64,
    key: SigningKey,
}

/// One request's place in the buffer.
struct Frame {
    head: usize,
    total: usize,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BUFFER_BYTES: usize = 64 * 1024;

/// Runs until stdin ends.
pub(crate) fn run(args: &ReceiverArgs) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))?;
    let secret = Secret::new(&args.secret).ok_or("the secret is not acceptable")?;
    let shared = Arc::new(Shared {
        counters: Counters::default(),
        expect: args.expect,
        check: args.check,
        key: secret.signing_key(),
    });
    say(&format!("port {}", listener.local_addr()?.port()));
    let threads: Vec<UnboundedSender<StdStream>> = (0..args.threads.max(1))
        .map(|_| {
            let (sender, connections) = unbounded_channel();
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve(connections, shared));
            sender
        })
        .collect();
    // Round-robin: SO_REUSEPORT's hash can give one thread three quarters of the connections.
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let _ = threads[number % threads.len()].send(stream);
        }
    });
    for line in std::io::stdin().lock().lines() {
        if line? == "report" {
            say(&serde_json::to_string(&shared.counters.seen())?);
        }
    }
    Ok(())
}

fn serve(mut connections: UnboundedReceiver<StdStream>, shared: Arc<Shared>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&format!("error {error}")),
    };
    runtime.block_on(async move {
        while let Some(stream) = connections.recv().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let counters = &shared.counters;
                counters.connections.fetch_add(1, Ordering::Relaxed);
                let open = counters.open.fetch_add(1, Ordering::Relaxed) + 1;
                counters.peak.fetch_max(open, Ordering::Relaxed);
                // A sender that ends closes its connections in whatever way: not this receiver's concern.
                let _ = answer_all(stream, &shared).await;
                counters.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

async fn answer_all(stream: StdStream, shared: &Shared) -> Result<(), Failure> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut used = 0;
        while let Some(frame) = frame(&buffer[used..filled])? {
            if used + frame.total > filled {
                break;
            }
            shared.count(&buffer[used..used + frame.total], frame.head);
            used += frame.total;
            stream.write_all(ANSWER).await?;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        if filled == buffer.len() {
            return Err("a request larger than the receiver's buffer".into());
        }
    }
}

/// The request at the start of `bytes`, once its head is complete.
fn frame(bytes: &[u8]) -> Result<Option<Frame>, Failure> {
    let mut line_start = 0;
    let mut content_length = None;
    while let Some(length) = bytes[line_start..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[line_start..line_start + length];
        line_start += length + 1;
        if line == b"\r" {
            let body: usize = content_length.ok_or("a request without content-length")?;
            return Ok(Some(Frame { head: line_start, total: line_start + body }));
        }
        if let Some(value) = header(line, b"content-length:") {
            content_length = Some(std::str::from_utf8(value)?.parse()?);
        }
    }
    Ok(None)
}

/// The value, when `line` is the header `name` (lower case, with its colon).
fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever read this is gone when it fails, and stdin ends too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

// === impl Shared ===

impl Shared {
    fn count(&self, request: &[u8], head: usize) {
        let counters = &self.counters;
        let number = counters.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if number <= self.check {
            self.verify(request, head);
        }
        if number == 1 {
            counters.first.get_or_init(Instant::now);
            counters.first_body_bytes.store((request.len() - head) as u64, Ordering::Relaxed);
            say("first");
        } else if number == self.expect / 100 {
            counters.hundredth_micros.store(counters.since_first(), Ordering::Relaxed);
        } else if number == self.expect {
            counters.last_micros.store(counters.since_first(), Ordering::Relaxed);
            say("done");
        }
    }

    fn verify(&self, request: &[u8], head: usize) {
        let mut lines = request[..head].split(|byte| *byte == b'\n');
        let signature = lines.find_map(|line| header(line, b"x-nudj-signature:")).unwrap_or_default();
        let right = self.key.verify(&request[head..], signature);
        let counter = if right { &self.counters.verified } else { &self.counters.wrong };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Counters ===

impl Counters {
    fn since_first(&self) -> u64 {
        self.first.get().map_or(0, |first| u64::try_from(first.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn seen(&self) -> Seen {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            requests: read(&self.requests),
            verified: read(&self.verified),
            wrong: read(&self.wrong),
            first_body_bytes: read(&self.first_body_bytes),
            connections: read(&self.connections),
            connections_peak: read(&self.peak),
            hundredth_micros: read(&self.hundredth_micros),
            last_micros: read(&self.last_micros),
        }
    }
}
