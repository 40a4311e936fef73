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
    /// Names the header that cannot be sent, and why.
    pub fn new(headers: BTreeMap<String, String>) -> Result<Self, InvalidConfig> {
        if headers.len() > HEADERS_MAX {
            return Err(InvalidConfig(format!("expected at most {HEADERS_MAX} headers")));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (name, value) in &headers {
            let lower = name.to_ascii_lowercase();
            let invalid = |what: &str| Err(InvalidConfig(format!("'{name}': {what}")));
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return invalid("expected a header name (RFC 9110 section 5.1)");
            }
            if RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-nudj-") {
                return invalid("this header is set by Postrider and may not be overridden");
            }
            if value.len() > HEADER_VALUE_MAX_BYTES {
                return invalid("expected a value of at most 4096 bytes");
            }
            if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) || value.trim() != value {
                return invalid("expected a value of visible ASCII without spaces around it");
            }
            if value.starts_with(SEALED_PREFIX) {
                return invalid(
                    "expected a value that does not begin with 'sealed:1:', which marks sealed values",
                );
            }
            if !seen.insert(lower) {
                return invalid("the same header is given twice");
            }
        }
        Ok(Self(headers))
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

/// Names only: values are credentials as often as not.
impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
