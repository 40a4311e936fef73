//! The live tail of a running server: everything comes, it goes on where it was left, and it ends when it must.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::serving::{BINARY, WEBHOOKS, create_token};
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, wait_for};

/// An open stream.
struct Tail {
    reader: BufReader<TcpStream>,
    status: u16,
}

/// One event of it.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

// === impl Tail ===

impl Tail {
    fn open(stage: &Stage, token: &str, query: &str, more: &str) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", stage.serve().admin_port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // HTTP/1.0: the answer is not cut into chunks.
        let head = format!(
            "GET {WEBHOOKS}/logs/stream{query} HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{more}\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut tail = Self { reader: BufReader::new(socket), status: 0 };
        let first = tail.line().unwrap();
        tail.status = first.split(' ').nth(1).unwrap().parse().unwrap();
        while tail.line().is_some_and(|line| !line.is_empty()) {}
        if tail.status == 200 {
            assert_eq!(tail.line().as_deref(), Some(": connected"));
        }
        tail
    }

    /// `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        if read.as_ref().is_ok_and(|count| *count > 0) { Some(line.trim_end().to_owned()) } else { None }
    }

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id) = (String::new(), String::new());
        loop {
            let line = self.line()?;
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some(Event { name, id, data: serde_json::from_str(text).unwrap() });
            }
        }
    }

    /// The next `count` events of the tests' type.
    fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended after {events:?}"));
            events.extend(Some(event).filter(|event| event.data["event"] == EVENT));
        }
        events
    }

    /// Reads to the end; how long that took.
    fn ended(mut self) -> Duration {
        let began = Instant::now();
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("an end, not a timeout");
        began.elapsed()
    }
}

fn deliveries(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.data["deliveryId"].as_str().unwrap().to_owned()).collect()
}

fn stage(extra: &[&str]) -> Stage {
    let space = TestSpace::new();
    Stage::on(&space.url, &space.namespace, extra)
}

#[test]
fn every_attempt_comes_also_of_configs_made_later_and_a_tail_goes_on_where_it_was_left() {
    let stage = stage(&["--retry-schedule", "100ms"]);
    let fails_once =
        |arrival: &crate::arrivals::Arrival| Reply::status(if arrival.nth == 1 { 503 } else { 200 });
    let first = stage.config("/first", json!({}), fails_once);
    let mut tail = Tail::open(&stage, &stage.token, "", "");
    let mut successes =
        Tail::open(&stage, &stage.token, &format!("?success=true&webhookConfigId={}", first.id), "");
    assert_eq!((tail.status, successes.status), (200, 200));

    stage.add(&[]);
    let [failed, delivered] = <[Event; 2]>::try_from(tail.take(2)).unwrap();
    assert_eq!((failed.name.as_str(), &failed.data["success"]), ("attempt", &json!(false)));
    assert_eq!((&failed.data["responseStatus"], &failed.data["status"]), (&json!(503), &json!("retrying")));
    assert_eq!((&delivered.data["attempt"], &delivered.data["status"]), (&json!(2), &json!("delivered")));
    assert_eq!(delivered.data["deliveryId"], failed.data["deliveryId"]);
    assert_eq!(successes.take(1)[0].data, delivered.data);

    let later = stage.config("/later", json!({}), |_| Reply::status(200));
    stage.add_many(50);
    let mut seen = tail.take(150);
    assert!(seen.iter().any(|event| event.data["webhookConfigId"] == later.id.as_str()));
    let mut ids: Vec<&str> = seen.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 150, "each id once");

    // What happens while nobody listens comes to the next one.
    let last = seen.pop().unwrap().id;
    drop(tail);
    stage.add_some(50..100);
    stage.wait_logged(&later, "delivered", 100);
    let mut tail = Tail::open(&stage, &stage.token, "", &format!("last-event-id: {last}\r\n"));
    let mut missing: std::collections::BTreeSet<String> = stage
        .logs(&format!("&status=delivered&webhookConfigId={}", later.id))
        .iter()
        .map(|row| row["deliveryId"].as_str().unwrap().into())
        .collect();
    missing.retain(|delivery| !deliveries(&seen).contains(delivery));
    while !missing.is_empty() {
        let came = deliveries(&tail.take(1));
        missing.retain(|delivery| !came.contains(delivery));
    }
    wait_for("the gauge to count both", || stage.serve().metric("postrider_log_streams") >= 2.0);
}

#[test]
fn a_revoked_token_and_a_stopping_server_end_it_at_once() {
    let mut stage = stage(&[]);
    let other = create_token(&stage.url, &stage.namespace);
    let (revoked, open) = (Tail::open(&stage, &other, "", ""), Tail::open(&stage, &stage.token, "", ""));
    let output = Command::new(BINARY)
        .args(["token", "revoke", "--redis-url", &stage.url, "--namespace", &stage.namespace])
        .arg(postrider::domain::token::TokenText::received(&other).hash().id())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(revoked.ended() < Duration::from_secs(1));
    assert_eq!(Tail::open(&stage, &other, "", "").status, 401);

    let serve = stage.take_serve();
    let began = Instant::now();
    assert!(serve.terminate().success());
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "the drain waited for the stream: {:?}",
        began.elapsed()
    );
    open.ended();
}

#[test]
fn places_are_bounded_per_organisation_and_freed_and_bad_input_is_named() {
    let stage = stage(&["--log-streams-max", "8"]);
    let open: Vec<Tail> = (0..2).map(|_| Tail::open(&stage, &stage.token, "", "")).collect();
    assert!(open.iter().all(|tail| tail.status == 200));
    assert_eq!(Tail::open(&stage, &stage.token, "", "").status, 503);
    drop(open);
    wait_for("a place to be free", || Tail::open(&stage, &stage.token, "", "").status == 200);
    for (query, more, status) in [
        ("?limit=1", "", 400),
        ("?success=maybe", "", 400),
        ("?webhookConfigId=0123456789abcdef00000007", "", 404),
        ("", "last-event-id: 5\r\n", 400),
    ] {
        assert_eq!(Tail::open(&stage, &stage.token, query, more).status, status, "{query}{more}");
    }
}
