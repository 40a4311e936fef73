//! The fields of a config that choose among few words: `active`, `httpMethod`, `bodyFormat`, `standardWebhooks`,
//! `logPayloads` (docs/WIRE.md section 6). Pure.

use serde_json::Value;

use super::body::Mistakes;
use crate::domain::config::{BodyFormat, HttpMethod};

/// `active` or `isEnabled`, its other name. Outside: one of them was wrong. Inside: both were left out.
#[allow(clippy::option_option)]
pub(super) fn parse_active(
    path: &str,
    active: Option<Value>,
    enabled: Option<Value>,
    mistakes: &mut Mistakes,
) -> Option<Option<bool>> {
    let active = parse_flag(path, "active", active, mistakes);
    let enabled = parse_flag(path, "isEnabled", enabled, mistakes);
    match (active?, enabled?) {
        (Some(a), Some(b)) if a != b => {
            let problem = "differs from isEnabled, which is its other name; send one, or both equal";
            mistakes.add(format_args!("{path}.active"), problem);
            None
        }
        (a, b) => Some(a.or(b)),
    }
}

/// A field that is true or false. Outside: it was wrong. Inside: it was left out.
#[allow(clippy::option_option)]
pub(super) fn parse_flag(
    path: &str,
    name: &str,
    value: Option<Value>,
    mistakes: &mut Mistakes,
) -> Option<Option<bool>> {
    let Some(value) = value else { return Some(None) };
    let parsed = value.as_bool().ok_or("expected true or false");
    mistakes.keep(format_args!("{path}.{name}"), parsed).map(Some)
}

/// `httpMethod`
pub(super) fn parse_http_method(path: &str, value: &Value, mistakes: &mut Mistakes) -> Option<HttpMethod> {
    let parsed = match value.as_str() {
        Some("GET") => {
            Err("expected 'POST' or 'PUT'; a payload in a GET cannot be relied on, so it is refused")
        }
        Some(word) => HttpMethod::parse(word).ok_or("expected 'POST' or 'PUT'"),
        None => Err("expected 'POST' or 'PUT'"),
    };
    mistakes.keep(format_args!("{path}.httpMethod"), parsed)
}

/// `bodyFormat`
pub(super) fn parse_body_format(path: &str, value: &Value, mistakes: &mut Mistakes) -> Option<BodyFormat> {
    let parsed = value.as_str().and_then(BodyFormat::parse).ok_or("expected 'standard' or 'developer'");
    mistakes.keep(format_args!("{path}.bodyFormat"), parsed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told<T>(parse: impl FnOnce(&mut Mistakes) -> Option<T>) -> Result<T, String> {
        let mut mistakes = Mistakes::default();
        parse(&mut mistakes).ok_or_else(|| mistakes.to_string())
    }

    #[test]
    fn the_two_names_of_active_must_agree() {
        let active =
            |a: Option<Value>, b: Option<Value>| told(|mistakes| parse_active("body", a, b, mistakes));
        assert_eq!(active(None, None), Ok(None));
        assert_eq!(active(Some(json!(false)), None), Ok(Some(false)));
        assert_eq!(active(None, Some(json!(true))), Ok(Some(true)));
        assert_eq!(active(Some(json!(true)), Some(json!(true))), Ok(Some(true)));
        assert!(
            active(Some(json!(true)), Some(json!(false))).unwrap_err().starts_with("body.active: differs")
        );
        let both = active(Some(json!(1)), Some(json!("yes"))).unwrap_err();
        assert!(both.contains("body.active: ") && both.contains("body.isEnabled: "), "{both}");
    }

    #[test]
    fn words_are_taken_exactly() {
        let method = |value: Value| told(|mistakes| parse_http_method("body", &value, mistakes));
        assert_eq!(
            (method(json!("POST")), method(json!("PUT"))),
            (Ok(HttpMethod::Post), Ok(HttpMethod::Put))
        );
        assert!(method(json!("GET")).unwrap_err().contains("cannot be relied on"));
        for wrong in [json!("post"), json!("PATCH"), json!(1)] {
            assert!(method(wrong).unwrap_err().starts_with("body.httpMethod: expected 'POST' or 'PUT'"));
        }
        let format = |value: Value| told(|mistakes| parse_body_format("body", &value, mistakes));
        assert_eq!(format(json!("standard")), Ok(BodyFormat::Standard));
        assert_eq!(format(json!("developer")), Ok(BodyFormat::Developer));
        assert!(format(json!("b")).unwrap_err().starts_with("body.bodyFormat: "));
    }
}
