//! Query strings of the routes of docs/WIRE.md section 12: a name that is not known, or is given twice, is refused,
//! for a typo must not silently widen a query. All mistakes are told at once.

use std::str::FromStr;

use url::form_urlencoded;

use super::body::Mistakes;
use crate::domain::clock::UnixMillis;

/// `limit` where none is given, and the largest.
pub(super) const LIMIT_DEFAULT: usize = 10;
pub(super) const LIMIT_MAX: usize = 100;

/// The parameters of one request.
pub(super) struct Query<'a> {
    given: Vec<(String, String)>,
    /// Every mistake so far.
    pub(super) mistakes: Mistakes,
    known: &'a [&'a str],
}

// === impl Query ===

impl<'a> Query<'a> {
    /// Splits the text; every name must be among `known`.
    pub(super) fn new(text: Option<&str>, known: &'a [&'a str]) -> Self {
        let mut query = Self { given: Vec::new(), mistakes: Mistakes::default(), known };
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            let shown: String = name.chars().take(64).collect();
            let path = format!("query.{shown}");
            if !known.contains(&&*name) {
                query.mistakes.add(path, format_args!("not supported; known are {}", query.known.join(", ")));
            } else if query.given.iter().any(|(other, _)| *other == name) {
                query.mistakes.add(path, "given more than once");
            } else {
                query.given.push((name.into_owned(), value.into_owned()));
            }
        }
        query
    }

    /// The value of a parameter, where `read` understands it; `expected` is told where it does not.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        debug_assert!(self.known.contains(&name), "{name} is asked for and not known");
        let (_, value) = self.given.iter().find(|(other, _)| other == name)?;
        let read = read(value);
        if read.is_none() {
            self.mistakes.add(format_args!("query.{name}"), format_args!("expected {expected}"));
        }
        read
    }

    /// `cursor`, written exactly as an answer had it.
    pub(super) fn cursor<T: FromStr + ToString>(&mut self) -> Option<T> {
        let read = |value: &str| value.parse::<T>().ok().filter(|cursor| cursor.to_string() == value);
        self.take("cursor", "the nextCursor of an answer", read)
    }

    /// A word or name of at most 512 bytes.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let fits = |value: &str| (1..=512).contains(&value.len());
        self.take(name, "1 to 512 bytes", |value| fits(value).then(|| value.to_owned()))
    }

    /// A time.
    pub(super) fn time(&mut self, name: &str) -> Option<UnixMillis> {
        let expected =
            "an ISO-8601 time with its zone, as in 2026-05-01T09:00:00.000Z ('+' is written %2B in a URL)";
        self.take(name, expected, UnixMillis::parse_iso8601)
    }

    /// `since` and `until`, in this order.
    pub(super) fn window(&mut self) -> (Option<UnixMillis>, Option<UnixMillis>) {
        let (since, until) = (self.time("since"), self.time("until"));
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            self.mistakes.add("query.since", "expected a time not after query.until");
        }
        (since, until)
    }

    /// `limit`.
    pub(super) fn limit(&mut self) -> usize {
        let read = |value: &str| {
            let plain = value.bytes().all(|byte| byte.is_ascii_digit());
            value.parse().ok().filter(|number| plain && (1..=LIMIT_MAX).contains(number))
        };
        self.take("limit", &format!("a whole number from 1 to {LIMIT_MAX}"), read).unwrap_or(LIMIT_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named() {
        let text =
            "limit=0&colour=1&since=2026-05-02T00:00:00Z&until=2026-05-01T00:00:00Z&cursor=07&cursor=b";
        let mut query = Query::new(Some(text), &["limit", "since", "until", "cursor"]);
        let _ = (query.limit(), query.window(), query.cursor::<u32>());
        let told = query.mistakes.to_string();
        for part in [
            "query.colour: not supported; known are limit, since, until, cursor",
            "query.cursor: given more than once",
            "query.limit: expected a whole number from 1 to 100",
            "query.since: expected a time not after query.until",
            "query.cursor: expected the nextCursor",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let mut query = Query::new(None, &["limit"]);
        assert_eq!((query.limit(), query.mistakes.is_empty()), (LIMIT_DEFAULT, true));
    }
}
