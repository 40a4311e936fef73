//! How one attempt is made and when it is repeated.

use std::time::Duration;

use ipnet::IpNet;

use super::egress::{CaFile, NoProxy, ProxyUrl, SourceAddresses};
use crate::domain::retry_policy::Schedule;

/// Delivery settings.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// Deadline over DNS, connect, TLS, headers and body of one attempt (docs/WIRE.md section 4).
    pub request_timeout: Duration,
    /// Deadline over connect and TLS, inside the request's.
    pub connect_timeout: Duration,
    /// Delays between attempts, for every config.
    pub schedule: Schedule,
    /// Networks that the guard lets through although it denies them by default.
    pub allow_targets: Vec<IpNet>,
    /// Lets configs use `http` URLs; for development.
    pub allow_http: bool,
    /// How long a stopping replica lets attempts finish; request timeout + 5 s unless set.
    pub drain_timeout: Duration,
    /// The forward proxy that deliveries take.
    pub proxy_url: Option<ProxyUrl>,
    /// What they reach without it.
    pub no_proxy: NoProxy,
    /// Certificate authorities beside the system's.
    pub ca_file: Option<CaFile>,
    /// The local addresses that they leave from.
    pub source_addresses: SourceAddresses,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            schedule: Schedule::Exponential,
            allow_targets: Vec::new(),
            allow_http: false,
            drain_timeout: Duration::from_secs(35),
            proxy_url: None,
            no_proxy: NoProxy::default(),
            ca_file: None,
            source_addresses: SourceAddresses::default(),
        }
    }
}
