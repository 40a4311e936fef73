//! What the tests share: a real Redis per test binary (or a private one per test), a namespace per test, and
//! waiting for a condition instead of sleeping for luck.

pub(crate) use crate::ports::free_port;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postrider::redis::connection::Redis;
use postrider::settings::redis::RedisSettings;

/// A `redis-server` of its own, on a Unix socket and a loopback port, that ends with this process.
pub struct RedisServer {
    guardian: Child,
    pub port: u16,
    pub directory: tempfile::TempDir,
}

/// A namespace of the binary's shared server.
pub struct TestSpace {
    pub url: String,
    pub namespace: String,
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts one with AOF, `noeviction`, and `extra` arguments.
    pub fn start(extra: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), free_port(), extra)
    }

    /// Starts one on the data of an earlier one.
    pub fn start_in(directory: tempfile::TempDir, port: u16, extra: &[&str]) -> Self {
        let guardian = guarded_redis(directory.path(), port, extra);
        let server = Self { guardian, port, directory };
        wait_for("redis-server to answer", || server.ping());
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The process id of `redis-server` itself.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.directory.path().join("redis.pid"))
            .expect("the pid file")
            .trim()
            .parse()
            .expect("a pid")
    }

    /// Ends the server at once, as a crash would, and gives its data and port to start again on.
    pub fn kill(self) -> (tempfile::TempDir, u16) {
        self.end("KILL")
    }

    /// Ends the server with a signal, and gives its data and port to start again on.
    pub fn end(mut self, signal_name: &str) -> (tempfile::TempDir, u16) {
        signal(self.pid(), signal_name);
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a directory"));
        (directory, self.port)
    }

    fn ping(&self) -> bool {
        let client = redis::Client::open(self.url()).expect("a url");
        client
            .get_connection_with_timeout(Duration::from_millis(500))
            .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection))
            .is_ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// `redis-server` under a shell that ends it when this process (and so the shell's stdin) is gone.
fn guarded_redis(directory: &Path, port: u16, extra: &[&str]) -> Child {
    let script =
        r#"redis-server "$@" >redis.log 2>&1 & pid=$!; cat >/dev/null; kill "$pid" 2>/dev/null; wait"#;
    Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--unixsocket", "redis.sock"])
        .args(["--pidfile", "redis.pid", "--daemonize", "no", "--save", "", "--appendonly", "yes"])
        .args(["--dir", ".", "--maxmemory-policy", "noeviction"])
        .args(extra)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh and redis-server are installed (make bootstrap)")
}

/// Sends SIGKILL.
pub fn kill_nine(pid: u32) {
    signal(pid, "KILL");
}

/// Sends a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill");
    assert!(status.success(), "kill -{name} {pid}");
}

/// The server that all tests of this binary share, each in its own namespace.
pub fn shared_redis() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| RedisServer::start(&[]))
}

// === impl TestSpace ===

impl TestSpace {
    /// A fresh namespace on the shared server.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { url: shared_redis().url(), namespace: format!("t{}-{number}", std::process::id()) }
    }

    pub fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: Some(self.url.clone()),
            namespace: self.namespace.clone(),
            ..RedisSettings::default()
        }
    }

    pub fn redis(&self) -> Redis {
        Redis::new(&self.url, &self.settings()).expect("a usable url")
    }

    /// A plain connection, to look at the keyspace as a stranger would.
    pub fn raw(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).expect("a url").get_connection().expect("a connection")
    }
}

/// Waits until `condition` holds; fails the test after 30 s.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_within(Duration::from_secs(30), what, condition);
}

/// Waits until `condition` holds; fails the test after `limit`.
#[allow(clippy::disallowed_methods)] // A test thread of its own may block.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `condition` holds, without blocking the runtime; fails the test after 30 s.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(30), "waited 30 s in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writes `text` to a file of its own in a fresh directory.
pub fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    std::fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    (directory, path)
}
