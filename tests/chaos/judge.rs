//! The judge: compares the ledger with what arrived and with what Redis holds at the end. It knows nothing of the
//! program but its promise (docs/RELIABILITY.md).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use postrider::domain::delivery::{DeliveryRecord, FailReason, Standing};
use postrider::domain::ids::{ConfigId, EventId, ShardNumber, StreamId};
use postrider::domain::log::{LogPage, Status};
use postrider::redis::keys::{GROUP, ShardKeys};

use crate::ledger::{Arrival, Book, Fault, Note};

/// A delivery that was taken may come again when a fault hits it before its event is acknowledged: about a second
/// after its answer, and some more for a machine that is loaded with other work.
const OPEN_FOR: Duration = Duration::from_secs(4);

/// What is expected of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) config: ConfigId,
    /// Reasons for which its deliveries may end as failed.
    pub(crate) may_fail: Vec<FailReason>,
}

/// What Redis holds at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    pub(crate) pending: usize,
    pub(crate) unread: usize,
    pub(crate) due: usize,
    pub(crate) queued: usize,
    pub(crate) records: usize,
    pub(crate) bodies: usize,
    pub(crate) failed: HashMap<String, FailReason>,
    /// Failed deliveries without a row in the log that gives the same reason.
    pub(crate) failed_without_row: usize,
}

/// The comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    /// Unknown events that arrived.
    pub(crate) unknown_arrived: usize,
    /// Deliveries that a receiver took, each once.
    pub(crate) taken: usize,
    pub(crate) requests: usize,
    /// Acknowledged, and neither taken nor failed for a permitted reason.
    pub(crate) lost: Vec<(usize, usize)>,
    /// As lost, but the entry itself was lost by Redis.
    pub(crate) lost_by_redis: usize,
    pub(crate) failed: BTreeMap<&'static str, usize>,
    /// Taken again after having been taken.
    pub(crate) duplicates: usize,
    /// Duplicates by the fault that explains them.
    pub(crate) by_fault: BTreeMap<String, usize>,
    /// Duplicates that no fault explains.
    pub(crate) unexplained: usize,
    pub(crate) problems: Vec<String>,
}

/// Judges a book. `kept` is, for each loss of Redis's own, the greatest id that it still had, and how many events were
/// published before: of those, what was acknowledged with a greater id is Redis's loss.
pub(crate) fn judge(
    book: &Book,
    endpoints: &[Expected],
    remains: &Remains,
    kept: &[(StreamId, usize)],
) -> Verdict {
    let (acknowledged, refused, unknown) = book.published();
    let mut verdict =
        Verdict { acknowledged, refused, unknown, requests: book.arrivals.len(), ..Verdict::default() };
    let mut by_delivery: HashMap<(usize, usize), Vec<&Arrival>> = HashMap::new();
    for arrival in &book.arrivals {
        by_delivery.entry((arrival.endpoint, arrival.event)).or_default().push(arrival);
    }
    let unverified = book.arrivals.iter().filter(|arrival| !arrival.verified).count();
    verdict.problem(unverified, "requests with a wrong signature");
    let mut unknown_arrived = HashSet::new();
    for (endpoint, expected) in endpoints.iter().enumerate() {
        for (event, note) in book.notes.iter().enumerate() {
            let arrivals = by_delivery.remove(&(endpoint, event)).unwrap_or_default();
            let taken = arrivals.iter().any(|arrival| arrival.taken);
            verdict.taken += usize::from(taken);
            verdict.count_duplicates(&arrivals, &book.faults);
            match note {
                Note::Acknowledged(id) => {
                    verdict.acknowledged_one(
                        *id,
                        (endpoint, event),
                        expected,
                        &arrivals,
                        taken,
                        remains,
                        kept,
                    );
                }
                Note::Refused(_) => verdict.problem(arrivals.len(), "arrivals of an event that was refused"),
                Note::Unknown if !arrivals.is_empty() => drop(unknown_arrived.insert(event)),
                Note::Unknown => {}
            }
        }
    }
    verdict.unknown_arrived = unknown_arrived.len();
    verdict.problem(by_delivery.len(), "arrivals of events that nobody published");
    for reason in remains.failed.values() {
        *verdict.failed.entry(reason.as_str()).or_default() += 1;
    }
    verdict.judge_remains(remains);
    verdict
}

