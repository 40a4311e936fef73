//! Time that is stored, shown or signed. Schedules and leases use Redis's `TIME` inside scripts instead.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// The replica's view of Redis's clock: the local clock plus the last observed offset.
///
/// Log rows of several replicas are ordered by time, so they must share one clock; each lease renewal answers
/// Redis's `TIME` and corrects the offset here.
#[derive(Debug, Default)]
pub struct Clock {
    offset_ms: AtomicI64,
}

// === impl UnixMillis ===

impl UnixMillis {
    /// This time plus `duration`, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses ISO-8601 with a zone (RFC 3339's profile): `2026-05-01T09:00:00.000Z`, `…+02:00`.
    /// Fractions beyond milliseconds are cut. `None` when it is not such a time or lies before 1970.
    #[must_use]
    pub fn parse_iso8601(text: &str) -> Option<Self> {
        parse_iso8601(text.as_bytes())
    }
}

/// Writes `2026-05-01T09:00:00.000Z`, the contract's form.
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms_of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (h, m, s, ms) =
            (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1_000 % 60, ms_of_day % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
    }
}

// === impl Clock ===

impl Clock {
    /// Now, by Redis's clock as last observed.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        let local = i64::try_from(local_millis()).unwrap_or(i64::MAX);
        let now = local.saturating_add(self.offset_ms.load(Ordering::Relaxed));
        UnixMillis(u64::try_from(now).unwrap_or(0))
    }

    /// Records Redis's `TIME` as just answered.
    pub fn observe(&self, redis_now: UnixMillis) {
        let redis = i64::try_from(redis_now.0).unwrap_or(i64::MAX);
        let local = i64::try_from(local_millis()).unwrap_or(i64::MAX);
        self.offset_ms.store(redis.saturating_sub(local), Ordering::Relaxed);
    }

    /// Redis's clock minus this machine's, in milliseconds, as last observed.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }
}

#[allow(clippy::disallowed_methods)] // The one place that reads the machine's wall clock.
fn local_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Days since 1970-01-01 to a proleptic Gregorian date (era arithmetic over 400-year cycles).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`] for dates from 1970 on; `None` for a day the month does not have.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || day == 0 || year < 1970 {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let year_of_era = y % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

fn parse_iso8601(text: &[u8]) -> Option<UnixMillis> {
    let digits = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        if !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(part).ok()?.parse().ok()
    };
    let is = |at: usize, wanted: &[u8]| text.get(at).is_some_and(|b| wanted.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let days = days_from_civil(digits(0, 4)?, digits(5, 7)?, digits(8, 10)?)?;
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if is(at, b".") {
        let start = at + 1;
        at = start + text[start..].iter().take_while(|b| b.is_ascii_digit()).count();
        if at == start || at - start > 9 {
            return None;
        }
        let mut padded = [b'0'; 3];
        let kept = (at - start).min(3);
        padded[..kept].copy_from_slice(&text[start..start + kept]);
        millis = std::str::from_utf8(&padded).ok()?.parse::<u64>().ok()?;
    }
    let offset_minutes = parse_zone(text.get(at..)?)?;
    let seconds = i64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()?;
    let utc = u64::try_from(seconds - offset_minutes * 60).ok()?;
    Some(UnixMillis(utc * 1_000 + millis))
}

/// `Z`, `+hh:mm` or `-hh:mm` as minutes east of UTC.
fn parse_zone(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let number = |a: &u8, b: &u8| -> Option<i64> {
                (a.is_ascii_digit() && b.is_ascii_digit())
                    .then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
            };
            let (hours, minutes) = (number(h1, h2)?, number(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let total = hours * 60 + minutes;
            Some(if *sign == b'-' { -total } else { total })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn formats_the_contracts_example() {
        assert_eq!(UnixMillis(1_777_626_000_000).to_string(), "2026-05-01T09:00:00.000Z");
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixMillis(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
    }

    #[test]
    fn parses_zones_and_refuses_what_is_no_time() {
        let at = |text| UnixMillis::parse_iso8601(text);
        assert_eq!(at("2026-05-01T09:00:00.000Z"), Some(UnixMillis(1_777_626_000_000)));
        assert_eq!(at("2026-05-01T11:00:00+02:00"), at("2026-05-01T09:00:00Z"));
        assert_eq!(at("2026-05-01T09:00:00.1239Z"), Some(UnixMillis(1_777_626_000_123)));
        for bad in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-05-01T09:00:00",
            "2026-05-01",
            "1969-12-31T23:59:59Z",
            "2026-05-01T24:00:00Z",
            "2026-05-01T09:00:00.Z",
            "2026-05-01T09:00:00+2:00",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..253_402_300_800_000) {
            prop_assert_eq!(UnixMillis::parse_iso8601(&UnixMillis(ms).to_string()), Some(UnixMillis(ms)));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,40}") {
            let _ = UnixMillis::parse_iso8601(&text);
        }
    }
}
