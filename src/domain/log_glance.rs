//! A glance at a packed log page (docs/REDIS.md, "Log page"): which deliveries its rows are of and what status each
//! row gave them, without building the rows. What counts a log takes a fraction of what reads it.

use super::clock::UnixMillis;
use super::codec::{Malformed, Reader};
use super::delivery::skip_history;
use super::ids::DeliveryId;
use super::log::{PAGE_VERSIONS, Status, take_head, take_row_count};

/// Creation, next attempt, the answer's status, duration, reason: what lies between a row's time and its excerpt.
const FIXED_BYTES: usize = 8 + 8 + 2 + 4 + 1;

/// What a glance sees of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glanced {
    /// Whose row.
    pub delivery: DeliveryId,
    /// What it became.
    pub status: Status,
    /// When the attempt began, or the decision fell.
    pub at: UnixMillis,
}

/// Calls `visit` with each row, oldest first; gives the number of rows.
///
/// # Errors
/// When the bytes are not a page of a version that this program knows; rows before the fault were visited.
pub fn glance(bytes: &[u8], mut visit: impl FnMut(Glanced)) -> Result<usize, Malformed> {
    let mut input = Reader::new(bytes);
    take_head(&mut input, &PAGE_VERSIONS)?;
    let rows = take_row_count(&mut input)?;
    for _ in 0..input.length()? {
        input.bytes()?;
    }
    for _ in 0..rows {
        let delivery = DeliveryId::from_bytes(input.array()?);
        let status = *Status::ALL.get(usize::from(input.u8()?)).ok_or(input.malformed("status"))?;
        input.length()?;
        input.length()?;
        input.u32()?;
        let at = UnixMillis(input.u64()?);
        input.slice(FIXED_BYTES)?;
        input.bytes()?;
        input.bytes()?;
        skip_history(&mut input)?;
        visit(Glanced { delivery, status, at });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::AttemptSummary;
    use crate::domain::log::{LogPage, LogRow, PageBuilder, PageKey};
    use crate::domain::outcome::Outcome;
    use proptest::prelude::*;

    prop_compose! {
        fn row()(
            delivery: [u8; 16], status in 0_usize..4, attempts in 0_u32..5, event in "[a-z]{1,4}",
            excerpt: Vec<u8>, error in proptest::option::of("[a-z]{1,9}"), at: u64,
        ) -> LogRow {
            let summary = |attempt| AttemptSummary {
                attempt, at: UnixMillis(1), took_ms: 2, status: None, outcome: Outcome::Retryable,
            };
            LogRow {
                delivery: DeliveryId::from_bytes(delivery),
                event_type: event.as_str().into(),
                url: "u".into(),
                status: Status::ALL[status],
                attempt: attempts,
                at: UnixMillis(at),
                created_at: UnixMillis(1),
                next_attempt_at: None,
                response_status: None,
                excerpt: excerpt.into(),
                error,
                reason: None,
                took_ms: 3,
                history: (1..=attempts).map(summary).collect(),
                trace: (attempts % 2 == 1).then_some(crate::domain::trace::TraceId([7; 16])),
            }
        }
    }

    proptest! {
        #[test]
        fn a_glance_sees_what_reading_sees(rows in proptest::collection::vec(row(), 1..64)) {
            let mut page = PageBuilder::new(PageKey([9; 8]));
            rows.iter().for_each(|row| page.push(row, None));
            let packed = page.finish().unwrap();
            let mut seen = Vec::new();
            prop_assert_eq!(glance(&packed.log, |row| seen.push(row)), Ok(rows.len()));
            let read = LogPage::decode(&packed.log).unwrap();
            let read: Vec<Glanced> = read
                .rows
                .iter()
                .map(|row| Glanced { delivery: row.delivery, status: row.status, at: row.at })
                .collect();
            prop_assert_eq!(seen, read);
        }

        #[test]
        fn what_can_be_read_can_be_glanced_at(bytes: Vec<u8>) {
            let glanced = glance(&bytes, |_| {});
            prop_assert!(LogPage::decode(&bytes).is_err() || glanced.is_ok());
        }
    }
}
