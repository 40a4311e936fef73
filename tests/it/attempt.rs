//! One attempt against receivers that behave, misbehave and lie.

mod egress;
mod kept;
mod receiver;
mod targets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider::attempt::{Attempter, Egress, Outgoing};
use postrider::domain::clock::UnixMillis;
use postrider::domain::config::{Config, CustomHeaders, Endpoint, EndpointUrl, Subscription};
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId, OrganisationId, ShardNumber, StreamId};
use postrider::domain::outcome::{AttemptResult, FaultKind, Outcome};
use postrider::domain::signature::Secret;
use postrider::settings::delivery::DeliverySettings;
use postrider::settings::limits::LimitSettings;

use self::receiver::{Act, Authority, Receiver, ok, say};
use crate::support::{eventually, free_port};

const BODY: &str = r#"{"event":"reward.earned","data":{"n":1e400,"é":"\u00e9"}}"#;

fn delivery() -> DeliverySettings {
    DeliverySettings {
        allow_http: true,
        allow_targets: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..DeliverySettings::default()
    }
}

fn limits() -> LimitSettings {
    LimitSettings::default()
}

fn attempter(delivery: &DeliverySettings, limits: &LimitSettings) -> Attempter {
    Attempter::new(Arc::new(Egress::new(delivery, limits).unwrap()))
}

fn trusting(authority: &Authority) -> Attempter {
    let egress = Egress::with_roots(&delivery(), &limits(), vec![authority.root.clone()]).unwrap();
    Attempter::new(Arc::new(egress))
}

fn config(sequence: u32, url: &str, headers: &[(&str, &str)]) -> Config {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config {
        id: ConfigId::new([7; 8], ConfigSequence(sequence)),
        organisation: OrganisationId::new("org_1").unwrap(),
        version: 1,
        url: EndpointUrl::new(url, true).unwrap(),
        events: vec![Subscription::new("reward.earned").unwrap()],
        secret: Secret::new("whsec_test_secret").unwrap(),
        previous_secret: None,
        client_certificate: None,
        active: true,
        max_retries: 3,
        retry_policy: postrider::domain::retry_policy::RetryPolicy::default(),
        retry_on: postrider::domain::retry_on::RetryOn::NONE,
        rate_limit: None,
        http_method: Default::default(),
        body_format: Default::default(),
        entity_filters: Default::default(),
        standard_webhooks: false,
        log_payloads: true,
        headers: CustomHeaders::new(headers).unwrap(),
        created_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        disabled: None,
    }
}

fn endpoint(url: &str) -> Endpoint {
    config(1, url, &[]).endpoint().unwrap()
}

fn at(receiver: &Receiver) -> Endpoint {
    endpoint(&format!("http://127.0.0.1:{}/hook", receiver.port))
}

fn outgoing() -> Outgoing {
    let event = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: 0 }).unwrap();
    Outgoing {
        at: UnixMillis(1_777_626_000_000),
        delivery: event.delivery(ConfigSequence(1)),
        event_type: "reward.earned".into(),
        traceparent: None,
        body: Bytes::from_static(BODY.as_bytes()),
    }
}

/// Makes attempts that nothing of ours stands in the way of.
trait Attempt {
    async fn attempt(&self, endpoint: &Endpoint, outgoing: &Outgoing) -> AttemptResult;
}

impl Attempt for Attempter {
    async fn attempt(&self, endpoint: &Endpoint, outgoing: &Outgoing) -> AttemptResult {
        self.try_attempt(endpoint, outgoing).await.expect("an attempt")
    }
}

/// One attempt by an attempter of its own.
async fn once(receiver: &Receiver) -> AttemptResult {
    attempter(&delivery(), &limits()).attempt(&at(receiver), &outgoing()).await
}

#[track_caller]
fn assert_fault(result: &AttemptResult, kind: FaultKind, words: &str) {
    let fault = result.reply.as_ref().expect_err("a fault");
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.message.contains(words), "{fault}");
}

// === The request ===

