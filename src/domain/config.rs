//! A webhook config: where an organisation wants which events (docs/WIRE.md section 6), its stored form in
//! `configs`, and the endpoint prepared from it for sending.

use std::fmt;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::uri::Authority;
use serde::{Deserialize, Serialize};
use url::Url;

use super::clock::UnixMillis;
use super::ids::{ConfigId, OrganisationId};
use super::rate_limit::RateLimit;
use super::retry_on::RetryOn;
use super::retry_policy::{MAX_RETRIES_LIMIT, RetryPolicy};
use super::signature::{Secret, SigningKey};
use super::standard_signature::StandardKey;

mod choices;
mod client_certificate;
mod disabled;
mod entity_filters;
mod headers;
mod rotation;
mod stored;
mod subscription;

pub use choices::{BodyFormat, HttpMethod};
pub use client_certificate::{ClientCertificate, ClientIdentity};
pub use disabled::{Disabled, DisabledReason};
pub use entity_filters::{ENTITY_ID_MAX_BYTES, ENTITY_IDS_MAX, EntityFilters};
pub use headers::{CustomHeaders, HEADER_VALUE_MAX_BYTES, HEADERS_MAX};
pub use rotation::{OVERLAP_DEFAULT, OVERLAP_MAX, PreviousKey, PreviousSecret, SigningKeys};
pub use subscription::Subscription;

/// Longest URL, in bytes.
pub const URL_MAX_BYTES: usize = 2048;
/// Most event types of one config.
pub const EVENTS_MAX: usize = 256;
/// Longest event type, in bytes.
pub const EVENT_TYPE_MAX_BYTES: usize = 128;
/// `maxRetries` where a config gives none.
pub const MAX_RETRIES_DEFAULT: u32 = 3;

/// A webhook config as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Its id.
    pub id: ConfigId,
    /// The organisation that it belongs to.
    pub organisation: OrganisationId,
    /// Raised by every change; a 410 disables only the version that its attempt used.
    pub version: u64,
    /// Where deliveries go.
    pub url: EndpointUrl,
    /// What it subscribes to; never empty.
    pub events: Vec<Subscription>,
    /// What signs its deliveries.
    pub secret: Secret,
    /// What signed before, and still does for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<PreviousSecret>,
    /// False pauses without deleting.
    pub active: bool,
    /// Automatic retries after the first attempt, 0 to 10.
    pub max_retries: u32,
    /// How long between them.
    #[serde(default, skip_serializing_if = "RetryPolicy::is_default")]
    pub retry_policy: RetryPolicy,
    /// Statuses that are retried besides 5xx.
    #[serde(default, skip_serializing_if = "RetryOn::is_empty")]
    pub retry_on: RetryOn,
    /// Requests a second over all replicas; unlimited unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The method of its requests.
    #[serde(default, skip_serializing_if = "HttpMethod::is_default")]
    pub http_method: HttpMethod,
    /// The format of its bodies; what is queued already keeps the bytes that it has.
    #[serde(default, skip_serializing_if = "BodyFormat::is_default")]
    pub body_format: BodyFormat,
    /// Of some event types, only the events about certain entities; decides when an event is routed.
    #[serde(default, skip_serializing_if = "EntityFilters::is_empty")]
    pub entity_filters: EntityFilters,
    /// Whether the Standard Webhooks headers go along.
    #[serde(default, skip_serializing_if = "is_false")]
    pub standard_webhooks: bool,
    /// Whether the bodies of finished deliveries are kept with the log.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub log_payloads: bool,
    /// What Postrider shows to an endpoint that asks for a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// Custom headers, sent verbatim.
    pub headers: CustomHeaders,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was changed last.
    pub updated_at: UnixMillis,
    /// Why Postrider set `active` to false, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// What is left of a deleted config, so that its queued deliveries end as `failed` instead of waiting forever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The config's id.
    pub id: ConfigId,
    /// The organisation that it belonged to.
    pub organisation: OrganisationId,
    /// When it was deleted.
    pub deleted_at: UnixMillis,
    /// Whether the bodies of its deliveries may be kept and shown.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub log_payloads: bool,
}

/// A value of the `configs` hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
#[allow(clippy::large_enum_variant)] // Kept behind an Arc, one per config.
pub enum StoredConfig {
    /// A config.
    Config(Config),
    /// A deleted one.
    Tombstone(Tombstone),
}

/// An event's type: `^[a-z0-9]+([._-][a-z0-9]+)*$`, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Arc<str>);

/// An `http` or `https` URL that deliveries can be sent to, as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    text: Arc<str>,
    parsed: Url,
}

/// Why a part of a config is not acceptable; the caller knows the field's path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(pub String);

