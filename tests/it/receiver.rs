//! The receiver by behaviour: what it answers to what a sender, or a stranger, sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::signature::Secret;
use postrider::receiver::{Receiver, ReceiverOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestSpace, eventually};

const SECRET: &str = "whsec_test_secret";

fn options() -> ReceiverOptions {
    ReceiverOptions::new(Secret::new(SECRET).unwrap())
}

fn body(nonce: &str) -> String {
    format!(
        r#"{{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"{nonce}","data":{{}}}}"#
    )
}

async fn send(addr: SocketAddr, method: &str, signature: Option<&str>, body: &[u8]) -> u16 {
    let signature = signature.map(|s| format!("X-Nudj-Signature: {s}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} /hook HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nX-Nudj-Delivery-Id: dlv_1\r\n\
         {signature}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A receiver that refuses by the announced length may close before it has read everything.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).split(' ').nth(1).expect("a status line").parse().expect("a status")
}

async fn post(receiver: &Receiver, body: &str) -> u16 {
    let signature = Secret::new(SECRET).unwrap().signing_key().sign(body.as_bytes());
    send(receiver.addr(), "POST", Some(std::str::from_utf8(&signature).unwrap()), body.as_bytes()).await
}

/// What `GET` or `DELETE /stats` answers.
async fn stats_by(method: &str, addr: SocketAddr) -> serde_json::Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} /stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn only_a_right_signature_over_the_raw_body_is_accepted_and_only_once() {
    let processed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&processed);
    let receiver = Receiver::start(ReceiverOptions {
        arrivals_max: 2,
        processed: Some(Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        })),
        ..options()
    })
    .await
    .unwrap();
    let vector = br#"{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"evt_example","data":{"user":{"id":"u1"}}}"#;
    let right = "sha256=66fd83446109192d3bb148d9fbbaba9755d39e463d5f59c9aacf2861acb7f364";
    let addr = receiver.addr();
    assert_eq!(send(addr, "POST", None, vector).await, 401);
    assert_eq!(send(addr, "POST", Some("sha256=00"), vector).await, 401);
    assert_eq!(send(addr, "POST", Some(right), b"{}").await, 401);
    assert_eq!(send(addr, "POST", Some(right), vector).await, 200);
    assert_eq!(send(addr, "POST", Some(right), vector).await, 200);
    assert_eq!(send(addr, "GET", None, b"").await, 405);
    assert_eq!(send(addr, "POST", None, &vec![b' '; 1024 * 1024 + 1]).await, 413);
    assert_eq!(post(&receiver, r#"{"data":{}}"#).await, 200, "the delivery id stands in for the nonce");
    assert_eq!(post(&receiver, "no json").await, 400);

    let shown = stats_by("GET", addr).await;
    assert_eq!(shown["received"], 9);
    assert_eq!(shown["delayMs"]["count"], 2, "those with a timestamp: {shown}");
    let begun_anew = stats_by("DELETE", addr).await;
    assert_eq!((&begun_anew["received"], &begun_anew["delayMs"]["count"]), (&9.into(), &0.into()));
    let stats = receiver.stats();
    receiver.stop().await;
    assert_eq!((stats.received(), stats.verified(), stats.bad_signature()), (9, 4, 3));
    assert_eq!((stats.accepted(), stats.duplicates(), stats.refused()), (2, 1, 3));
    assert_eq!(processed.load(Ordering::Relaxed), 2);
    let arrivals = stats.arrivals();
    assert_eq!(arrivals.len(), 2, "bounded");
    assert_eq!((arrivals[0].nonce.as_str(), arrivals[0].delivery_id.as_str()), ("evt_example", "dlv_1"));
    assert_eq!(arrivals[0].timestamp, Some(UnixMillis(1_777_626_000_000)));
    assert!(TcpStream::connect(addr).await.is_err(), "a stopped receiver listens no more");
}

#[tokio::test]
async fn nonces_are_remembered_in_redis_across_restarts_for_a_day() {
    let space = TestSpace::new();
    let with_redis = || ReceiverOptions {
        dedupe_redis_url: Some(space.url.clone()),
        dedupe_namespace: space.namespace.clone(),
        ..options()
    };
    let first = Receiver::start(with_redis()).await.unwrap();
    assert_eq!(post(&first, &body("n1")).await, 200);
    assert_eq!((first.stats().accepted(), first.stats().duplicates()), (1, 0));
    first.stop().await;

    let second = Receiver::start(with_redis()).await.unwrap();
    assert_eq!(post(&second, &body("n1")).await, 200);
    assert_eq!(post(&second, &body("n2")).await, 200);
    assert_eq!((second.stats().accepted(), second.stats().duplicates()), (1, 1));
    second.stop().await;

    let ttl: i64 =
        redis::cmd("TTL").arg(format!("{}:received:n1", space.namespace)).query(&mut space.raw()).unwrap();
    assert!((86_300..=86_400).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_failed_event_is_not_recorded_and_without_its_store_the_receiver_asks_to_come_again() {
    let space = TestSpace::new();
    let with_redis = |fail_rate| ReceiverOptions {
        dedupe_redis_url: Some(space.url.clone()),
        dedupe_namespace: space.namespace.clone(),
        fail_rate,
        ..options()
    };
    let failing = Receiver::start(with_redis(1.0)).await.unwrap();
    assert_eq!(post(&failing, &body("n1")).await, 503);
    assert_eq!(failing.stats().failed(), 1);
    let sound = Receiver::start(with_redis(0.0)).await.unwrap();
    assert_eq!(post(&sound, &body("n1")).await, 200);
    assert_eq!((sound.stats().accepted(), sound.stats().duplicates()), (1, 0));

    let away = Receiver::start(ReceiverOptions {
        dedupe_redis_url: Some("redis://127.0.0.1:1".into()),
        ..options()
    })
    .await
    .unwrap();
    assert_eq!(post(&away, &body("n1")).await, 503);
    assert_eq!((away.stats().accepted(), away.stats().failed()), (0, 1));
}

#[tokio::test]
async fn it_is_gone_from_the_nth_request_on_and_answers_the_status_it_is_told() {
    let gone = Receiver::start(ReceiverOptions { gone_after: Some(2), ..options() }).await.unwrap();
    assert_eq!(post(&gone, &body("n1")).await, 200);
    assert_eq!(post(&gone, &body("n2")).await, 410);
    assert_eq!(post(&gone, &body("n1")).await, 410);
    assert_eq!((gone.stats().accepted(), gone.stats().gone()), (1, 2));

    let refusing = Receiver::start(ReceiverOptions { status: 422, ..options() }).await.unwrap();
    assert_eq!(post(&refusing, &body("n1")).await, 422);
    assert_eq!(refusing.stats().failed(), 1);

    assert!(Receiver::start(ReceiverOptions { status: 99, ..options() }).await.is_err());
    assert!(Receiver::start(ReceiverOptions { fail_rate: 1.5, ..options() }).await.is_err());
}

#[tokio::test]
async fn a_hanging_receiver_never_answers_and_still_stops() {
    let hanging = Receiver::start(ReceiverOptions { hang: true, ..options() }).await.unwrap();
    let (addr, stats) = (hanging.addr(), hanging.stats());
    let body = body("n1");
    let signature = Secret::new(SECRET).unwrap().signing_key().sign(body.as_bytes());
    let signature = String::from_utf8(signature.to_vec()).unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {addr}\r\nX-Nudj-Signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the request to arrive", async || stats.verified() == 1).await;
    hanging.stop().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is closed");
    assert_eq!(answer, b"");
}
