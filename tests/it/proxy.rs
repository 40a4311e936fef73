//! A TCP proxy between a client and a server on loopback, to break what lies between them: it sees every chunk
//! of either direction and passes it on, late, in part, or not at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Bytes read at a time: a larger write comes as several chunks.
const CHUNK: usize = 64 * 1024;

/// A running proxy; its connections end when it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    runtime: Option<Runtime>,
}

/// Which way a chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Reply,
}

/// What has arrived at the proxy and was not passed on yet.
pub(crate) struct Chunk<'a> {
    /// Number of the connection, from 0 in the order in which clients connected.
    pub(crate) connection: u64,
    pub(crate) way: Way,
    pub(crate) bytes: &'a [u8],
}

/// What is done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Passed on.
    Pass,
    /// Passed on after this time; what comes behind it waits.
    Late(Duration),
    /// Dropped; the connection goes on.
    Swallow,
    /// The first so many bytes are passed on, then both sides are closed.
    CutAfter(usize),
}

/// What went through, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that were accepted.
    pub(crate) connections: u64,
    /// Connections that a [`Deed::CutAfter`] closed.
    pub(crate) cuts: u64,
    /// Bytes passed on to the server.
    pub(crate) requests: u64,
    /// Bytes passed on to the client.
    pub(crate) replies: u64,
    /// Bytes that arrived and were dropped.
    pub(crate) swallowed: u64,
}

type Fault = Arc<dyn Fn(&Chunk<'_>) -> Deed + Send + Sync>;

struct Shared {
    server: SocketAddr,
    fault: Mutex<Fault>,
    counts: Mutex<Counts>,
    next: AtomicU64,
    /// While true, no connection is served: those that are there end, new ones are closed at once.
    closed: watch::Sender<bool>,
}

// === impl Proxy ===

impl Proxy {
    /// Starts one before the server at this loopback port; everything passes.
    pub(crate) fn before(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(TcpListener::bind(any)).expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            fault: Mutex::new(Arc::new(|_| Deed::Pass)),
            counts: Mutex::default(),
            next: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, port: own, runtime: Some(runtime) }
    }

    /// The port to connect to.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// From now on this says what becomes of each chunk.
    pub(crate) fn fault(&self, fault: impl Fn(&Chunk<'_>) -> Deed + Send + Sync + 'static) {
        *self.shared.fault.lock().expect("the fault") = Arc::new(fault);
    }

    /// From now on everything passes, and connections are served.
    pub(crate) fn heal(&self) {
        self.fault(|_| Deed::Pass);
        self.shared.closed.send_replace(false);
    }

    /// A handle that closes every connection and refuses new ones until [`Proxy::heal`]; a fault may use it.
    pub(crate) fn closer(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            shared.closed.send_replace(true);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.lock().expect("the counts")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *shared.closed.borrow() {
            continue;
        }
        let connection = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.count(|counts| counts.connections += 1);
        tokio::spawn(join(client, connection, Arc::clone(&shared)));
    }
}

/// Serves one connection until either side ends, a fault cuts it, or the proxy is closed.
async fn join(client: TcpStream, connection: u64, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let mut closed = shared.closed.subscribe();
    tokio::select! {
        () = pass(client_in, server_out, connection, Way::Request, &shared) => {}
        () = pass(server_in, client_out, connection, Way::Reply, &shared) => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: u64, way: Way, shared: &Shared) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let fault = Arc::clone(&shared.fault.lock().expect("the fault"));
        let deed = fault(&Chunk { connection, way, bytes: &buffer[..length] });
        let passed = match deed {
            Deed::Pass => length,
            Deed::Late(delay) => {
                tokio::time::sleep(delay).await;
                length
            }
            Deed::Swallow => 0,
            Deed::CutAfter(bytes) => bytes.min(length),
        };
        // Counted first: who has read it can read the count.
        shared.count(|counts| {
            *(if way == Way::Request { &mut counts.requests } else { &mut counts.replies }) += passed as u64;
            counts.swallowed += (length - passed) as u64;
            counts.cuts += u64::from(matches!(deed, Deed::CutAfter(_)));
        });
        let written = to.write_all(&buffer[..passed]).await;
        if written.is_err() || matches!(deed, Deed::CutAfter(_)) {
            return;
        }
    }
}

// === impl Shared ===

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().expect("the counts"));
    }
}

// === impl Chunk ===

impl Chunk<'_> {
    /// Whether `text` stands in the chunk.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// A proxy that passed what it should cut would make the tests that use it worthless.
#[test]
fn the_tests_proxy_passes_delays_swallows_and_cuts_as_it_is_told() {
    use std::io::{Read, Write};
    let echo = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::before(echo.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    let connect = || {
        let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let mut first = connect();
    let mut answer = [0; 4];
    first.write_all(b"ping").unwrap();
    first.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, proxy.counts().replies, proxy.counts().swallowed), (b"ping", 4, 0));

    let late = Duration::from_millis(50);
    proxy.fault(move |chunk| if chunk.way == Way::Reply { Deed::Late(late) } else { Deed::Pass });
    let began = std::time::Instant::now();
    first.write_all(b"ping").unwrap();
    first.read_exact(&mut answer).unwrap();
    assert!(began.elapsed() >= late);

    proxy.fault(|chunk| if chunk.has("lost") { Deed::Swallow } else { Deed::Pass });
    first.write_all(b"lost").unwrap();
    crate::support::wait_for("it to be swallowed", || proxy.counts().swallowed == 4);
    first.write_all(b"here").unwrap();
    first.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"here", "what was swallowed never comes");

    proxy.fault(|chunk| if chunk.way == Way::Reply { Deed::CutAfter(3) } else { Deed::Pass });
    first.write_all(b"half").unwrap();
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest);
    assert_eq!((rest.as_slice(), proxy.counts().cuts), (&b"hal"[..], 1));

    proxy.heal();
    let mut second = connect();
    second.write_all(b"ping").unwrap();
    second.read_exact(&mut answer).unwrap();
    proxy.closer()();
    assert_eq!(second.read(&mut answer).unwrap_or(0), 0, "closed");
    assert_eq!(connect().read(&mut answer).unwrap_or(0), 0, "and refused");
    assert_eq!(proxy.counts().connections, 2);
}