#[tokio::test]
async fn the_request_is_these_bytes() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let url = format!("http://127.0.0.1:{}/a%20b/c?d=e&f", receiver.port);
    let headers = [("Authorization", "Bearer x"), ("X-API-Key", "k")];
    let endpoint = config(1, &url, &headers).endpoint().unwrap();
    let mut outgoing = outgoing();
    outgoing.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let result = attempter(&delivery(), &limits()).attempt(&endpoint, &outgoing).await;
    assert_eq!(result.outcome(), Outcome::Delivered);
    assert_eq!(result.reply.unwrap().excerpt, "ok");

    let request = String::from_utf8(receiver.requests().remove(0)).unwrap();
    let key = Secret::new("whsec_test_secret").unwrap().signing_key();
    let signature = String::from_utf8(key.sign(BODY.as_bytes()).to_vec()).unwrap();
    let wanted = format!(
        "POST /a%20b/c?d=e&f HTTP/1.1\r\n\
         Host: 127.0.0.1:{}\r\n\
         User-Agent: Postrider/{}\r\n\
         Content-Type: application/json\r\n\
         X-Nudj-Signature: {signature}\r\n\
         X-Nudj-Event: reward.earned\r\n\
         X-Nudj-Delivery-Id: {}\r\n\
         Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         Authorization: Bearer x\r\n\
         X-Api-Key: k\r\n\
         Content-Length: {}\r\n\
         \r\n{BODY}",
        receiver.port,
        env!("CARGO_PKG_VERSION"),
        outgoing.delivery,
        BODY.len(),
    );
    assert_eq!(request, wanted);
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(key.verify(body.as_bytes(), signature.as_bytes()));
}

#[tokio::test]
async fn a_configs_own_user_agent_wins() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let endpoint = config(1, &url, &[("user-agent", "Acme/1")]).endpoint().unwrap();
    attempter(&delivery(), &limits()).attempt(&endpoint, &outgoing()).await.reply.unwrap();
    let request = String::from_utf8(receiver.requests().remove(0)).unwrap();
    assert!(request.contains("\r\nUser-Agent: Acme/1\r\n") && !request.contains("Postrider"), "{request}");
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let body = Bytes::from(vec![b'7'; 300 * 1024]);
    let outgoing = Outgoing { body: body.clone(), ..outgoing() };
    let attempter = attempter(&delivery(), &limits());
    for _ in 0..2 {
        assert_eq!(attempter.attempt(&at(&receiver), &outgoing).await.status(), Some(200));
    }
    assert!(receiver.requests().iter().all(|request| request.ends_with(&body)));
    assert_eq!(receiver.connections(), 1);
}

// === Answers ===

#[tokio::test]
async fn answers_are_read_as_their_framing_says() {
    let chunked = "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 120\r\n\r\n";
    for (answer, status, excerpt) in [
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 204, ""),
        (format!("{chunked}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), 503, "hello world"),
        ("HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\ngone".to_owned(), 410, "gone"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), 200, ""),
    ] {
        let receiver = Receiver::start(move |_, _| say(&answer)).await;
        let attempter = attempter(&delivery(), &limits());
        for _ in 0..3 {
            let reply = attempter.attempt(&at(&receiver), &outgoing()).await.reply.unwrap();
            assert_eq!((reply.status, &*reply.excerpt), (status, excerpt.as_bytes()));
            assert_eq!(reply.retry_after, (status == 503).then_some(Duration::from_secs(120)));
            assert_eq!(attempter.idle_connections(), 1);
        }
        assert_eq!(receiver.connections(), 1, "{status} keeps the connection");
    }
}

