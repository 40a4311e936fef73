//! The fields of a config that say how fast and how often it is sent to: `rateLimit`, `retryPolicy`, `retryOn`
//! (docs/WIRE.md section 6). Pure.

use serde_json::{Map, Value};

use super::body::{Mistakes, whole_number};
use crate::domain::rate_limit::{RATE_MAX, RateLimit};
use crate::domain::retry_on::RetryOn;
use crate::domain::retry_policy::RetryPolicy;

/// `rateLimit`: `{"perSecond": n, "burst": m}`, or null for none. Outside: it was wrong.
#[allow(clippy::option_option)]
pub(super) fn parse_rate_limit(
    path: &str,
    value: Value,
    mistakes: &mut Mistakes,
) -> Option<Option<RateLimit>> {
    let place = format!("{path}.rateLimit");
    let mut fields = match value {
        Value::Null => return Some(None),
        Value::Object(fields) => fields,
        _ => {
            mistakes.add(place, "expected {\"perSecond\": n, \"burst\": m}, or null for no limit");
            return None;
        }
    };
    let mut number = |name: &str| {
        let number = whole_number(&fields.remove(name).filter(|value| !value.is_null())?);
        Some(number.filter(|number| (1..=u64::from(RATE_MAX)).contains(number)))
    };
    let (per_second, burst) = (number("perSecond"), number("burst"));
    let wrong = format!("expected an integer from 1 to {RATE_MAX}");
    if per_second.flatten().is_none() {
        mistakes.add(format_args!("{place}.perSecond"), &wrong);
    }
    if burst == Some(None) {
        mistakes.add(format_args!("{place}.burst"), &wrong);
    }
    let known = refuse_unknown(&place, &fields, mistakes);
    match (per_second, burst) {
        (Some(Some(per_second)), None) if known => RateLimit::new(per_second, None).map(Some),
        (Some(Some(per_second)), Some(Some(burst))) if known => {
            RateLimit::new(per_second, Some(burst)).map(Some)
        }
        _ => None,
    }
}

/// `retryPolicy`: `{"mode": "exponential"}` or `{"mode": "fixed", "delaySeconds": n}`.
pub(super) fn parse_retry_policy(path: &str, value: Value, mistakes: &mut Mistakes) -> Option<RetryPolicy> {
    let place = format!("{path}.retryPolicy");
    let Value::Object(mut fields) = value else {
        let forms = "expected {\"mode\": \"exponential\"} or {\"mode\": \"fixed\", \"delaySeconds\": n}";
        mistakes.add(place, forms);
        return None;
    };
    let mode = fields.remove("mode");
    let delay = fields.remove("delaySeconds").filter(|delay| !delay.is_null());
    let known = refuse_unknown(&place, &fields, mistakes);
    let policy = match (mode.as_ref().and_then(Value::as_str), delay) {
        (Some("exponential"), None) => Ok(RetryPolicy::Exponential),
        (Some("exponential"), Some(_)) => Err(("delaySeconds", "only the mode 'fixed' has a delay")),
        (Some("fixed"), delay) => delay
            .and_then(|delay| whole_number(&delay))
            .and_then(RetryPolicy::fixed)
            .ok_or(("delaySeconds", "expected an integer from 1 to 86400")),
        _ => Err(("mode", "expected 'exponential' or 'fixed'")),
    };
    match policy {
        Ok(policy) => known.then_some(policy),
        Err((name, problem)) => {
            mistakes.add(format_args!("{place}.{name}"), problem);
            None
        }
    }
}

/// `retryOn`: an array of statuses.
pub(super) fn parse_retry_on(path: &str, value: &Value, mistakes: &mut Mistakes) -> Option<RetryOn> {
    let place = format!("{path}.retryOn");
    let Value::Array(values) = value else {
        mistakes.add(place, "expected an array of statuses out of 408, 425 and 429");
        return None;
    };
    let mut statuses = Vec::with_capacity(RetryOn::CHOICES.len());
    for (index, value) in values.iter().enumerate() {
        let status = whole_number(value).and_then(|status| u16::try_from(status).ok());
        match status.filter(|status| RetryOn::CHOICES.contains(status)) {
            Some(status) => statuses.push(status),
            None => {
                mistakes.add(format_args!("{place}[{index}]"), "expected 408, 425 or 429");
                return None;
            }
        }
    }
    RetryOn::new(statuses)
}