// === impl Verdict ===

impl Verdict {
    fn problem(&mut self, count: usize, what: &str) {
        if count > 0 {
            self.problems.push(format!("{count} {what}"));
        }
    }

    #[allow(clippy::too_many_arguments)] // All that is known of one delivery.
    fn acknowledged_one(
        &mut self,
        id: StreamId,
        place: (usize, usize),
        expected: &Expected,
        arrivals: &[&Arrival],
        taken: bool,
        remains: &Remains,
        kept: &[(StreamId, usize)],
    ) {
        let event = EventId::new(ShardNumber(0), id).expect("an id that Redis made");
        let delivery = event.delivery(expected.config.sequence()).to_string();
        let renamed = arrivals.iter().filter(|arrival| arrival.delivery != delivery).count();
        self.problem(renamed, "requests with another delivery id than the event's");
        let failed = remains.failed.get(&delivery).is_some_and(|reason| expected.may_fail.contains(reason));
        if taken || failed {
            return;
        }
        let lost_by_redis =
            kept.iter().any(|(to, before)| place.1 < *before && (id.ms, id.seq) > (to.ms, to.seq));
        if lost_by_redis {
            self.lost_by_redis += 1;
        } else {
            self.lost.push(place);
        }
    }

    fn count_duplicates(&mut self, arrivals: &[&Arrival], faults: &[Fault]) {
        let mut previous: Option<&Arrival> = None;
        for arrival in arrivals {
            if let Some(previous) = previous {
                self.duplicates += 1;
                match explanation(previous, arrival.at, faults) {
                    Some(fault) => *self.by_fault.entry(fault.what.clone()).or_default() += 1,
                    None => self.unexplained += 1,
                }
            }
            if arrival.taken {
                previous = Some(arrival);
            }
        }
    }

    fn judge_remains(&mut self, remains: &Remains) {
        self.problem(remains.pending, "entries still pending");
        self.problem(remains.unread, "entries never read");
        self.problem(remains.due, "configs still due");
        self.problem(remains.queued, "deliveries still queued");
        self.problem(remains.failed_without_row, "failed deliveries without a row that says why");
        if remains.records != remains.failed.len() {
            let (records, failed) = (remains.records, remains.failed.len());
            self.problems.push(format!("{records} delivery records, but {failed} failed deliveries"));
        }
        if remains.failed.is_empty() {
            self.problem(remains.bodies, "bodies that nobody needs");
        }
    }

    /// Everything that is wrong, in words; empty when the promise was kept.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = self.problems.clone();
        if !self.lost.is_empty() {
            let first: Vec<_> = self.lost.iter().take(5).collect();
            complaints.push(format!("{} lost, first (endpoint, event) {first:?}", self.lost.len()));
        }
        if self.unexplained > 0 {
            complaints.push(format!("{} duplicates that no fault explains", self.unexplained));
        }
        complaints
    }
}

/// The fault that hit a taken delivery before its event was acknowledged.
fn explanation<'a>(taken: &Arrival, again: Instant, faults: &'a [Fault]) -> Option<&'a Fault> {
    let open_to = taken.ended.unwrap_or(again) + OPEN_FOR;
    faults.iter().find(|fault| fault.until.unwrap_or(fault.at) >= taken.at && fault.at <= open_to)
}

/// Arrivals after `at` of deliveries that had been taken, and answered, before it.
pub(crate) fn again_after(book: &Book, at: Instant, until: Instant) -> usize {
    let mut done: HashSet<(usize, usize)> = HashSet::new();
    for arrival in &book.arrivals {
        if arrival.taken && arrival.ended.is_some_and(|ended| ended < at) {
            done.insert((arrival.endpoint, arrival.event));
        }
    }
    let late = book.arrivals.iter().filter(|arrival| arrival.at >= at && arrival.at < until);
    late.filter(|arrival| done.contains(&(arrival.endpoint, arrival.event))).count()
}

