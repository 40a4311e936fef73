//! From log rows and delivery records to deliveries: each once, in its present state, newest first
//! (docs/WIRE.md section 7).
//!
//! If a delivery's record exists, it *is* that delivery's state and its rows are history; if not, its newest
//! `delivered` or `failed` row is; a `retrying` or `pending` row without a record is never shown, for its
//! record was lost or has ended in a row that is yet to be read.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::clock::UnixMillis;
use super::delivery::{RecordHead, Standing};
use super::ids::{DeliveryId, StreamId};
use super::log::{LogRow, PageKey, Status};
use super::vocabulary::is_same_event;

/// A place in the log: the page's stream id, then the row in it. Greater is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The page.
    pub page: StreamId,
    /// The row in the page, from 0.
    pub row: usize,
}

/// A row and where it stands.
#[derive(Clone, Debug)]
pub struct PlacedRow {
    /// Its place.
    pub position: Position,
    /// The key of its page, by which its payload is found.
    pub key: PageKey,
    /// The row.
    pub row: LogRow,
}

/// One delivery as the rows and records that were read show it.
#[derive(Clone, Debug)]
pub struct DeliveryState<'a> {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its place in the order: of its newest row, or of its final one where that is its state. A record
    /// without a row stands at the time of its last attempt, or at its creation.
    pub position: Position,
    /// Its status.
    pub status: Status,
    /// The event's type.
    pub event_type: &'a Arc<str>,
    /// When it came to be.
    pub created_at: UnixMillis,
    /// When its last attempt began; `None` when there was none.
    pub last_attempt_at: Option<UnixMillis>,
    /// Its record's head, when that is its state.
    pub record: Option<&'a RecordHead>,
    /// Its rows that were read, newest first.
    pub rows: Vec<&'a PlacedRow>,
}

/// Which deliveries a query wants; `None` wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// The event's type, by either of its names.
    pub event: Option<String>,
    /// The status.
    pub status: Option<Status>,
    /// Inclusive, on the last attempt's time (the creation's, where there was none).
    pub since: Option<UnixMillis>,
    /// Exclusive, on the same.
    pub until: Option<UnixMillis>,
    /// Only what has failed so far: `retrying` and `failed`.
    pub unsuccessful: bool,
}

// === impl Position ===

impl Position {
    /// The place of something that happened at `at` and has no row.
    #[must_use]
    pub const fn at(at: UnixMillis) -> Self {
        Self { page: StreamId { ms: at.0, seq: 0 }, row: 0 }
    }
}

// === impl LogRow ===

impl LogRow {
    /// Whether the row is an attempt, not a fate without one (parked, expired, backlog full).
    #[must_use]
    pub fn is_attempt(&self) -> bool {
        !self.url.is_empty()
    }

    /// Whether the row ends its delivery.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.status, Status::Delivered | Status::Failed)
    }
}

// === impl RecordHead ===

impl RecordHead {
    /// The status that the record stands for.
    #[must_use]
    pub const fn status(&self) -> Status {
        match (self.standing, self.attempts) {
            (Standing::Waiting, 0) => Status::Pending,
            (Standing::Waiting, _) => Status::Retrying,
            (Standing::Failed(_), _) => Status::Failed,
        }
    }
}

// === impl LogFilter ===

impl LogFilter {
    /// Whether a delivery is wanted.
    #[must_use]
    pub fn wants(
        &self,
        status: Status,
        event_type: &str,
        last_attempt_at: Option<UnixMillis>,
        created_at: UnixMillis,
    ) -> bool {
        let at = last_attempt_at.unwrap_or(created_at);
        self.status.is_none_or(|wanted| wanted == status)
            && !(self.unsuccessful && matches!(status, Status::Pending | Status::Delivered))
            && self.event.as_deref().is_none_or(|wanted| is_same_event(wanted, event_type))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }

    /// Whether a delivery is wanted.
    #[must_use]
    pub fn wants_state(&self, state: &DeliveryState<'_>) -> bool {
        self.wants(state.status, state.event_type, state.last_attempt_at, state.created_at)
    }
}

// === impl DeliveryState ===

impl<'a> DeliveryState<'a> {
    /// The state of one delivery from its record's head and its rows in any order; `None` when it is not shown.
    /// Its place is the one that it had at `as_of`, whatever was written since.
    #[must_use]
    pub fn new(
        delivery: DeliveryId,
        record: Option<&'a RecordHead>,
        mut rows: Vec<&'a PlacedRow>,
        as_of: UnixMillis,
    ) -> Option<Self> {
        rows.sort_unstable_by_key(|placed| Reverse(placed.position));
        let known = |placed: &&&PlacedRow| placed.position.page.ms <= as_of.0;
        if let Some(head) = record {
            let place = || Position::at(head.last_at.unwrap_or(head.created_at));
            let newest = rows.iter().find(known).or(rows.first());
            return Some(Self {
                delivery,
                position: newest.map_or_else(place, |newest| newest.position),
                status: head.status(),
                event_type: &head.event_type,
                created_at: head.created_at,
                last_attempt_at: head.last_at,
                record,
                rows,
            });
        }
        let decisive = rows.iter().copied().find(|placed| placed.row.is_final())?;
        let placed = if known(&&decisive) { decisive } else { rows.iter().find(known).unwrap_or(&decisive) };
        Some(Self {
            delivery,
            position: placed.position,
            status: decisive.row.status,
            event_type: &decisive.row.event_type,
            created_at: decisive.row.created_at,
            last_attempt_at: last_attempt_at(&decisive.row, &rows),
            record: None,
            rows,
        })
    }

