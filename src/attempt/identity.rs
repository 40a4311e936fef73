//! TLS towards endpoints: one connector for all, and one of its own for each config with a client certificate.
//!
//! A config's own connector has its own memory of TLS sessions: a session that was made with one config's certificate
//! must not be resumed for another config on the same host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use tokio_rustls::TlsConnector;

use super::EgressError;
use crate::domain::config::{ClientIdentity, Endpoint};
use crate::domain::ids::ConfigId;
use crate::domain::outcome::{Fault, FaultKind};

/// TLS sessions that are remembered, so that a new connection to a known endpoint needs no full handshake; of one
/// config that has a certificate, fewer: it has one endpoint.
const SESSIONS_MAX: usize = 4_096;
const OWN_SESSIONS_MAX: usize = 32;

/// Connectors with a certificate that are kept; past it all are made anew, which costs a handshake each.
const CONNECTORS_MAX: usize = 4_096;

/// The TLS connectors of a replica.
pub(super) struct Identities {
    roots: Arc<RootCertStore>,
    plain: TlsConnector,
    own: Mutex<HashMap<ConfigId, (Arc<ClientIdentity>, TlsConnector)>>,
}

// === impl Identities ===

impl Identities {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, EgressError> {
        let roots = Arc::new(roots);
        let mut config = builder()?.with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
        finish(&mut config, SESSIONS_MAX);
        Ok(Self { roots, plain: TlsConnector::from(Arc::new(config)), own: Mutex::default() })
    }

    /// The connector without a certificate.
    pub(super) const fn plain(&self) -> &TlsConnector {
        &self.plain
    }

    /// The connector for an endpoint.
    pub(super) fn of(&self, endpoint: &Endpoint) -> Result<TlsConnector, Fault> {
        let Some(identity) = &endpoint.client_identity else { return Ok(self.plain.clone()) };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, connector)) = own.get(&endpoint.config)
            && Arc::ptr_eq(known, identity)
        {
            return Ok(connector.clone());
        }
        let unusable = |error| Fault::new(FaultKind::Tls, format_args!("the client certificate: {error}"));
        let builder = builder().map_err(unusable)?.with_root_certificates(Arc::clone(&self.roots));
        let config = builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key());
        let mut config = config.map_err(unusable)?;
        finish(&mut config, OWN_SESSIONS_MAX);
        let connector = TlsConnector::from(Arc::new(config));
        if own.len() >= CONNECTORS_MAX {
            own.clear();
        }
        own.insert(endpoint.config, (Arc::clone(identity), connector.clone()));
        Ok(connector)
    }
}

/// TLS 1.2 and 1.3 with ring.
fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
}

/// HTTP/1.1 is what is spoken.
fn finish(config: &mut ClientConfig, sessions_max: usize) {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(sessions_max);
}
