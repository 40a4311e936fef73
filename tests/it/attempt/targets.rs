//! Where deliveries may go, and whom they trust.

use super::*;

async fn tls_receiver(authority: &Authority, name: &str) -> Receiver {
    Receiver::start_on("127.0.0.1:0", Some(authority.acceptor(name)), |_, _| ok()).await
}

#[tokio::test]
async fn loopback_is_blocked_without_an_allowed_target() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let settings = DeliverySettings { allow_targets: Vec::new(), ..delivery() };
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"]
    {
        let url = format!("http://{host}:{}/", receiver.port);
        let result = attempter(&settings, &limits()).attempt(&endpoint(&url), &outgoing()).await;
        assert_fault(&result, FaultKind::Blocked, "--allow-target");
        assert_fault(&result, FaultKind::Blocked, "loopback, RFC");
        assert_eq!(result.outcome(), Outcome::Refused);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn http_is_blocked_unless_allowed() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let authority = Authority::new();
    let settings = DeliverySettings { allow_http: false, ..delivery() };
    let egress = Egress::with_roots(&settings, &limits(), vec![authority.root]).unwrap();
    let result = Attempter::new(Arc::new(egress)).attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Blocked, "--allow-http");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_and_a_literal_ipv6_address_are_reached() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let url = format!("http://localhost:{}/", receiver.port);
    let result = attempter(&delivery(), &limits()).attempt(&endpoint(&url), &outgoing()).await;
    assert_eq!(result.status(), Some(200), "{result:?}");

    let receiver = Receiver::start_on("[::1]:0", None, |_, _| ok()).await;
    for host in ["[::1]", "localhost"] {
        let url = format!("http://{host}:{}/", receiver.port);
        let result = attempter(&delivery(), &limits()).attempt(&endpoint(&url), &outgoing()).await;
        assert_eq!(result.status(), Some(200), "{host}: {result:?}");
    }
    let request = String::from_utf8(receiver.requests().remove(0)).unwrap();
    assert!(request.contains(&format!("\r\nHost: [::1]:{}\r\n", receiver.port)), "{request}");
}

#[tokio::test]
async fn https_with_a_trusted_certificate_is_delivered_and_kept() {
    let authority = Authority::new();
    let receiver = tls_receiver(&authority, "localhost").await;
    let attempter = trusting(&authority);
    let endpoint = endpoint(&format!("https://localhost:{}/", receiver.port));
    for _ in 0..3 {
        let result = attempter.attempt(&endpoint, &outgoing()).await;
        assert_eq!(result.status(), Some(200), "{result:?}");
    }
    assert_eq!((receiver.connections(), attempter.idle_connections()), (1, 1));
}

#[tokio::test]
async fn an_untrusted_certificate_is_a_tls_fault() {
    let receiver = tls_receiver(&Authority::new(), "localhost").await;
    let endpoint = endpoint(&format!("https://localhost:{}/", receiver.port));
    let result = trusting(&Authority::new()).attempt(&endpoint, &outgoing()).await;
    assert_fault(&result, FaultKind::Tls, "certificate not trusted: unknown issuer");
    assert_eq!(result.outcome(), Outcome::Retryable);
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_a_tls_fault() {
    let authority = Authority::new();
    let receiver = tls_receiver(&authority, "other.example").await;
    for host in ["localhost", "127.0.0.1"] {
        let endpoint = endpoint(&format!("https://{host}:{}/", receiver.port));
        let result = trusting(&authority).attempt(&endpoint, &outgoing()).await;
        assert_fault(&result, FaultKind::Tls, "certificate not valid for name");
        assert_fault(&result, FaultKind::Tls, "other.example");
    }
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_fault() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let endpoint = endpoint(&format!("https://127.0.0.1:{port}/"));
    let result = trusting(&Authority::new()).attempt(&endpoint, &outgoing()).await;
    assert_fault(&result, FaultKind::Tls, "does not speak TLS");
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_a_timeout_within_the_connect_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = DeliverySettings { connect_timeout: Duration::from_millis(200), ..delivery() };
    let endpoint = endpoint(&format!("https://127.0.0.1:{port}/"));
    let result = attempter(&settings, &limits()).attempt(&endpoint, &outgoing()).await;
    assert_fault(&result, FaultKind::Timeout, "no TLS connection within 200ms");
    assert!(result.took < Duration::from_secs(10), "{:?}", result.took);
}

#[tokio::test]
async fn a_tls_connection_lost_to_the_servers_close_is_replaced() {
    let authority = Authority::new();
    for act in [Act::SayAndClose(Vec::new()), Act::SayAndReset(Vec::new())] {
        let receiver = Receiver::start_on(
            "127.0.0.1:0",
            Some(authority.acceptor("localhost")),
            move |connection, request| {
                if (connection, request) == (0, 1) { act.clone() } else { ok() }
            },
        )
        .await;
        let attempter = trusting(&authority);
        let endpoint = endpoint(&format!("https://localhost:{}/", receiver.port));
        for _ in 0..2 {
            let result = attempter.attempt(&endpoint, &outgoing()).await;
            assert_eq!(result.status(), Some(200), "{result:?}");
        }
        assert_eq!((receiver.connections(), receiver.requests().len()), (2, 3));
    }
}

#[tokio::test]
async fn a_tls_answer_that_only_the_close_ends_is_whole_without_close_notify() {
    let authority = Authority::new();
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec();
    let receiver = Receiver::start_on("127.0.0.1:0", Some(authority.acceptor("localhost")), move |_, _| {
        Act::SayAndCloseRudely(until_close.clone())
    })
    .await;
    let endpoint = endpoint(&format!("https://localhost:{}/", receiver.port));
    let result = trusting(&authority).attempt(&endpoint, &outgoing()).await;
    assert_eq!(result.reply.unwrap().excerpt, "until the end");
}
