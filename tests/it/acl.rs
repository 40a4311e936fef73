//! A smoke run under the Redis users that `postrider doctor --print-acl` prints, over TLS with an authority of its
//! own: nothing that Postrider does is refused, and what it does not do is (docs/OPERATIONS.md, "Security").

use std::path::Path;
use std::process::Output;

use http::Method;
use postrider::redis::connection::Redis;
use postrider::redis::seen::SeenNonces;
use postrider::settings::redis::RedisSettings;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::cli::{code, err, program};
use crate::serving::{ORGANISATION, Serve};
use crate::stage::{EVENT, Put, Stage};
use crate::support::{RedisServer, free_port, wait_for};

const NAMESPACE: &str = "guarded";
const SOON: [&str; 4] = ["--retry-schedule", "100ms", "--breaker-failures", "0"];

/// A Redis with a TLS port and the three users.
struct Guarded {
    server: RedisServer,
    tls_port: u16,
    authority: String,
    users: Vec<(String, String)>,
}

// === impl Guarded ===

impl Guarded {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        write_certificates(directory.path());
        let authority = directory.path().join("ca.pem").to_string_lossy().into_owned();
        let tls_port = free_port();
        let port = tls_port.to_string();
        let tls = ["--tls-port", &port, "--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key"];
        let check = ["--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no"];
        let server = RedisServer::start_in(directory, free_port(), &[&tls[..], &check].concat());
        let users = make_users(&server);
        Self { server, tls_port, authority, users }
    }

    /// The server's URL over TLS.
    fn tls_url(&self) -> String {
        let (name, password) = &self.users[0];
        format!("rediss://{name}:{password}@localhost:{}/0", self.tls_port)
    }

    /// The URL of the user with this number, in plain text.
    fn url_of(&self, user: usize) -> String {
        let (name, password) = &self.users[user];
        format!("redis://{name}:{password}@127.0.0.1:{}/0", self.server.port)
    }

    fn serve(&self) -> Serve {
        Serve::start_with(&self.tls_url(), NAMESPACE, &SOON, &[("SSL_CERT_FILE", &self.authority)])
    }

    /// A command of the program over TLS.
    fn run(&self, arguments: &[&str]) -> Output {
        let reach = ["--redis-url", &self.tls_url(), "--namespace", NAMESPACE];
        let output = program(&[arguments, &reach].concat())
            .env("SSL_CERT_FILE", &self.authority)
            .output()
            .expect("it runs");
        assert!(!err(&output).contains("NOPERM"), "{arguments:?}: {}", err(&output));
        output
    }
}

/// `ca.pem`, and `redis.pem` with `redis.key` for `localhost`.
fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
    for (name, text) in [("ca.pem", root), ("redis.pem", certificate), ("redis.key", key.serialize_pem())] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

/// Makes the printed users, and gives their names and passwords.
fn make_users(server: &RedisServer) -> Vec<(String, String)> {
    let arguments =
        ["doctor", "--print-acl", "--user", "rider", "--namespace", NAMESPACE, "--output", "json"];
    let output = program(&arguments).output().expect("it runs");
    assert_eq!(code(&output), 0, "{}", err(&output));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut connection = connect(&server.url());
    let users = printed["users"].as_array().expect("users").iter().map(|user| {
        let mut words = user["command"].as_str().expect("a command").split(' ');
        redis::cmd(words.next().unwrap())
            .arg(words.collect::<Vec<_>>())
            .query::<()>(&mut connection)
            .unwrap();
        let text = |name: &str| user[name].as_str().expect("text").to_owned();
        (text("name"), text("password"))
    });
    users.collect()
}

fn connect(url: &str) -> redis::Connection {
    redis::Client::open(url).expect("a url").get_connection().expect("a connection")
}

/// The error's code of a command as that user.
fn refusal(url: &str, words: &[&str]) -> String {
    let answer = redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut connect(url));
    answer.expect_err("it is refused").code().unwrap_or_default().to_owned()
}

/// Calls each kind of route once; what it answers is another test's concern, what Redis refuses is seen in its log.
fn use_the_api(stage: &Stage, config: &Put, delivery: &Value) {
    let (id, delivery) = (&config.id, delivery.as_str().expect("an id"));
    let event = json!({ "event": EVENT, "data": { "n": 3 }, "nonce": "once" });
    for (method, path, body) in [
        (Method::POST, "/events".to_owned(), Some(&event)),
        (Method::GET, "/audit".to_owned(), None),
        (Method::GET, "/rejected".to_owned(), None),
        (Method::GET, format!("/configs/{id}/stats"), None),
        (Method::GET, format!("/logs/{delivery}"), None),
        (Method::POST, format!("/logs/{delivery}/retry"), Some(&json!({}))),
        (Method::POST, format!("/configs/{id}/recover"), Some(&json!({}))),
        (Method::POST, format!("/configs/{id}/replay"), Some(&json!({}))),
        (Method::GET, format!("/configs/{id}/jobs"), None),
        (Method::POST, format!("/configs/{id}/test"), Some(&json!({}))),
        (Method::POST, format!("/configs/{id}/pause"), Some(&json!({}))),
        (Method::POST, format!("/configs/{id}/resume"), Some(&json!({}))),
    ] {
        let (status, text) = stage.serve().request(method, &stage.token, &path, body);
        assert!(status < 500, "{path}: {status} {text}");
    }
}

