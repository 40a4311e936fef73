//! A receiver of the tests' own: verifies every signature, remembers every request, answers as it is told.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postrider::domain::signature::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// The event type that tests use to see whether a config is in effect; see [`Arrivals::at`].
pub(crate) const READY_EVENT: &str = "achievement.earned";

/// A running receiver; it ends when dropped.
pub(crate) struct Arrivals {
    state: Arc<State>,
    port: u16,
    runtime: Option<Runtime>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// `x-nudj-delivery-id`
    pub(crate) delivery: String,
    /// `nonce` of the body.
    pub(crate) nonce: String,
    /// Which request of this delivery it is; 1 is the first.
    pub(crate) nth: usize,
    /// Which request at this path it is, over all deliveries; 1 is the first.
    pub(crate) nth_at_path: usize,
    /// How many requests were under way at this path, this one included.
    pub(crate) at_once: usize,
    /// When it arrived.
    pub(crate) at: Instant,
    /// Whether the signature is the one of the path's secret at that moment.
    pub(crate) verified: bool,
}

/// What to answer, and after how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) after: Duration,
    /// Seconds of a `Retry-After` header.
    pub(crate) retry_after: Option<u64>,
}

/// Sums over all arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: usize,
    pub(crate) nonces: usize,
    pub(crate) deliveries: usize,
    pub(crate) unverified: usize,
}

type Behaviour = Arc<dyn Fn(&Arrival) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    endpoints: Mutex<HashMap<String, (Secret, Behaviour)>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    arrivals: Vec<Arrival>,
    ready: HashSet<String>,
    by_delivery: HashMap<String, usize>,
    by_path: HashMap<String, usize>,
    under_way: HashMap<String, usize>,
    nonces: HashSet<String>,
    unverified: usize,
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Self { state, port, runtime: Some(runtime) }
    }

    /// Says how `path` answers and what its requests are signed with; gives its URL. May be said anew.
    pub(crate) fn endpoint(
        &self,
        path: &str,
        secret: &str,
        behaviour: impl Fn(&Arrival) -> Reply + Send + Sync + 'static,
    ) -> String {
        let secret = Secret::new(secret).expect("an acceptable secret");
        let mut endpoints = self.state.endpoints.lock().expect("endpoints");
        endpoints.insert(path.to_owned(), (secret, Arc::new(behaviour)));
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Everything that arrived at `path`, except events of type [`READY_EVENT`].
    pub(crate) fn at(&self, path: &str) -> Vec<Arrival> {
        let book = self.state.book.lock().expect("the book");
        book.arrivals.iter().filter(|arrival| arrival.path == path).cloned().collect()
    }

    /// Whether a [`READY_EVENT`] has arrived at `path`.
    pub(crate) fn is_ready(&self, path: &str) -> bool {
        self.state.book.lock().expect("the book").ready.contains(path)
    }

    /// Forgets that a [`READY_EVENT`] has arrived at `path`.
    pub(crate) fn forget_ready(&self, path: &str) {
        self.state.book.lock().expect("the book").ready.remove(path);
    }

    /// The nonces that have arrived.
    pub(crate) fn nonces(&self) -> HashSet<String> {
        self.state.book.lock().expect("the book").nonces.clone()
    }

    pub(crate) fn tally(&self) -> Tally {
        let book = self.state.book.lock().expect("the book");
        Tally {
            requests: book.arrivals.len(),
            nonces: book.nonces.len(),
            deliveries: book.by_delivery.len(),
            unverified: book.unverified,
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    // A sender that was killed cuts its connections: part of the tests, not a failure.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return response(Reply::status(400)) };
    let (path, body) = (head.uri.path().to_owned(), body.to_bytes());
    let Some((secret, behaviour)) = state.endpoints.lock().expect("endpoints").get(&path).cloned() else {
        return response(Reply::status(404));
    };
    let text = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let verified = secret.signing_key().verify(&body, text("x-nudj-signature").as_bytes());
    let arrival = Arrival {
        method: head.method.to_string(),
        nonce: nonce(&body),
        delivery: text("x-nudj-delivery-id"),
        path,
        headers: head.headers,
        body,
        nth: 0,
        nth_at_path: 0,
        at_once: 0,
        at: Instant::now(),
        verified,
    };
    let entered = state.book.lock().expect("the book").enter(arrival);
    let Some(arrival) = entered else { return response(Reply::ok()) };
    let reply = behaviour(&arrival);
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    state.book.lock().expect("the book").leave(&arrival);
    response(reply)
}

fn nonce(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        nonce: String,
    }
    serde_json::from_slice::<Envelope>(body).map_or_else(|_| String::new(), |envelope| envelope.nonce)
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let body = Bytes::from(format!("answer {}", reply.status));
    let mut response = Response::builder().status(reply.status);
    if let Some(seconds) = reply.retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Full::new(body)).expect("a response")
}

