//! How each kind of setting is written as text: one room per kind, each with its unit, what is expected of
//! the text, `parse` and `show`. Flags, the environment and the file all come through here.
//!
//! `parse(show(value))` is `value`; only a Redis URL is shown with its password masked.

use std::time::Duration;

/// A duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub mod duration {
    use super::Duration;

    /// The unit, for people.
    pub const UNIT: &str = "duration";
    /// What the text has to be.
    pub const EXPECTED: &str = "a whole number with ms, s, m, h or d, as 500ms, 30s, 2m or 24h";
    const MILLIS: [(&str, u64); 5] =
        [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let (number, unit) = super::split_number(text)?;
        let Some((_, factor)) = MILLIS.iter().find(|(name, _)| *name == unit) else {
            return Err(match unit {
                "" => format!("{text:?} has no unit"),
                _ => format!("{text:?} has the unknown unit {unit:?}"),
            });
        };
        number.checked_mul(*factor).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
    }

    /// The shortest text: `90s` is one and a half minutes, `24h` a day, `2d` two of them.
    #[must_use]
    pub fn show(value: &Duration) -> String {
        let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        let fits = |factor: u64| ms != 0 && ms.is_multiple_of(factor);
        let (name, factor) = match ms {
            0 => ("s", 1_000),
            // One day is said in hours, as retention and delays are commonly spoken of.
            _ if fits(86_400_000) && ms > 86_400_000 => ("d", 86_400_000),
            _ if fits(3_600_000) => ("h", 3_600_000),
            _ if fits(60_000) => ("m", 60_000),
            _ if fits(1_000) => ("s", 1_000),
            _ => ("ms", 1),
        };
        format!("{}{name}", ms / factor)
    }
}

/// A number of bytes: a whole number, alone or with `KiB`, `MiB` or `GiB`.
pub mod size {
    /// The unit, for people.
    pub const UNIT: &str = "bytes";
    /// What the text has to be.
    pub const EXPECTED: &str = "a whole number of bytes, or one with KiB, MiB or GiB, as 64MiB";
    const BYTES: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<u64, String> {
        let (number, unit) = super::split_number(text)?;
        let Some((_, factor)) = BYTES.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{text:?} has the unknown unit {unit:?}"));
        };
        number.checked_mul(*factor).ok_or_else(|| format!("{text:?} is too large"))
    }

    /// With the largest unit that leaves a whole number.
    #[must_use]
    pub fn show(value: &u64) -> String {
        let whole = |(_, factor): &&(&str, u64)| *value != 0 && value.is_multiple_of(*factor);
        match BYTES.iter().rev().find(whole) {
            Some((name, factor)) if *factor > 1 => format!("{}{name}", value / factor),
            _ => value.to_string(),
        }
    }
}

/// Makes the room of a kind of whole number.
macro_rules! whole_number {
    ($($(#[$doc:meta])* $room:ident: $type:ty, $expected:literal;)*) => {$(
        $(#[$doc])*
        pub mod $room {
            /// The unit, for people.
            pub const UNIT: &str = "count";
            /// What the text has to be.
            pub const EXPECTED: &str = $expected;

            /// # Errors
            /// What is wrong with the text.
            pub fn parse(text: &str) -> Result<$type, String> {
                text.trim().parse().map_err(|_| format!("{text:?} is not such a number"))
            }

            /// As decimal digits.
            #[must_use]
            pub fn show(value: &$type) -> String {
                value.to_string()
            }
        }
    )*};
}

whole_number! {
    /// A count of shards.
    count16: u16, "a whole number up to 65535";
    /// A count that fits 32 bits.
    count32: u32, "a whole number up to 4294967295";
    /// A count that fits 64 bits.
    count64: u64, "a whole number";
    /// A count of threads.
    threads: usize, "a whole number";
}

/// Yes or no.
pub mod switch {
    /// The unit, for people.
    pub const UNIT: &str = "true or false";
    /// What the text has to be.
    pub const EXPECTED: &str = "true or false";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<bool, String> {
        match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{text:?} is neither")),
        }
    }

    /// `true` or `false`.
    #[must_use]
    pub fn show(value: &bool) -> String {
        value.to_string()
    }
}

/// A whole number and what stands behind it.
fn split_number(text: &str) -> Result<(u64, &str), String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("{text:?} does not begin with a whole number"));
    }
    let number = number.parse().map_err(|_| format!("{text:?} is too large"))?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_and_shown_as_people_write_them() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(duration::parse(text), Ok(Duration::from_millis(ms)));
            assert_eq!(duration::show(&Duration::from_millis(ms)), text);
        }
        assert_eq!(duration::show(&Duration::from_secs(90)), "90s");
        assert_eq!(duration::show(&Duration::from_secs(30 * 86_400)), "30d");
        for bad in ["", "s", "10", "1.5s", "-1s", "10 weeks", "99999999999999999999s", "9999999999999999999d"]
        {
            assert!(duration::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown_as_people_write_them() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1KiB", 1024), ("3GiB", 3 << 30), ("1000", 1000), ("0", 0)]
        {
            assert_eq!(size::parse(text), Ok(bytes));
            assert_eq!(size::show(&bytes), text);
        }
        // MB means 10^6 to some and 2^20 to others, so it is not guessed.
        for bad in ["", "MiB", "64MB", "64m", "-1", "18446744073709551615KiB"] {
            assert!(size::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_comes_back(ms in 0_u64..u64::MAX) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration::parse(&duration::show(&value)), Ok(value));
        }

        #[test]
        fn any_size_comes_back(bytes: u64) {
            prop_assert_eq!(size::parse(&size::show(&bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,12}") {
            let _ = (duration::parse(&text), size::parse(&text), switch::parse(&text), count32::parse(&text));
        }
    }
}
