//! An admin API on a real socket, and a small client for it: one connection per request, nothing hidden.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use postrider::admin::server::{Serving, serve_as};
use postrider::admin::state::AdminState;
use postrider::admin::tls::Certificates;
use postrider::domain::clock::Clock;
use postrider::domain::ids::{OrganisationId, ShardNumber};
use postrider::domain::token::Role;
use postrider::redis::connection::Redis;
use postrider::redis::directory::Directory;
use postrider::redis::tokens::create_token;
use postrider::settings::Settings;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{TestSpace, eventually};

/// One replica's admin API: follower, listener, nothing else.
pub struct AdminServer {
    pub address: SocketAddr,
    pub state: AdminState,
    stop: watch::Sender<bool>,
}

/// Calls one server as one caller.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

// === impl AdminServer ===

impl AdminServer {
    pub async fn start(space: &TestSpace) -> Self {
        Self::start_with(space.redis(), Settings::default()).await
    }

    pub async fn start_with(redis: Redis, settings: Settings) -> Self {
        Self::start_on(redis, settings, 1).await
    }

    /// Starts one on a keyspace of several shards.
    pub async fn start_on(redis: Redis, settings: Settings, shards: u16) -> Self {
        let directory = Arc::new(Directory::new());
        let state = AdminState {
            shards: (0..shards).map(|number| redis.keys().shard(ShardNumber(number))).collect(),
            redis,
            directory,
            settings: Arc::new(settings),
            clock: Arc::new(Clock::default()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let (directory, redis) = (Arc::clone(&state.directory), state.redis.clone());
        let follower_stopped = stopped.clone();
        tokio::spawn(async move { directory.follow(&redis, follower_stopped).await });
        let limits = Arc::new(state.settings.admin.clone());
        let certificates = match (&limits.tls_cert, &limits.tls_key) {
            (Some(cert), Some(key)) => Some(Arc::new(Certificates::load(cert, key).expect("TLS files"))),
            _ => None,
        };
        if let Some(certificates) = certificates.clone() {
            let (every, stopped) = (limits.tls_check, stopped.clone());
            tokio::spawn(async move { certificates.follow(every, stopped).await });
        }
        let serving = Serving { limits, certificates, connections: None };
        tokio::spawn(serve_as(listener, postrider::admin::router(state.clone()), serving, stopped));
        let server = Self { address, state, stop };
        eventually("the first full read", async || server.state.directory.is_complete()).await;
        server
    }

    /// A caller with a new token of `role`, known to this replica.
    pub async fn caller(&self, organisation: &str, role: Role) -> Api {
        let organisation = OrganisationId::new(organisation).expect("an id");
        let now = self.state.clock.now();
        let (text, _) =
            create_token(&self.state.redis, &organisation, role, "test", now).await.expect("a token");
        eventually("the token to be followed", async || self.state.directory.token(&text.hash()).is_some())
            .await;
        self.nobody().with("authorization", &format!("Bearer {}", text.expose()))
    }

    /// Stops as the process does: no new connections, what is in flight is answered.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// A caller without a token.
    pub fn nobody(&self) -> Api {
        Api { address: self.address, headers: Vec::new() }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

// === impl Api ===

pub const CONFIGS: &str = "/api/v2/admin/webhooks/configs";
pub const EVENTS: &str = "/api/v2/admin/webhooks/events";

impl Api {
    /// This caller with one header more.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut api = self.clone();
        api.headers.push((name.to_owned(), value.to_owned()));
        api
    }

    /// The token's text, as the header carries it behind `Bearer `.
    pub fn token(&self) -> &str {
        let (_, value) = self.headers.iter().find(|(name, _)| name == "authorization").expect("a token");
        value.strip_prefix("Bearer ").expect("a bearer token")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Vec::new()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, body.to_string().into_bytes()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body.to_string().into_bytes()).await
    }

    /// One request; of a success only the head is read, for some answers never end.
    pub async fn try_out(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        self.exchange(method, path, body, false).await
    }

    pub async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        self.exchange(method, path, body, true).await
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>, whole: bool) -> Answer {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = match whole || !parts.status.is_success() {
            true => body.collect().await.expect("a whole body").to_bytes(),
            false => Bytes::new(),
        };
        driver.abort();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

// === impl Answer ===

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Asserts success with `status` and gives the JSON.
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Asserts the error envelope with `status`, `code` and `procedure`, and gives the message.
    pub fn refused(self, status: u16, code: &str, procedure: &str) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers["content-type"], "application/json");
        let envelope = self.json();
        assert_eq!(envelope["code"], code);
        assert_eq!(envelope["data"], serde_json::json!({"httpStatus": status, "path": procedure}));
        envelope["message"].as_str().expect("a message").to_owned()
    }
}
