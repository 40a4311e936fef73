//! A receiver that follows a script, byte for byte: real sockets, real TLS.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What the receiver does after it has read a request.
#[derive(Clone)]
pub(super) enum Act {
    /// Sends these bytes and waits for the next request.
    Say(Vec<u8>),
    /// Sends these bytes and closes.
    SayAndClose(Vec<u8>),
    /// Sends these bytes and closes the socket under the TLS session, without `close_notify`.
    SayAndCloseRudely(Vec<u8>),
    /// Sends these bytes and resets the connection.
    SayAndReset(Vec<u8>),
    /// Sends these bytes and then nothing, for ever.
    SayAndHang(Vec<u8>),
    /// Sends these bytes, then one more every 20 ms.
    Drip(Vec<u8>),
    /// Sends these bytes, then 100 MiB.
    Flood(Vec<u8>),
}

/// What came in, shared with the test.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicUsize,
    pub(super) closed: AtomicUsize,
    pub(super) flooded: AtomicUsize,
    pub(super) requests: Mutex<Vec<Vec<u8>>>,
    pub(super) peers: Mutex<Vec<std::net::IpAddr>>,
}

pub(super) struct Receiver {
    pub(super) port: u16,
    pub(super) seen: Arc<Seen>,
}

/// A certificate authority of the test's own.
pub(super) struct Authority {
    pub(super) root: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) fn say(text: &str) -> Act {
    Act::Say(text.into())
}

pub(super) fn ok() -> Act {
    say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// === impl Receiver ===

impl Receiver {
    /// `script` gets the number of the connection and of the request on it, both from 0.
    pub(super) async fn start(script: impl Fn(usize, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", None, script).await
    }

    pub(super) async fn start_on(
        address: &str,
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let (shared, script) = (Arc::clone(&seen), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                shared.peers.lock().unwrap().push(peer.ip());
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script, tls) = (Arc::clone(&shared), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    let script = |request| script(number, request);
                    match tls {
                        None => serve(stream, &seen, script, reset).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &seen, script, |stream| reset(stream.into_inner().0)).await;
                            }
                        }
                    }
                    seen.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, seen }
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(super) fn closed(&self) -> usize {
        self.seen.closed.load(Ordering::SeqCst)
    }

    /// Where the connections came from.
    pub(super) fn peers(&self) -> Vec<String> {
        self.seen.peers.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    pub(super) fn requests(&self) -> Vec<Vec<u8>> {
        self.seen.requests.lock().unwrap().clone()
    }
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    seen: &Seen,
    script: impl Fn(usize) -> Act,
    reset: impl FnOnce(S),
) {
    let mut number = 0;
    while let Some(request) = read_request(&mut stream).await {
        seen.requests.lock().unwrap().push(request);
        let (bytes, then) = match script(number) {
            Act::Say(bytes) => (bytes, 'n'),
            Act::SayAndClose(bytes) => (bytes, 'c'),
            Act::SayAndCloseRudely(bytes) => (bytes, 'u'),
            Act::SayAndReset(bytes) => (bytes, 'r'),
            Act::SayAndHang(bytes) => (bytes, 'h'),
            Act::Drip(bytes) => (bytes, 'd'),
            Act::Flood(bytes) => (bytes, 'f'),
        };
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match then {
            'n' => number += 1,
            'r' => {
                // Let the bytes arrive: a reset may overtake what was sent before it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return reset(stream);
            }
            'c' => {
                let _ = stream.shutdown().await;
                return;
            }
            'u' => return,
            // Until the other side is gone.
            'h' => return drop(stream.read(&mut [0; 16]).await),
            'd' => loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stream.write_all(b".").await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            },
            _ => {
                let block = vec![b'x'; 64 * 1024];
                for _ in 0..1_600 {
                    if stream.write_all(&block).await.is_err() {
                        return;
                    }
                    seen.flooded.fetch_add(block.len(), Ordering::SeqCst);
                }
            }
        }
    }
}

/// One whole request, as its bytes came; `None` at the end of the connection.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if bytes.len() >= head + 4 + length.parse::<usize>().unwrap() {
                return Some(bytes);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

// === impl Authority ===

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would be told apart by their signatures only.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("Authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (root, pem) = (certificate.der().clone(), certificate.pem());
        Self { root, pem, issuer: Issuer::new(params, key) }
    }

    /// The root as PEM.
    pub(super) fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A client's certificate and key, as PEM.
    pub(super) fn client(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A server's side of TLS with a certificate for `name`.
    pub(super) fn acceptor(&self, name: &str) -> TlsAcceptor {
        self.acceptor_with(name, None)
    }

    /// As [`Authority::acceptor`]; takes only clients with a certificate of this authority's.
    pub(super) fn acceptor_asking(&self, name: &str) -> TlsAcceptor {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.acceptor_with(name, Some(verifier.unwrap()))
    }

    fn acceptor_with(
        &self,
        name: &str,
        clients: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    ) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(
                clients.unwrap_or_else(rustls::server::WebPkiClientVerifier::no_client_auth),
            )
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
