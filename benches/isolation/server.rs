//! `postrider serve` with its default settings, and what `/proc` says of it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;

use crate::process::{Guarded, Layout, cpu_micros, wait_until};
use crate::store::{NAMESPACE, Store};
use crate::{Failure, admin_api};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// A server that was ready.
pub(crate) struct Server {
    process: Guarded,
    log: PathBuf,
    ops_port: u16,
    /// Of the admin API.
    pub(crate) admin_port: u16,
}

// === impl Server ===

impl Server {
    pub(crate) fn start(layout: &Layout, store: &Store, directory: &Path) -> Result<Self, Failure> {
        let (admin_port, ops_port) = (free_port()?, free_port()?);
        let (admin, ops) = (format!("127.0.0.1:{admin_port}"), format!("127.0.0.1:{ops_port}"));
        let url = store.url();
        let args = ["serve", "--redis-url", &url, "--namespace", NAMESPACE, "--listen", &admin]
            .into_iter()
            .chain(["--ops-listen", &ops, "--allow-http", "--allow-target", "127.0.0.0/8"])
            .chain(["--admin-rate-limit", "0"])
            .map(str::to_owned);
        let log = directory.join("serve.log");
        let process = Guarded::start(&layout.sender, Path::new(BINARY), &args.collect::<Vec<_>>(), &log)?;
        let server = Self { process, log, ops_port, admin_port };
        wait_until(STEP_LIMIT, || {
            !server.process.runs()
                || admin_api::call(ops_port, Method::GET, "/readyz", None, None)
                    .is_ok_and(|(status, _)| status == 200)
        })?;
        if server.process.runs() { Ok(server) } else { Err(server.with_log("postrider serve ended".into())) }
    }

    /// The sum of a metric's samples.
    pub(crate) fn metric(&self, name: &str) -> Result<f64, Failure> {
        let (_, text) = admin_api::call(self.ops_port, Method::GET, "/metrics", None, None)?;
        let samples = text
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
        Ok(samples.sum())
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        Ok(Duration::from_micros(cpu_micros(self.process.pid)?))
    }

    /// The most memory that it ever had resident (`VmHWM`), in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// The error with the end of the server's own words.
    pub(crate) fn with_log(&self, error: Failure) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "{error} (admin API on port {})\nend of its output:\n{}",
            self.admin_port,
            lines[lines.len().saturating_sub(20)..].join("\n")
        )
        .into()
    }
}

pub(crate) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