fn refuse_unknown(place: &str, fields: &Map<String, Value>, mistakes: &mut Mistakes) -> bool {
    for name in fields.keys() {
        mistakes.add(format_args!("{place}.{name}"), "there is no such field");
    }
    fields.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told<T>(parse: impl FnOnce(&mut Mistakes) -> Option<T>) -> Result<T, String> {
        let mut mistakes = Mistakes::default();
        let parsed = parse(&mut mistakes);
        assert_eq!(parsed.is_none(), !mistakes.is_empty(), "{mistakes}");
        parsed.ok_or_else(|| mistakes.to_string())
    }

    #[test]
    fn a_rate_limit_is_two_numbers_or_null() {
        let parse = |value| told(|mistakes| parse_rate_limit("body", value, mistakes));
        assert_eq!(parse(json!({"perSecond": 20})), Ok(RateLimit::new(20, Some(20))));
        assert_eq!(parse(json!({"perSecond": 20, "burst": 4})), Ok(RateLimit::new(20, Some(4))));
        assert_eq!(parse(json!(null)), Ok(None));
        for (value, wanted) in [
            (json!(20), "body.rateLimit: "),
            (json!({}), "body.rateLimit.perSecond: "),
            (json!({"perSecond": 0}), "body.rateLimit.perSecond: "),
            (json!({"perSecond": 1.5}), "body.rateLimit.perSecond: "),
            (json!({"perSecond": 1, "burst": 100_001}), "body.rateLimit.burst: "),
            (json!({"perSecond": 1, "perMinute": 1}), "body.rateLimit.perMinute: "),
        ] {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.starts_with(wanted), "{value}: {error}");
        }
    }

    #[test]
    fn a_retry_policy_is_a_mode_and_for_the_fixed_one_a_delay() {
        let parse = |value| told(|mistakes| parse_retry_policy("body", value, mistakes));
        let fixed = RetryPolicy::Fixed { delay_seconds: 60 };
        assert_eq!(parse(json!({"mode": "exponential"})), Ok(RetryPolicy::Exponential));
        assert_eq!(parse(json!({"mode": "fixed", "delaySeconds": 60})), Ok(fixed));
        for (value, wanted) in [
            (json!("fixed"), "body.retryPolicy: "),
            (json!({}), "body.retryPolicy.mode: "),
            (json!({"mode": "linear"}), "body.retryPolicy.mode: "),
            (json!({"mode": "fixed"}), "body.retryPolicy.delaySeconds: "),
            (json!({"mode": "fixed", "delaySeconds": 86_401}), "body.retryPolicy.delaySeconds: "),
            (json!({"mode": "exponential", "delaySeconds": 5}), "body.retryPolicy.delaySeconds: "),
            (json!({"mode": "exponential", "factor": 5}), "body.retryPolicy.factor: "),
        ] {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.starts_with(wanted), "{value}: {error}");
        }
    }

    #[test]
    fn only_some_statuses_can_be_chosen() {
        let parse = |value: Value| told(|mistakes| parse_retry_on("body", &value, mistakes));
        assert_eq!(parse(json!([429, 408, 429])), Ok(RetryOn::new([408, 429]).unwrap()));
        assert_eq!(parse(json!([])), Ok(RetryOn::NONE));
        assert!(parse(json!(429)).unwrap_err().starts_with("body.retryOn: "));
        assert!(parse(json!([429, 404])).unwrap_err().starts_with("body.retryOn[1]: "));
        assert!(parse(json!(["429"])).unwrap_err().starts_with("body.retryOn[0]: "));
    }
}
