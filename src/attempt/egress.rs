//! What all workers of a replica share for sending: trusted roots, name lookup, guard, and the count of idle
//! connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Transport};
use super::fault;
use super::guard::{Denial, Guard};
use super::identity::Identities;
use super::names::Names;
use super::obstacle::{NoWay, Obstacle, ObstacleKind};
use super::progress::{Progress, Step};
use super::proxy::Proxy;
use crate::domain::config::Endpoint;
use crate::domain::outcome::{Fault, FaultKind};
use crate::settings::delivery::DeliverySettings;
use crate::settings::egress::SourceAddresses;
use crate::settings::limits::LimitSettings;

/// Addresses of one name that are tried: more would leave each too little of the connect timeout.
const ADDRESSES_MAX: usize = 6;

/// What the workers of a replica share for sending.
pub struct Egress {
    identities: Identities,
    proxy: Option<Proxy>,
    sources: SourceAddresses,
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
    /// The source address is not this machine's.
    #[error("source-address {address} cannot be used on this machine: {cause}")]
    Source {
        /// The address.
        address: IpAddr,
        /// Why not.
        cause: std::io::Error,
    },
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
        let sources = delivery.source_addresses;
        for source in [sources.v4.map(IpAddr::V4), sources.v6.map(IpAddr::V6)].into_iter().flatten() {
            std::net::UdpSocket::bind((source, 0))
                .map_err(|cause| EgressError::Source { address: source, cause })?;
        }
        Ok(Self {
            identities: Identities::new(trusted_roots(delivery, extra_roots)?)?,
            proxy: delivery.proxy_url.as_ref().map(|url| Proxy::new(url, delivery.no_proxy.clone())),
            sources,
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

    /// TLS as towards an endpoint without a client certificate: what is trusted for deliveries is trusted.
    #[must_use]
    pub const fn tls(&self) -> &TlsConnector {
        self.identities.plain()
    }

    /// The proxy that deliveries to this endpoint take.
    pub(super) fn proxy_to(&self, endpoint: &Endpoint) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|proxy| proxy.serves(&endpoint.host))
    }

    /// Opens a connection to the endpoint, to an address that the guard permits, or through the proxy.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        progress: &Progress,
    ) -> Result<Box<Connection>, NoWay> {
        let proxy = self.proxy_to(endpoint);
        let (stream, deadline) = match proxy {
            None => {
                progress.set(Step::Lookup);
                let addresses = self.guard.permit(&self.names.addresses(&endpoint.host).await?)?;
                progress.set(Step::Connect);
                let deadline = Instant::now() + self.connect_timeout;
                let judge = |address| self.guard.judge(address);
                (self.reach(&addresses, endpoint.port, deadline, &judge).await?, deadline)
            }
            Some(proxy) => {
                progress.set(Step::Proxy);
                // Names are the proxy's to look up and to judge; a literal address can be judged here.
                if let Ok(address) = endpoint.host.parse() {
                    self.guard.judge(address)?;
                }
                let deadline = Instant::now() + self.connect_timeout;
                let stream = timeout_at(deadline, self.reach_through(proxy, endpoint, deadline)).await;
                let late = |_| proxy.obstacle(format_args!("no tunnel within {:?}", self.connect_timeout));
                (stream.map_err(late)??, Instant::now() + self.connect_timeout)
            }
        };
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
        Ok(Connection::open(transport, endpoint).await?)
    }

    /// A connection to the proxy, and for a TLS endpoint the tunnel through it.
    async fn reach_through(
        &self,
        proxy: &Proxy,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<TcpStream, NoWay> {
        let addresses = proxy.addresses().await?;
        let stream = match self.reach(&addresses, proxy.port(), deadline, &|_| Ok(())).await {
            Err(NoWay::Fault(fault)) => return Err(proxy.obstacle(fault.message).into()),
            other => other?,
        };
        if endpoint.tls { proxy.tunnel(stream, endpoint).await } else { Ok(stream) }
    }

    /// Tries the addresses one after another; each gets its share of what is left of the time.
    async fn reach(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
        judge: &dyn Fn(IpAddr) -> Result<(), Denial>,
    ) -> Result<TcpStream, NoWay> {
        let mut last = Fault::new(FaultKind::Dns, "the name has no address");
        let usable: Vec<IpAddr> = addresses.iter().copied().filter(|to| self.has_source_for(*to)).collect();
        if usable.is_empty() && !addresses.is_empty() {
            last = Fault::new(FaultKind::Connection, "no address of the family that --source-address has");
        }
        let count = usable.len().min(ADDRESSES_MAX);
        for (index, address) in usable.iter().take(count).enumerate() {
            let target = SocketAddr::new(*address, port);
            let tries_left = u32::try_from(count - index).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / tries_left;
            match timeout(share, self.connect_to(target, judge)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(NoWay::Fault(fault))) => last = fault,
                Ok(Err(ours)) => return Err(ours),
                Err(_) => {
                    let message = format!("no connection to {target} within {:?}", self.connect_timeout);
                    last = Fault::new(FaultKind::Timeout, message);
                }
            }
        }
        Err(last.into())
    }

    fn has_source_for(&self, target: IpAddr) -> bool {
        self.sources.is_any() || self.sources.towards(target).is_some()
    }

    async fn connect_to(
        &self,
        target: SocketAddr,
        judge: &dyn Fn(IpAddr) -> Result<(), Denial>,
    ) -> Result<TcpStream, NoWay> {
        let failed = |error| match Obstacle::of_socket(&error) {
            Some(obstacle) => NoWay::Obstacle(obstacle),
            None => NoWay::Fault(fault::of_connect(&error, target)),
        };
        let stream = match self.sources.towards(target.ip()) {
            None => TcpStream::connect(target).await.map_err(failed)?,
            Some(source) => {
                let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
                let socket = socket.map_err(failed)?;
                let unusable = |error| Obstacle::new(ObstacleKind::Source, format_args!("{source}: {error}"));
                socket.bind(SocketAddr::new(source, 0)).map_err(unusable)?;
                socket.connect(target).await.map_err(failed)?
            }
        };
        judge(stream.peer_addr().map_err(failed)?.ip())?;
        // A request leaves in one write; waiting for more to send with it only adds a round trip.
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    async fn handshake(&self, endpoint: &Endpoint, stream: TcpStream) -> Result<Transport, Fault> {
        let host = endpoint.host.trim_end_matches('.');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::new(FaultKind::Tls, format!("no certificate can be valid for {host}")))?;
        match self.identities.of(endpoint)?.connect(name, stream).await {
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

/// The system's roots, those of the file, and `extra`. Single roots that cannot be read are common and do no harm.
fn trusted_roots(
    delivery: &DeliverySettings,
    extra: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, EgressError> {
    let system = rustls_native_certs::load_native_certs();
    let own = delivery.ca_file.iter().flat_map(|file| file.certificates.clone());
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(system.certs.into_iter().chain(own).chain(extra));
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
