//! The body of `PUT /webhooks/configs` (docs/WIRE.md section 6): three shapes, every mistake reported at once,
//! each with its path. Pure: nothing is looked up here. What only the stored configs can show is told by
//! [`super::config_edit`], in the same answer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::body::{Ignored, Mistakes, whole_number};
use super::config_certificate::{CertificateInput, parse_certificate};
use super::config_choices::{parse_active, parse_body_format, parse_flag, parse_http_method};
use super::config_events::{parse_entity_filters, parse_events};
use super::config_pace::{parse_rate_limit, parse_retry_on, parse_retry_policy};
use crate::domain::config::{
    BodyFormat, CustomHeaders, EndpointUrl, EntityFilters, HttpMethod, Subscription, check_max_retries,
};
use crate::domain::ids::ConfigId;
use crate::domain::rate_limit::RateLimit;
use crate::domain::retry_on::RetryOn;
use crate::domain::retry_policy::RetryPolicy;
use crate::domain::signature::Secret;

/// What an answer shows instead of a custom header's value; sent back, it keeps the stored one.
pub const HEADER_MASK: &str = "****";
/// What a masked secret begins with; a secret that begins so is never taken for a new one.
pub const SECRET_MASK: &str = "whsec_****";
/// Most configs of one organisation, deleted ones not counted.
pub const CONFIGS_MAX: usize = 1_000;
/// Most bytes that an organisation's configs take together as they are stored, before they are sealed: as much as a
/// request that sends all of them. Every replica holds every config, several times as large.
pub const CONFIGS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deleted configs of an organisation that are still known (for 30 days), from which on it makes no more.
pub const DELETED_MAX: usize = 10_000;

/// How the configs came, and so how they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object: made or changed, the others stay.
    Single,
    /// An array: the organisation's whole set.
    List,
    /// `{"configs": […]}`: the organisation's whole set.
    Wrapped,
}

/// A body of one of the shapes. With mistakes in it, it is good for finding the rest of them alone.
#[derive(Debug)]
pub struct ConfigBody {
    /// Its shape.
    pub shape: Shape,
    /// Its configs, in order.
    pub items: Vec<ConfigInput>,
    /// Fields that nobody knows.
    pub ignored: Ignored,
    /// What is wrong with it by itself.
    pub mistakes: Mistakes,
}

/// One config of a body. `None`: the field was left out, or null. A field that was wrong, which `mistakes` of the body
/// tells, is here what gives no reason to tell another mistake.
#[derive(Debug)]
pub struct ConfigInput {
    /// Where it stands in the body: `body`, `body[3]`, `body.configs[3]`.
    pub path: String,
    /// `id`
    pub id: IdInput,
    /// `url`; `None`: it was wrong
    pub url: Option<EndpointUrl>,
    /// `events`, without repetitions, as they were written
    pub events: Vec<Subscription>,
    /// `secret`
    pub secret: SecretInput,
    /// `active`, or its other name `isEnabled`
    pub active: Option<bool>,
    /// `maxRetries`
    pub max_retries: Option<u32>,
    /// `retryPolicy`
    pub retry_policy: Option<RetryPolicy>,
    /// `retryOn`
    pub retry_on: Option<RetryOn>,
    /// `rateLimit`; `Some(None)`: null, which takes the limit away
    #[allow(clippy::option_option)]
    pub rate_limit: Option<Option<RateLimit>>,
    /// `headers`; values that are [`HEADER_MASK`] stand for the stored ones
    pub headers: Option<BTreeMap<String, String>>,
    /// `httpMethod`
    pub http_method: Option<HttpMethod>,
    /// `bodyFormat`
    pub body_format: Option<BodyFormat>,
    /// `entityFilters`
    pub entity_filters: Option<EntityFilters>,
    /// `standardWebhooks`
    pub standard_webhooks: Option<bool>,
    /// `logPayloads`
    pub log_payloads: Option<bool>,
    /// `clientCertificate`; `Some(None)`: null, which takes it away
    #[allow(clippy::option_option)]
    pub client_certificate: Option<Option<CertificateInput>>,
}

/// A config's `id` as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdInput {
    /// Left out.
    Absent,
    /// No id: nobody knows which config it means.
    Wrong,
    /// An id.
    Given(ConfigId),
}

/// A config's `secret` as sent.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretInput {
    /// Left out.
    Absent,
    /// As an answer showed it.
    Masked,
    /// A new one.
    New(Secret),
}

/// Fields of an answer that may come back and change nothing.
const READ_ONLY: [&str; 6] =
    ["createdAt", "updatedAt", "disabledReason", "disabledAt", "health", "previousSecret"];

