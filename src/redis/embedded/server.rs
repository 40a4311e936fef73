//! One `redis-server` process: started here, or found at its socket and adopted.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::EmbeddedError;
use super::folder::Folder;

/// How long a started server may take to open its socket. Loading its data comes after and takes what it takes.
const SOCKET_WAIT: Duration = Duration::from_secs(20);

/// Pause between two looks at a starting server.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Longest wait for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long a server may take to write and sync its file before it is told by signals.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(20);

/// How long it may take after SIGTERM.
const SIGTERM_WAIT: Duration = Duration::from_secs(5);

/// A server that answered.
#[derive(Debug)]
pub(super) struct Server {
    pid: u32,
    /// `None` when it was adopted: it is no child of this process.
    child: Option<Child>,
    /// An idle connection: it reads its end when the server dies, whoever's child that is.
    lifeline: UnixStream,
    folder: Folder,
}

/// What a server says of itself.
struct Identity {
    pid: u32,
    directory: String,
    loading: bool,
}

// === impl Server ===

impl Server {
    /// Adopts the server that answers at the folder's socket, or starts one; returns when its data is loaded.
    /// `check_port` makes sure first that the port is free: a restart goes on without.
    pub(super) async fn obtain(
        folder: &Folder,
        port: Option<u16>,
        check_port: bool,
    ) -> Result<Self, EmbeddedError> {
        if let Some(mut lifeline) = connect(folder).await? {
            let identity = identify(folder).await?;
            let pid = identity.pid;
            tracing::info!(pid, "adopting the redis-server of an earlier process");
            if identity.loading {
                wait_until_loaded(folder, None, &mut lifeline, 0).await?;
            }
            open_port(folder, port).await?;
            return Ok(Self { pid, child: None, lifeline, folder: folder.clone() });
        }
        folder.remove_socket()?;
        if let Some(port) = port.filter(|_| check_port) {
            // Only to say it clearly; redis-server binds it itself.
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|_| EmbeddedError::PortInUse { port })?;
        }
        Self::spawn(folder, port).await
    }

    async fn spawn(folder: &Folder, port: Option<u16>) -> Result<Self, EmbeddedError> {
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let configuration = folder.write_configuration(port)?;
        let log = folder.open_log()?;
        let log_start = log.metadata().map_or(0, |metadata| metadata.len());
        let mut child = command(&program, &configuration, folder, log)?.spawn().map_err(|cause| {
            if cause.kind() == io::ErrorKind::NotFound {
                return EmbeddedError::NotInstalled { program: program.clone() };
            }
            EmbeddedError::Spawn { program: program.clone(), cause }
        })?;
        let started = Instant::now();
        let mut lifeline = loop {
            if let Some(lifeline) = connect(folder).await? {
                break lifeline;
            }
            if let Some(status) = child.try_wait().map_err(|cause| spawn_error(&program, cause))? {
                return Err(ended(folder, &status.to_string(), log_start));
            }
            if started.elapsed() > SOCKET_WAIT {
                let _ = child.kill().await;
                return Err(ended(folder, "no socket within 20 s", log_start));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        wait_until_loaded(folder, Some(&mut child), &mut lifeline, log_start).await?;
        let pid = identify(folder).await?.pid;
        tracing::info!(pid, data = %folder.redis().display(), "redis-server is running");
        Ok(Self { pid, child: Some(child), lifeline, folder: folder.clone() })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when the process is gone. Cancelling it loses nothing.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            None => {
                end_of(&mut self.lifeline).await;
                "its connection closed".into()
            }
        }
    }

    /// Ends it: by command, so that everything is written and synced; by signals when that has no effect.
    pub(super) async fn stop(mut self) {
        let pid = self.pid;
        let folder = self.folder.clone();
        // The answer to SHUTDOWN is the end of the connection; an error that is said matters only if it stays.
        let asked = async {
            let mut connection = open(&folder).await?;
            redis::cmd("SHUTDOWN").query_async::<()>(&mut connection).await
        };
        let asked = tokio::time::timeout(ANSWER_WAIT, asked).await;
        if tokio::time::timeout(SHUTDOWN_WAIT, self.ended()).await.is_ok() {
            tracing::info!(pid, "redis-server has stopped");
            return;
        }
        tracing::warn!(pid, answer = ?asked, "redis-server does not stop when told; sending SIGTERM");
        // The lifeline is still open, so the process is alive and its id is not another's.
        signal(pid, "-TERM").await;
        if tokio::time::timeout(SIGTERM_WAIT, self.ended()).await.is_err() {
            tracing::error!(pid, "redis-server does not stop on SIGTERM; sending SIGKILL");
            signal(pid, "-KILL").await;
        }
    }
}