/// A config prepared for sending: everything that does not change from one attempt to the next.
#[derive(Debug)]
pub struct Endpoint {
    /// The config's id: connections are pooled by it.
    pub config: ConfigId,
    /// The version that this was prepared from.
    pub version: u64,
    /// The URL as it was given, for the log.
    pub url: Arc<str>,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host, without brackets where it is an IPv6 address.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// The `Host` header's value (the port left out where it is the scheme's).
    pub authority: HeaderValue,
    /// The request target in origin form.
    pub path_and_query: http::Uri,
    /// Custom headers.
    pub headers: HeaderMap,
    /// The request's method.
    pub method: http::Method,
    /// The prepared signing key.
    pub signing_key: SigningKey,
    /// The key of the Standard Webhooks headers; none where the config does not send them.
    pub standard_key: Option<StandardKey>,
    /// The one before, during a rotation; see [`Endpoint::signing_keys`].
    pub previous_key: Option<PreviousKey>,
    /// What is shown where the endpoint asks for a certificate; connections are not kept over a change of it.
    pub client_identity: Option<Arc<ClientIdentity>>,
}

// === impl Config ===

impl Config {
    /// Prepares the config for sending.
    ///
    /// # Errors
    /// When a part cannot be put into an HTTP request, which the constructors of the parts rule out.
    pub fn endpoint(&self) -> Result<Endpoint, InvalidConfig> {
        let invalid = |what: &str| InvalidConfig(format!("{what} cannot be sent over HTTP"));
        let url = &self.url.parsed;
        let host = url.host_str().ok_or_else(|| invalid("url host"))?;
        let port = url.port_or_known_default().ok_or_else(|| invalid("url port"))?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let bare_host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Ok(Endpoint {
            config: self.id,
            version: self.version,
            url: Arc::clone(&self.url.text),
            tls: url.scheme() == "https",
            host: bare_host.into(),
            port,
            authority: HeaderValue::from_str(&authority).map_err(|_| invalid("url host"))?,
            path_and_query: path.parse().map_err(|_| invalid("url path"))?,
            headers: self.headers.to_header_map()?,
            method: self.http_method.to_http(),
            signing_key: self.secret.signing_key(),
            standard_key: self.standard_webhooks.then(|| StandardKey::of(&self.secret)),
            previous_key: self.previous_secret.as_ref().map(PreviousSecret::key),
            client_identity: self
                .client_certificate
                .as_ref()
                .map(|pair| pair.identity().map_err(|(_, invalid)| invalid))
                .transpose()?,
        })
    }
}

// === impl EventType ===