/// Whether it is a [`READY_EVENT`], by either of its names.
fn is_ready_event(event: &http::HeaderValue) -> bool {
    event.to_str().is_ok_and(|event| postrider::domain::vocabulary::is_same_event(event, READY_EVENT))
}

// === impl Book ===

impl Book {
    /// Enters the arrival; gives it back numbered, unless it is a [`READY_EVENT`].
    fn enter(&mut self, mut arrival: Arrival) -> Option<Arrival> {
        self.unverified += usize::from(!arrival.verified);
        if arrival.headers.get("x-nudj-event").is_some_and(is_ready_event) {
            self.ready.insert(arrival.path);
            return None;
        }
        let count = |map: &mut HashMap<String, usize>, key: &String| {
            let number = map.entry(key.clone()).or_default();
            *number += 1;
            *number
        };
        arrival.nth = count(&mut self.by_delivery, &arrival.delivery);
        arrival.nth_at_path = count(&mut self.by_path, &arrival.path);
        arrival.at_once = count(&mut self.under_way, &arrival.path);
        self.nonces.insert(arrival.nonce.clone());
        self.arrivals.push(arrival.clone());
        Some(arrival)
    }

    /// The arrival is about to be answered.
    fn leave(&mut self, arrival: &Arrival) {
        if let Some(under_way) = self.under_way.get_mut(&arrival.path) {
            *under_way -= 1;
        }
    }
}

// === impl Arrival ===

impl Arrival {
    /// A header as text; empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) const fn ok() -> Self {
        Self::status(200)
    }

    pub(crate) const fn status(status: u16) -> Self {
        Self { status, after: Duration::ZERO, retry_after: None }
    }

    pub(crate) const fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(crate) const fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// A receiver that took any signature for right would make every other test of the walk worthless.
#[test]
fn the_tests_receiver_tells_right_signatures_from_wrong_ones_and_numbers_requests() {
    use std::io::{Read, Write};
    let arrivals = Arrivals::start();
    arrivals.endpoint("/a", "whsec_right", |arrival| Reply::status(500 + arrival.nth as u16));
    let body = r#"{"nonce":"n"}"#;
    let post = |secret: &str| {
        let key = Secret::new(secret).unwrap().signing_key();
        let signature = String::from_utf8(key.sign(body.as_bytes()).to_vec()).unwrap();
        let request = format!(
            "POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-nudj-delivery-id: dlv_1\r\n\
             x-nudj-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, arrivals.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(post("whsec_right").starts_with("HTTP/1.1 501 "));
    assert!(post("whsec_wrong").starts_with("HTTP/1.1 502 "));
    let verified: Vec<bool> = arrivals.at("/a").iter().map(|arrival| arrival.verified).collect();
    assert_eq!(verified, [true, false]);
    assert_eq!(arrivals.tally(), Tally { requests: 2, nonces: 1, deliveries: 1, unverified: 1 });
}
