//! The receivers: one listener, an endpoint per path, HTTP written by hand so that it can be broken in every way.
//! Every complete request is verified and noted before it is answered as the endpoint's behaviour says.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postrider::domain::signature::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ledger::{Arrival, Ledger};

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// This status after a while, on a connection that stays open.
    Answer(u16, Duration),
    /// 200, and the connection is closed without a word shortly after: between two requests, or under one.
    CloseIdle(Duration),
    /// Nothing for so long, then the connection is closed.
    Hang(Duration),
    /// Half of an answer, then a reset.
    ResetMidBody,
    /// 200 and a body that comes a byte a second.
    Drip,
    /// 200 and 100 MB of body.
    Huge,
    /// Bytes that are no HTTP.
    Garbage,
}

/// What a behaviour may decide by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Which request of this delivery it is, from 1.
    pub(crate) nth: usize,
    /// The event's number.
    pub(crate) event: usize,
}

type Behaviour = Arc<dyn Fn(Asked) -> Act + Send + Sync>;

/// One endpoint; its secret and its behaviour may change while it serves.
struct Endpoint {
    number: usize,
    keys: Vec<SigningKey>,
    behaviour: Behaviour,
}

/// The listener and its endpoints. They end with the runtime that they were started on.
pub(crate) struct Receivers {
    endpoints: Arc<Mutex<HashMap<String, Endpoint>>>,
    pub(crate) port: u16,
}

const HEAD_END: &[u8] = b"\r\n\r\n";
/// A request's head and body must fit; events of the scenarios are far smaller.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const HUGE_BYTES: usize = 100 << 20;

// === impl Receivers ===

impl Receivers {
    pub(crate) fn start(runtime: &tokio::runtime::Runtime, ledger: &Arc<Ledger>) -> Self {
        let endpoints: Arc<Mutex<HashMap<String, Endpoint>>> = Arc::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (served, ledger) = (Arc::clone(&endpoints), Arc::clone(ledger));
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (served, ledger) = (Arc::clone(&served), Arc::clone(&ledger));
                tokio::spawn(async move {
                    // A sender that was killed cuts its connections: what arrived whole is noted already.
                    let _ = serve(stream, &served, &ledger).await;
                });
            }
        });
        Self { endpoints, port }
    }

    /// Says how endpoint `number` answers and which keys its requests may be signed with. May be said anew.
    pub(crate) fn endpoint(
        &self,
        number: usize,
        keys: Vec<SigningKey>,
        behaviour: impl Fn(Asked) -> Act + Send + Sync + 'static,
    ) {
        let endpoint = Endpoint { number, keys, behaviour: Arc::new(behaviour) };
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.insert(format!("/{number}"), endpoint);
    }
}

async fn serve(
    mut stream: TcpStream,
    endpoints: &Mutex<HashMap<String, Endpoint>>,
    ledger: &Ledger,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let Some((head, body)) = request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let path = head.split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let (number, verified, behaviour) = {
            let endpoints = endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(endpoint) = endpoints.get(path) else { return Ok(()) };
            let signature = header("x-nudj-signature").unwrap_or_default().as_bytes();
            let verified = endpoint.keys.iter().any(|key| key.verify(&body, signature));
            (endpoint.number, verified, Arc::clone(&endpoint.behaviour))
        };
        let Some(event) = event_of(&body) else {
            ledger.book().strangers += 1;
            stream.write_all(&answer(200)).await?;
            continue;
        };
        let (index, nth) = ledger.arrived(Arrival {
            endpoint: number,
            event,
            delivery: header("x-nudj-delivery-id").unwrap_or_default().to_owned(),
            verified,
            at: Instant::now(),
            taken: false,
            ended: None,
        });
        let act = behaviour(Asked { nth, event });
        let (taken, written) = perform(&mut stream, act).await;
        ledger.answered(index, taken);
        if !written? {
            return Ok(());
        }
    }
}

/// Does as told: whether the event was taken, and whether the connection goes on.
async fn perform(stream: &mut TcpStream, act: Act) -> (bool, std::io::Result<bool>) {
    match act {
        Act::Answer(status, after) => {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            let written = stream.write_all(&answer(status)).await;
            ((200..300).contains(&status), written.map(|()| true))
        }
        Act::CloseIdle(after) => {
            let written = stream.write_all(&answer(200)).await;
            tokio::time::sleep(after).await;
            (true, written.map(|()| false))
        }
        Act::Hang(long) => {
            tokio::time::sleep(long).await;
            (false, Ok(false))
        }
        Act::ResetMidBody => {
            let written = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = stream.set_zero_linger();
            (false, written.map(|()| false))
        }
        Act::Drip => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            (false, Ok(false))
        }
        Act::Huge => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {HUGE_BYTES}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let chunk = vec![b'x'; 64 * 1024];
            let mut left = HUGE_BYTES;
            while left > 0 && stream.write_all(&chunk[..chunk.len().min(left)]).await.is_ok() {
                left = left.saturating_sub(chunk.len());
            }
            (true, Ok(left == 0))
        }
        Act::Garbage => {
            let written = stream.write_all(b"\x16\x03\x01 this is not HTTP \r\n\r\n\x00\xff\r\n").await;
            (false, written.map(|()| false))
        }
    }
}

fn answer(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok").into_bytes()
}

/// The next request's head and body; `None` when the sender is gone.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(at) = buffer.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) {
            let head = String::from_utf8_lossy(&buffer[..at]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let body_at = at + HEAD_END.len();
            let end = body_at + length.unwrap_or(0);
            if buffer.len() >= end {
                let body = buffer[body_at..end].to_vec();
                buffer.drain(..end);
                return Ok(Some((head, body)));
            }
        }
        if buffer.len() > REQUEST_BYTES_MAX || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The event's number, from the body's `nonce`.
fn event_of(body: &[u8]) -> Option<usize> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        nonce: String,
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    envelope.nonce.strip_prefix("n-")?.parse().ok()
}
