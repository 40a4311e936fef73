//! The receiver: `/e/<number>` answers 200 at once, or hangs for 30 s where it is told to. It takes the time of
//! publishing from the nonce, which the publisher writes from the same clock.

use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::Failure;
use crate::process::Layout;

const HANG: Duration = Duration::from_secs(30);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const THREADS: usize = 2;

/// A running receiver, for as long as the process runs.
pub(crate) struct Receiver {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    epoch: Instant,
    /// Endpoints below this number hang.
    hang_below: AtomicUsize,
    /// Arrivals at endpoints that do not hang.
    arrived: AtomicU64,
    /// When it was published, and the microseconds from then to arrival, at endpoints from the number on.
    times: Mutex<(usize, Vec<(u64, u32)>)>,
}

// === impl Receiver ===

impl Receiver {
    pub(crate) fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            hang_below: AtomicUsize::new(0),
            arrived: AtomicU64::new(0),
            times: Mutex::default(),
        });
        let threads: Vec<UnboundedSender<StdStream>> = (0..THREADS)
            .map(|_| {
                let (sender, connections) = unbounded_channel();
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(connections, shared));
                sender
            })
            .collect();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let _ = threads[number % threads.len()].send(stream);
            }
        });
        Ok(Self { port, shared })
    }

    /// Microseconds of the clock that nonces carry.
    pub(crate) fn now_micros(&self) -> u64 {
        self.shared.now_micros()
    }

    /// Endpoints below `number` hang from now on.
    pub(crate) fn hang_below(&self, number: usize) {
        self.shared.hang_below.store(number, Ordering::Relaxed);
    }

    /// Arrivals at endpoints that did not hang.
    pub(crate) fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Forgets the times so far, and keeps those of endpoints from `number` on.
    pub(crate) fn keep_times_from(&self, number: usize) {
        *self.shared.times.lock().unwrap_or_else(PoisonError::into_inner) = (number, Vec::new());
    }

    /// The times since: when published, and how long to arrival.
    pub(crate) fn times(&self) -> Vec<(u64, u32)> {
        self.shared.times.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

fn serve(mut connections: UnboundedReceiver<StdStream>, shared: Arc<Shared>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async move {
        while let Some(stream) = connections.recv().await {
            let shared = Arc::clone(&shared);
            // A sender that gives up closes its connection in whatever way: not this receiver's concern.
            tokio::spawn(async move { drop(answer_all(stream, &shared).await) });
        }
    });
}

async fn answer_all(stream: StdStream, shared: &Shared) -> Result<(), Failure> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    let mut request = Vec::with_capacity(2048);
    loop {
        while complete(&request).is_none() {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let end = complete(&request).unwrap_or(request.len());
        let endpoint = number_after(&request, b"POST /e/").ok_or("a request without its endpoint")?;
        let hangs = usize::try_from(endpoint)? < shared.hang_below.load(Ordering::Relaxed);
        if !hangs {
            shared.note(usize::try_from(endpoint)?, number_after(&request, b"\"nonce\":\""));
        }
        request.drain(..end);
        if hangs {
            tokio::time::sleep(HANG).await;
        }
        stream.write_all(ANSWER).await?;
    }
}

/// Where the first request ends, once it is whole.
fn complete(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let length = number_after(bytes, b"content-length: ")?;
    let end = head + usize::try_from(length).ok()?;
    (bytes.len() >= end).then_some(end)
}

/// The decimal number behind the first `mark`.
fn number_after(bytes: &[u8], mark: &[u8]) -> Option<u64> {
    let start = bytes.windows(mark.len()).position(|window| window.eq_ignore_ascii_case(mark))? + mark.len();
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

// === impl Shared ===

impl Shared {
    fn now_micros(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note(&self, endpoint: usize, published: Option<u64>) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let Some(published) = published.filter(|published| *published > 0) else { return };
        let took = u32::try_from(self.now_micros().saturating_sub(published)).unwrap_or(u32::MAX);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoint >= times.0 {
            times.1.push((published, took));
        }
    }
}

/// Pins this process, and so every thread that it starts from here on, to the cores of the receiver's side.
pub(crate) fn take_cores(layout: &Layout) -> Result<(), Failure> {
    if layout.receiver.is_empty() {
        return Ok(());
    }
    let cores = layout.receiver.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let own = std::process::id().to_string();
    Command::new("taskset").args(["-pc", &cores, &own]).stdout(Stdio::null()).status()?;
    Ok(())
}