#[test]
fn everything_works_under_the_printed_users_and_tls_and_nothing_else_is_allowed() {
    let guarded = Guarded::start();
    let serve = guarded.serve();
    let mut stage = Stage::with(serve, &guarded.tls_url(), &guarded.server.url(), NAMESPACE);
    let good = stage.config("/good", json!({}), |_| Reply::ok());
    let again =
        stage.config(
            "/again",
            json!({}),
            |arrival| {
                if arrival.nth == 1 { Reply::status(503) } else { Reply::ok() }
            },
        );
    let never = stage.config("/never", json!({ "maxRetries": 1 }), |_| Reply::status(500));
    let gone = stage.config("/gone", json!({}), |_| Reply::status(410));

    let producer = guarded.url_of(1);
    let fields = ["organisationId", ORGANISATION, "event", EVENT, "data", r#"{"n":1}"#];
    let events = stage.keys.events();
    let added =
        redis::cmd("XADD").arg(&events).arg("*").arg(&fields).query::<String>(&mut connect(&producer));
    assert!(added.is_ok(), "{added:?}");
    stage.wait_logged(&good, "delivered", 1);
    stage.wait_logged(&again, "delivered", 1);
    stage.wait_logged(&gone, "failed", 1);
    let failed = stage.wait_logged(&never, "failed", 1);
    assert_eq!(stage.delivery(&failed[0]["deliveryId"])["status"], "failed");

    use_the_api(&stage, &never, &failed[0]["deliveryId"]);

    // Every command of the program that speaks to Redis.
    let data = [EVENT, "--data", r#"{"n":2}"#];
    for arguments in [
        &["token", "create", "--organisation", ORGANISATION, "--role", "viewer"][..],
        &["token", "list"],
        &["shards", "list"],
        &["secrets", "status"],
        &["migrate", "plan"],
        &["capacity", "--sample", "--sample-for", "100ms", "--rate", "1"],
        &[&["publish", "--organisation", ORGANISATION, "--event"][..], &data].concat(),
    ] {
        let output = guarded.run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", err(&output));
    }
    // The first event, the one published over the API, and the one published on the command line.
    stage.wait_logged(&good, "delivered", 3);
    let doctor = String::from_utf8(guarded.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("errors: 0") && doctor.contains("appendfsync everysec"), "{doctor}");

    // A dead replica's events are taken over by the next.
    stage.add_many(2_000);
    let metrics = stage.serve().metrics_text();
    let log = stage.serve().log_text();
    stage.take_serve().kill();
    let next = guarded.serve();
    wait_for("all events to be acknowledged", || stage.unread() == 0 && stage.pending() == 0);
    for text in [&log, &next.log_text()] {
        assert!(!text.contains("NOPERM") && text.contains("ready"), "{text}");
    }
    assert!(!metrics.contains("NOPERM"));
    let denied: Vec<redis::Value> = stage.redis(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "Redis refused: {denied:?}");
}

#[test]
fn what_postrider_does_not_need_is_refused() {
    let guarded = Guarded::start();
    let (server, producer, receiver) = (guarded.url_of(0), guarded.url_of(1), guarded.url_of(2));
    let events = &format!("{NAMESPACE}:{{0}}:events");
    for words in [
        &["FLUSHALL"][..],
        &["KEYS", "*"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["SHUTDOWN"],
        &["EVAL", "return 1", "0"],
        &["ACL", "LIST"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["GET", "other:{0}:floor"],
        &["GET", &format!("{NAMESPACE}:received:n1")],
    ] {
        assert_eq!(refusal(&server, words), "NOPERM", "{words:?}");
    }
    for words in [
        &["XTRIM", events, "MAXLEN", "0"][..],
        &["XRANGE", events, "-", "+"],
        &["DEL", events],
        &["XADD", &format!("{NAMESPACE}:{{0}}:rejected"), "*", "a", "b"],
        &["HGETALL", &format!("{NAMESPACE}:{{control}}:configs")],
    ] {
        assert_eq!(refusal(&producer, words), "NOPERM", "{words:?}");
    }
    assert_eq!(refusal(&receiver, &["XADD", events, "*", "a", "b"]), "NOPERM");
    let denied: Vec<redis::Value> =
        redis::cmd("ACL").arg("LOG").query(&mut connect(&guarded.server.url())).unwrap();
    assert!(denied.len() >= 10, "Redis keeps a list of refusals: {}", denied.len());
}

#[tokio::test]
async fn the_receivers_user_may_keep_its_nonces() {
    let guarded = Guarded::start();
    let settings = RedisSettings { namespace: NAMESPACE.into(), ..RedisSettings::default() };
    let nonces = SeenNonces::new(Redis::new(&guarded.url_of(2), &settings).unwrap());
    assert!(!nonces.contains("n1").await.unwrap());
    nonces.insert("n1").await.unwrap();
    assert!(nonces.contains("n1").await.unwrap());
}
