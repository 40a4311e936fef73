//! The body of `POST /webhooks/events` (docs/WIRE.md section 9): one event or an array, every mistake reported
//! with its path. `data` is cut out of the body as it stands, never re-serialised.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::body::{Ignored, Mistakes};
use super::error::ApiError;
use crate::domain::event::{DATA_MAX_BYTES, EventFields, JsonScratch};
use crate::domain::ids::OrganisationId;
use crate::redis::publish::Item;

/// Most events of one request.
pub const ITEMS_MAX: usize = 1_000;

/// Why a body is refused.
#[derive(Debug)]
pub enum BodyRefusal {
    /// 400.
    Invalid(Mistakes),
    /// 413: an event's `data` is over its limit; the path.
    TooLarge(String),
}

/// A body without mistakes.
#[derive(Debug)]
pub struct PublishBody {
    /// Its events, in order.
    pub items: Vec<Item>,
    /// Fields that nobody knows.
    pub ignored: Ignored,
}

type Fields<'a> = HashMap<String, &'a RawValue>;

impl BodyRefusal {
    /// The answer that it makes.
    #[must_use]
    pub fn into_error(self, procedure: &'static str) -> ApiError {
        match self {
            Self::Invalid(mistakes) => ApiError::bad_request(procedure, mistakes.to_string()),
            Self::TooLarge(path) => {
                let message = format!("{path}.data: at most {DATA_MAX_BYTES} bytes are accepted");
                ApiError::too_large(procedure, message)
            }
        }
    }
}

impl PublishBody {
    /// Parses and checks a body for `organisation`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(bytes: &[u8], organisation: &OrganisationId) -> Result<Self, BodyRefusal> {
        let mut mistakes = Mistakes::default();
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let is_list = first == Some(&b'[');
        let parsed: Result<Vec<&RawValue>, _> = if is_list {
            serde_json::from_slice(bytes)
        } else {
            serde_json::from_slice(bytes).map(|one| vec![one])
        };
        let parsed = parsed.map_err(|error| format!("invalid JSON: {error}"));
        let Some(values) = mistakes.keep("body", parsed) else { return Err(BodyRefusal::Invalid(mistakes)) };
        if !(1..=ITEMS_MAX).contains(&values.len()) {
            mistakes.add("body", format!("{} events; expected 1 to {ITEMS_MAX}", values.len()));
            return Err(BodyRefusal::Invalid(mistakes));
        }
        let mut body = Self { items: Vec::with_capacity(values.len()), ignored: Ignored::default() };
        let mut scratch = JsonScratch::default();
        for (index, value) in values.into_iter().enumerate() {
            let path = if is_list { format!("body[{index}]") } else { "body".to_owned() };
            match serde_json::from_str::<Fields<'_>>(value.get()) {
                Ok(fields) => body.take(&path, fields, organisation, &mut scratch, &mut mistakes)?,
                Err(_) => mistakes.add(path, "expected an object"),
            }
        }
        if mistakes.is_empty() { Ok(body) } else { Err(BodyRefusal::Invalid(mistakes)) }
    }

    fn take(
        &mut self,
        path: &str,
        given: Fields<'_>,
        organisation: &OrganisationId,
        scratch: &mut JsonScratch,
        mistakes: &mut Mistakes,
    ) -> Result<(), BodyRefusal> {
        let mut fields = EventFields::default();
        let mut wrong: Vec<String> = Vec::new();
        for (name, value) in given {
            if value.get() == "null" {
                continue;
            }
            if !EventFields::NAMES.contains(&name.as_str()) {
                self.ignored.add(&name);
            } else if name == "data" {
                if value.get().len() > DATA_MAX_BYTES {
                    return Err(BodyRefusal::TooLarge(path.to_owned()));
                }
                fields.set(b"data", value.get().as_bytes().to_vec());
            } else if let Ok(text) = serde_json::from_str::<String>(value.get()) {
                if name == "organisationId" && text != organisation.as_str() {
                    mistakes.add(format_args!("{path}.organisationId"), "is not the caller's; leave it out");
                    wrong.push(name.clone());
                }
                fields.set(name.as_bytes(), text.into_bytes());
            } else {
                mistakes.add(format_args!("{path}.{name}"), "expected a string");
                wrong.push(name);
            }
        }
        match Item::new(organisation, fields, scratch) {
            Ok(item) => self.items.push(item),
            // What is no text was left out, and is told already.
            Err(rejections) => rejections
                .into_iter()
                .filter(|one| !wrong.iter().any(|name| name == one.field))
                .for_each(|one| mistakes.add(format_args!("{path}.{}", one.field), one.problem)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> Result<usize, String> {
        let organisation = OrganisationId::new("org_1").unwrap();
        match PublishBody::parse(body.as_bytes(), &organisation) {
            Ok(body) => Ok(body.items.len()),
            Err(refusal) => Err(refusal.into_error("p").message().to_owned()),
        }
    }

    #[test]
    fn one_or_many_and_the_bad_one_is_named() {
        let good = r#"{"event":"a.b","data":{"n":123456789012345678901234567890},"nonce":null}"#;
        assert_eq!(parse(good), Ok(1));
        assert_eq!(parse(&format!(" [{good},{good}]")), Ok(2));
        for (body, wanted) in [
            ("[]", "body: 0 events"),
            ("7", "body: expected an object"),
            ("{", "body: invalid JSON"),
            (r#"{"data":{}}"#, "body.event: missing"),
            (r#"{"event":"a","data":[]}"#, "body.data: expected a JSON object"),
            (r#"{"event":"a","data":{},"nonce":7}"#, "body.nonce: expected a string"),
            (r#"{"event":7,"data":{}}"#, "body.event: expected a string"),
            (r#"{"event":"a","data":{},"organisationId":"x"}"#, "body.organisationId: is not"),
            (r#"[{"event":"a","data":{}},{"event":"A","data":{}}]"#, "body[1].event: expected"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.starts_with(wanted), "{body}: {error}");
        }
        let error = parse(r#"{"event":"A","data":[],"nonce":"","timestamp":"x","configId":"y","userId":7}"#);
        let error = error.unwrap_err();
        for name in ["event", "data", "nonce", "timestamp", "configId", "userId"] {
            assert_eq!(error.matches(&format!("body.{name}: expected")).count(), 1, "{name} in {error}");
        }
        assert_eq!(parse(r#"{"event":7}"#).unwrap_err().matches("body.event").count(), 1);
        let large = format!(r#"{{"event":"a","data":{{"x":"{}"}}}}"#, "x".repeat(DATA_MAX_BYTES));
        assert!(parse(&large).unwrap_err().contains("body.data: at most"));
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_refused(body: Vec<u8>) {
            let _ = PublishBody::parse(&body, &OrganisationId::new("o").unwrap());
        }
    }
}
