//! Judging what a page of the log shows: where each delivery stands whose rows were read, by its record and by what
//! was written since the walk began. Only the newest are judged, as many as the page may show.

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, Kept, LogSource, RecordCounts};
use super::log_page::{PageQuestion, PageRead, Shown};
use super::log_read;
use crate::domain::ids::DeliveryId;
use crate::domain::log::LogRow;
use crate::domain::log_as_of::{attempts_before, needs_later_rows, stands_here};
use crate::domain::log_merge::{DeliveryState, PlacedRow, Position};

/// Pages that are read of what a log took in since the walk began: a whole log at its default cap, if they are
/// well filled.
const LATER_PAGES_MAX: usize = 1_024;

impl<'a> PageRead<'a> {
    /// Chooses the deliveries with the newest rows as those to be judged: a delivery stands at its newest row or below.
    /// Says whether all are chosen.
    pub(super) fn choose(&mut self, count: usize) -> bool {
        let frontier = self.scan.frontier();
        let mut places: Vec<(Position, DeliveryId, usize)> = Vec::new();
        for config in 0..self.scan.rows.len() {
            let settled = self.rows_below(config).filter(|placed| placed.position >= frontier);
            places.extend(settled.map(|placed| (placed.position, placed.row.delivery, config)));
        }
        places.sort_unstable_by(|one, other| other.cmp(one));
        self.judged_to = (frontier, DeliveryId::from_bytes([0; 16]));
        let mut chosen = 0;
        for (position, id, config) in places {
            if self.judged[config].contains(&id) {
                continue;
            }
            if chosen == count {
                return false;
            }
            self.judged[config].insert(id);
            self.judged_to = (position, id);
            chosen += 1;
        }
        self.judged_to = (frontier, DeliveryId::from_bytes([0; 16]));
        true
    }

    /// The rows below the cursor that the walk may see.
    fn rows_below(&self, config: usize) -> impl Iterator<Item = &PlacedRow> {
        let PageQuestion { below, as_of, is_first, .. } = self.question;
        self.scan.rows[config].iter().filter(move |placed| {
            let seen = is_first || placed.position.page.ms <= as_of.0;
            (placed.position, placed.row.delivery) < below && seen
        })
    }

    /// The rows of what is judged, by delivery. Each has one at or above the frontier: nothing unread can stand
    /// before it.
    fn rows_of(&self, config: usize) -> HashMap<DeliveryId, Vec<&PlacedRow>> {
        let judged = &self.judged[config];
        if judged.is_empty() {
            return HashMap::new();
        }
        let mut rows: HashMap<DeliveryId, Vec<&PlacedRow>> = HashMap::with_capacity(judged.len());
        for placed in self.rows_below(config).chain(&self.later[config]) {
            if judged.contains(&placed.row.delivery) {
                rows.entry(placed.row.delivery).or_default().push(placed);
            }
        }
        rows
    }

