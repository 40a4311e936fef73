//! The publisher: appends events at a steady rate as a producer of its own would, with one connection and nothing
//! of the program's, and notes for every event what Redis said.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postrider::domain::ids::StreamId;
use redis::{ConnectionLike, Value};

use crate::ledger::{Ledger, Note};

/// The organisation of every scenario.
pub(crate) const ORGANISATION: &str = "org_chaos";
/// The type of every event.
pub(crate) const EVENT: &str = "reward.earned";

/// How often a batch is appended.
const BEAT: Duration = Duration::from_millis(10);
/// Most events of one batch.
const BATCH_MAX: usize = 500;
/// Every tenth event is larger by this, so that its body lies apart from the deliveries that wait for it.
const LARGE: usize = 5_000;
/// Longest wait for Redis before the batch counts as unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What to publish, and where.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) stream: String,
    /// Events a second; 0: as fast as Redis takes them.
    pub(crate) rate: usize,
    /// Stops by itself after so many; `usize::MAX`: runs until it is stopped.
    pub(crate) count: usize,
    /// Bytes of padding in `data`.
    pub(crate) padding: usize,
    /// Stops by itself after so many refusals.
    pub(crate) refusals_max: usize,
}

/// A publisher that runs; it stops when dropped.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn start(plan: Plan, ledger: Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || publish(&plan, &ledger, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// Stops and waits until the last batch is noted.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Waits until it has published what its plan says.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the publisher");
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[allow(clippy::disallowed_methods)] // A thread of its own may block.
fn publish(plan: &Plan, ledger: &Ledger, stop: &AtomicBool) {
    let first = ledger.book().notes.len();
    let mut connection = None;
    let (mut began, mut published, mut refused) = (Instant::now(), 0, 0);
    while !stop.load(Ordering::Relaxed) && published < plan.count && refused < plan.refusals_max {
        let Some(open) = connection.as_mut() else {
            connection = connect(&plan.url);
            // What was not published while Redis was away is not made up for.
            began = Instant::now() - Duration::from_secs_f64(published as f64 / plan.rate.max(1) as f64);
            std::thread::sleep(BEAT);
            continue;
        };
        let owed = (began.elapsed().as_secs_f64() * plan.rate as f64) as usize;
        let due = if plan.rate == 0 { BATCH_MAX } else { owed.saturating_sub(published) };
        let due = due.min(BATCH_MAX).min(plan.count - published);
        if due > 0 {
            let notes = append(open, plan, first + published, due);
            published += due;
            refused += notes.iter().filter(|note| matches!(note, Note::Refused(_))).count();
            if notes.contains(&Note::Unknown) {
                connection = None;
            }
            ledger.book().notes.extend(notes);
        }
        if plan.rate > 0 {
            std::thread::sleep(BEAT);
        }
    }
}

fn connect(url: &str) -> Option<redis::Connection> {
    let client = redis::Client::open(url).expect("a url");
    let connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    connection.set_write_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    Some(connection)
}

fn append(connection: &mut redis::Connection, plan: &Plan, first: usize, count: usize) -> Vec<Note> {
    let mut pipeline = redis::pipe();
    let data = |bytes: usize| format!(r#"{{"user":{{"id":"u1"}},"pad":"{}"}}"#, "x".repeat(bytes));
    let (small, large) = (data(plan.padding), data(plan.padding + LARGE));
    for number in first..first + count {
        let data = if number % 10 == 0 { &large } else { &small };
        pipeline
            .cmd("XADD")
            .arg(&plan.stream)
            .arg("*")
            .arg(&[("organisationId", ORGANISATION), ("event", EVENT), ("data", data)])
            .arg(&[("nonce", format!("n-{number}"))]);
    }
    match connection.req_packed_commands(&pipeline.get_packed_pipeline(), 0, count) {
        Ok(values) => values.into_iter().map(note).collect(),
        Err(_) => vec![Note::Unknown; count],
    }
}

fn note(value: Value) -> Note {
    let text = match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::ServerError(error) => return Note::Refused(error.code().to_owned()),
        other => panic!("XADD answered {other:?}"),
    };
    let id = text.split_once('-').and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
    let (ms, seq) = id.unwrap_or_else(|| panic!("XADD answered {text:?}"));
    Note::Acknowledged(StreamId { ms, seq })
}