#[tokio::test]
async fn informational_answers_are_passed_over() {
    let receiver = Receiver::start(|_, _| {
        say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    assert_eq!(once(&receiver).await.status(), Some(200));
}

#[tokio::test]
async fn a_retry_after_date_is_measured_by_the_receivers_own_clock() {
    let receiver = Receiver::start(|_, _| {
        say("HTTP/1.1 503 Busy\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let answer = once(&receiver).await.reply.unwrap();
    assert_eq!(answer.retry_after, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let other = Receiver::start(|_, _| ok()).await;
    let location = format!("http://127.0.0.1:{}/", other.port);
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let receiver = Receiver::start(move |_, _| say(&answer)).await;
    let result = once(&receiver).await;
    assert_eq!((result.status(), result.outcome()), (Some(302), Outcome::Refused));
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_huge_body_is_cut_and_its_status_counts() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n";
    let receiver = Receiver::start(|_, _| Act::Flood(head.to_vec())).await;
    let attempter = attempter(&delivery(), &limits());
    let answer = attempter.attempt(&at(&receiver), &outgoing()).await.reply.unwrap();
    assert_eq!((answer.status, answer.excerpt.len()), (200, 1024));
    assert_eq!(attempter.idle_connections(), 0);
    eventually("the receiver to be cut off", async || receiver.closed() == 1).await;
    let flooded = receiver.seen.flooded.load(std::sync::atomic::Ordering::SeqCst);
    assert!(flooded < 32 * 1024 * 1024, "{flooded} bytes were taken");
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_whole_and_the_connection_kept() {
    let answer = [b"HTTP/1.1 500 No\r\nContent-Length: 65536\r\n\r\n".to_vec(), vec![b'y'; 65_536]].concat();
    let receiver = Receiver::start(move |_, _| Act::Say(answer.clone())).await;
    let attempter = attempter(&delivery(), &limits());
    let answer = attempter.attempt(&at(&receiver), &outgoing()).await.reply.unwrap();
    assert_eq!((answer.status, answer.excerpt.len(), attempter.idle_connections()), (500, 1024, 1));
}

// === Silence and nonsense ===

fn impatient() -> DeliverySettings {
    DeliverySettings { request_timeout: Duration::from_millis(300), ..delivery() }
}

async fn times_out(act: Act, words: &str) {
    let receiver = Receiver::start(move |_, _| act.clone()).await;
    let attempter = attempter(&impatient(), &limits());
    let started = Instant::now();
    let result = attempter.attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Timeout, words);
    assert_fault(&result, FaultKind::Timeout, "within 300ms");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    assert!(result.took >= Duration::from_millis(300) && result.took <= took);
    assert_eq!(attempter.idle_connections(), 0);
    eventually("the connection to close", async || receiver.closed() == 1).await;
}

#[tokio::test]
async fn a_receiver_that_hangs_is_a_timeout_at_the_deadline() {
    times_out(Act::SayAndHang(Vec::new()), "no answer").await;
}

#[tokio::test]
async fn a_head_that_stops_is_a_timeout() {
    times_out(Act::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-".to_vec()), "no answer").await;
}

#[tokio::test]
async fn a_body_that_drips_is_a_timeout_whatever_its_status() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec();
    times_out(Act::Drip(head), "answered 200, but its body did not end").await;
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_fault() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    ] {
        let receiver = Receiver::start(move |_, _| say(garbage)).await;
        let attempter = attempter(&delivery(), &limits());
        let result = attempter.attempt(&at(&receiver), &outgoing()).await;
        assert_fault(&result, FaultKind::Protocol, "");
        assert_eq!((receiver.requests().len(), attempter.idle_connections()), (1, 0), "{garbage}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_a_protocol_fault() {
    let head = b"HTTP/1.1 200 OK\r\nX-A: ".to_vec();
    let receiver = Receiver::start(move |_, _| Act::Flood(head.clone())).await;
    assert_fault(&once(&receiver).await, FaultKind::Protocol, "not HTTP");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_protocol_fault() {
    let part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    for (act, words) in [
        (Act::SayAndReset(part.clone()), "reset"),
        (Act::SayAndClose(part), "inside the answer"),
        (Act::SayAndClose(b"HTTP/1.1 20".to_vec()), "inside the answer"),
    ] {
        let receiver = Receiver::start(move |_, _| act.clone()).await;
        assert_fault(&once(&receiver).await, FaultKind::Protocol, words);
        assert_eq!(receiver.connections(), 1);
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connection_fault() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let result = attempter(&delivery(), &limits()).attempt(&endpoint(&url), &outgoing()).await;
    assert_fault(
        &result,
        FaultKind::Connection,
        "connection refused (os error 111), connecting to 127.0.0.1:",
    );
    assert_eq!(result.outcome(), Outcome::Retryable);
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_a_dns_fault() {
    let url = format!("http://{}.example/", "a".repeat(64));
    let result = attempter(&delivery(), &limits()).attempt(&endpoint(&url), &outgoing()).await;
    assert_fault(&result, FaultKind::Dns, "");
}
