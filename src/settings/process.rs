//! The process: what it listens on, which roles it takes, where its data lies.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::otlp::OtlpHeaders;

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Reads the stream and makes first attempts.
    pub intake: bool,
    /// Claims what is due and makes further attempts.
    pub retry: bool,
    /// Serves the admin API.
    pub admin: bool,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
}

/// Process settings.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    /// The admin API's address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The operator's address: `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// What this replica does.
    pub roles: Roles,
    /// Where the embedded Redis keeps its data.
    pub data_dir: PathBuf,
    /// Loopback port of the embedded Redis beside its socket; `None` opens none.
    pub embedded_redis_port: Option<u16>,
    /// Workers, each a thread; one per core unless set.
    pub workers: usize,
    /// Which lines are logged: a level, or `tracing` directives.
    pub log_level: String,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// The collector of spans; `None` makes none.
    pub otlp_endpoint: Option<url::Url>,
    /// Headers of what goes to it.
    pub otlp_headers: OtlpHeaders,
}

impl Default for Roles {
    fn default() -> Self {
        Self { intake: true, retry: true, admin: true }
    }
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            ops_listen: (Ipv4Addr::LOCALHOST, 9464).into(),
            roles: Roles::default(),
            data_dir: "./postrider-data".into(),
            embedded_redis_port: None,
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            log_level: "info".into(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
            otlp_headers: OtlpHeaders::default(),
        }
    }
}