/// Reads what Redis holds.
pub(crate) fn remains(
    connection: &mut redis::Connection,
    keys: &ShardKeys,
    configs: &[ConfigId],
) -> redis::RedisResult<Remains> {
    let mut remains = Remains::default();
    let count = |connection: &mut redis::Connection, key: String| {
        redis::cmd("ZCARD").arg(key).query::<usize>(connection)
    };
    let summary: Vec<redis::Value> =
        redis::cmd("XPENDING").arg(keys.events()).arg(GROUP).query(connection)?;
    remains.pending = redis::from_redis_value_ref(&summary[0])?;
    remains.unread = unread(connection, keys)?;
    remains.due = count(connection, keys.due())?;
    for config in configs {
        remains.queued += count(connection, keys.queue(*config))?;
        let failed: Vec<String> =
            redis::cmd("ZRANGE").arg(keys.failed(*config)).arg(0).arg(-1).query(connection)?;
        let reasons = reasons_in_log(connection, keys, *config)?;
        for id in failed {
            let parsed = id.parse().expect("a delivery id");
            let record: Vec<u8> = redis::cmd("GET").arg(keys.delivery(parsed)).query(connection)?;
            let Ok(DeliveryRecord { standing: Standing::Failed(reason), .. }) =
                DeliveryRecord::decode(&record)
            else {
                remains.failed_without_row += 1;
                continue;
            };
            remains.failed_without_row += usize::from(reasons.get(&id) != Some(&reason));
            remains.failed.insert(id, reason);
        }
    }
    let all: Vec<String> = redis::cmd("KEYS").arg("*").query(connection)?;
    for key in all.iter().filter(|key| key.contains("}:delivery:")) {
        // A mark in a record's place (docs/REDIS.md) says that the delivery is done, and expires.
        let first: Vec<u8> = redis::cmd("GETRANGE").arg(key).arg(0).arg(0).query(connection)?;
        let expires: i64 = redis::cmd("PTTL").arg(key).query(connection)?;
        remains.records += usize::from(first != [0] || expires < 0);
    }
    remains.bodies = all.iter().filter(|key| key.contains("}:body:")).count();
    Ok(remains)
}

/// Entries that nobody has read yet; at most 1 is told.
fn unread(connection: &mut redis::Connection, keys: &ShardKeys) -> redis::RedisResult<usize> {
    let groups: Vec<HashMap<String, redis::Value>> =
        redis::cmd("XINFO").arg("GROUPS").arg(keys.events()).query(connection)?;
    let Some(last) = groups.first().and_then(|group| group.get("last-delivered-id")) else { return Ok(1) };
    let last: String = redis::from_redis_value_ref(last)?;
    let after: Vec<redis::Value> = redis::cmd("XRANGE")
        .arg(keys.events())
        .arg(format!("({last}"))
        .arg("+")
        .arg("COUNT")
        .arg(1)
        .query(connection)?;
    Ok(after.len())
}

/// The reasons of the failed rows in a config's log.
fn reasons_in_log(
    connection: &mut redis::Connection,
    keys: &ShardKeys,
    config: ConfigId,
) -> redis::RedisResult<HashMap<String, FailReason>> {
    let pages: Vec<(String, HashMap<String, Vec<u8>>)> =
        redis::cmd("XRANGE").arg(keys.log(config)).arg("-").arg("+").query(connection)?;
    let mut reasons = HashMap::new();
    for (_, fields) in pages {
        let page = LogPage::decode(&fields["p"]).expect("a log page");
        for row in page.rows {
            if let (Status::Failed, Some(reason)) = (row.status, row.reason) {
                reasons.insert(row.delivery.to_string(), reason);
            }
        }
    }
    Ok(reasons)
}
