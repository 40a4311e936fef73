//! By which way attempts leave: through a forward proxy, from a source address, with a certificate of their own.

use postrider::attempt::ObstacleKind;
use postrider::domain::config::ClientCertificate;
use postrider::settings::egress::{ca_file, no_proxy, proxy_url, source_addresses};

use super::*;
use crate::forward_proxy::{ForwardProxy, Manner};

const CREDENTIALS: &str = "user:hunter2@";

fn through(proxy: &ForwardProxy) -> DeliverySettings {
    DeliverySettings { proxy_url: proxy_url::parse(&proxy.url(CREDENTIALS)).unwrap(), ..delivery() }
}

async fn tls_receiver(authority: &Authority) -> Receiver {
    Receiver::start_on("127.0.0.1:0", Some(authority.acceptor("localhost")), |_, _| ok()).await
}

fn trusting_with(authority: &Authority, settings: &DeliverySettings) -> Attempter {
    let egress = Egress::with_roots(settings, &limits(), vec![authority.root.clone()]).unwrap();
    Attempter::new(Arc::new(egress))
}

#[tokio::test]
async fn https_goes_through_a_tunnel_that_is_kept() {
    let (authority, proxy) = (Authority::new(), ForwardProxy::start(Manner::Forward));
    let receiver = tls_receiver(&authority).await;
    let attempter = trusting_with(&authority, &through(&proxy));
    let endpoint = endpoint(&format!("https://localhost:{}/hook", receiver.port));
    for _ in 0..3 {
        assert_eq!(attempter.attempt(&endpoint, &outgoing()).await.status(), Some(200));
    }
    let heads = proxy.heads();
    let wanted = format!(
        "CONNECT localhost:{0} HTTP/1.1\r\nHost: localhost:{0}\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n\r\n",
        receiver.port
    );
    assert_eq!(heads, [wanted], "one tunnel, whose name the proxy looks up");
    let request = String::from_utf8(receiver.requests().remove(0)).unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n") && !request.contains("roxy"), "{request}");
    assert_eq!((receiver.requests().len(), receiver.connections()), (3, 1));
}

