//! Processes: `redis-server` and `postrider serve`, each under a shell that ends it when this process is gone;
//! signals by process id.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free_port;

/// Starts the program, says its process id, and ends it when stdin does. SIGXFSZ is ignored, so that a limit on
/// the size of files is an error of the write, as a full disk is.
const GUARD: &str = r#"trap "" INT XFSZ; log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & pid=$!; echo "$pid"
cat >/dev/null; kill -9 "$pid" 2>/dev/null; wait"#;

/// A program that ends with this process.
pub(crate) struct Guarded {
    shell: Child,
    pub(crate) pid: u32,
}

/// A `redis-server` with an append-only file, on a loopback port.
pub(crate) struct Redis {
    process: Option<Guarded>,
    pub(crate) port: u16,
    pub(crate) directory: PathBuf,
}

/// A `postrider serve`.
pub(crate) struct Replica {
    process: Option<Guarded>,
    pub(crate) admin_port: u16,
    pub(crate) ops_port: u16,
    pub(crate) log: PathBuf,
}

/// How to start a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    pub(crate) redis_url: String,
    /// Further arguments of `serve`.
    pub(crate) extra: Vec<String>,
    /// Words before the program: what starts it.
    pub(crate) prefix: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// The program under test: the one that cargo built, unless a variant of it is to be judged.
pub(crate) fn binary() -> String {
    std::env::var("CHAOS_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_postrider").to_owned())
}

/// Waits until `condition` holds; panics after `limit`.
#[allow(clippy::disallowed_methods)] // A scenario's thread may block.
pub(crate) fn wait(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets time pass: for faults that last, and for load that must build up.
#[allow(clippy::disallowed_methods)] // A scenario's thread may block.
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}

// === impl Guarded ===

impl Guarded {
    fn start(words: &[String], environment: &[(String, String)], directory: &Path, log: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(log)
            .args(words)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        let pid = line.trim().parse().expect("a process id");
        Self { shell, pid }
    }

    /// Whether the program runs (or is stopped, but has not ended).
    pub(crate) fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(status.expect("kill").success(), "kill -{name} {}", self.pid);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

// === impl Redis ===

impl Redis {
    pub(crate) fn start(directory: PathBuf, extra: &[&str]) -> Self {
        let mut redis = Self { process: None, port: free_port(), directory };
        redis.start_again(extra);
        redis
    }

    /// Starts on the data that is there, after [`Self::end`].
    pub(crate) fn start_again(&mut self, extra: &[&str]) {
        let port = self.port.to_string();
        let fixed = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--daemonize", "no"];
        let data = ["--save", "", "--appendonly", "yes", "--dir", ".", "--maxmemory-policy", "noeviction"];
        let words: Vec<String> =
            fixed.iter().chain(&data).chain(extra).map(|word| (*word).to_owned()).collect();
        let log = self.directory.join("redis.log");
        self.process = Some(Guarded::start(&words, &[], &self.directory, &log));
        wait(Duration::from_secs(30), "redis-server to answer", || {
            let client = redis::Client::open(self.url()).expect("a url");
            client
                .get_connection_with_timeout(Duration::from_millis(500))
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection))
                .is_ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("Redis runs").signal(name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("Redis runs").pid
    }

    /// Ends it with a signal, and waits until it is gone.
    pub(crate) fn end(&mut self, signal: &str) {
        let process = self.process.take().expect("Redis runs");
        process.signal(signal);
        wait(Duration::from_secs(30), "redis-server to end", || !process.runs());
    }
}

// === impl Replica ===

impl Replica {
    /// Starts one; [`Self::wait_ready`] says when it is ready.
    pub(crate) fn start(directory: &Path, number: usize, launch: &Launch) -> Self {
        let (admin_port, ops_port) = (free_port(), free_port());
        let log = directory.join(format!("replica-{number}.log"));
        let (admin, ops) = (format!("127.0.0.1:{admin_port}"), format!("127.0.0.1:{ops_port}"));
        let program = binary();
        let fixed = [program.as_str(), "serve", "--redis-url", &launch.redis_url, "--namespace", "chaos"];
        let open =
            ["--allow-http", "--allow-target", "127.0.0.0/8", "--workers", "2", "--log-format", "text"];
        let listen = ["--listen", &admin, "--ops-listen", &ops, "--admin-rate-limit", "0"];
        let words = fixed.iter().chain(&open).chain(&listen).map(|word| (*word).to_owned());
        let words: Vec<String> =
            launch.prefix.iter().cloned().chain(words).chain(launch.extra.iter().cloned()).collect();
        let process = Some(Guarded::start(&words, &launch.environment, directory, &log));
        Self { process, admin_port, ops_port, log }
    }

    pub(crate) fn is_ready(&self) -> bool {
        crate::admin::get(self.ops_port, "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    pub(crate) fn wait_ready(&self) {
        wait(Duration::from_secs(30), "postrider serve to be ready", || {
            assert!(self.runs(), "postrider serve ended:\n{}", self.last_lines(20));
            self.is_ready()
        });
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(Guarded::runs)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("the replica runs").signal(name);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.signal("KILL");
        self.wait_end(Duration::from_secs(10));
    }

    /// SIGTERM, and waits for its own end.
    pub(crate) fn terminate(mut self, limit: Duration) {
        self.signal("TERM");
        self.wait_end(limit);
        assert!(self.text().contains("stopped"), "no orderly end:\n{}", self.last_lines(20));
    }

    /// Waits until it has ended.
    pub(crate) fn wait_end(&mut self, limit: Duration) {
        wait(limit, "postrider serve to end", || !self.runs());
        self.process = None;
    }

    /// The sum of all samples of the metrics whose names contain `word`.
    pub(crate) fn metric(&self, word: &str) -> f64 {
        let Ok((200, text)) = crate::admin::get(self.ops_port, "/metrics") else { return 0.0 };
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let name = line.split(['{', ' ']).next()?;
            let value = line.rsplit(' ').next()?.parse::<f64>().ok()?;
            name.contains(word).then_some(value)
        });
        samples.sum()
    }

    /// What it has logged.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn last_lines(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}