    /// What deliveries (of several configs, of several shards) are sorted by, so that the newest comes first;
    /// equal places by delivery id, greatest first.
    #[must_use]
    pub const fn order(&self) -> Reverse<(Position, DeliveryId)> {
        Reverse((self.position, self.delivery))
    }

    /// The final row that is the delivery's state where no record is: the newest.
    #[must_use]
    pub fn final_row(&self) -> Option<&'a LogRow> {
        self.rows.iter().map(|placed| &placed.row).find(|row| row.is_final())
    }
}

/// When the last attempt began, of a delivery that `decisive` ended: a fate without an attempt carries the
/// time of the decision, so the attempt before it tells, from its summary or from its row.
fn last_attempt_at(decisive: &LogRow, rows: &[&PlacedRow]) -> Option<UnixMillis> {
    if decisive.is_attempt() {
        return Some(decisive.at);
    }
    let summarised = decisive.history.last().map(|summary| summary.at);
    summarised
        .or_else(|| rows.iter().map(|placed| &placed.row).find(|row| row.is_attempt()).map(|row| row.at))
}

/// Every delivery of one config that is shown, each once, in their order.
#[must_use]
pub fn merge<'a>(
    rows: &'a [PlacedRow],
    records: &'a HashMap<DeliveryId, RecordHead>,
    as_of: UnixMillis,
) -> Vec<DeliveryState<'a>> {
    let mut rows_of: HashMap<DeliveryId, Vec<&'a PlacedRow>> = HashMap::with_capacity(rows.len());
    for placed in rows {
        rows_of.entry(placed.row.delivery).or_default().push(placed);
    }
    let without_rows = records.keys().filter(|id| !rows_of.contains_key(*id)).copied().collect::<Vec<_>>();
    let mut states: Vec<DeliveryState<'a>> = rows_of
        .into_iter()
        .chain(without_rows.into_iter().map(|id| (id, Vec::new())))
        .filter_map(|(id, rows)| DeliveryState::new(id, records.get(&id), rows, as_of))
        .collect();
    states.sort_unstable_by_key(DeliveryState::order);
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::{DeliveryRecord, FailReason, RecordBody, Tried};
    use crate::domain::ids::{ConfigId, ConfigSequence, EventId, ShardNumber};
    use proptest::prelude::*;

    const NOW: UnixMillis = UnixMillis(u64::MAX);

    /// What happened to one delivery: attempts that failed, then how it ended, and what is left of it.
    #[derive(Clone, Debug)]
    struct Life {
        failures: u32,
        end: Ending,
        twice: bool,
        record_evicted: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Ending {
        Waits,
        Delivered,
        Failed,
        Expired,
    }

    fn life() -> impl Strategy<Value = Life> {
        let end = prop_oneof![
            Just(Ending::Waits),
            Just(Ending::Delivered),
            Just(Ending::Failed),
            Just(Ending::Expired)
        ];
        (0_u32..4, end, any::<bool>(), any::<bool>())
            .prop_map(|(failures, end, twice, record_evicted)| Life { failures, end, twice, record_evicted })
    }

    fn id(number: usize) -> DeliveryId {
        let event = StreamId { ms: 1_000, seq: number as u64 };
        EventId::new(ShardNumber(0), event).unwrap().delivery(ConfigSequence(1))
    }

    fn row(delivery: DeliveryId, attempt: u32, status: Status, url: &str) -> LogRow {
        LogRow {
            delivery,
            event_type: "a.b".into(),
            url: url.into(),
            status,
            attempt,
            at: UnixMillis(0),
            created_at: UnixMillis(1_000),
            next_attempt_at: None,
            response_status: None,
            excerpt: bytes::Bytes::new(),
            error: None,
            reason: None,
            took_ms: 1,
            history: Vec::new(),
            trace: None,
        }
    }

    impl Life {
        fn rows(&self, id: DeliveryId) -> Vec<LogRow> {
            let mut rows: Vec<LogRow> =
                (1..=self.failures).map(|n| row(id, n, Status::Retrying, "u")).collect();
            match self.end {
                Ending::Waits if self.failures == 0 => rows.push(row(id, 0, Status::Pending, "")),
                Ending::Waits => {}
                Ending::Delivered => rows.push(row(id, self.failures + 1, Status::Delivered, "u")),
                Ending::Failed => rows.push(row(id, self.failures + 1, Status::Failed, "u")),
                Ending::Expired => rows.push(row(id, self.failures, Status::Failed, "")),
            }
            if self.twice {
                rows.push(rows[rows.len() - 1].clone());
            }
            rows
        }

        fn head(&self) -> Option<RecordHead> {
            let (standing, attempts) = match self.end {
                Ending::Delivered => return None,
                _ if self.record_evicted => return None,
                Ending::Waits => (Standing::Waiting, self.failures),
                Ending::Failed => (Standing::Failed(FailReason::Exhausted), self.failures + 1),
                Ending::Expired => (Standing::Failed(FailReason::Expired), self.failures),
            };
            let record = DeliveryRecord {
                standing,
                config: ConfigId::from_bytes([1; 12]),
                created_at: UnixMillis(1_000),
                next_attempt_at: UnixMillis(5),
                event_type: "a.b".into(),
                traceparent: None,
                tried: Tried { attempts, ..Tried::default() },
                body: RecordBody::Apart(9),
            };
            Some(record.head())
        }

        fn status(&self) -> Status {
            match self.end {
                Ending::Waits if self.failures == 0 => Status::Pending,
                Ending::Waits => Status::Retrying,
                Ending::Delivered => Status::Delivered,
                Ending::Failed | Ending::Expired => Status::Failed,
            }
        }
    }

    /// Interleaves the deliveries' rows by `order`, and drops the oldest `evicted` of the log.
    fn log_of(lives: &[Life], order: &[usize], evicted: usize) -> Vec<PlacedRow> {
        let mut queues: Vec<std::collections::VecDeque<LogRow>> =
            lives.iter().enumerate().map(|(n, life)| life.rows(id(n)).into()).collect();
        let mut turns = order.iter().cycle();
        let mut rows = Vec::new();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let waiting: Vec<usize> = (0..queues.len()).filter(|n| !queues[*n].is_empty()).collect();
            let chosen = waiting[turns.next().copied().unwrap_or(0) % waiting.len()];
            let Some(mut row) = queues[chosen].pop_front() else { continue };
            let number = rows.len();
            row.at = UnixMillis(2_000 + number as u64);
            let page = StreamId { ms: 2_000 + (number / 3) as u64, seq: 0 };
            rows.push(PlacedRow { position: Position { page, row: number % 3 }, key: PageKey([0; 8]), row });
        }
        rows.split_off(evicted.min(rows.len()))
    }

    proptest! {
        #[test]
        fn each_delivery_that_is_known_is_shown_once_in_order_and_in_its_state(
            lives in proptest::collection::vec(life(), 1..24),
            order in proptest::collection::vec(any::<usize>(), 1..64),
            evicted in 0_usize..20,
        ) {
            let rows = log_of(&lives, &order, evicted);
            let heads: HashMap<DeliveryId, RecordHead> =
                lives.iter().enumerate().filter_map(|(n, life)| Some((id(n), life.head()?))).collect();
            let states = merge(&rows, &heads, NOW);

            prop_assert!(states.is_sorted_by_key(DeliveryState::order));
            for (n, life) in lives.iter().enumerate() {
                let shown: Vec<_> = states.iter().filter(|state| state.delivery == id(n)).collect();
                let of_it = || rows.iter().filter(|placed| placed.row.delivery == id(n));
                let known = life.head().is_some() || of_it().any(|placed| placed.row.is_final());
                prop_assert_eq!(shown.len(), usize::from(known), "{:?}", life);
                if let Some(state) = shown.first() {
                    prop_assert_eq!(state.status, life.status());
                    prop_assert_eq!(state.rows.len(), of_it().count());
                    if let Some(newest) = of_it().map(|placed| placed.position).max() {
                        prop_assert_eq!(state.position, newest);
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_wins_over_a_newer_final_row() {
        let placed = PlacedRow {
            position: Position { page: StreamId { ms: 9, seq: 0 }, row: 0 },
            key: PageKey([0; 8]),
            row: row(id(0), 1, Status::Delivered, "u"),
        };
        let life = Life { failures: 1, end: Ending::Waits, twice: false, record_evicted: false };
        let heads = HashMap::from([(id(0), life.head().unwrap())]);
        let rows = [placed];
        let states = merge(&rows, &heads, NOW);
        assert_eq!(states.len(), 1);
        assert_eq!(states[0].status, Status::Retrying);
        assert_eq!(states[0].position, rows[0].position);
    }

    #[test]
    fn the_window_is_on_the_last_attempt_and_half_open() {
        let filter =
            LogFilter { since: Some(UnixMillis(5)), until: Some(UnixMillis(7)), ..LogFilter::default() };
        let wants = |last: Option<u64>, created: u64| {
            filter.wants(Status::Delivered, "a", last.map(UnixMillis), UnixMillis(created))
        };
        assert!(!wants(Some(4), 6) && wants(Some(5), 0) && wants(Some(6), 9) && !wants(Some(7), 6));
        assert!(wants(None, 5) && !wants(None, 7));
    }
}
