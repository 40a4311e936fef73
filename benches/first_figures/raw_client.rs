//! What Postrider is compared with: a plain loop over hyper's `client::conn::http1`, a current-thread runtime
//! per core, the same headers and signing, each connection polled inside the task that uses it. It has no
//! Redis, no log, no timer, no guard: what remains is the cost of signing and sending.
//!
//! A process of its own (this binary with `raw-client`); it says `done` on stdout and ends when stdin does.

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use postrider::domain::ids::{ConfigSequence, EventId, ShardNumber, StreamId};
use postrider::domain::signature::{Secret, SigningKey};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Failure, event};

/// What the client is told on its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// The receiver's port on 127.0.0.1.
    #[arg(long)]
    pub(crate) port: u16,
    /// Requests in all.
    #[arg(long)]
    pub(crate) requests: u64,
    /// Connections in all.
    #[arg(long)]
    pub(crate) connections: usize,
    /// Threads; as many as there are cores to use unless given.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

type Sender = SendRequest<Full<Bytes>>;
type Polled = Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// What all connections share.
struct Load {
    tickets: AtomicU64,
    requests: u64,
    body: Bytes,
    key: SigningKey,
    host: HeaderValue,
    address: SocketAddr,
}

/// Sends everything, says `done`, and waits for stdin to end.
pub(crate) fn run(args: &ClientArgs) -> Result<(), Failure> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let load = Arc::new(Load {
        tickets: AtomicU64::new(0),
        requests: args.requests,
        body: event::body()?,
        key: Secret::new(event::SECRET).ok_or("the secret is not acceptable")?.signing_key(),
        host: HeaderValue::from_str(&address.to_string())?,
        address,
    });
    let connections = args.connections;
    let running: Vec<_> = (0..threads)
        .map(|number| {
            let share = connections / threads + usize::from(number < connections % threads);
            let load = Arc::clone(&load);
            std::thread::spawn(move || send_all(share, &load).map_err(|error| error.to_string()))
        })
        .collect();
    for thread in running {
        thread.join().map_err(|_| "a client thread panicked")??;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "done")?;
    out.flush()?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn send_all(connections: usize, load: &Arc<Load>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let load = Arc::clone(load);
            tasks.spawn(async move { send_on_one(&load).await.map_err(|error| error.to_string()) });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    })
}

async fn send_on_one(load: &Load) -> Result<(), Failure> {
    let stream = TcpStream::connect(load.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    loop {
        let ticket = load.tickets.fetch_add(1, Ordering::Relaxed);
        if ticket >= load.requests {
            return Ok(());
        }
        let request = load.request(ticket)?;
        let response = send(&mut sender, connection.as_mut(), request).await?;
        if response.status() != StatusCode::OK || !response.body().is_end_stream() {
            return Err(format!("the receiver answered {}", response.status()).into());
        }
    }
}

/// Polls the connection beside the request that it carries: no task of its own, so no wake-up in between.
async fn send(
    sender: &mut Sender,
    mut connection: Pin<&mut Polled>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    poll_fn(|context| match sender.poll_ready(context) {
        Poll::Ready(ready) => Poll::Ready(ready.map_err(Failure::from)),
        Poll::Pending => match connection.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(Err("the receiver closed the connection".into())),
            Poll::Pending => sender.poll_ready(context).map_err(Failure::from),
        },
    })
    .await?;
    let mut answer = pin!(sender.send_request(request));
    poll_fn(|context| {
        let closed = connection.as_mut().poll(context).is_ready();
        match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(Failure::from)),
            Poll::Pending if closed => Poll::Ready(Err("the receiver closed the connection".into())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

// === impl Load ===

impl Load {
    fn request(&self, ticket: u64) -> Result<Request<Full<Bytes>>, Failure> {
        let event = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: ticket })?;
        let delivery = event.delivery(ConfigSequence(1)).to_string();
        let request = Request::post("/figures")
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(
                header::USER_AGENT,
                HeaderValue::from_static(concat!("postrider/", env!("CARGO_PKG_VERSION"))),
            )
            .header("x-nudj-event", HeaderValue::from_static(event::EVENT_TYPE))
            .header("x-nudj-delivery-id", HeaderValue::from_maybe_shared(Bytes::from(delivery))?)
            .header("x-nudj-signature", HeaderValue::from_bytes(&self.key.sign(&self.body))?)
            .body(Full::new(self.body.clone()))?;
        Ok(request)
    }
}
