//! TLS of the admin listener: real handshakes, and certificates that change under open connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::settings::Settings;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{TestSpace, eventually, free_port};
use crate::support_http::AdminServer;

const REQUEST: &[u8] = b"GET /api/v2/admin/webhooks/configs HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Writes a new self-signed certificate and its key, and gives the certificate.
fn write_pair(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // The key first: between the two writes the pair does not fit, which must harm nobody.
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

async fn server(directory: &Path) -> AdminServer {
    let mut settings = Settings::default();
    settings.admin.tls_cert = Some(directory.join("cert.pem"));
    settings.admin.tls_key = Some(directory.join("key.pem"));
    settings.admin.tls_check = Duration::from_millis(50);
    settings.admin.auth_failures_max = 0;
    AdminServer::start_with(TestSpace::new().redis(), settings).await
}

/// A connection that trusts one certificate alone.
async fn connect(
    server: &AdminServer,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// One request on an open connection.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(REQUEST).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}}") {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&part[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_api_speaks_tls_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = write_pair(directory.path());
    let server = server(directory.path()).await;
    let mut stream = connect(&server, &certificate).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("strict-transport-security: max-age="));
    // Plain HTTP is no handshake: it gets no HTTP answer.
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    let mut bytes = Vec::new();
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(!String::from_utf8_lossy(&bytes).contains("HTTP/1.1"));
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_old_ones_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let old = write_pair(directory.path());
    let server = server(directory.path()).await;
    let mut kept = connect(&server, &old).await.unwrap();
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 401"));
    let new = write_pair(directory.path());
    eventually("the new certificate", async || connect(&server, &new).await.is_ok()).await;
    assert!(connect(&server, &old).await.is_err(), "new connections no longer get the old one");
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 401"), "the open connection goes on");

    // Rubbish, a pair that does not fit, and no file at all: the last good one goes on.
    std::fs::write(directory.path().join("cert.pem"), "rubbish").unwrap();
    still_serves(&server, &new).await;
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("cert.pem"), stranger.cert.pem()).unwrap();
    still_serves(&server, &new).await;
    std::fs::remove_file(directory.path().join("key.pem")).unwrap();
    still_serves(&server, &new).await;
    let newest = write_pair(directory.path());
    eventually("the mended files", async || connect(&server, &newest).await.is_ok()).await;
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 401"));
}

/// Over several looks at the files.
async fn still_serves(server: &AdminServer, certificate: &CertificateDer<'static>) {
    for _ in 0..5 {
        assert!(ask(&mut connect(server, certificate).await.unwrap()).await.starts_with("HTTP/1.1 401"));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = write_pair(directory.path());
    let mut settings = Settings::default();
    settings.admin.tls_cert = Some(directory.path().join("cert.pem"));
    settings.admin.tls_key = Some(directory.path().join("key.pem"));
    settings.admin.head_timeout = Duration::from_millis(200);
    let server = AdminServer::start_with(TestSpace::new().redis(), settings).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut bytes)).await;
    assert!(closed.is_ok() && bytes.is_empty());
    assert!(connect(&server, &certificate).await.is_ok());
}

#[test]
fn a_start_with_bad_tls_files_ends_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    write_pair(directory.path());
    let (good, bad) = (directory.path().join("cert.pem"), directory.path().join("bad.pem"));
    std::fs::write(&bad, "rubbish").unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"))
            .args(["serve", "--redis-url", "redis://127.0.0.1:1", "--listen", "127.0.0.1:0"])
            .args(["--ops-listen", &format!("127.0.0.1:{}", free_port())])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = run(&["--tls-cert", good.to_str().unwrap()]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("both of tls-cert and tls-key"), "{text}");
    let (code, text) = run(&["--tls-cert", good.to_str().unwrap(), "--tls-key", bad.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("bad.pem") && text.contains("a private key"), "{text}");
}