    pub(super) fn states(&self) -> Vec<Shown<'_>> {
        let PageQuestion { filter, below, as_of, .. } = self.question;
        let mut states = Vec::new();
        for config in 0..self.heads.len() {
            let rows = self.rows_of(config);
            let is_met = |id: &DeliveryId| rows.contains_key(id);
            for (id, head) in self.rowless.of[config].iter().filter(|(id, _)| !is_met(id)) {
                let state = DeliveryState::new(*id, Some(head), Vec::new(), as_of);
                states.extend(state.map(|state| (config, state)));
            }
            for (id, rows) in rows {
                let head = self.heads[config].get(&id).and_then(Option::as_ref);
                let state = DeliveryState::new(id, head, rows, as_of);
                let shown = state.filter(|state| {
                    let marked = self.marked.get(&state.delivery).copied();
                    stands_here(state, as_of, marked) || self.is_new(state)
                });
                states.extend(shown.map(|state| (config, state)));
            }
        }
        states.retain(|(_, state)| {
            let place = (state.position, state.delivery);
            place < below && place >= self.judged_to && filter.wants_state(state)
        });
        states.sort_unstable_by_key(|(_, state)| state.order());
        states
    }

    /// Whether the delivery came after the walk began, and stands at the top of its first page: it has no earlier
    /// row that a later page would meet.
    fn is_new(&self, state: &DeliveryState<'_>) -> bool {
        let (as_of, complete) = (self.question.as_of, self.scan.is_complete());
        let later = |placed: &&PlacedRow| placed.position.page.ms > as_of.0;
        self.question.is_first
            && state.rows.iter().all(later)
            && (complete || state.rows.iter().all(|placed| attempts_before(&placed.row) == 0))
    }

    pub(super) async fn add_heads(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut wanted = Vec::new();
        for config in 0..self.heads.len() {
            let known = &self.heads[config];
            let ended = |id: &DeliveryId, rows: &[&PlacedRow]| {
                let records = self.records.get(&(config, id.event().shard().0));
                let last = rows.iter().max_by_key(|placed| placed.position);
                records.zip(last).is_some_and(|(records, last)| is_state(&last.row, *records))
            };
            let rows = self.rows_of(config).into_iter();
            let unknown = rows.filter(|(id, rows)| !known.contains_key(id) && !ended(id, rows));
            wanted.extend(
                unknown.map(|(id, _)| id).filter_map(|id| Some((config, (self.source(config, id)?, id)))),
            );
        }
        let places: Vec<(LogSource<'_>, DeliveryId)> = wanted.iter().map(|(_, place)| *place).collect();
        let read = delivery_read::kept(connection, &places).await?;
        for ((config, (_, id)), kept) in wanted.into_iter().zip(read) {
            let head = match kept {
                Ok(Kept::Record(head)) => Some(head),
                Ok(Kept::DeliveredByHand { attempts }) => {
                    self.marked.insert(id, attempts);
                    None
                }
                Ok(Kept::Nothing) => None,
                Err(_) => {
                    self.heads_unreadable += 1;
                    None
                }
            };
            self.heads[config].insert(id, head);
        }
        Ok(())
    }

    /// Looks for newer rows of deliveries whose rows below the cursor do not tell where they stood.
    pub(super) async fn add_later(&mut self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut places: HashMap<(usize, u16), HashSet<DeliveryId>> = HashMap::new();
        for config in 0..self.heads.len() {
            for (id, rows) in self.rows_of(config) {
                let Some(newest) = rows.iter().max_by_key(|placed| placed.position) else { continue };
                let head = self.heads[config].get(&id).and_then(Option::as_ref);
                let has_final = rows.iter().any(|placed| placed.row.is_final());
                if !self.looked_for.contains(&id)
                    && needs_later_rows(&newest.row, has_final, head, self.marked.get(&id).copied())
                {
                    places.entry((config, id.event().shard().0)).or_default().insert(id);
                }
            }
        }
        let asked: Vec<(usize, LogSource<'a>)> = self
            .sources
            .iter()
            .filter(|(config, source)| places.contains_key(&(*config, source.keys.shard.0)))
            .copied()
            .collect();
        let plain: Vec<LogSource<'a>> = asked.iter().map(|(_, source)| *source).collect();
        let read = log_read::pages_after(connection, &plain, self.question.as_of, LATER_PAGES_MAX).await?;
        for ((config, source), pages) in asked.into_iter().zip(read) {
            let wanted = places.remove(&(config, source.keys.shard.0)).unwrap_or_default();
            for read in pages {
                let Some(page) = read.page else { continue };
                let key = page.key;
                let placed =
                    page.rows.into_iter().enumerate().filter(|(_, row)| wanted.contains(&row.delivery));
                let place = |row| Position { page: read.id, row };
                let placed = placed.map(|(at, row)| PlacedRow { position: place(at), key, row });
                let scanned = &self.scan.rows[config];
                let is_known = |one: &PlacedRow| {
                    let same = |known: &PlacedRow| {
                        known.position == one.position && known.row.delivery == one.row.delivery
                    };
                    self.question.is_first && scanned.iter().any(same)
                };
                self.later[config].extend(placed.filter(|one| !is_known(one)));
            }
            self.looked_for.extend(wanted);
        }
        Ok(())
    }

    fn source(&self, config: usize, id: DeliveryId) -> Option<LogSource<'a>> {
        let shard = id.event().shard();
        let found = self.sources.iter().find(|(of, source)| *of == config && source.keys.shard == shard);
        found.map(|(_, source)| *source)
    }
}

/// Whether this newest row of a delivery is its state, so that no record need be read: it ended, and nothing was queued
/// again by hand. A failed delivery has a record too, but it and the row were written in one step.
const fn is_state(row: &LogRow, records: RecordCounts) -> bool {
    row.is_final() && records.queued == 0
}
