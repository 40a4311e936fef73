//! Bodies of requests and how their mistakes are told.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;

use super::body_guard::BodyFault;
use super::error::ApiError;

/// What a caller is told to wait when the bodies of all requests are too large together.
const RETRY_AFTER_CROWDED: Duration = Duration::from_secs(1);
/// Mistakes that one answer tells; more are only counted.
const MISTAKES_SHOWN: usize = 100;
/// Bytes to which a path, and what is wrong there, are cut: both hold names out of the body, and a long name over
/// many wrong values would fill the memory.
const MISTAKE_BYTES_MAX: usize = 512;
/// Names that `X-Postrider-Ignored` lists, and the length to which each is cut.
const IGNORED_SHOWN: usize = 32;
const IGNORED_NAME_MAX: usize = 64;

/// The mistakes of one body, each with its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    told: Vec<String>,
    more: usize,
}

/// The beginning of a text; what comes behind it is not even formatted.
struct Beginning(String);

/// Names of fields that nobody knows; told in a header, otherwise ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(BTreeSet<String>);

/// Reads a body whole; its limits are kept by [`super::body_guard`].
///
/// # Errors
/// 413 when it is too large, 408 when it is slow, 503 when all bodies together are too large, 400 when it ends
/// early.
pub async fn read_body(body: Body, procedure: &'static str) -> Result<Bytes, ApiError> {
    let error = match body.collect().await {
        Ok(whole) => return Ok(whole.to_bytes()),
        Err(error) => error.into_inner(),
    };
    let fault = error.downcast_ref().copied().unwrap_or(BodyFault::Ended);
    let message = format!("body: {fault}");
    Err(match fault {
        BodyFault::TooLarge { .. } => ApiError::too_large(procedure, message),
        BodyFault::Slow => ApiError::timeout(procedure, message),
        BodyFault::Crowded => ApiError::unavailable(procedure, message, RETRY_AFTER_CROWDED),
        BodyFault::Ended => ApiError::bad_request(procedure, message),
    })
}

/// A whole number from 0 on, also where it is written as `3.0` or `3e0`: to JSON Schema these are integers, and some
/// clients know no other numbers.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    // Up to here every integer is exact as a double (2^53).
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let integral = |number: f64| number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number);
    // Whole and within bounds, so nothing is cut off.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    value.as_u64().or_else(|| value.as_f64().filter(|number| integral(*number)).map(|number| number as u64))
}

// === impl Mistakes ===

impl Mistakes {
    /// Adds one.
    pub fn add(&mut self, path: impl fmt::Display, problem: impl fmt::Display) {
        if self.told.len() == MISTAKES_SHOWN {
            self.more = self.more.saturating_add(1);
            return;
        }
        self.told.push(format!("{}: {}", cut(path), cut(problem)));
    }

    /// Adds one where there is an error, and gives the value where there is none.
    pub fn keep<T, E: fmt::Display>(&mut self, path: impl fmt::Display, value: Result<T, E>) -> Option<T> {
        value.map_err(|problem| self.add(path, problem)).ok()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// How many there are, told or only counted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.told.len() + self.more
    }
}

/// The text, or its first [`MISTAKE_BYTES_MAX`] bytes and three dots.
fn cut(text: impl fmt::Display) -> String {
    let mut beginning = Beginning(String::new());
    if write!(beginning, "{text}").is_err() {
        beginning.0.push_str("...");
    }
    beginning.0
}

impl fmt::Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MISTAKE_BYTES_MAX - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() <= room { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join("; "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

// === impl Ignored ===

impl Ignored {
    /// Adds a name.
    pub fn add(&mut self, name: &str) {
        let printable = |c: char| if c.is_ascii_graphic() && c != ',' { c } else { '?' };
        self.0.insert(name.chars().take(IGNORED_NAME_MAX).map(printable).collect());
    }

    /// Adds another list's names.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Names them in `X-Postrider-Ignored`, if there are any.
    pub fn tell(&self, response: &mut Response) {
        let names: Vec<&str> = self.0.iter().take(IGNORED_SHOWN).map(String::as_str).collect();
        if !names.is_empty()
            && let Ok(value) = HeaderValue::from_str(&names.join(", "))
        {
            response.headers_mut().insert("x-postrider-ignored", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_mistakes_under_a_long_name_take_no_more_room_than_a_few() {
        let name = "\u{fe}".repeat(1 << 20);
        let mut mistakes = Mistakes::default();
        for index in 0..100_000 {
            mistakes.add(format_args!("body.{name}[{index}]"), format_args!("'{name}' is wrong"));
        }
        let told = mistakes.to_string();
        assert!(told.starts_with("body.\u{fe}") && told.ends_with("; and 99900 more"), "{}", told.len());
        assert!(told.len() < 120_000, "{}", told.len());
        let mut one = Mistakes::default();
        one.add("body.url", "missing");
        assert_eq!(one.to_string(), "body.url: missing");
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction_of_nothing() {
        for (value, number) in
            [(json!(0), 0), (json!(3), 3), (json!(3.0), 3), (json!(2e3), 2_000), (json!(u64::MAX), u64::MAX)]
        {
            assert_eq!(whole_number(&value), Some(number), "{value}");
        }
        for value in [json!(-1), json!(-1.0), json!(0.5), json!(1e300), json!("3"), json!(null)] {
            assert_eq!(whole_number(&value), None, "{value}");
        }
    }
}
