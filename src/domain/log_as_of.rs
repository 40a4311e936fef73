//! Where a delivery stood at an earlier moment: what keeps a walk through the log, page by page, from showing a
//! delivery twice or not at all while it is tried again (docs/WIRE.md section 7).
//!
//! A walk reads, for each page, only rows below its cursor, and shows a delivery at the newest row that it had when
//! the walk began (*as of* then). Whether a row found below the cursor is that one is told by what came after it:
//! the record's number of attempts, less those whose rows were written since the walk began.

use super::clock::UnixMillis;
use super::delivery::{FailReason, RecordHead, Standing};
use super::log::LogRow;
use super::log_merge::{DeliveryState, PlacedRow};

/// Whether the rows below the cursor do not tell by themselves where the delivery stood: rows that were written
/// since `as_of` must be looked for. `newest` is the newest row of it below the cursor; `marked` are the attempts after
/// which it was delivered by hand, where a mark tells them.
#[must_use]
pub fn needs_later_rows(
    newest: &LogRow,
    has_final: bool,
    record: Option<&RecordHead>,
    marked: Option<u32>,
) -> bool {
    match record {
        None => !has_final || marked.is_some_and(|attempts| newest.attempt < attempts),
        Some(head) => !is_newest_of(newest, head),
    }
}

/// Whether the delivery stood at one of its rows that were read, not at one between them and `as_of`. Its rows
/// are those below the cursor, and, where [`needs_later_rows`], those that were written since `as_of`.
#[must_use]
pub fn stands_here(state: &DeliveryState<'_>, as_of: UnixMillis, marked: Option<u32>) -> bool {
    let later = |placed: &&&PlacedRow| placed.position.page.ms > as_of.0;
    let Some(newest) = state.rows.iter().find(|placed| !later(placed)) else { return state.rows.is_empty() };
    let before = state.rows.iter().filter(later).map(|placed| attempts_before(&placed.row)).min();
    match (before, state.record) {
        (Some(before), _) => newest.row.attempt >= before,
        (None, Some(head)) => is_newest_of(&newest.row, head),
        (None, None) => marked.is_none_or(|attempts| newest.row.attempt >= attempts),
    }
}

/// Whether no row came after this one, by the record.
fn is_newest_of(row: &LogRow, head: &RecordHead) -> bool {
    // What ends a delivery as failed always writes a row that says so, also without an attempt.
    let ended_later = matches!(head.standing, Standing::Failed(_)) && !row.is_final();
    row.attempt >= head.attempts && !ended_later
}

/// How many attempts were made before the row was written.
#[must_use]
pub fn attempts_before(row: &LogRow) -> u32 {
    let waited = matches!(
        row.reason,
        Some(FailReason::Expired | FailReason::BacklogFull | FailReason::Deleted | FailReason::Gone)
    ) && row.took_ms == 0;
    if row.is_attempt() && !waited { row.attempt.saturating_sub(1) } else { row.attempt }
}
