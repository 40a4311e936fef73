//! The cursor of a walk through the log, page by page (docs/WIRE.md section 7): where the next page begins, as of
//! when the walk sees the log, and which question it belongs to. Opaque to callers; a version and a check value
//! tell a cursor from a text that only looks like one. It opens nothing: every page is scoped to its caller anew.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::clock::UnixMillis;
use super::codec::{Malformed, Reader};
use super::ids::{ConfigId, DeliveryId, OrganisationId, StreamId};
use super::log::Status;
use super::log_merge::{LogFilter, Position};

const VERSION: u8 = 1;

/// Where a walk stands: pages are made of what is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the logs, by position and delivery id.
    Rows(Position, DeliveryId),
    /// In the failed sets, by the time of the failure and delivery id.
    Failed(UnixMillis, DeliveryId),
    /// Among what waits, by the time of the last attempt (of the creation, where there was none) and delivery id.
    Waiting(UnixMillis, DeliveryId),
}

/// A walk's state between two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCursor {
    /// Where the next page begins.
    pub place: Place,
    /// The last millisecond of Redis's clock whose rows the walk's order knows: what is written later moves no
    /// delivery to another page.
    pub as_of: UnixMillis,
    /// What the first page counted.
    pub total: u64,
    /// Whether that was a floor.
    pub total_is_floor: bool,
    /// The question's fingerprint.
    pub question: u64,
}

/// Why a text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a nextCursor of an earlier answer, unchanged")]
pub struct InvalidCursor;

/// The fingerprint (FNV-1a, 64 bits) of what a cursor belongs to: the organisation, the config and the filters.
#[must_use]
pub fn question(organisation: &OrganisationId, config: Option<ConfigId>, filter: &LogFilter) -> u64 {
    let time = |at: Option<UnixMillis>| at.map(|at| at.0.to_string()).unwrap_or_default();
    let parts = [
        organisation.as_str().to_owned(),
        config.map(|id| id.to_string()).unwrap_or_default(),
        filter.event.clone().unwrap_or_default(),
        filter.status.map(Status::as_str).unwrap_or_default().to_owned(),
        time(filter.since),
        time(filter.until),
        filter.unsuccessful.to_string(),
    ];
    // No part holds a line feed, so no two questions give the same text.
    fnv(parts.join("\n").as_bytes())
}

// === impl LogCursor ===

impl LogCursor {
    /// The cursor as callers see it.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = vec![VERSION];
        let (kind, position, delivery) = match self.place {
            Place::Rows(position, delivery) => (0, position, delivery),
            Place::Failed(at, delivery) => (1, Position::at(at), delivery),
            Place::Waiting(at, delivery) => (2, Position::at(at), delivery),
        };
        out.push(kind);
        out.extend_from_slice(&position.page.ms.to_be_bytes());
        out.extend_from_slice(&position.page.seq.to_be_bytes());
        out.extend_from_slice(&u16::try_from(position.row).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&delivery.bytes());
        out.extend_from_slice(&self.as_of.0.to_be_bytes());
        out.extend_from_slice(&self.total.to_be_bytes());
        out.push(u8::from(self.total_is_floor));
        out.extend_from_slice(&self.question.to_be_bytes());
        let check = fnv(&out);
        out.extend_from_slice(&check.to_be_bytes()[4..]);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// The cursor that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// For every other text.
    pub fn decode(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(InvalidCursor)?;
        if fnv(body).to_be_bytes()[4..] != check[..] {
            return Err(InvalidCursor);
        }
        let mut input = Reader::new(body);
        let cursor = Self::read(&mut input).map_err(|_| InvalidCursor)?;
        cursor.filter(|_| input.rest().is_empty()).ok_or(InvalidCursor)
    }

    fn read(input: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        if input.u8()? != VERSION {
            return Ok(None);
        }
        let kind = input.u8()?;
        let page = StreamId { ms: input.u64()?, seq: input.u64()? };
        let position = Position { page, row: usize::from(input.u16()?) };
        let delivery = DeliveryId::from_bytes(input.array()?);
        let place = match kind {
            0 => Place::Rows(position, delivery),
            1 => Place::Failed(UnixMillis(page.ms), delivery),
            2 => Place::Waiting(UnixMillis(page.ms), delivery),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            place,
            as_of: UnixMillis(input.u64()?),
            total: input.u64()?,
            total_is_floor: input.u8()? != 0,
            question: input.u64()?,
        }))
    }
}

/// FNV-1a: tells accidents from cursors, and is no defence against forgers, who would gain nothing.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn cursor()(
            kind in 0_u8..3, ms: u64, seq: u64, row: u16, delivery: [u8; 16], as_of: u64, total: u64,
            total_is_floor: bool, question: u64,
        ) -> LogCursor {
            let delivery = DeliveryId::from_bytes(delivery);
            let place = match kind {
                0 => Place::Rows(Position { page: StreamId { ms, seq }, row: usize::from(row) }, delivery),
                1 => Place::Failed(UnixMillis(ms), delivery),
                _ => Place::Waiting(UnixMillis(ms), delivery),
            };
            LogCursor { place, as_of: UnixMillis(as_of), total, total_is_floor, question }
        }
    }

    proptest! {
        #[test]
        fn cursors_round_trip(cursor in cursor()) {
            let text = cursor.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(LogCursor::decode(&text), Ok(cursor));
        }

        #[test]
        fn a_changed_cursor_is_none(cursor in cursor(), place: prop::sample::Index, to in "[A-Za-z0-9_-]") {
            let text = cursor.encode();
            let at = place.index(text.len());
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assume!(changed != text);
            prop_assert_eq!(LogCursor::decode(&changed), Err(InvalidCursor));
        }

        #[test]
        fn any_text_is_a_cursor_or_an_error(text in "\\PC{0,120}") {
            let _ = LogCursor::decode(&text);
        }
    }

    #[test]
    fn questions_differ_by_every_part() {
        let organisation = |text: &str| OrganisationId::new(text).unwrap();
        let all = LogFilter::default();
        let base = question(&organisation("a"), None, &all);
        let status = Some(Status::Failed);
        for other in [
            question(&organisation("b"), None, &all),
            question(&organisation("a"), Some(ConfigId::from_bytes([1; 12])), &all),
            question(&organisation("a"), None, &LogFilter { status, ..all.clone() }),
            question(&organisation("a"), None, &LogFilter { event: Some("a.b".into()), ..all.clone() }),
            question(&organisation("a"), None, &LogFilter { since: Some(UnixMillis(1)), ..all.clone() }),
            question(&organisation("a"), None, &LogFilter { unsuccessful: true, ..all.clone() }),
            question(&organisation("a"), None, &LogFilter { until: Some(UnixMillis(1)), ..all.clone() }),
        ] {
            assert_ne!(base, other);
        }
    }
}
