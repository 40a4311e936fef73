//! A TCP proxy between the dispatcher and Redis that delays, stalls, half-closes and cuts: after so many bytes, or
//! at a given command. It counts what it did, for a scenario must show that its fault happened.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Where a command is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Both ways are cut before Redis gets it.
    Before,
    /// Redis gets half of it, then both ways are cut.
    Middle,
    /// Redis gets it, and its answer is cut off.
    Answer,
}

/// What a new connection has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It lives.
    Live,
    /// It is cut after so many bytes to Redis.
    CutAfterSent(u64),
    /// It is cut after so many bytes from Redis.
    CutAfterReceived(u64),
    /// After so many bytes from Redis the way from Redis ends, while the way to Redis stays open.
    HalfClose(u64),
    /// After so many bytes from Redis nothing more comes through, and nothing is closed.
    Stall(u64),
}

type FateOf = Box<dyn Fn(u64) -> Fate + Send>;

/// What the proxy does and did.
#[derive(Default)]
pub(crate) struct Controls {
    /// Each chunk is held for so long, each way.
    delay_ms: AtomicU64,
    armed: Mutex<Option<(Vec<u8>, Moment)>>,
    fates: Mutex<Option<FateOf>>,
    connections: AtomicU64,
    cuts: AtomicUsize,
    bytes: AtomicU64,
    /// Raised to end every connection at once.
    reset: tokio::sync::Notify,
}

/// A running proxy; it ends with its runtime.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    controls: Arc<Controls>,
}

// === impl Proxy ===

impl Proxy {
    pub(crate) fn start(runtime: &tokio::runtime::Runtime, upstream: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let controls = Arc::new(Controls::default());
        let shared = Arc::clone(&controls);
        runtime.spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(client, upstream, Arc::clone(&shared)));
            }
        });
        Self { port, controls }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn delay(&self, each_way: Duration) {
        self.controls
            .delay_ms
            .store(u64::try_from(each_way.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says what becomes of new connections, by their number; those that are open are ended.
    pub(crate) fn fates(&self, fate_of: impl Fn(u64) -> Fate + Send + 'static) {
        *lock(&self.controls.fates) = Some(Box::new(fate_of));
        self.controls.reset.notify_waiters();
    }

    /// New connections live again.
    pub(crate) fn heal(&self) {
        *lock(&self.controls.fates) = None;
        *lock(&self.controls.armed) = None;
        self.delay(Duration::ZERO);
        self.controls.reset.notify_waiters();
    }

    /// Hits the next chunk to Redis that holds `command`.
    pub(crate) fn arm(&self, command: &str, moment: Moment) {
        *lock(&self.controls.armed) = Some((command.as_bytes().to_vec(), moment));
    }

    /// Whether an armed command has yet to come.
    pub(crate) fn is_armed(&self) -> bool {
        lock(&self.controls.armed).is_some()
    }

    pub(crate) fn disarm(&self) {
        *lock(&self.controls.armed) = None;
    }

    /// Connections that were cut, half-closed or stalled.
    pub(crate) fn cuts(&self) -> usize {
        self.controls.cuts.load(Ordering::Relaxed)
    }

    /// Bytes that were carried, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.controls.bytes.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(client: TcpStream, upstream: u16, controls: Arc<Controls>) {
    let number = controls.connections.fetch_add(1, Ordering::Relaxed);
    let fate = lock(&controls.fates).as_ref().map_or(Fate::Live, |fate_of| fate_of(number));
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = forward(from_client, to_server, fate, &controls) => {}
        () = back(from_server, to_client, fate, &controls) => {}
        () = controls.reset.notified() => {}
    }
}

async fn held(controls: &Controls, bytes: usize) {
    controls.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    let delay = controls.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
}

/// To Redis. Returning ends the connection.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fate: Fate, controls: &Controls) {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut sent = 0_u64;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        held(controls, count).await;
        let chunk = &buffer[..count];
        if let Some(moment) = hit(controls, chunk) {
            controls.cuts.fetch_add(1, Ordering::Relaxed);
            let part = match moment {
                Moment::Before => 0,
                Moment::Middle => count / 2,
                Moment::Answer => count,
            };
            let _ = to.write_all(&chunk[..part]).await;
            if moment == Moment::Answer {
                // Redis reads it before it learns that nobody waits.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        }
        let room = match fate {
            Fate::CutAfterSent(max) => usize::try_from(max.saturating_sub(sent)).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        if to.write_all(&chunk[..count.min(room)]).await.is_err() {
            return;
        }
        sent += count as u64;
        if count >= room {
            controls.cuts.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}

fn hit(controls: &Controls, chunk: &[u8]) -> Option<Moment> {
    let mut armed = lock(&controls.armed);
    let (command, moment) = armed.as_ref()?;
    let found = chunk.windows(command.len()).any(|bytes| bytes == command.as_slice());
    let moment = found.then_some(*moment);
    if found {
        *armed = None;
    }
    moment
}

/// From Redis. Returning ends the connection.
async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fate: Fate, controls: &Controls) {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut received = 0_u64;
    let max = match fate {
        Fate::CutAfterReceived(max) | Fate::HalfClose(max) | Fate::Stall(max) => max,
        Fate::Live | Fate::CutAfterSent(_) => u64::MAX,
    };
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        held(controls, count).await;
        let room = usize::try_from(max.saturating_sub(received)).unwrap_or(usize::MAX);
        if to.write_all(&buffer[..count.min(room)]).await.is_err() {
            return;
        }
        received += count as u64;
        if count >= room {
            controls.cuts.fetch_add(1, Ordering::Relaxed);
            match fate {
                Fate::HalfClose(_) => drop(to.shutdown().await),
                Fate::Stall(_) => {}
                _ => return,
            }
            // The other way lives on until somebody ends it.
            return std::future::pending().await;
        }
    }
}
