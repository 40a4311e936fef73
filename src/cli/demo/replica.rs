//! The demo's server: this program's `serve` as a child process, with a data folder that ends with the demo.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use url::Url;

use super::super::error::CliError;
use super::super::http::{self, Call};
use super::numbers::Numbers;

/// How long the server may take until it is ready.
const READY_WAIT: Duration = Duration::from_secs(60);

/// How long it may take to stop: its drain deadline and Redis's last sync.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// Pause between two questions whether it is ready.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The flags of the demo's server besides its addresses: receivers on this machine, retries within seconds, and
/// logs that hold everything the demo makes.
const FLAGS: &[&str] = &[
    "--allow-http",
    "--admin-rate-limit=0",
    "--allow-target=127.0.0.0/8",
    "--retry-schedule=200ms,400ms,800ms",
    "--log-rows-max=100000",
    "--log-bytes-max=64MiB",
    "--failed-max=100000",
    "--failed-bytes-max=64MiB",
    "--payload-bytes-max=64MiB",
    "--drain-timeout=5s",
    "--log-level=info",
];

/// The child process. Dropping it kills it; [`Replica::stop`] ends it in order.
pub(super) struct Replica {
    child: Child,
    folder: PathBuf,
    admin: Url,
    operator: Url,
}

// === impl Replica ===

impl Replica {
    /// Starts the process.
    pub(super) fn launch() -> Result<Self, CliError> {
        let folder = std::env::temp_dir().join(format!("postrider-demo-{}", std::process::id()));
        let (admin, operator) = (free_address()?, free_address()?);
        let failed =
            |what: &str, error: &dyn std::fmt::Display| CliError::Failure(format!("cannot {what}: {error}"));
        std::fs::create_dir_all(&folder).map_err(|error| failed("make the demo's folder", &error))?;
        let log = File::create(folder.join("serve.log")).map_err(|error| failed("write a log", &error))?;
        let output = log.try_clone().map_err(|error| failed("write a log", &error))?;
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let mut command = Command::new(program);
        // What the user set for servers of theirs is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTRIDER_") {
                command.env_remove(name);
            }
        }
        let child = command
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .arg(format!("--listen={admin}"))
            .arg(format!("--ops-listen={operator}"))
            .args(FLAGS)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            // Ctrl-C is the demo's to handle: it stops the server after the last count.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start the server", &error))?;
        let url = |address: SocketAddr| Url::parse(&format!("http://{address}/"));
        let admin = url(admin).map_err(|error| failed("name the server", &error))?;
        let operator = url(operator).map_err(|error| failed("name the server", &error))?;
        Ok(Self { child, folder, admin, operator })
    }

    /// Returns when `/readyz` says so.
    pub(super) async fn ready(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        loop {
            if let Ok(answer) = get(&self.operator, "readyz").await
                && answer.status.is_success()
            {
                return Ok(());
            }
            self.check_alive()?;
            if started.elapsed() > READY_WAIT {
                return Err(self.failure("it is not ready after a minute"));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The server's counters now.
    pub(super) async fn numbers(&mut self) -> Result<Numbers, CliError> {
        match get(&self.operator, "metrics").await {
            Ok(answer) if answer.status.is_success() => {
                Ok(Numbers::parse(&String::from_utf8_lossy(&answer.body)))
            }
            Ok(answer) => Err(self.failure(&format!("/metrics answers {}", answer.status))),
            Err(error) => {
                self.check_alive()?;
                Err(self.failure(&format!("/metrics does not answer: {error}")))
            }
        }
    }

    /// The data folder.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The admin API's address.
    pub(super) fn admin(&self) -> &Url {
        &self.admin
    }

    /// The operator's address.
    pub(super) fn operator(&self) -> &Url {
        &self.operator
    }

    /// Stops the server with SIGTERM, waits for its end, and removes its folder.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        if let Some(pid) = self.child.id() {
            let told = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await;
            if !told.is_ok_and(|status| status.success()) {
                return Err(self.failure("it cannot be told to stop"));
            }
        }
        match tokio::time::timeout(STOP_WAIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => return Err(self.failure(&format!("it ended with {status}"))),
            Ok(Err(error)) => return Err(self.failure(&error.to_string())),
            Err(_) => return Err(self.failure("it did not stop within a minute")),
        }
        std::fs::remove_dir_all(&self.folder)
            .map_err(|error| CliError::Failure(format!("cannot remove {}: {error}", self.folder.display())))
    }

    fn check_alive(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("it ended with {status}"))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    fn failure(&self, what: &str) -> CliError {
        let log = self.folder.join("serve.log");
        CliError::Failure(format!("the demo's server: {what}; its log {}:\n{}", log.display(), tail(&log)))
    }
}

async fn get(base: &Url, path: &str) -> Result<http::Answer, Box<dyn std::error::Error + Send + Sync>> {
    let url = base.join(path)?;
    http::call(Call {
        method: http::Method::GET,
        url: &url,
        token: "",
        organisation: None,
        body: None,
        patience: http::CALL_TIMEOUT,
    })
    .await
}

/// An address of this machine that is free now.
fn free_address() -> Result<SocketAddr, CliError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| CliError::Failure(format!("no loopback port is free: {error}")))
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