fn command(
    program: &str,
    configuration: &Path,
    folder: &Folder,
    log: std::fs::File,
) -> Result<Command, EmbeddedError> {
    let errors = log.try_clone().map_err(|cause| spawn_error(program, cause))?;
    let mut command = Command::new(program);
    command
        .arg(configuration)
        .current_dir(folder.redis())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C goes to the foreground group: redis-server must outlive what still writes.
        .process_group(0)
        .kill_on_drop(false);
    Ok(command)
}

fn spawn_error(program: &str, cause: io::Error) -> EmbeddedError {
    EmbeddedError::Spawn { program: program.to_owned(), cause }
}

fn ended(folder: &Folder, status: &str, log_start: u64) -> EmbeddedError {
    let (log, tail) = (folder.log(), folder.log_tail(log_start));
    EmbeddedError::Ended { status: status.to_owned(), log, tail }
}

/// A connection to the folder's socket; `None` when nobody listens there.
async fn connect(folder: &Folder) -> Result<Option<UnixStream>, EmbeddedError> {
    let socket = folder.socket();
    match UnixStream::connect(&socket).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(EmbeddedError::Silent { socket, cause: error.to_string() }),
    }
}

/// Reads until the other end is closed; the server sends nothing on an idle connection.
async fn end_of(lifeline: &mut UnixStream) {
    let mut buffer = [0; 64];
    while lifeline.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn open(folder: &Folder) -> redis::RedisResult<MultiplexedConnection> {
    let url = folder.url().map_err(|error| io::Error::other(error.to_string()))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WAIT))
        .set_response_timeout(Some(ANSWER_WAIT));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Asks the server who it is. It must work in this folder. `CONFIG` and `INFO` are answered while it loads.
async fn identify(folder: &Folder) -> Result<Identity, EmbeddedError> {
    let socket = folder.socket();
    let silent = |cause: String| EmbeddedError::Silent { socket: folder.socket(), cause };
    let ask = async {
        let mut connection = open(folder).await?;
        let config: HashMap<String, String> =
            redis::cmd("CONFIG").arg("GET").arg("dir").query_async(&mut connection).await?;
        let info: String =
            redis::cmd("INFO").arg("server").arg("persistence").query_async(&mut connection).await?;
        redis::RedisResult::Ok((config, info))
    };
    let (config, info) = ask.await.map_err(|error| silent(error.to_string()))?;
    let directory = config.get("dir").cloned().unwrap_or_default();
    if Path::new(&directory) != folder.redis() {
        return Err(EmbeddedError::Foreign { socket, directory });
    }
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let pid = field("process_id").and_then(|pid| pid.trim().parse().ok());
    let pid = pid.ok_or_else(|| silent("INFO names no process_id".into()))?;
    let loading = field("loading").is_some_and(|loading| loading.trim() != "0");
    Ok(Identity { pid, directory, loading })
}

/// Waits while the server reads its append-only file: seconds for each GiB, so there is no limit but its end.
async fn wait_until_loaded(
    folder: &Folder,
    mut child: Option<&mut Child>,
    lifeline: &mut UnixStream,
    log_start: u64,
) -> Result<(), EmbeddedError> {
    let mut told = Instant::now();
    loop {
        let identity = identify(folder).await;
        match identity {
            Ok(identity) if !identity.loading => return Ok(()),
            Ok(identity) if told.elapsed() > Duration::from_secs(5) => {
                told = Instant::now();
                tracing::info!(
                    pid = identity.pid,
                    directory = identity.directory,
                    "redis-server loads its data"
                );
            }
            Ok(_) => {}
            Err(error) => {
                // It may have died between two questions, which says more.
                let died = tokio::time::timeout(LOOK_AGAIN, end_of(lifeline)).await.is_ok();
                let status = match child.as_mut().map(|child| child.try_wait()) {
                    Some(Ok(Some(status))) => status.to_string(),
                    _ if died => "its connection closed".into(),
                    _ => return Err(error),
                };
                return Err(ended(folder, &status, log_start));
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes an adopted server listen on the wanted port, as `redis.conf` would.
async fn open_port(folder: &Folder, port: Option<u16>) -> Result<(), EmbeddedError> {
    let set = async {
        let mut connection = open(folder).await?;
        redis::cmd("CONFIG").arg("SET").arg("port").arg(port.unwrap_or(0)).query_async(&mut connection).await
    };
    set.await.map_err(|error: redis::RedisError| match port {
        Some(port) => EmbeddedError::PortInUse { port },
        None => EmbeddedError::Silent { socket: folder.socket(), cause: error.to_string() },
    })
}

/// Sends a signal through kill(1): the standard library can signal only its own children, and those only KILL.
async fn signal(pid: u32, name: &str) {
    match Command::new("kill").arg(name).arg(pid.to_string()).status().await {
        Ok(status) if status.success() => {}
        outcome => tracing::error!(pid, ?outcome, "kill {name} failed"),
    }
}
