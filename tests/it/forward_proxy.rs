//! A forward proxy of the tests' own: CONNECT and the absolute form, on loopback; answers as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What the proxy does with a request.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// As it is asked.
    Forward,
    /// Answers with this status.
    Answer(u16),
    /// Reads and says nothing.
    Hang,
}

/// A running proxy; it ends when dropped.
pub(crate) struct ForwardProxy {
    pub(crate) port: u16,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

struct State {
    manner: Mutex<Manner>,
    heads: Mutex<Vec<String>>,
    open: AtomicUsize,
}

// === impl ForwardProxy ===

impl ForwardProxy {
    pub(crate) fn start(manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            manner: Mutex::new(manner),
            heads: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                shared.open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let _ = serve(stream, Arc::clone(&shared)).await;
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, state, runtime: Some(runtime) }
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.state.manner.lock().expect("the manner") = manner;
    }

    /// The heads of all requests, one for each connection.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.heads.lock().expect("heads").clone()
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}127.0.0.1:{}", self.port)
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(mut client: TcpStream, state: Arc<State>) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    state.heads.lock().expect("heads").push(head.clone());
    let manner = *state.manner.lock().expect("the manner");
    match manner {
        Manner::Hang => while client.read_buf(&mut bytes).await.ok()? > 0 {},
        Manner::Answer(status) => {
            let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).await.ok()?;
            client.shutdown().await.ok()?;
        }
        Manner::Forward => {
            let target = head.split(' ').nth(1)?;
            let tunnel = head.starts_with("CONNECT ");
            let authority = target.trim_start_matches("http://").split('/').next()?;
            let mut server = TcpStream::connect(authority).await.ok()?;
            if tunnel {
                client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.ok()?;
                server.write_all(&bytes[end..]).await.ok()?;
            } else {
                server.write_all(&bytes).await.ok()?;
            }
            copy_bidirectional(&mut client, &mut server).await.ok()?;
        }
    }
    Some(())
}
