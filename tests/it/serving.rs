//! `postrider serve` as a process of its own, and the admin API as an integrator calls it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{free_port, signal, wait_for, wait_within};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

/// The organisation of the tests.
pub(crate) const ORGANISATION: &str = "org_tests";

/// Where the admin API's routes for webhooks begin.
pub(crate) const WEBHOOKS: &str = "/api/v2/admin/webhooks";

/// A `postrider serve` that was ready; killed when dropped, or when this process is gone.
pub(crate) struct Serve {
    child: Child,
    guard: Child,
    directory: tempfile::TempDir,
    admin_port: u16,
    ops_port: u16,
}

/// Ends the program when this process, and so the guard's stdin, is gone.
const GUARD: &str = r#"cat >/dev/null; kill -9 "$1" 2>/dev/null"#;

// === impl Serve ===

impl Serve {
    /// Starts one with a short lease, `http` and loopback targets allowed, and waits until it is ready.
    pub(crate) fn start(redis_url: &str, namespace: &str, extra: &[&str]) -> Self {
        Self::start_with(redis_url, namespace, extra, &[])
    }

    /// As [`Serve::start`], with variables in its environment.
    pub(crate) fn start_with(
        redis_url: &str,
        namespace: &str,
        extra: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (admin_port, ops_port) = (free_port(), free_port());
        let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
        let child = Command::new(BINARY)
            .args(["serve", "--redis-url", redis_url, "--namespace", namespace])
            .args(["--listen", &format!("127.0.0.1:{admin_port}")])
            .args(["--ops-listen", &format!("127.0.0.1:{ops_port}")])
            .args(["--allow-http", "--allow-target", "127.0.0.0/8"])
            // Tests wait for conditions by asking often.
            .args(["--admin-rate-limit", "0"])
            .args(if extra.contains(&"--lease") { &[] } else { &["--lease", "1s"][..] })
            .args(extra)
            .envs(environment.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postrider starts");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &child.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut serve = Self { child, guard, directory, admin_port, ops_port };
        wait_for("postrider serve to be ready", || {
            let ended = serve.child.try_wait().expect("the child's state");
            assert!(ended.is_none(), "postrider serve ended: {ended:?}");
            serve.is_ready()
        });
        serve
    }

    /// The port of the admin API.
    pub(crate) const fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The admin API's address, as the command line takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// Whether `/readyz` answers 200.
    pub(crate) fn is_ready(&self) -> bool {
        call(self.ops_port, Method::GET, "/readyz", None, None).is_ok_and(|(status, _)| status == 200)
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
    }

    /// SIGTERM, and waits for its own end.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.terminate_and_read().1
    }

    /// SIGTERM, waits for its own end, and gives what it wrote to its log.
    pub(crate) fn terminate_and_read(mut self) -> (String, ExitStatus) {
        signal(self.pid(), "TERM");
        let mut status = None;
        wait_within(Duration::from_secs(60), "postrider serve to end after SIGTERM", || {
            status = self.child.try_wait().expect("the child's state");
            status.is_some()
        });
        (self.log_text(), status.expect("an exit status"))
    }

    /// What `/metrics` answers.
    pub(crate) fn metrics_text(&self) -> String {
        let (status, text) = call(self.ops_port, Method::GET, "/metrics", None, None).expect("/metrics");
        assert_eq!(status, 200);
        text
    }

    /// The sum of all samples whose metric's name contains `word`.
    pub(crate) fn metric(&self, word: &str) -> f64 {
        self.sample(word, "")
    }

    /// The sum of all samples whose metric's name contains `word` and whose labels contain `label`.
    pub(crate) fn sample(&self, word: &str, label: &str) -> f64 {
        let text = self.metrics_text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let name = line.split(['{', ' ']).next()?;
            let value = line.rsplit(' ').next()?.parse::<f64>().ok()?;
            (name.contains(word) && line.contains(label)).then_some(value)
        });
        samples.sum()
    }

    /// `GET` under the webhooks' routes; must answer 200.
    pub(crate) fn get(&self, token: &str, path: &str) -> Value {
        self.expect_ok(Method::GET, token, path, None)
    }

    /// `PUT` under the webhooks' routes; must answer 200.
    pub(crate) fn put(&self, token: &str, path: &str, body: &Value) -> Value {
        self.expect_ok(Method::PUT, token, path, Some(body.to_string()))
    }

    /// A request under the webhooks' routes: its status, and its JSON where it has any.
    pub(crate) fn request(
        &self,
        method: Method,
        token: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let path = format!("{WEBHOOKS}{path}");
        let answer = call(self.admin_port, method.clone(), &path, Some(token), body.map(Value::to_string));
        let (status, text) = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") })
    }

    /// `POST` under the webhooks' routes; must answer `status`.
    pub(crate) fn post(&self, token: &str, path: &str, status: u16, body: &Value) -> Value {
        let path = format!("{WEBHOOKS}{path}");
        let answer = call(self.admin_port, Method::POST, &path, Some(token), Some(body.to_string()));
        let (found, text) = answer.unwrap_or_else(|error| panic!("POST {path}: {error}"));
        assert_eq!(found, status, "POST {path} answered {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn expect_ok(&self, method: Method, token: &str, path: &str, body: Option<String>) -> Value {
        let path = format!("{WEBHOOKS}{path}");
        let answer = call(self.admin_port, method.clone(), &path, Some(token), body);
        let (status, text) = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(status, 200, "{method} {path} answered {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// What it wrote to its log so far.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("a log")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // The guard goes first, so that it cannot hit another process with the same id later.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("end of postrider's output:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Makes an admin token of [`ORGANISATION`] on the command line.
pub(crate) fn create_token(redis_url: &str, namespace: &str) -> String {
    let output = Command::new(BINARY)
        .args(["token", "create", "--redis-url", redis_url, "--namespace", namespace])
        .args(["--organisation", ORGANISATION, "--role", "admin", "--output", "json"])
        .output()
        .expect("postrider runs");
    assert!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}

/// One request on a connection of its own.
pub(crate) fn call(
    port: u16,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut request = Request::builder().method(method).uri(path).header("host", address.to_string());
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let exchange = async {
            let stream = TcpStream::connect(address).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
        };
        tokio::time::timeout(Duration::from_secs(15), exchange).await?
    })
}
