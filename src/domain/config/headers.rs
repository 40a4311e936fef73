//! A config's custom headers (docs/WIRE.md section 6).

use std::collections::BTreeMap;
use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::InvalidConfig;
use crate::domain::sealing::SEALED_PREFIX;

/// Most custom headers of one config.
pub const HEADERS_MAX: usize = 32;
/// Longest value of a custom header, in bytes.
pub const HEADER_VALUE_MAX_BYTES: usize = 4096;

/// Custom headers, checked: no name that Postrider sets itself, no value that HTTP forbids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(pub(super) BTreeMap<String, String>);

// === impl CustomHeaders ===

/// Names that Postrider or HTTP itself sets, besides everything that begins with `x-nudj-`.
const RESERVED_HEADERS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "proxy-authorization",
];

impl CustomHeaders {
    /// Checks names and values.
    ///
    /// # Errors
    /// Names the first header that cannot be sent, and why.
    pub fn new(headers: BTreeMap<String, String>) -> Result<Self, InvalidConfig> {
        let wrong = Self::mistakes(&headers).into_iter().next().map(|(name, problem)| match name {
            Some(name) => InvalidConfig(format!("'{name}': {problem}")),
            None => InvalidConfig(problem),
        });
        wrong.map_or(Ok(Self(headers)), Err)
    }

    /// Every header that cannot be sent, and why; without a name what is wrong with all of them together.
    #[must_use]
    pub fn mistakes(headers: &BTreeMap<String, String>) -> Vec<(Option<&str>, String)> {
        if headers.len() > HEADERS_MAX {
            return vec![(None, format!("expected at most {HEADERS_MAX} headers"))];
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut found = Vec::new();
        for (name, value) in headers {
            let twice = !seen.insert(name.to_ascii_lowercase());
            let problem =
                mistake_in(name, value).or_else(|| twice.then_some("the same header is given twice"));
            found.extend(problem.map(|problem| (Some(name.as_str()), problem.to_owned())));
        }
        found
    }

    /// Names and values, as given.
    #[must_use]
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    pub(super) fn to_header_map(&self) -> Result<HeaderMap, InvalidConfig> {
        let mut map = HeaderMap::with_capacity(self.0.len());
        for (name, value) in &self.0 {
            let invalid = || InvalidConfig(format!("header '{name}' cannot be sent over HTTP"));
            let header_name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut header_value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            header_value.set_sensitive(true);
            map.insert(header_name, header_value);
        }
        Ok(map)
    }
}

/// Why a header cannot be sent.
fn mistake_in(name: &str, value: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        Some("expected a header name (RFC 9110 section 5.1)")
    } else if RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-nudj-") {
        Some("this header is set by Postrider and may not be overridden")
    } else if value.len() > HEADER_VALUE_MAX_BYTES {
        Some("expected a value of at most 4096 bytes")
    } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) || value.trim() != value {
        Some("expected a value of visible ASCII without spaces around it")
    } else if value.starts_with(SEALED_PREFIX) {
        Some("expected a value that does not begin with 'sealed:1:', which marks sealed values")
    } else {
        None
    }
}

/// Names only: values are credentials as often as not.
impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
