//! What an idle replica asks of Redis.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::arrivals::Reply;
use crate::stage::Stage;
use crate::support::{RedisServer, wait_within};

/// How long commands are counted: a whole round of what happens least often, but for what a minute brings.
const COUNTED: Duration = Duration::from_secs(15);

/// Commands that clients sent, and those that scripts called (`MONITOR` names their caller `lua`).
fn commands_within(port: u16, time: Duration) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("redis");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    stream.write_all(b"MONITOR\r\n").expect("MONITOR");
    let (mut sent, mut nested) = (BTreeMap::new(), BTreeMap::new());
    let (mut lines, mut line) = (BufReader::new(stream), String::new());
    let until = Instant::now() + time;
    while Instant::now() < until {
        // A line that the timeout cut goes on with the next call.
        if lines.read_line(&mut line).is_err() || !line.ends_with('\n') {
            continue;
        }
        if let Some((caller, words)) = line.split_once("] ") {
            let name = words.split('"').nth(1).unwrap_or_default().to_uppercase();
            let counts = if caller.ends_with("lua") { &mut nested } else { &mut sent };
            *counts.entry(name).or_insert(0) += 1;
        }
        line.clear();
    }
    (sent, nested)
}

#[test]
#[allow(clippy::cast_precision_loss)]
fn an_idle_replica_asks_redis_at_most_five_times_a_second() {
    let server = RedisServer::start(&[]);
    let stage = Stage::on(&server.url(), "idle", &["--workers", "4", "--lease", "10s"]);
    stage.config("/a", json!({}), |_| Reply::ok());
    stage.add_many(100);
    stage.wait_acked();
    // Until the sampler has told itself that nothing comes any more.
    assert!(!commands_within(server.port, Duration::from_secs(6)).0.is_empty());
    let (sent, nested) = commands_within(server.port, COUNTED);
    let total: usize = sent.values().sum();
    let a_second = total as f64 / COUNTED.as_secs_f64();
    println!("an idle replica of 4 workers sends {a_second:.1} commands a second: {sent:?}");
    let nested_total = nested.values().sum::<usize>() as f64 / COUNTED.as_secs_f64();
    println!("its scripts call {nested_total:.1} a second: {nested:?}");
    assert!(sent.contains_key("EVALSHA") && sent.contains_key("ZRANGE"), "the replica was seen: {sent:?}");
    assert!(a_second <= 5.0, "{a_second} commands a second: {sent:?}");
}

#[test]
fn a_replica_that_waits_for_events_stops_at_once() {
    let server = RedisServer::start(&[]);
    let mut stage = Stage::on(&server.url(), "idle", &["--workers", "4", "--lease", "10s"]);
    // The read that waits has begun; it would go on for seconds.
    wait_within(Duration::from_secs(10), "a blocked reader", || {
        stage
            .redis::<String>(&["INFO", "clients"])
            .lines()
            .any(|line| line.strip_prefix("blocked_clients:").is_some_and(|count| count.trim() == "2"))
    });
    let began = Instant::now();
    assert!(stage.take_serve().terminate().success());
    assert!(began.elapsed() < Duration::from_millis(1_500), "stopped after {:?}", began.elapsed());
    let consumers: Vec<redis::Value> =
        stage.redis(&["XINFO", "CONSUMERS", &stage.keys.events(), postrider::redis::keys::GROUP]);
    assert!(consumers.is_empty(), "everybody has left: {consumers:?}");
}
