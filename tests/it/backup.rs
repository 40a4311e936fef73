//! Backup and restore as docs/OPERATIONS.md, "Backup and restore", describes them: a copy of the append-only file,
//! or a snapshot, taken under load, started as a fresh server. Nothing that was acknowledged before the backup is
//! lost; what is sent twice was delivered after it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::arrivals::Reply;
use crate::stage::Stage;
use crate::support::{RedisServer, free_port, wait_for, wait_within};

/// Events that are delivered and acknowledged before the backup.
const DONE: usize = 1_000;
/// With those that are added before it and are on their way while it is taken.
const BEFORE: usize = 6_000;
/// Events that are added after it.
const AFTER: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(60);

/// A server under load: some events are done, many are on their way.
fn under_load(server: &RedisServer) -> Stage {
    let stage = Stage::on(&server.url(), "kept", &["--retry-schedule", "200ms", "--breaker-failures", "0"]);
    stage.config("/all", json!({ "maxRetries": 10 }), |_| Reply::ok().after(Duration::from_millis(20)));
    stage.add_some(0..DONE);
    wait_within(LIMIT, "the first to arrive", || stage.arrivals.tally().nonces >= DONE);
    stage.wait_acked();
    stage.add_some(DONE..BEFORE);
    wait_within(LIMIT, "deliveries to flow", || stage.arrivals.tally().nonces >= DONE + 200);
    stage
}

fn info(stage: &Stage, name: &str) -> String {
    let text: String = stage.redis(&["INFO", "persistence"]);
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("it").trim().to_owned()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// The old Redis is lost with its replicas; replicas start on the restored one.
fn restored(mut stage: Stage, first: RedisServer, second: &RedisServer) {
    let arrivals_at_loss = {
        stage.take_serve().kill();
        drop(first);
        stage.arrivals.tally()
    };
    stage.move_to(&second.url(), &["--retry-schedule", "200ms", "--breaker-failures", "0"]);
    wait_within(LIMIT, "everything from before the backup", || {
        let nonces = stage.arrivals.nonces();
        (0..BEFORE).all(|number| nonces.contains(&format!("n-{number}")))
    });
    stage.wait_acked_within(LIMIT);
    let tally = stage.arrivals.tally();
    let duplicates = tally.requests - tally.nonces;
    println!(
        "{duplicates} duplicates of {} requests; {} before the loss",
        tally.requests, arrivals_at_loss.requests
    );
    // Only what was not yet acknowledged when the backup was taken can come twice.
    assert!(duplicates <= BEFORE - DONE, "{tally:?}");
    let arrivals = stage.arrivals.at("/all");
    let mut times = HashMap::new();
    arrivals.iter().for_each(|arrival| *times.entry(arrival.nonce.as_str()).or_insert(0) += 1);
    assert!((0..DONE).all(|number| times[format!("n-{number}").as_str()] == 1), "done is done");
    assert_eq!(tally.unverified, 0);
    let log = stage.serve().log_text();
    assert!(!log.contains("\"ERROR\""), "{log}");
}

#[test]
fn a_copy_of_the_append_only_file_taken_under_load_restores_everything_acknowledged() {
    let first = RedisServer::start(&[]);
    let stage = under_load(&first);
    // No rewrite may begin while files are copied.
    stage.redis::<()>(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]);
    wait_for("no rewrite", || info(&stage, "aof_rewrite_in_progress") == "0");
    // While the disk syncs, Redis acknowledges for up to two seconds what it has not written to the file yet.
    wait_for("what was acknowledged to be in the file", || info(&stage, "aof_pending_bio_fsync") == "0");
    let copy = tempfile::tempdir().expect("a directory");
    copy_folder(&first.directory.path().join("appendonlydir"), &copy.path().join("appendonlydir"));
    stage.redis::<()>(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "100"]);
    let at_backup = stage.arrivals.tally().nonces;
    assert!(at_backup < BEFORE, "the backup was taken under load: {at_backup}");
    stage.add_some(BEFORE..BEFORE + AFTER);
    wait_within(LIMIT, "deliveries after the backup", || stage.arrivals.tally().nonces > at_backup + 500);

    let second = RedisServer::start_in(copy, free_port(), &[]);
    restored(stage, first, &second);
}

#[test]
fn a_snapshot_taken_under_load_restores_everything_acknowledged() {
    let first = RedisServer::start(&[]);
    let stage = under_load(&first);
    let last: i64 = stage.redis(&["LASTSAVE"]);
    stage.redis::<String>(&["BGSAVE"]);
    wait_for("the snapshot", || {
        info(&stage, "rdb_bgsave_in_progress") == "0" && info(&stage, "rdb_last_bgsave_status") == "ok"
    });
    assert!(stage.redis::<i64>(&["LASTSAVE"]) >= last);
    let copy = tempfile::tempdir().expect("a directory");
    std::fs::copy(first.directory.path().join("dump.rdb"), copy.path().join("dump.rdb")).expect("a copy");
    let at_backup = stage.arrivals.tally().nonces;
    stage.add_some(BEFORE..BEFORE + AFTER);
    wait_within(LIMIT, "deliveries after the backup", || stage.arrivals.tally().nonces > at_backup + 500);

    // With appendonly yes a server does not read dump.rdb: it starts without, and is switched on when all is there.
    let second = RedisServer::start_in(copy, free_port(), &["--appendonly", "no"]);
    let mut connection = redis::Client::open(second.url()).unwrap().get_connection().unwrap();
    redis::cmd("CONFIG").arg(&["SET", "appendonly", "yes"]).query::<()>(&mut connection).unwrap();
    restored(stage, first, &second);
}