impl ConfigBody {
    /// Parses a body; what is wrong with its configs stands in `mistakes`.
    ///
    /// # Errors
    /// What keeps it from being of one of the shapes.
    pub fn parse(bytes: &[u8], allow_http: bool) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut ignored = Ignored::default();
        let parsed = serde_json::from_slice::<Value>(bytes).map_err(|error| format!("invalid JSON: {error}"));
        let (shape, values) = match mistakes.keep("body", parsed) {
            None => return Err(mistakes),
            Some(Value::Array(values)) => (Shape::List, values),
            Some(Value::Object(mut object)) => match object.remove("configs") {
                Some(Value::Array(values)) => {
                    object.keys().for_each(|name| ignored.add(name));
                    (Shape::Wrapped, values)
                }
                Some(_) => {
                    mistakes.add("body.configs", "expected an array of configs");
                    return Err(mistakes);
                }
                None => (Shape::Single, vec![Value::Object(object)]),
            },
            Some(_) => {
                mistakes.add("body", "expected a config, an array of configs, or {\"configs\": [...]}");
                return Err(mistakes);
            }
        };
        if values.len() > CONFIGS_MAX {
            mistakes.add("body", format!("expected at most {CONFIGS_MAX} configs"));
            return Err(mistakes);
        }
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let path = match shape {
                Shape::Single => "body".to_owned(),
                Shape::List => format!("body[{index}]"),
                Shape::Wrapped => format!("body.configs[{index}]"),
            };
            items.extend(parse_item(path, value, allow_http, &mut mistakes, &mut ignored));
        }
        Ok(Self { shape, items, ignored, mistakes })
    }
}

fn parse_item(
    path: String,
    value: Value,
    allow_http: bool,
    mistakes: &mut Mistakes,
    ignored: &mut Ignored,
) -> Option<ConfigInput> {
    let Value::Object(mut fields) = value else {
        mistakes.add(path, "expected an object");
        return None;
    };
    let rate_limit = fields.remove("rateLimit").map(|value| parse_rate_limit(&path, value, mistakes));
    let certificate =
        fields.remove("clientCertificate").map(|value| parse_certificate(&path, value, mistakes));
    let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_null());
    let id = parse_id(&path, take("id"), mistakes);
    let url = parse_url(&path, take("url"), allow_http, mistakes);
    let events = parse_events(&path, take("events"), mistakes);
    let filters =
        take("entityFilters").map(|value| parse_entity_filters(&path, value, events.as_deref(), mistakes));
    let secret = take("secret").map(|value| parse_secret(&path, &value, mistakes));
    let active = parse_active(&path, take("active"), take("isEnabled"), mistakes);
    let retries = take("maxRetries").map(|value| {
        let checked = match whole_number(&value) {
            Some(number) => check_max_retries(number).map_err(|error| error.0),
            None => Err("expected an integer from 0 to 10".to_owned()),
        };
        mistakes.keep(format_args!("{path}.maxRetries"), checked)
    });
    let policy = take("retryPolicy").map(|value| parse_retry_policy(&path, value, mistakes));
    let retry_on = take("retryOn").map(|value| parse_retry_on(&path, &value, mistakes));
    let headers = take("headers").map(|value| parse_headers(&path, value, mistakes));
    let method = take("httpMethod").map(|value| parse_http_method(&path, &value, mistakes));
    let format = take("bodyFormat").map(|value| parse_body_format(&path, &value, mistakes));
    let standard = parse_flag(&path, "standardWebhooks", take("standardWebhooks"), mistakes);
    let payloads = parse_flag(&path, "logPayloads", take("logPayloads"), mistakes);
    let unknown = fields.keys().filter(|name| !READ_ONLY.contains(&name.as_str()));
    unknown.for_each(|name| ignored.add(name));
    Some(ConfigInput {
        id,
        url,
        events: events.unwrap_or_default(),
        secret: secret.flatten().unwrap_or(SecretInput::Absent),
        active: active.flatten(),
        max_retries: retries.flatten(),
        retry_policy: policy.flatten(),
        retry_on: retry_on.flatten(),
        rate_limit: rate_limit.map(Option::flatten),
        headers,
        http_method: method.flatten(),
        body_format: format.flatten(),
        entity_filters: filters.flatten(),
        // Not as if it were left out: the stored one may forbid headers that this one was to allow.
        standard_webhooks: standard.unwrap_or(Some(false)),
        log_payloads: payloads.flatten(),
        client_certificate: certificate.map(Option::flatten),
        path,
    })
}

fn parse_id(path: &str, value: Option<Value>, mistakes: &mut Mistakes) -> IdInput {
    let Some(value) = value else { return IdInput::Absent };
    let wrong = "expected 24 lower-case hexadecimal digits, as an answer gave them";
    let parsed = value.as_str().and_then(|text| text.parse().ok()).ok_or(wrong);
    mistakes.keep(format_args!("{path}.id"), parsed).map_or(IdInput::Wrong, IdInput::Given)
}

fn parse_url(
    path: &str,
    value: Option<Value>,
    allow_http: bool,
    mistakes: &mut Mistakes,
) -> Option<EndpointUrl> {
    let parsed = match value {
        None => Err("missing; expected an https URL".to_owned()),
        Some(Value::String(text)) => EndpointUrl::new(&text, allow_http).map_err(|error| error.0),
        Some(_) => Err("expected an https URL as a string".to_owned()),
    };
    mistakes.keep(format_args!("{path}.url"), parsed)
}