impl EventType {
    /// # Errors
    /// When the text does not have the shape.
    pub fn new(text: &str) -> Result<Self, InvalidConfig> {
        if Self::has_shape(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidConfig(
                "expected lower-case letters and digits joined by '.', '_' or '-', at most 128 characters"
                    .into(),
            ))
        }
    }

    /// Whether `text` has the shape of an event type.
    #[must_use]
    pub fn has_shape(text: &str) -> bool {
        let joiner = |b: u8| matches!(b, b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        (1..=EVENT_TYPE_MAX_BYTES).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || joiner(*b))
            && bytes.split(|b| joiner(*b)).all(|word| !word.is_empty())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub const fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl EndpointUrl ===

impl EndpointUrl {
    /// Parses a URL: `https`, or `http` where `allow_http`; with a host, without user, password or fragment.
    ///
    /// # Errors
    /// Says which of these is not so.
    pub fn new(text: &str, allow_http: bool) -> Result<Self, InvalidConfig> {
        let invalid = |what: &str| Err(InvalidConfig(what.to_owned()));
        if text.len() > URL_MAX_BYTES {
            return invalid("expected a URL of at most 2048 bytes");
        }
        // The URL standard's parser drops or encodes these silently; what is stored is then not what is sent to.
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return invalid("expected a URL without spaces and control characters");
        }
        let Ok(parsed) = Url::parse(text) else { return invalid("expected an absolute https URL") };
        match parsed.scheme() {
            "https" => {}
            "http" if allow_http => {}
            "http" => return invalid("expected an https URL (http is for development, with --allow-http)"),
            _ => return invalid("expected an https URL"),
        }
        if parsed.host_str().is_none_or(str::is_empty) {
            return invalid("expected a URL with a host");
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return invalid("expected a URL without user and password (send credentials with 'headers')");
        }
        if parsed.fragment().is_some() {
            return invalid("expected a URL without a fragment ('#...')");
        }
        if parsed.port() == Some(0) {
            return invalid("expected a port from 1 to 65535");
        }
        if parsed.host_str().is_some_and(|host| host.parse::<Authority>().is_err()) {
            return invalid("expected a host that HTTP can carry");
        }
        Ok(Self { text: text.into(), parsed })
    }

    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL, parsed.
    #[must_use]
    pub const fn parsed(&self) -> &Url {
        &self.parsed
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `logPayloads` where a config says nothing.
const fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
const fn is_true(flag: &bool) -> bool {
    *flag
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Checks `maxRetries`.
///
/// # Errors
/// When it lies outside 0..=10.
pub fn check_max_retries(value: u64) -> Result<u32, InvalidConfig> {
    u32::try_from(value)
        .ok()
        .filter(|retries| *retries <= MAX_RETRIES_LIMIT)
        .ok_or_else(|| InvalidConfig("expected an integer from 0 to 10".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(url: &str) -> Config {
        Config {
            id: ConfigId::from_bytes([1; 12]),
            organisation: OrganisationId::new("org_1").unwrap(),
            version: 1,
            url: EndpointUrl::new(url, true).unwrap(),
            events: vec![Subscription::new("reward.earned").unwrap()],
            secret: Secret::new("whsec_x").unwrap(),
            previous_secret: None,
            client_certificate: None,
            active: true,
            max_retries: 3,
            retry_policy: RetryPolicy::default(),
            retry_on: RetryOn::NONE,
            rate_limit: None,
            http_method: HttpMethod::default(),
            body_format: BodyFormat::default(),
            entity_filters: EntityFilters::default(),
            standard_webhooks: false,
            log_payloads: true,
            headers: CustomHeaders::new([("X-Key".to_owned(), "v".to_owned())].into()).unwrap(),
            created_at: UnixMillis(1),
            updated_at: UnixMillis(2),
            disabled: None,
        }
    }

    #[test]
    fn a_stored_config_round_trips() {
        let stored = StoredConfig::Config(config("https://a.example/x?y=1"));
        let json = serde_json::to_string(&stored).unwrap();
        assert_eq!(serde_json::from_str::<StoredConfig>(&json).unwrap(), stored);
        assert!(json.starts_with(r#"{"kind":"config","id":"0101"#), "{json}");
    }

    #[test]
    fn a_config_that_was_stored_before_a_field_existed_has_its_default() {
        let plain = serde_json::to_value(StoredConfig::Config(config("https://a.example/"))).unwrap();
        for name in [
            "retryPolicy",
            "retryOn",
            "rateLimit",
            "httpMethod",
            "bodyFormat",
            "entityFilters",
            "standardWebhooks",
            "logPayloads",
        ] {
            assert_eq!(plain.get(name), None, "{name}: nothing is written for a default");
        }
        let mut chosen = config("https://a.example/");
        chosen.retry_policy = RetryPolicy::Fixed { delay_seconds: 9 };
        chosen.retry_on = RetryOn::new([429]).unwrap();
        chosen.rate_limit = RateLimit::new(5, Some(2));
        chosen.events = ["*", "reward.*", "post-like"].map(|text| Subscription::new(text).unwrap()).into();
        chosen.http_method = HttpMethod::Put;
        chosen.body_format = BodyFormat::Developer;
        let filter = (EventType::new("post-like").unwrap(), vec!["p1".to_owned()]);
        chosen.entity_filters = EntityFilters::new([filter].into()).unwrap();
        chosen.standard_webhooks = true;
        chosen.log_payloads = false;
        let chosen = StoredConfig::Config(chosen);
        let json = serde_json::to_string(&chosen).unwrap();
        assert_eq!(serde_json::from_str::<StoredConfig>(&json).unwrap(), chosen, "{json}");
    }

    #[test]
    fn an_endpoint_is_prepared_in_origin_form() {
        let endpoint = config("http://[::1]:8080/a%20b?c=d").endpoint().unwrap();
        assert_eq!((&*endpoint.host, endpoint.port, endpoint.tls), ("::1", 8080, false));
        assert_eq!(endpoint.authority, "[::1]:8080");
        assert_eq!(endpoint.path_and_query.to_string(), "/a%20b?c=d");
        let endpoint = config("https://a.example").endpoint().unwrap();
        assert_eq!((endpoint.port, endpoint.authority.to_str().unwrap()), (443, "a.example"));
        assert_eq!(endpoint.path_and_query.to_string(), "/");
    }

    #[test]
    fn urls_that_cannot_be_targets_are_refused_with_the_reason() {
        for (url, word) in [
            ("", "absolute"),
            ("ftp://a/", "https"),
            ("http://a/", "--allow-http"),
            ("https://u:p@a/", "password"),
            ("https://a/#x", "fragment"),
            ("https://a:0/", "port"),
            ("https://a/\n", "control"),
            (" https://a/", "spaces"),
        ] {
            let error = EndpointUrl::new(url, false).unwrap_err();
            assert!(error.0.contains(word), "{url}: {error}");
        }
    }

    #[test]
    fn headers_that_would_break_the_contract_are_refused() {
        for (name, value) in [
            ("Content-Type", "x"),
            ("HOST", "x"),
            ("x-nudj-signature", "x"),
            ("a b", "x"),
            ("X-A", "line\r\nX-B: 1"),
            ("X-A", "é"),
        ] {
            let headers = [(name.to_owned(), value.to_owned())].into();
            assert!(CustomHeaders::new(headers).is_err(), "{name}: {value}");
        }
        let twice = [("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())].into();
        assert!(CustomHeaders::new(twice).is_err());
    }

    #[test]
    fn event_types_have_the_contracts_shape() {
        for good in ["reward.earned", "a", "auth.email", "shopify.orders_create", "reward-claim", "a1.b2"] {
            assert!(EventType::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Reward.earned", ".a", "a.", "a..b", "a b", "*", &"a".repeat(129)] {
            assert!(EventType::new(bad).is_err(), "{bad}");
        }
    }
}
