//! The admin API's listener: TLS, who may call from where, how often, how slowly and how much at once.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Settings of the admin API's listener.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// PEM file of the certificate and those between it and its root; `None` with `tls_key` for plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// How often the two files are looked at.
    pub tls_check: Duration,
    /// Origins whose pages may call the API; none answers no CORS header.
    pub cors_origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests a minute of one token at this replica; 0 for any number.
    pub rate_limit: u32,
    /// Requests with a bad token that one address may make a minute before it is slowed; 0 for any number.
    pub auth_failures_max: u32,
    /// Connections at once.
    pub connections_max: u32,
    /// Of those, from one address that is no trusted proxy; 0 for any number.
    pub connections_per_address: u32,
    /// Bytes of a request's line and headers.
    pub head_bytes_max: u64,
    /// Headers of a request.
    pub headers_max: u32,
    /// Longest time for a TLS handshake, for a request's head, and for an idle connection.
    pub head_timeout: Duration,
    /// Bytes of one request's body.
    pub body_bytes_max: u64,
    /// Bytes of all requests' bodies together.
    pub bodies_bytes_max: u64,
    /// Longest time for a body to arrive.
    pub body_timeout: Duration,
    /// Bytes a second that a body has to arrive with, after its first five seconds.
    pub body_rate_min: u64,
    /// Longest time until a request is answered.
    pub request_timeout: Duration,
    /// Longest time in which a caller takes nothing of an answer.
    pub write_timeout: Duration,
    /// How long requests in flight may take once the listener closes.
    pub drain_timeout: Duration,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            tls_check: Duration::from_secs(10),
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            rate_limit: 600,
            auth_failures_max: 10,
            connections_max: 1_024,
            connections_per_address: 512,
            head_bytes_max: 32 * 1024,
            headers_max: 64,
            head_timeout: Duration::from_secs(30),
            body_bytes_max: 4 * 1024 * 1024,
            bodies_bytes_max: 64 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            body_rate_min: 1_024,
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