fn parse_secret(path: &str, value: &Value, mistakes: &mut Mistakes) -> Option<SecretInput> {
    let parsed = match value.as_str() {
        Some(text) if text.starts_with(SECRET_MASK) => Ok(SecretInput::Masked),
        Some(text) => Secret::new(text).map(SecretInput::New).ok_or(()),
        None => Err(()),
    };
    let wrong = "expected 1 to 256 bytes without control characters";
    mistakes.keep(format_args!("{path}.secret"), parsed.map_err(|()| wrong))
}

/// Those that are not wrong.
fn parse_headers(path: &str, value: Value, mistakes: &mut Mistakes) -> BTreeMap<String, String> {
    let place = format!("{path}.headers");
    let mut headers = BTreeMap::new();
    let Value::Object(fields) = value else {
        mistakes.add(place, "expected an object of strings");
        return headers;
    };
    for (name, value) in fields {
        let Value::String(text) = value else {
            mistakes.add(format_args!("{place}.{name}"), "expected a string");
            continue;
        };
        headers.insert(name, text);
    }
    // The mask is a value that HTTP can carry, so it passes here and is resolved against the stored ones.
    let mut wrong = Vec::new();
    for (name, problem) in CustomHeaders::mistakes(&headers) {
        let Some(name) = name else {
            mistakes.add(&place, problem);
            return BTreeMap::new();
        };
        mistakes.add(format_args!("{place}.{name}"), problem);
        wrong.push(name.to_owned());
    }
    wrong.iter().for_each(|name| drop(headers.remove(name)));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> Result<ConfigBody, String> {
        let parsed = ConfigBody::parse(body.as_bytes(), false).map_err(|mistakes| mistakes.to_string())?;
        if parsed.mistakes.is_empty() { Ok(parsed) } else { Err(parsed.mistakes.to_string()) }
    }

    #[test]
    fn the_three_shapes() {
        let one = r#"{"url":"https://a.example/","events":["a.b","a.b"]}"#;
        let shape = |body: &str| parse(body).map(|body| (body.shape, body.items.len()));
        assert_eq!(shape(one), Ok((Shape::Single, 1)));
        assert_eq!(shape(&format!("[{one},{one}]")), Ok((Shape::List, 2)));
        assert_eq!(shape(&format!("{{\"configs\":[{one}]}}")), Ok((Shape::Wrapped, 1)));
        assert_eq!(shape("[]"), Ok((Shape::List, 0)));
        assert_eq!(parse(one).unwrap().items[0].events.len(), 1);
    }

    #[test]
    fn every_mistake_is_told_with_its_path() {
        let error = parse(
            r#"[{"url":"http://a","events":[]},7,{"url":"https://a","events":["A",1],"active":true,"isEnabled":false,
                "maxRetries":11,"headers":{"Host":"x","N":1,"X-Nudj-A":"y"},"id":"x","secret":"","httpMethod":"GET",
                "clientCertificate":{"certificate":7},"entityFilters":{"a":[1],"b":[],"c":[""]},"bodyFormat":"xml","standardWebhooks":1,"logPayloads":"no","rateLimit":1}]"#,
        )
        .unwrap_err();
        for wanted in [
            "body[0].url: ",
            "body[0].events: ",
            "body[1]: expected an object",
            "body[2].events[0]: ",
            "body[2].events[1]: ",
            "body[2].active: ",
            "body[2].maxRetries: ",
            "body[2].headers.Host: this header is set by Postrider",
            "body[2].headers.X-Nudj-A: this header is set by Postrider",
            "body[2].headers.N: ",
            "body[2].id: ",
            "body[2].secret: ",
            "body[2].httpMethod: ",
            "body[2].entityFilters.a[0]: ",
            "body[2].entityFilters.b: expected at least one id",
            "body[2].entityFilters.c: expected ids of 1 to 256 bytes",
            "body[2].bodyFormat: ",
            "body[2].standardWebhooks: ",
            "body[2].logPayloads: ",
            "body[2].rateLimit: ",
            "body[2].clientCertificate.certificate: ",
            "body[2].clientCertificate.key: ",
        ] {
            assert!(error.contains(wanted), "{wanted} in {error}");
        }
        assert!(parse("{").unwrap_err().starts_with("body: invalid JSON"));
        assert!(parse("7").unwrap_err().starts_with("body: expected"));
        assert!(parse(r#"{"configs":{}}"#).unwrap_err().starts_with("body.configs: "));
    }

    #[test]
    fn what_get_shows_may_come_back_and_the_unknown_is_named() {
        let body = parse(
            r#"{"url":"https://a","events":["a"],"secret":"whsec_****abcd","createdAt":"x","updatedAt":"x",
                "disabledReason":"gone","disabledAt":"x","httpMethod":"POST","entityFilters":{},"colour":1,"maxRetries":null}"#,
        )
        .unwrap();
        assert_eq!(body.items[0].secret, SecretInput::Masked);
        assert_eq!(body.items[0].max_retries, None);
        let mut wanted = Ignored::default();
        wanted.add("colour");
        assert_eq!(body.ignored, wanted);
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_refused(body: Vec<u8>) {
            let _ = ConfigBody::parse(&body, true);
        }
    }
}
