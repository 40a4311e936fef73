//! What all workers of a replica share for sending: trusted roots, name lookup, guard, and the count of idle
//! connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Transport};
use super::fault;
use super::guard::Guard;
use super::names::Names;
use super::progress::{Progress, Step};
use crate::domain::config::Endpoint;
use crate::domain::outcome::{Fault, FaultKind};
use crate::settings::delivery::DeliverySettings;
use crate::settings::limits::LimitSettings;

/// Addresses of one name that are tried: more would leave each too little of the connect timeout.
const ADDRESSES_MAX: usize = 6;

/// TLS sessions that are remembered, so that a new connection to a known endpoint needs no full handshake.
const TLS_SESSIONS_MAX: usize = 4_096;

/// What the workers of a replica share for sending.
pub struct Egress {
    tls: TlsConnector,
    names: Names,
    guard: Guard,
    allow_http: bool,
    connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) idle_connections_max: usize,
    pub(super) idle_connection_timeout: Duration,
    /// Idle connections of all workers.
    pub(super) idle_connections: AtomicUsize,
}

/// Why nothing can be sent at all. Raised at start, never by a receiver.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// There is no certificate authority to trust, so no https endpoint could ever be reached.
    #[error("no trusted root certificate was found (install ca-certificates, or set SSL_CERT_FILE): {0}")]
    NoRoots(String),
    /// The TLS settings cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system's name lookup cannot be used.
    #[error("name lookup cannot be set up: {0}")]
    Names(#[from] hickory_resolver::net::NetError),
}

// === impl Egress ===

impl Egress {
    /// Reads the system's trusted roots, hosts file and name servers.
    ///
    /// # Errors
    /// When the system has no roots (and `allow_http` is off), or its TLS or name lookup cannot be set up.
    pub fn new(delivery: &DeliverySettings, limits: &LimitSettings) -> Result<Self, EgressError> {
        Self::with_roots(delivery, limits, Vec::new())
    }

    /// As [`Egress::new`], and trusts `extra_roots` beside the system's.
    ///
    /// # Errors
    /// As [`Egress::new`].
    pub fn with_roots(
        delivery: &DeliverySettings,
        limits: &LimitSettings,
        extra_roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, EgressError> {
        Ok(Self {
            tls: TlsConnector::from(Arc::new(client_config(trusted_roots(delivery, extra_roots)?)?)),
            names: Names::from_system()?,
            guard: Guard::new(delivery.allow_targets.clone()),
            allow_http: delivery.allow_http,
            connect_timeout: delivery.connect_timeout,
            request_timeout: delivery.request_timeout,
            idle_connections_max: usize::try_from(limits.idle_connections_max).unwrap_or(usize::MAX),
            idle_connection_timeout: limits.idle_connection_timeout,
            idle_connections: AtomicUsize::new(0),
        })
    }

    /// Refuses what no connection should be opened or used for.
    pub(super) fn check_scheme(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        if endpoint.tls || self.allow_http {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Blocked, "the URL is http: deliveries need https (or --allow-http)"))
    }

    /// Opens a connection to the endpoint, to an address that the guard permits.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        progress: &Progress,
    ) -> Result<Box<Connection>, Fault> {
        progress.set(Step::Lookup);
        let addresses = self.guard.permit(&self.names.addresses(&endpoint.host).await?)?;
        progress.set(Step::Connect);
        let deadline = Instant::now() + self.connect_timeout;
        let stream = self.reach(&addresses, endpoint.port, deadline).await?;
        let transport = if endpoint.tls {
            progress.set(Step::Handshake);
            let handshake = self.handshake(endpoint, stream);
            timeout_at(deadline, handshake).await.unwrap_or_else(|_| {
                let message = format!("no TLS connection within {:?}", self.connect_timeout);
                Err(Fault::new(FaultKind::Timeout, message))
            })?
        } else {
            Transport::Plain(stream)
        };
        Connection::open(transport, endpoint).await
    }

    /// Tries the addresses one after another; each gets its share of what is left of the time.
    async fn reach(&self, addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<TcpStream, Fault> {
        let mut last = Fault::new(FaultKind::Dns, "the name has no address");
        let count = addresses.len().min(ADDRESSES_MAX);
        for (index, address) in addresses.iter().take(count).enumerate() {
            let target = SocketAddr::new(*address, port);
            let tries_left = u32::try_from(count - index).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / tries_left;
            match timeout(share, self.connect_to(target)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(fault)) => last = fault,
                Err(_) => {
                    let message = format!("no connection to {target} within {:?}", self.connect_timeout);
                    last = Fault::new(FaultKind::Timeout, message);
                }
            }
        }
        Err(last)
    }

    async fn connect_to(&self, target: SocketAddr) -> Result<TcpStream, Fault> {
        let failed = |error| fault::of_connect(&error, target);
        let stream = TcpStream::connect(target).await.map_err(failed)?;
        self.guard.judge(stream.peer_addr().map_err(failed)?.ip())?;
        // A request leaves in one write; waiting for more to send with it only adds a round trip.
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    async fn handshake(&self, endpoint: &Endpoint, stream: TcpStream) -> Result<Transport, Fault> {
        let host = endpoint.host.trim_end_matches('.');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::new(FaultKind::Tls, format!("no certificate can be valid for {host}")))?;
        match self.tls.connect(name, stream).await {
            Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
            Err(error) => Err(fault::of_handshake(&error)),
        }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// The system's roots and `extra`. Single roots that cannot be read are common and do no harm.
fn trusted_roots(
    delivery: &DeliverySettings,
    extra: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, EgressError> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(system.certs.into_iter().chain(extra));
    tracing::debug!(added, ignored, "read the trusted root certificates");
    if roots.is_empty() {
        let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
        if !delivery.allow_http {
            return Err(EgressError::NoRoots(errors.join("; ")));
        }
        tracing::warn!(errors = errors.join("; "), "no trusted root certificate: https endpoints will fail");
    }
    Ok(roots)
}

/// TLS 1.2 and 1.3 with ring; HTTP/1.1 is what is spoken.
fn client_config(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
    Ok(config)
}
