//! `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date. Pure.

use std::time::{Duration, UNIX_EPOCH};

use crate::domain::clock::UnixMillis;

/// Longest wait that a receiver can ask for (docs/WIRE.md section 4).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the receiver asks to wait, at most [`RETRY_AFTER_MAX`]; zero for a date that has passed.
/// `None` when the value is neither a number of seconds nor an HTTP date (RFC 9110 section 5.6.7, all three forms).
#[must_use]
pub fn parse(value: &[u8], now: UnixMillis) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit is a wish for more than the cap all the same.
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    Some(date(text)?.since(now).min(RETRY_AFTER_MAX))
}

/// An HTTP date, such as the value of `Date`.
#[must_use]
pub fn date(text: &str) -> Option<UnixMillis> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixMillis(u64::try_from(since_epoch.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 1994-11-06 08:49:37 UTC, the date of RFC 9110's examples.
    const THEN: UnixMillis = UnixMillis(784_111_777_000);

    #[test]
    fn both_forms_of_the_specification() {
        let at = |ms: u64| UnixMillis(THEN.0 - ms);
        for (value, now, wanted) in [
            ("120", THEN, Some(120_000)),
            ("0", THEN, Some(0)),
            (" 7\t", THEN, Some(7_000)),
            ("86401", THEN, Some(86_400_000)),
            ("99999999999999999999999999", THEN, Some(86_400_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", at(90_000), Some(90_000)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", at(1_500), Some(1_500)),
            ("Sun Nov  6 08:49:37 1994", at(0), Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", UnixMillis(THEN.0 + 1), Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", UnixMillis(0), Some(86_400_000)),
            ("", THEN, None),
            ("-1", THEN, None),
            ("1.5", THEN, None),
            ("+1", THEN, None),
            ("soon", THEN, None),
            ("120, 120", THEN, None),
            ("Sun, 31 Feb 1994 08:49:37 GMT", THEN, None),
        ] {
            assert_eq!(parse(value.as_bytes(), now), wanted.map(Duration::from_millis), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_capped_wait_or_nothing(value: Vec<u8>, now: u64) {
            prop_assert!(parse(&value, UnixMillis(now)).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(value in "[ \tA-Za-z0-9:,-]{0,40}", now: u64) {
            prop_assert!(parse(value.as_bytes(), UnixMillis(now)).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }

        #[test]
        fn seconds_are_taken_as_written(seconds in 0_u64..=86_400, now: u64) {
            let wait = parse(seconds.to_string().as_bytes(), UnixMillis(now));
            prop_assert_eq!(wait, Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn a_date_is_relative_to_now(ahead in 0_u64..=86_400, now_s in 0_u64..4_000_000_000) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now_s + ahead));
            let wait = parse(date.as_bytes(), UnixMillis(now_s * 1_000));
            prop_assert_eq!(wait, Some(Duration::from_secs(ahead)));
        }
    }
}
