//! `postrider configs recover|replay` to the end, as somebody at a terminal sees it: the bar, the last line, the exit
//! code; against a live server and a receiver that counts.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::cli_api::{command, text};
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_for};

/// A stage whose endpoint answers what the test says.
fn stage(extra: &[&str]) -> (Stage, Put, Arc<AtomicU16>) {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, extra);
    let answer = Arc::new(AtomicU16::new(200));
    let shared = Arc::clone(&answer);
    let config = stage.config("/a", json!({}), move |_: &_| Reply::status(shared.load(Ordering::Relaxed)));
    (stage, config, answer)
}

/// A terminal of 120 columns: the end that shows it, and the end that a program writes to.
fn terminal() -> (File, OwnedFd) {
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shown).unwrap();
    unlockpt(&shown).unwrap();
    let name = ptsname(&shown, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let written = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    tcsetwinsize(&written, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (shown.into(), written)
}

impl Stage {
    /// Runs a command whose stderr is a terminal: its exit code, its stdout, and all that the terminal was sent.
    fn at_a_terminal(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let (mut shown, written) = terminal();
        let watching = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // Ends with an error once nobody has the other end any more.
            let _ = shown.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut command = command(&self.serve().url(), &self.token, words);
        let command = command.env("TERM", "xterm").stdout(Stdio::piped()).stderr(Stdio::from(written));
        let child = command.spawn().unwrap();
        // The command keeps a handle of the terminal, which has to go for the reading to end.
        command.stderr(Stdio::null());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout), watching.join().unwrap())
    }
}

/// Every count that a bar over `total` showed, in order.
fn counts(drawn: &str, total: usize) -> Vec<usize> {
    let end = format!("/{total},");
    drawn
        .match_indices(&end)
        .filter_map(|(at, _)| drawn[..at].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

/// A bar that grew: it showed a beginning, something between, and nothing twice backwards.
fn assert_grew(drawn: &str, total: usize) {
    let counts = counts(drawn, total);
    assert!(counts.is_sorted(), "{counts:?}");
    assert!(counts.iter().any(|count| (1..total).contains(count)), "{counts:?} in {drawn:?}");
}

fn job_of(line: &str) -> String {
    line.split([' ', ':']).find(|word| word.starts_with("job_")).expect("a job's id").to_owned()
}

#[test]
fn a_replay_is_watched_to_its_end() {
    let (stage, early, _) = stage(&["--events-age", "1h"]);
    stage.add_many(60);
    stage.wait_acked();
    stage.wait_arrived(&early, 60);
    let late = stage.config("/late", json!({}), |_: &_| Reply::ok());
    let replay = ["configs", "replay", &late.id, "--since", "1h", "--event", EVENT];
    let with = |more: &[&'static str]| [&replay[..], more].concat();
    assert_eq!(stage.says(&with(&["--dry-run"])), "60 events\n");
    assert!(stage.arrivals.at("/late").is_empty(), "a dry run sends nothing");

    let (code, out, drawn) = stage.at_a_terminal(&with(&["--rate", "30", "--wait"]));
    assert_eq!(code, Some(0), "{drawn}");
    assert!(out.starts_with("replay job_") && out.ends_with(": done, 60 of 60 moved, 0 skipped\n"), "{out}");
    assert_grew(&drawn, 60);
    let came = stage.wait_arrived(&late, 60);
    let mut nonces: Vec<&str> = came.iter().map(|arrival| arrival.nonce.as_str()).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!((came.len(), nonces.len()), (60, 60), "each event once");
    assert!(came.iter().all(|arrival| arrival.verified));
    assert_eq!(stage.arrivals.at("/a").len(), 60, "the other config got nothing again");

    // Begun without waiting, and watched later; no bar where stderr is no terminal.
    let begun = stage.run(&with(&["--rate", "60"]));
    let said = text(&begun.stdout);
    assert_eq!(begun.status.code(), Some(0));
    assert!(
        said.contains(": running, ") && text(&begun.stderr).contains("--wait shows how far it is"),
        "{said}"
    );
    let job = job_of(&said);
    let watched = stage.run(&["configs", "jobs", "show", &late.id, &job, "--wait"]);
    assert_eq!(watched.status.code(), Some(0));
    assert_eq!(text(&watched.stdout), format!("replay {job}: done, 60 of 60 moved, 0 skipped\n"));
    assert_eq!(text(&watched.stderr), "");
    stage.wait_arrived(&late, 120);
    stage.wait_acked();
    assert_eq!(stage.arrivals.at("/late").len(), 120);
}

#[test]
fn a_recovery_is_watched_to_its_end_and_one_that_is_cancelled_elsewhere_ends_with_1() {
    let (stage, config, answer) = stage(&[]);
    let id = config.id.as_str();
    answer.store(400, Ordering::Relaxed);
    stage.add_many(60);
    wait_for("all to fail", || stage.log_count(&config, "failed") == 60);
    stage.wait_acked();
    answer.store(200, Ordering::Relaxed);
    let recover = ["configs", "recover", id, "--since", "1h", "--event", EVENT];
    let (code, out, drawn) = stage.at_a_terminal(&[&recover[..], &["--rate", "30", "--wait"]].concat());
    assert_eq!(code, Some(0), "{drawn}");
    assert!(out.starts_with("recover job_") && out.ends_with(": done, 60 of 60 moved, 0 skipped\n"), "{out}");
    assert_grew(&drawn, 60);
    wait_for("all to be delivered", || stage.log_count(&config, "delivered") == 60);
    let arrivals = stage.arrivals.at("/a");
    assert_eq!(arrivals.len(), 120);
    assert!(arrivals.iter().all(|arrival| arrival.nth <= 2 && arrival.verified), "each once more, no more");
    assert_eq!(stage.says(&[&recover[..], &["--dry-run"]].concat()), "0 failed deliveries\n");

    answer.store(400, Ordering::Relaxed);
    stage.add_some(60..90);
    wait_for("the next to fail", || stage.log_count(&config, "failed") == 30);
    stage.wait_acked();
    let waiting = stage.begin(&[&recover[..], &["--rate", "1", "--wait", "--output", "json"]].concat());
    let jobs = || stage.json(&["configs", "jobs", "list", id])["jobs"].clone();
    wait_for("the second job to move some", || {
        jobs().as_array().unwrap().len() == 2 && jobs()[0]["moved"].as_u64().unwrap() > 0
    });
    let job = jobs()[0]["id"].as_str().unwrap().to_owned();
    stage.json(&["configs", "jobs", "cancel", id, &job]);
    let (code, out, said) = waiting.finish();
    assert_eq!(code, Some(1), "{said}");
    let ended: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{out:?}: {error}"));
    assert_eq!((&ended["id"], &ended["state"]), (&json!(job), &json!("cancelled")), "{ended}");
    assert!(ended["moved"].as_u64().unwrap() < 30, "{ended}");
    assert_eq!(said, "", "no bar where stderr is no terminal");
    let shown = stage.run(&["configs", "jobs", "show", id, &job, "--wait"]);
    assert_eq!(shown.status.code(), Some(1), "cancelled is not done");
    assert!(text(&shown.stdout).contains(": cancelled"), "{}", text(&shown.stdout));
}
