//! `postrider configs` and `postrider logs` as HTTP clients: what they send, and what they make of answers. The
//! server here is a script: one canned answer, the request kept.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

/// Answers one request and gives it.
fn server(status: &str, body: &str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    let answer = format!("{head}\r\nconnection: close\r\n\r\n{body}");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        while !is_whole(&request) {
            let count = stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the request ended early");
            request.extend_from_slice(&chunk[..count]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, answering)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn run(url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .env("POSTRIDER_URL", url)
        .env("POSTRIDER_TOKEN", "prt_secret")
        .env_remove("POSTRIDER_ORGANISATION")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const CONFIG: &str = r#"{"id":"66f0c0ffee00000000000020","url":"https://h.example/x","events":["a.b","a.c"],
    "secret":"whsec_****cdef","active":false,"maxRetries":3,"disabledReason":"gone"}"#;

#[test]
fn configs_are_put_from_flags_and_listed() {
    let (url, request) = server("200 OK", CONFIG);
    let flags =
        ["configs", "put", "--url", "https://h.example/x", "--events", "a.b,a.c", "--secret", "whsec_1"];
    let output = run(&url, &[&flags[..], &["--header", "X-Key: k"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let request = request.join().unwrap();
    assert!(request.starts_with("PUT /api/v2/admin/webhooks/configs HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer prt_secret\r\n"));
    let body: serde_json::Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = serde_json::json!({ "url": "https://h.example/x", "events": ["a.b", "a.c"],
        "secret": "whsec_1", "headers": { "X-Key": "k" } });
    assert_eq!(body, expected);

    let (url, request) = server("200 OK", &format!("[{CONFIG}]"));
    let output = run(&url, &["configs", "list", "--organisation", "org_1"]);
    let shown = text(&output.stdout);
    assert!(shown.contains("false (gone)") && shown.contains("a.b,a.c"), "{shown}");
    assert!(request.join().unwrap().contains("x-organisation-id: org_1\r\n"));
}

#[test]
fn an_error_of_the_api_is_told_and_ends_with_1() {
    let body =
        r#"{"message":"url: expected https","code":"BAD_REQUEST","data":{"httpStatus":400,"path":"p"}}"#;
    let (url, _request) = server("400 Bad Request", body);
    let output = run(&url, &["configs", "put", "--url", "http://h.example"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("the server answered 400: url: expected https (BAD_REQUEST)"), "{said}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&format!("http://{closed}"), &["configs", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is 'postrider serve' running there?"));
    assert!(!text(&output.stderr).contains("prt_secret"));
}

#[test]
fn logs_are_filtered_and_shown() {
    let body = r#"{"totalCount":7,"edges":[{"deliveryId":"dlv_1","event":"a.b","status":"retrying","attempts":1,
        "lastAttemptAt":"2026-05-01T09:00:01.000Z","responseStatus":null,"error":"connection \u001b[2Jrefused",
        "url":"https://h.example/x"}]}"#;
    let (url, request) = server("200 OK", body);
    let filters = ["--config", "66f0c0ffee00000000000020", "--event", "a.b", "--status", "retrying"];
    let times = ["--since", "2026-05-01T09:00:00+02:00", "--limit", "5", "--skip", "2"];
    let output = run(&url, &[&["logs", "list"][..], &filters, &times].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let request = request.join().unwrap();
    for part in [
        "GET /api/v2/admin/webhooks/logs?",
        "webhookConfigId=66f0c0ffee00000000000020",
        "event=a.b",
        "status=retrying",
        "since=2026-05-01T07%3A00%3A00.000Z",
        "limit=5",
        "skip=2",
    ] {
        assert!(request.contains(part), "{part:?} is not in {request}");
    }
    let shown = text(&output.stdout);
    assert!(shown.contains("dlv_1") && shown.contains("refused") && !shown.contains('\u{1b}'), "{shown}");
    assert!(text(&output.stderr).contains("1 of 7 deliveries"));
}

#[test]
fn one_delivery_is_shown_with_its_attempts() {
    let id = "dlv_00000000000000000000000000";
    let body = format!(
        r#"{{"deliveryId":"{id}","status":"failed","payload":{{"n":123456789012345678901234567890}},
            "payloadRaw":"{{\"event\":\"a.b\"}}","attemptLog":[
            {{"attempt":1,"success":false,"responseStatus":503,"createdAt":"2026-05-01T09:00:01.000Z"}}]}}"#
    );
    let (url, request) = server("200 OK", &body);
    let output = run(&url, &["logs", "show", id]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(request.join().unwrap().starts_with(&format!("GET /api/v2/admin/webhooks/logs/{id} HTTP/1.1")));
    let shown = text(&output.stdout);
    assert!(shown.contains("status: failed") && shown.contains("503"), "{shown}");
    assert!(shown.contains("payload: {\"event\":\"a.b\"}\n"), "{shown}");

    let (url, _request) = server("200 OK", &body);
    let output = run(&url, &["logs", "show", id, "--output", "json"]);
    assert_eq!(text(&output.stdout), format!("{body}\n"), "a script gets what the server wrote");
}

/// A server with a certificate of its own for 127.0.0.1: gives its URL and the certificate.
fn tls_server(body: &'static str) -> (String, String, JoinHandle<()>) {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        // A client that does not trust the certificate ends here.
        if stream.read(&mut [0; 4096]).is_ok() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).unwrap();
        }
    });
    (url, signed.cert.pem(), answering)
}

#[test]
fn tls_is_spoken_and_a_stranger_is_not_trusted() {
    let (url, certificate, answering) = tls_server("[]");
    let (_directory, roots) = crate::support::file_with(&certificate);
    let list = |url: &str, roots: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_postrider"))
            .args(["configs", "list", "--output", "json", "--server", url, "--token", "prt_secret"])
            .env("SSL_CERT_FILE", roots)
            .output()
            .unwrap()
    };
    let output = list(&url, &roots);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), "[]");
    answering.join().unwrap();

    let (url, _certificate, answering) = tls_server("[]");
    let output = list(&url, &roots);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("certificate"), "{}", text(&output.stderr));
    answering.join().unwrap();
}
