//! One HTTP/1.1 connection and one exchange on it.
//!
//! The connection's own future is polled inside the task of the attempt that uses it: no task per connection, no
//! wake-up from one task to another for every request. An idle connection is polled by nobody; its waker belongs
//! to an attempt that is over, and what happened meanwhile is found out by the poll at the next checkout.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{DATE, HeaderMap, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::progress::{Progress, Step};
use super::{fault, retry_after};
use crate::domain::clock::Clock;
use crate::domain::config::{ClientIdentity, Endpoint};
use crate::domain::outcome::{Answer, EXCERPT_MAX_BYTES, Fault, FaultKind};

/// Most bytes of an answer's body, and of its head, that are read.
pub const ANSWER_READ_MAX_BYTES: usize = 64 * 1024;

/// The bytes' way: TCP, or TLS over it.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A transport that remembers whether anything was read.
struct Wire {
    transport: Transport,
    received: Rc<Cell<bool>>,
}

/// An HTTP/1.1 connection to one target.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it is over.
    driver: Option<http1::Connection<TokioIo<Wire>, Full<Bytes>>>,
    received: Rc<Cell<bool>>,
    tls: bool,
    port: u16,
    host: Arc<str>,
    /// What was shown where the endpoint asked for a certificate.
    identity: Option<Arc<ClientIdentity>>,
    /// An empty map with the capacity of an earlier one: a request on a warm connection allocates none.
    spare_headers: HeaderMap,
}

/// An exchange that gave no answer.
pub(super) struct Broken {
    pub(super) fault: Fault,
    /// Whether any byte of an answer came.
    pub(super) received: bool,
}

// === impl Connection ===

impl Connection {
    /// Makes a transport to the endpoint a connection.
    pub(super) async fn open(transport: Transport, endpoint: &Endpoint) -> Result<Box<Self>, Fault> {
        let received = Rc::new(Cell::new(false));
        let wire = Wire { transport, received: Rc::clone(&received) };
        // Header names go out as the contract spells them: some receivers compare them by case.
        let (sender, driver) = http1::Builder::new()
            .title_case_headers(true)
            .max_buf_size(ANSWER_READ_MAX_BYTES)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| fault::of_exchange(&error, false))?;
        Ok(Box::new(Self {
            sender,
            driver: Some(driver),
            received,
            tls: endpoint.tls,
            port: endpoint.port,
            host: Arc::clone(&endpoint.host),
            identity: endpoint.client_identity.clone(),
            spare_headers: HeaderMap::new(),
        }))
    }

    /// Whether it leads to where the endpoint points now.
    pub(super) fn leads_to(&self, endpoint: &Endpoint) -> bool {
        let same_identity = match (&self.identity, &endpoint.client_identity) {
            (None, None) => true,
            (Some(shown), Some(identity)) => Arc::ptr_eq(shown, identity),
            _ => false,
        };
        same_identity && self.tls == endpoint.tls && self.port == endpoint.port && self.host == endpoint.host
    }

    /// Whether a request can be sent on it: polls it once, so that a close that came while it was idle is seen.
    pub(super) fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        poll_driver(&mut self.driver, cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether it can be kept after an exchange: the answer was read whole and neither side said `close`.
    pub(super) fn is_keepable(&mut self, cx: &mut Context<'_>) -> bool {
        // Mostly the poll that gave the last byte has settled it; only trailing framing needs one more.
        (self.driver.is_some() && self.sender.is_ready()) || self.is_usable(cx)
    }

    /// A header map to fill for the next request.
    pub(super) fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.spare_headers)
    }

    /// Sends a request and reads its answer. Afterwards [`Connection::is_keepable`] says whether the
    /// connection may be used again.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        progress: &Progress,
    ) -> Result<Answer, Broken> {
        self.received.set(false);
        progress.set(Step::Answer);
        let response = drive(&mut self.driver, self.sender.send_request(request)).await;
        let response = response.map_err(|error| self.broken(&error))?;
        let status = response.status().as_u16();
        if !(200..600).contains(&status) {
            // 101 would hand the connection over to a protocol that was never asked for.
            self.driver = None;
            let fault =
                Fault::new(FaultKind::Protocol, format!("answered {status}, which is no final status"));
            return Err(Broken { fault, received: true });
        }
        progress.set(Step::Body(status));
        self.read_answer(status, response).await.map_err(|error| self.broken(&error))
    }

    async fn read_answer(&mut self, status: u16, response: Response<Incoming>) -> hyper::Result<Answer> {
        let (mut parts, body) = response.into_parts();
        let retry_after = wait_asked_for(&parts.headers);
        let excerpt = self.read_body(body).await?;
        parts.headers.clear();
        self.spare_headers = parts.headers;
        Ok(Answer { status, excerpt, retry_after })
    }

    /// Reads the body to its end or to [`ANSWER_READ_MAX_BYTES`], past which the connection is closed: reading a
    /// body that nobody wants costs more than a new connection.
    async fn read_body(&mut self, mut body: Incoming) -> hyper::Result<Bytes> {
        let mut excerpt = BytesMut::new();
        let mut total = 0_usize;
        while !body.is_end_stream() {
            let Some(frame) = drive(&mut self.driver, body.frame()).await else { break };
            let Ok(data) = frame?.into_data() else { continue };
            let wanted = EXCERPT_MAX_BYTES.saturating_sub(excerpt.len()).min(data.len());
            // Copied, for a slice would pin the connection's whole read buffer for as long as the log waits.
            excerpt.extend_from_slice(&data[..wanted]);
            total = total.saturating_add(data.len());
            if total > ANSWER_READ_MAX_BYTES {
                self.driver = None;
                break;
            }
        }
        Ok(excerpt.freeze())
    }

    fn broken(&self, error: &hyper::Error) -> Broken {
        let received = self.received.get();
        Broken { fault: fault::of_exchange(error, received), received }
    }

    /// Closes the connection in good form (TLS's `close_notify`), as far as that needs no waiting.
    pub(super) fn close(self) {
        let Self { sender, mut driver, .. } = self;
        drop(sender);
        poll_driver(&mut driver, &mut Context::from_waker(Waker::noop()));
    }
}

type Driver = http1::Connection<TokioIo<Wire>, Full<Bytes>>;

/// Gives the connection a turn. Its errors also reach the request that they belong to; an idle one has none.
fn poll_driver(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(running) = driver.as_mut()
        && Pin::new(running).poll(cx).is_ready()
    {
        *driver = None;
    }
}

/// Runs `future` and the connection that it waits for in this task.
async fn drive<F: Future>(driver: &mut Option<Driver>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        poll_driver(driver, cx);
        future.as_mut().poll(cx)
    })
    .await
}

/// `Retry-After`; a date in it is compared with the receiver's own clock where the answer shows that.
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    let receivers_now = headers.get(DATE).and_then(|date| retry_after::date(date.to_str().ok()?));
    let now = receivers_now.unwrap_or_else(|| Clock::default().now());
    retry_after::parse(value.as_bytes(), now)
}

// === impl Wire ===

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            // A server that closes without `close_notify` is an ordinary end here: HTTP's own framing tells
            // a cut answer, and of one that only the close delimits, nothing but the status counts.
            Transport::Tls(stream) => match Pin::new(&mut **stream).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                other => other,
            },
        };
        if buf.filled().len() > before {
            this.received.set(true);
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
