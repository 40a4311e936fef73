//! Connections that are kept: reuse, the race with the server's close, age and cap.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let attempter = attempter(&delivery(), &limits());
    assert_eq!(attempter.idle_connections(), 0);
    for _ in 0..50 {
        assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
        assert_eq!(attempter.idle_connections(), 1);
    }
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 50));
}

#[tokio::test]
async fn concurrent_attempts_have_a_connection_each_and_the_last_used_comes_first() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let attempter = attempter(&delivery(), &limits());
    let (endpoint, outgoing) = (at(&receiver), outgoing());
    let many = (0..8).map(|_| attempter.attempt(&endpoint, &outgoing));
    let results = futures_util::future::join_all(many).await;
    assert!(results.iter().all(|result| result.status() == Some(200)));
    assert_eq!((receiver.connections(), attempter.idle_connections()), (8, 8));
    attempter.attempt(&endpoint, &outgoing).await.reply.unwrap();
    assert_eq!((receiver.connections(), attempter.idle_connections()), (8, 8));
}

#[tokio::test]
async fn an_answer_with_connection_close_ends_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let receiver = Receiver::start(move |_, _| say(answer)).await;
        let attempter = attempter(&delivery(), &limits());
        for _ in 0..2 {
            assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
            assert_eq!(attempter.idle_connections(), 0);
        }
        assert_eq!(receiver.connections(), 2);
    }
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec();
    let receiver = Receiver::start(move |_, _| Act::SayAndClose(until_close.clone())).await;
    assert_eq!(once(&receiver).await.reply.unwrap().excerpt, "until the end");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_used() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let receiver = Receiver::start(move |_, _| Act::SayAndClose(answer.clone())).await;
    let attempter = attempter(&delivery(), &limits());
    for number in 1..=3 {
        assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
        eventually("the receiver's close", async || receiver.closed() == number).await;
    }
    assert_eq!((receiver.connections(), receiver.requests().len()), (3, 3));
}

/// The first connection answers once, then reads a request and does `act`.
async fn second_request_meets(act: Act) -> (AttemptResult, Receiver) {
    let receiver = Receiver::start(move |connection, request| match (connection, request) {
        (0, 1) => act.clone(),
        _ => ok(),
    })
    .await;
    let attempter = attempter(&delivery(), &limits());
    assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
    assert_eq!(attempter.idle_connections(), 1);
    (attempter.attempt(&at(&receiver), &outgoing()).await, receiver)
}

#[tokio::test]
async fn a_request_lost_to_the_servers_close_is_sent_again_on_a_fresh_connection() {
    for act in [Act::SayAndClose(Vec::new()), Act::SayAndReset(Vec::new())] {
        let (result, receiver) = second_request_meets(act).await;
        assert_eq!(result.status(), Some(200));
        let requests = receiver.requests();
        assert_eq!((receiver.connections(), requests.len()), (2, 3));
        assert_eq!(requests[1], requests[2], "the same bytes");
    }
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_a_byte_of_an_answer_came() {
    let (result, receiver) = second_request_meets(Act::SayAndClose(b"H".to_vec())).await;
    assert_fault(&result, FaultKind::Protocol, "inside the answer");
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_request_is_sent_again_only_once_and_never_after_a_fresh_connection() {
    let receiver = Receiver::start(|connection, request| match (connection, request) {
        (0, 0) => ok(),
        _ => Act::SayAndClose(Vec::new()),
    })
    .await;
    let attempter = attempter(&delivery(), &limits());
    assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
    let result = attempter.attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Connection, "connection closed before an answer");
    assert_eq!((receiver.connections(), receiver.requests().len()), (2, 3));
    // Nothing is kept now, so this one is fresh.
    let result = attempter.attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Connection, "before an answer");
    assert_eq!((receiver.connections(), receiver.requests().len()), (3, 4));
}

#[tokio::test]
async fn the_second_sending_has_what_is_left_of_the_same_deadline() {
    let receiver = Receiver::start(|connection, request| match (connection, request) {
        (0, 0) => ok(),
        (0, _) => Act::SayAndClose(Vec::new()),
        _ => Act::SayAndHang(Vec::new()),
    })
    .await;
    let attempter = attempter(&impatient(), &limits());
    assert_eq!(attempter.attempt(&at(&receiver), &outgoing()).await.status(), Some(200));
    let result = attempter.attempt(&at(&receiver), &outgoing()).await;
    assert_fault(&result, FaultKind::Timeout, "no answer");
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_changed_url_gets_a_new_connection() {
    let (old, new) = (Receiver::start(|_, _| ok()).await, Receiver::start(|_, _| ok()).await);
    let attempter = attempter(&delivery(), &limits());
    attempter.attempt(&at(&old), &outgoing()).await.reply.unwrap();
    assert_eq!(attempter.idle_connections(), 1);
    attempter.attempt(&at(&new), &outgoing()).await.reply.unwrap();
    assert_eq!(attempter.idle_connections(), 1);
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
    eventually("the old connection to close", async || old.closed() == 1).await;
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let limits = LimitSettings { idle_connection_timeout: Duration::from_millis(200), ..limits() };
    let attempter = attempter(&delivery(), &limits);
    attempter.attempt(&at(&receiver), &outgoing()).await.reply.unwrap();
    let since = Instant::now();
    eventually("the idle connection's time to pass", async || {
        attempter.close_idle();
        attempter.idle_connections() == 0
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(195), "{:?}", since.elapsed());
    eventually("the receiver to see it", async || receiver.closed() == 1).await;
}

#[tokio::test]
async fn idle_connections_are_capped_over_all_workers_and_the_oldest_go_first() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let limits = LimitSettings { idle_connections_max: 3, ..limits() };
    let egress = Arc::new(Egress::new(&delivery(), &limits).unwrap());
    let (one, two) = (Attempter::new(Arc::clone(&egress)), Attempter::new(egress));
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let endpoints: Vec<_> = (0..5).map(|sequence| config(sequence, &url, &[]).endpoint().unwrap()).collect();
    for endpoint in &endpoints[..4] {
        one.attempt(endpoint, &outgoing()).await.reply.unwrap();
    }
    assert_eq!((receiver.connections(), one.idle_connections()), (4, 3));
    // The other worker has nothing to close, so it keeps nothing.
    two.attempt(&endpoints[4], &outgoing()).await.reply.unwrap();
    assert_eq!((one.idle_connections(), two.idle_connections()), (3, 0));
    // The first config's connection was the oldest; the others are still there.
    for endpoint in endpoints[1..4].iter().rev() {
        one.attempt(endpoint, &outgoing()).await.reply.unwrap();
    }
    assert_eq!(receiver.connections(), 5);
    one.attempt(&endpoints[0], &outgoing()).await.reply.unwrap();
    assert_eq!(receiver.connections(), 6);
    drop(one);
    two.attempt(&endpoints[4], &outgoing()).await.reply.unwrap();
    assert_eq!(two.idle_connections(), 1, "a worker that ends gives its share back");
}

#[tokio::test]
async fn an_attempt_that_is_dropped_leaves_nothing_behind() {
    let receiver = Receiver::start(|_, _| Act::SayAndHang(Vec::new())).await;
    let attempter = attempter(&delivery(), &limits());
    let (endpoint, outgoing) = (at(&receiver), outgoing());
    let attempt = attempter.attempt(&endpoint, &outgoing);
    assert!(tokio::time::timeout(Duration::from_millis(100), attempt).await.is_err());
    assert_eq!(attempter.idle_connections(), 0);
    eventually("the connection to close", async || receiver.closed() == receiver.connections()).await;
}
