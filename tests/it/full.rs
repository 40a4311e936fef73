//! A Redis that is full: everything that was accepted is delivered, and the memory comes back by itself.

use std::time::Duration;

use serde_json::json;

use crate::arrivals::Reply;
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Stage};
use crate::support::{RedisServer, wait_for, wait_within};

/// Adds events until Redis refuses one for want of memory; gives how many it took.
fn fill(stage: &Stage) -> usize {
    let mut raw = redis::Client::open(stage.url.as_str()).unwrap().get_connection().unwrap();
    let data = format!("{{\"note\":\"{}\"}}", "x".repeat(900));
    for number in 0..1_000_000 {
        let mut command = redis::cmd("XADD");
        command.arg(stage.keys.events()).arg("*").arg("organisationId").arg(ORGANISATION);
        command.arg("event").arg(EVENT).arg("data").arg(&data).arg("nonce").arg(format!("n-{number}"));
        if let Err(error) = command.query::<String>(&mut raw) {
            assert_eq!(error.code(), Some("OOM"), "{error}");
            return number;
        }
    }
    panic!("Redis never filled");
}

fn memory(stage: &Stage) -> u64 {
    let info: String = stage.redis(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("used_memory");
    line.trim().parse().expect("a number")
}

#[test]
fn a_full_redis_drains_by_itself_while_the_server_runs_and_after_a_start() {
    let server = RedisServer::start(&["--maxmemory", "24mb", "--repl-backlog-size", "16kb"]);
    let mut stage = Stage::on(&server.url(), "full", &["--workers", "2"]);
    stage.config("/a", json!({}), |_| Reply::ok());
    let before = memory(&stage);
    // A server that starts on a full Redis.
    assert!(stage.take_serve().terminate().success());
    let taken = fill(&stage);
    println!("Redis took {taken} events; {} of {before} bytes before", memory(&stage));
    stage.start_serve(&["--workers", "2"]);
    let mut most_pending = 0;
    wait_within(Duration::from_secs(60), "every event to be delivered", || {
        if stage.serve().metric("redis_memory_ratio") >= 0.85 {
            most_pending = most_pending.max(stage.pending());
        }
        stage.arrivals.tally().nonces == taken
    });
    stage.wait_acked();
    assert_eq!(stage.arrivals.tally().requests, taken, "no duplicates");
    wait_for("the memory to come back", || stage.serve().metric("redis_memory_ratio") < 0.85);
    wait_for("the stream to be trimmed", || stage.redis::<usize>(&["XLEN", &stage.keys.events()]) <= 200);
    println!("{} bytes after; at most {most_pending} pending while nearly full", memory(&stage));

    // And one that runs while it fills.
    let second = fill_again(&stage, taken);
    wait_within(Duration::from_secs(60), "the second load", || stage.arrivals.tally().nonces == second);
    stage.wait_acked();
    wait_for("the memory to come back", || stage.serve().metric("redis_memory_ratio") < 0.85);
    assert_eq!(stage.arrivals.tally().requests, stage.arrivals.tally().nonces, "no duplicates");
    stage.add(&[("nonce", "the last")]);
    wait_for("another event", || stage.arrivals.tally().nonces == second + 1);
}

/// Adds twice what fitted, as fast as Redis takes it, trying again what it refuses; gives the nonces in all.
fn fill_again(stage: &Stage, first: usize) -> usize {
    let mut raw = redis::Client::open(stage.url.as_str()).unwrap().get_connection().unwrap();
    let data = format!("{{\"note\":\"{}\"}}", "x".repeat(900));
    let (mut refused, mut number) = (0, 0);
    while number < 2 * first {
        let mut command = redis::cmd("XADD");
        command.arg(stage.keys.events()).arg("*").arg("organisationId").arg(ORGANISATION);
        command.arg("event").arg(EVENT).arg("data").arg(&data).arg("nonce").arg(format!("m-{number}"));
        match command.query::<String>(&mut raw) {
            Ok(_) => number += 1,
            Err(error) => {
                assert_eq!(error.code(), Some("OOM"), "{error}");
                refused += 1;
            }
        }
    }
    println!("{refused} refusals on the way");
    first + number
}
