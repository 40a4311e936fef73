//! The admin listener's hard edges, byte by byte on raw sockets: each limit, and what a caller meets at it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postrider::domain::token::Role;
use postrider::settings::Settings;
use postrider::settings::admin::AdminSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::serving::{Serve, create_token};
use crate::support::{TestSpace, eventually, signal};
use crate::support_http::{AdminServer, CONFIGS};

/// Longest wait for anything here.
const LIMIT: Duration = Duration::from_secs(20);

async fn server(change: impl FnOnce(&mut AdminSettings)) -> AdminServer {
    let mut settings = Settings::default();
    change(&mut settings.admin);
    AdminServer::start_with(TestSpace::new().redis(), settings).await
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

/// Reads until the other end closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("an end in time");
    // A connection that is reset gave what it gave.
    let _ = read;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one answer whose body is `{...}`, and leaves the connection open.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.expect("bytes");
            bytes.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
            let length = length.and_then(|digits| digits.parse::<usize>().ok());
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
            if count == 0 || (length.is_some() && length == body) {
                return text;
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("an answer in time")
}

/// The head of a `PUT` of configs with a body of `length` bytes.
fn put_head(token: &str, length: usize) -> String {
    format!(
        "PUT {CONFIGS} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Begins a request, and waits until the server asks for its body, which its handler then waits for.
async fn under_way(address: SocketAddr, token: &str) -> TcpStream {
    const ASKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut stream = connect(address).await;
    let head = put_head(token, 2).replace("host: a", "host: a\r\nexpect: 100-continue");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; ASKED.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut asked)).await.expect("an answer in time").unwrap();
    assert_eq!(asked, ASKED);
    stream.write_all(b"[").await.unwrap();
    stream
}

async fn admin_token(server: &AdminServer) -> String {
    server.caller("org_1", Role::Admin).await.token().to_owned()
}

#[tokio::test]
async fn a_head_that_is_too_long_or_has_too_many_headers_is_431() {
    let server = server(|admin| {
        admin.head_bytes_max = 8 * 1024;
        admin.headers_max = 16;
    })
    .await;
    let line = format!("GET {CONFIGS}?{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(9_000));
    let long = format!("GET {CONFIGS} HTTP/1.1\r\nhost: a\r\nx-a: {}\r\n\r\n", "x".repeat(9_000));
    let many: String = (0..16).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET {CONFIGS} HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    for head in [line, long, many] {
        let mut stream = connect(server.address).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        let refused = answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414");
        assert!(refused, "{answer}");
    }
    let fitting: String = (0..12).map(|n| format!("x-{n}: y\r\n")).collect();
    let fitting = format!("GET {CONFIGS} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fitting}\r\n");
    let mut stream = connect(server.address).await;
    stream.write_all(fitting.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn a_head_that_does_not_come_and_an_idle_connection_are_closed() {
    let server = server(|admin| admin.head_timeout = Duration::from_millis(200)).await;
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        let (mut stream, at) = (connect(server.address).await, Instant::now());
        stream.write_all(begun.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(at.elapsed() >= Duration::from_millis(150), "{:?}", at.elapsed());
    }
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 404"));
    assert_eq!(rest(&mut stream).await, "", "an idle connection is closed");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let server = server(|admin| admin.body_timeout = Duration::from_millis(200)).await;
    let token = admin_token(&server).await;
    let mut stream = connect(server.address).await;
    stream.write_all(format!("{}{{", put_head(&token, 100)).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"TIMEOUT\""), "{answer}");
    assert!(answer.contains("updateWebhookConfigs"), "{answer}");
}

#[tokio::test]
async fn a_body_that_drips_is_408_long_before_its_time_is_over() {
    let server = server(|_| {}).await;
    let token = admin_token(&server).await;
    let (reader, mut writer) = connect(server.address).await.into_split();
    let begun = Instant::now();
    writer.write_all(put_head(&token, 100_000).as_bytes()).await.unwrap();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"  ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut reader = reader;
    let mut answer = [0; 12];
    tokio::time::timeout(LIMIT, reader.read_exact(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(15), "{took:?}");
    drop(reader);
    dripping.await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_and_its_sender_can_read_that() {
    let server = server(|admin| admin.body_bytes_max = 64 * 1024).await;
    let token = admin_token(&server).await;
    for size in [64 * 1024 + 1, 200 * 1024] {
        let mut stream = connect(server.address).await;
        stream.write_all(put_head(&token, size).as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; size]).await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("at most 65536 bytes"), "{answer}");
    }
    // Told from the head alone: nothing of it is awaited.
    let mut stream = connect(server.address).await;
    stream.write_all(put_head(&token, 100_000_000).as_bytes()).await.unwrap();
    assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 413"));
    let exact = format!("[{}]", " ".repeat(64 * 1024 - 2));
    let mut stream = connect(server.address).await;
    stream.write_all(format!("{}{exact}", put_head(&token, exact.len())).as_bytes()).await.unwrap();
    assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_bodies_of_all_requests_have_one_budget() {
    let server = server(|admin| {
        admin.body_bytes_max = 64 * 1024;
        admin.bodies_bytes_max = 100 * 1024;
    })
    .await;
    let token = admin_token(&server).await;
    let body = format!("[{}]", " ".repeat(60_000));
    let whole = format!("{}{body}", put_head(&token, body.len()));
    let mut first = connect(server.address).await;
    first.write_all(&whole.as_bytes()[..whole.len() - 1]).await.unwrap();
    // The first one's bytes are held as soon as they were read; until then the second one is served.
    eventually("the budget to be spent", async || {
        let mut second = connect(server.address).await;
        second.write_all(whole.as_bytes()).await.unwrap();
        let answer = one_answer(&mut second).await;
        if answer.starts_with("HTTP/1.1 503") {
            assert!(
                answer.contains("retry-after: 1") && answer.contains("bodies of all requests"),
                "{answer}"
            );
        }
        answer.starts_with("HTTP/1.1 503")
    })
    .await;
    first.write_all(b"]").await.unwrap();
    assert!(one_answer(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut third = connect(server.address).await;
    third.write_all(whole.as_bytes()).await.unwrap();
    assert!(one_answer(&mut third).await.starts_with("HTTP/1.1 200"), "what was held is given back");
}

#[tokio::test]
async fn a_request_that_is_not_finished_in_time_is_504() {
    let server = server(|admin| admin.request_timeout = Duration::from_millis(200)).await;
    let token = admin_token(&server).await;
    let mut stream = connect(server.address).await;
    stream.write_all(put_head(&token, 100).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("GATEWAY_TIMEOUT"), "{answer}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let server = server(|admin| admin.connections_max = 1).await;
    let mut first = connect(server.address).await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one_answer(&mut first).await.starts_with("HTTP/1.1 404"));
    let mut second = connect(server.address).await;
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(200), second.read(&mut byte)).await;
    assert!(early.is_err(), "the second connection is not served beside the first");
    drop(first);
    assert!(one_answer(&mut second).await.starts_with("HTTP/1.1 404"));
}

/// What a new connection from a loopback address is answered; nothing where it is closed.
async fn asked_from(from: &str, server: SocketAddr) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    // One that is closed already may not even take the request.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut head = [0; 12];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut head)).await.expect("in time");
    let answer = if read.is_ok() { String::from_utf8_lossy(&head).into_owned() } else { String::new() };
    (stream, answer)
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_are_served_beside_it() {
    const SERVED: &str = "HTTP/1.1 404";
    let limited = |admin: &mut AdminSettings| admin.connections_per_address = 2;
    let greedy = server(limited).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let (stream, answer) = asked_from("127.0.0.2", greedy.address).await;
        assert_eq!(answer, SERVED);
        open.push(stream);
    }
    for _ in 0..3 {
        assert_eq!(asked_from("127.0.0.2", greedy.address).await.1, "", "a third one is closed");
    }
    let (_other, answer) = asked_from("127.0.0.3", greedy.address).await;
    assert_eq!(answer, SERVED, "another address is not charged for it");
    drop(open.pop());
    eventually("the place to be given back", async || {
        asked_from("127.0.0.2", greedy.address).await.1 == SERVED
    })
    .await;

    // Everybody behind a trusted proxy comes from one address.
    let proxied = server(|admin| {
        limited(admin);
        admin.trusted_proxies = vec!["127.0.0.2/32".parse().unwrap()];
    })
    .await;
    let unlimited = server(|admin| admin.connections_per_address = 0).await;
    for server in [&proxied, &unlimited] {
        let mut open = Vec::new();
        for _ in 0..5 {
            let (stream, answer) = asked_from("127.0.0.2", server.address).await;
            assert_eq!(answer, SERVED);
            open.push(stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_counts_the_connections_that_it_sends_away() {
    let space = TestSpace::new();
    let serve = tokio::task::block_in_place(|| {
        let extra = ["--workers", "1", "--admin-connections-per-address", "1"];
        Serve::start(&space.url, &space.namespace, &extra)
    });
    let sent_away = || {
        tokio::task::block_in_place(|| serve.sample("postrider_admin_refused_total", "limit=\"connections\""))
    };
    let address = SocketAddr::from(([127, 0, 0, 1], serve.admin_port()));
    assert!(sent_away().abs() < 0.5);
    let (first, answer) = asked_from("127.0.0.2", address).await;
    assert_eq!(answer, "HTTP/1.1 404");
    assert_eq!(asked_from("127.0.0.2", address).await.1, "");
    assert!((sent_away() - 1.0).abs() < 0.5, "{}", sent_away());
    let open = tokio::task::block_in_place(|| serve.metric("postrider_admin_connections"));
    assert!((open - 1.0).abs() < 0.5, "what was sent away is not open: {open}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_a_request_that_takes_too_long() {
    let space = TestSpace::new();
    let flags = ["--workers", "1", "--request-timeout", "10ms", "--admin-request-timeout", "10010ms"];
    let serve = tokio::task::block_in_place(|| Serve::start(&space.url, &space.namespace, &flags));
    let token = tokio::task::block_in_place(|| create_token(&space.url, &space.namespace));
    let address = SocketAddr::from(([127, 0, 0, 1], serve.admin_port()));
    let mut slow = connect(address).await;
    let begun = Instant::now();
    slow.write_all(put_head(&token, 100_000).as_bytes()).await.unwrap();
    // Fast enough for the limit on a body's pace (1 KiB a second), and far too slow to be there in time.
    let (mut reader, mut writer) = slow.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(&[b' '; 200]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = String::new();
    let reading = async {
        let mut part = [0; 4096];
        while !answer.contains("GATEWAY_TIMEOUT") {
            match reader.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.push_str(&String::from_utf8_lossy(&part[..count])),
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("an end in time");
    let took = begun.elapsed();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("not finished within 10.01 s"), "{answer}");
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(14), "{took:?}");
    drop(reader);
    dripping.await.unwrap();
    let refused =
        tokio::task::block_in_place(|| serve.sample("admin_refused_total", "limit=\"request time\""));
    assert!((refused - 1.0).abs() < 0.5, "{refused}");
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_given_up() {
    let server = server(|admin| admin.write_timeout = Duration::from_millis(300)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    // Never reads: once both ends' buffers are full of answers, the server's writes stand still.
    let (reader, mut writer) = stream.into_split();
    let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1_000);
    let flooding = async { while writer.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(LIMIT, flooding).await.expect("the server closes the connection");
    drop(reader);
    server.nobody().get("/").await.refused(404, "NOT_FOUND", "unknown");
}

#[tokio::test]
async fn the_drain_answers_what_is_in_flight_and_takes_nothing_new() {
    let server = server(|_| {}).await;
    let token = admin_token(&server).await;
    let mut idle = connect(server.address).await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one_answer(&mut idle).await.starts_with("HTTP/1.1 404"));
    let mut under_way = under_way(server.address, &token).await;
    server.stop();
    assert_eq!(rest(&mut idle).await, "", "idle connections are closed");
    eventually("the listener to close", async || TcpStream::connect(server.address).await.is_err()).await;
    under_way.write_all(b"]").await.unwrap();
    let answer = rest(&mut under_way).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let server = server(|admin| admin.drain_timeout = Duration::from_millis(300)).await;
    let token = admin_token(&server).await;
    let mut stuck = under_way(server.address, &token).await;
    let begun = Instant::now();
    server.stop();
    assert_eq!(rest(&mut stuck).await, "", "what is in flight at the drain's end is cut off");
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_answers_what_is_in_flight() {
    let space = TestSpace::new();
    let serve =
        tokio::task::block_in_place(|| Serve::start(&space.url, &space.namespace, &["--workers", "1"]));
    let token = tokio::task::block_in_place(|| create_token(&space.url, &space.namespace));
    let address = SocketAddr::from(([127, 0, 0, 1], serve.admin_port()));
    let mut under_way = under_way(address, &token).await;
    signal(serve.pid(), "TERM");
    eventually("the listener to close", async || TcpStream::connect(address).await.is_err()).await;
    under_way.write_all(b"]").await.unwrap();
    let answer = rest(&mut under_way).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_and_guess_nothing() {
    let server = server(|_| {}).await;
    let admin = server.caller("org_1", Role::Admin).await;
    for answer in [
        admin.get(CONFIGS).await,
        admin.get("/nowhere").await,
        server.nobody().get(CONFIGS).await,
        admin.put(CONFIGS, &serde_json::json!(7)).await,
    ] {
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{answer:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        assert!(answer.headers.get("strict-transport-security").is_none(), "only over TLS");
    }
}

#[tokio::test]
async fn pages_may_call_from_the_origins_that_are_named_and_from_no_others() {
    let closed = server(|_| {}).await;
    let open = server(|admin| admin.cors_origins = vec!["https://console.example".into()]).await;
    let asked = |server: &AdminServer, origin: &str| {
        server.nobody().with("origin", origin).with("access-control-request-method", "PUT")
    };
    let ours = asked(&open, "https://console.example").try_out(http::Method::OPTIONS, CONFIGS, vec![]).await;
    assert_eq!(ours.status, 204);
    assert_eq!(ours.headers["access-control-allow-origin"], "https://console.example");
    let may_send = ours.headers["access-control-allow-headers"].to_str().unwrap();
    // The last one is how a page goes on with the live tail.
    for name in ["authorization", "content-type", "x-organisation-id", "last-event-id"] {
        assert!(may_send.split(", ").any(|allowed| allowed == name), "{name}");
    }
    let refused = [(&open, "https://evil.example"), (&closed, "https://console.example")];
    for (server, origin) in refused {
        let answer = asked(server, origin).try_out(http::Method::OPTIONS, CONFIGS, vec![]).await;
        assert_eq!(answer.status, 405, "{origin}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
    let admin = open.caller("org_1", Role::Admin).await;
    let called = admin.with("origin", "https://console.example").get(CONFIGS).await;
    assert_eq!(called.headers["access-control-allow-origin"], "https://console.example");
    assert_eq!(called.headers["vary"], "origin");
    let called = admin.with("origin", "https://evil.example").get(CONFIGS).await;
    assert!(called.headers.get("access-control-allow-origin").is_none());
    assert_eq!(called.headers["vary"], "origin", "a cache must not give one origin another's answer");
}