#[tokio::test]
async fn http_goes_in_absolute_form() {
    let proxy = ForwardProxy::start(Manner::Forward);
    let receiver = Receiver::start(|_, _| ok()).await;
    let attempter = attempter(&through(&proxy), &limits());
    assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
    let head = proxy.heads().remove(0);
    let start = format!("POST http://127.0.0.1:{0}/hook HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\n", receiver.port);
    assert!(head.starts_with(&start), "{head}");
    assert!(head.contains("\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_exempt_goes_directly() {
    let proxy = ForwardProxy::start(Manner::Answer(500));
    let receiver = Receiver::start(|_, _| ok()).await;
    let settings = DeliverySettings { no_proxy: no_proxy::parse("127.0.0.0/8").unwrap(), ..through(&proxy) };
    let result = attempter(&settings, &limits()).attempt(&at(&receiver), &outgoing()).await;
    assert_eq!((result.status(), proxy.heads().len()), (Some(200), 0));
}

#[tokio::test]
async fn what_the_proxy_does_wrong_is_an_obstacle() {
    let (authority, proxy) = (Authority::new(), ForwardProxy::start(Manner::Hang));
    let receiver = tls_receiver(&authority).await;
    let endpoint = endpoint(&format!("https://localhost:{}/hook", receiver.port));
    let settings = DeliverySettings { connect_timeout: Duration::from_millis(300), ..through(&proxy) };
    // Also where the whole deadline is no longer.
    for request_timeout in [Duration::from_secs(5), Duration::from_millis(300)] {
        let settings = DeliverySettings { request_timeout, ..settings.clone() };
        let attempter = trusting_with(&authority, &settings);
        for (manner, words) in [
            (Manner::Hang, "no tunnel within 300ms"),
            (Manner::Answer(407), "with 407"),
            (Manner::Answer(500), "with 500"),
            (Manner::Answer(503), "with 503"),
            (Manner::Answer(302), "with 302"),
        ] {
            proxy.set(manner);
            let obstacle = attempter.try_attempt(&endpoint, &outgoing()).await.unwrap_err();
            assert_eq!(obstacle.kind, ObstacleKind::Proxy);
            assert!(obstacle.message.contains(words), "{obstacle}");
            assert!(!obstacle.message.contains("hunter2"), "{obstacle}");
        }
    }
    let gone = free_port();
    let settings = DeliverySettings {
        proxy_url: proxy_url::parse(&format!("http://127.0.0.1:{gone}")).unwrap(),
        ..delivery()
    };
    let obstacle =
        trusting_with(&authority, &settings).try_attempt(&endpoint, &outgoing()).await.unwrap_err();
    assert!(obstacle.message.contains("connection refused"), "{obstacle}");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn credentials_that_the_proxy_refuses_are_an_obstacle_for_http_too() {
    let proxy = ForwardProxy::start(Manner::Answer(407));
    let receiver = Receiver::start(|_, _| ok()).await;
    let attempter = attempter(&through(&proxy), &limits());
    let obstacle = attempter.try_attempt(&at(&receiver), &outgoing()).await.unwrap_err();
    assert!(obstacle.message.contains("407"), "{obstacle}");
    proxy.set(Manner::Answer(502));
    let result = attempter.attempt(&at(&receiver), &outgoing()).await;
    assert_eq!(result.outcome(), Outcome::Retryable, "of the absolute form, nobody knows who said it");
}

#[tokio::test]
async fn a_target_that_the_proxy_denies_is_blocked_and_faults_behind_it_are_the_endpoints() {
    let (authority, proxy) = (Authority::new(), ForwardProxy::start(Manner::Answer(403)));
    let receiver = tls_receiver(&authority).await;
    let endpoint = endpoint(&format!("https://localhost:{}/hook", receiver.port));
    let attempter = trusting_with(&authority, &through(&proxy));
    let result = attempter.attempt(&endpoint, &outgoing()).await;
    assert_fault(&result, FaultKind::Blocked, "403");
    proxy.set(Manner::Forward);
    let stranger = trusting_with(&Authority::new(), &through(&proxy));
    assert_fault(&stranger.attempt(&endpoint, &outgoing()).await, FaultKind::Tls, "");
    let settings = DeliverySettings { allow_targets: Vec::new(), ..through(&proxy) };
    let before = proxy.heads().len();
    let literal = super::endpoint(&format!("https://127.0.0.1:{}/", receiver.port));
    let result = trusting_with(&authority, &settings).attempt(&literal, &outgoing()).await;
    assert_fault(&result, FaultKind::Blocked, "loopback");
    assert_eq!(proxy.heads().len(), before, "a literal address is judged before the proxy is asked");
}

#[tokio::test]
async fn authorities_of_a_file_are_trusted() {
    let authority = Authority::new();
    let receiver = tls_receiver(&authority).await;
    let endpoint = endpoint(&format!("https://localhost:{}/hook", receiver.port));
    let without = attempter(&delivery(), &limits());
    assert_fault(&without.attempt(&endpoint, &outgoing()).await, FaultKind::Tls, "");
    let (_directory, path) = crate::support::file_with(&authority.pem());
    let settings =
        DeliverySettings { ca_file: ca_file::parse(path.to_str().unwrap()).unwrap(), ..delivery() };
    let with = attempter(&settings, &limits());
    assert_eq!(with.attempt(&endpoint, &outgoing()).await.status(), Some(200));
}

#[tokio::test]
async fn connections_leave_from_the_source_address() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let from = |text: &str| DeliverySettings {
        source_addresses: source_addresses::parse(text).unwrap(),
        ..delivery()
    };
    let attempter = attempter(&from("127.0.0.7"), &limits());
    assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
    assert_eq!(receiver.peers(), ["127.0.0.7"]);
    let other_family = super::attempter(&from("::1"), &limits());
    let result = other_family.attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Connection, "--source-address");
    let error = Egress::new(&from("192.0.2.77"), &limits()).unwrap_err().to_string();
    assert!(error.contains("source-address 192.0.2.77"), "{error}");
}

#[tokio::test]
async fn a_config_shows_its_own_certificate_and_no_other_config_does() {
    let authority = Authority::new();
    let tls = authority.acceptor_asking("localhost");
    let receiver = Receiver::start_on("127.0.0.1:0", Some(tls), |_, _| ok()).await;
    let url = format!("https://localhost:{}/hook", receiver.port);
    let attempter = trusting(&authority);
    let (certificate, key) = authority.client("client.example");
    let mut shown = config(1, &url, &[]);
    shown.client_certificate = Some(ClientCertificate::new(&certificate, &key).unwrap());
    let endpoint = shown.endpoint().unwrap();
    for _ in 0..2 {
        assert_eq!(attempter.attempt(&endpoint, &outgoing()).await.status(), Some(200));
    }
    assert_eq!(receiver.connections(), 1, "kept");
    let none = config(2, &url, &[]).endpoint().unwrap();
    let result = attempter.attempt(&none, &outgoing()).await;
    assert!(result.reply.is_err(), "{result:?}");
    let (certificate, key) = Authority::new().client("stranger.example");
    shown.client_certificate = Some(ClientCertificate::new(&certificate, &key).unwrap());
    let result = attempter.attempt(&shown.endpoint().unwrap(), &outgoing()).await;
    assert!(
        result.reply.is_err(),
        "a changed certificate takes neither the kept connection nor its session: {result:?}"
    );
    assert_eq!(receiver.requests().len(), 2);
}
