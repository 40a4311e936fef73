//! The embedded Redis: a private `redis-server` that this process starts, supervises and stops last.
//!
//! Its data lies under `<data dir>/redis`, beside a Unix socket that only this user can open. `<data dir>/postrider.lock`
//! is held as long as the process lives, so that two processes never share a folder. After a kill -9 of this
//! process `redis-server` lives on: the next start finds it by its socket, checks that its directory is this
//! one, and adopts it. It runs in a process group of its own, for Ctrl-C in a terminal reaches the whole
//! foreground group, and what is still to be written then needs Redis.
//!
//! Owns: the folder, the lock, the server's configuration (`folder`), the process (`server`), and the task that
//! starts it again when it dies (`supervisor`).

mod folder;
mod server;
mod supervisor;

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::folder::{Folder, Lock};
use self::server::Server;

/// Why the embedded Redis does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A file or directory cannot be used.
    #[error("data-dir: {path}: {cause}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Another process holds the folder.
    #[error("data-dir: {path} is in use by process {pid}; stop it or choose another --data-dir")]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process that holds the lock, as it wrote itself.
        pid: String,
    },
    /// The socket's path does not fit into a socket address.
    #[error(
        "data-dir: the path of the Redis socket would be {length} bytes, over the system's {max}: {path}; \
         choose a shorter --data-dir"
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// There is no such program.
    #[error(
        "{program} was not found: install Redis 7 (`make bootstrap`, or your system's redis-server package), \
         set REDIS_SERVER to the program, or use a running Redis with --redis-url"
    )]
    NotInstalled {
        /// What was looked for.
        program: String,
    },
    /// The program could not be started.
    #[error("starting {program}: {cause}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It ended instead of answering.
    #[error("redis-server ended while starting ({status}); its log {log} ends with:\n{tail}")]
    Ended {
        /// How it ended.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of its log.
        tail: String,
    },
    /// The loopback port is taken.
    #[error("embedded Redis: port {port} is in use; choose another or none")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Another server answers at this folder's socket.
    #[error(
        "a Redis that is not this folder's answers at {socket}: its directory is {directory}; stop it first"
    )]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// The directory that it works in.
        directory: String,
    },
    /// Something holds the socket but does not answer.
    #[error("what listens at {socket} does not answer as Redis: {cause}")]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What was said instead.
        cause: String,
    },
    /// No server is running for a folder.
    #[error(
        "no embedded Redis runs in {path}: start `postrider serve` there, or name a Redis with --redis-url"
    )]
    NotRunning {
        /// The data directory.
        path: PathBuf,
    },
}

/// A running embedded Redis. Dropping it without [`EmbeddedRedis::stop`] leaves `redis-server` running, as a
/// crash would; the next start adopts it.
#[derive(Debug)]
pub struct EmbeddedRedis {
    url: String,
    pid: watch::Receiver<u32>,
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<Server>,
    /// Held until the server has stopped.
    _lock: Lock,
}

// === impl EmbeddedRedis ===

impl EmbeddedRedis {
    /// Starts or adopts the server of `data_dir` and waits until it has loaded its data. With `port` it also
    /// listens on that loopback port, without a password: every user of this machine can then reach it.
    ///
    /// # Errors
    /// See [`EmbeddedError`]; nothing is left running then, unless it ran before.
    pub async fn start(data_dir: &Path, port: Option<u16>) -> Result<Self, EmbeddedError> {
        let folder = Folder::create(data_dir)?;
        let lock = folder.lock()?;
        let url = folder.url()?;
        let server = Server::obtain(&folder, port, true).await?;
        let (stop, stopped) = oneshot::channel();
        let (pid_sender, pid) = watch::channel(server.pid());
        let supervisor = tokio::spawn(supervisor::run(server, folder, port, pid_sender, stopped));
        Ok(Self { url, pid, stop, supervisor, _lock: lock })
    }

    /// `unix:///…/redis.sock`, as [`crate::redis::connection::Redis::new`] takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's process id; another one after it was restarted.
    #[must_use]
    pub fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// Stops the server: it writes and syncs its append-only file, then ends. Call it after everything that
    /// writes has stopped.
    pub async fn stop(self) {
        // The supervisor ends early only by a panic; either way it is joined next.
        let _ = self.stop.send(());
        match self.supervisor.await {
            Ok(server) => server.stop().await,
            Err(error) => {
                tracing::error!(%error, "the embedded Redis's supervisor failed; redis-server runs on")
            }
        }
    }
}

/// The URL of the embedded Redis that runs for `data_dir`, for commands without `--redis-url`.
///
/// # Errors
/// When no socket is there, or its path cannot be used.
pub fn socket_url(data_dir: &Path) -> Result<String, EmbeddedError> {
    match Folder::existing(data_dir) {
        Some(folder) if folder.socket().exists() => folder.url(),
        _ => Err(EmbeddedError::NotRunning { path: data_dir.to_owned() }),
    }
}
