//! The kind of setting that holds headers for a collector of spans: shown by their names, never echoed in a mistake.

use http::HeaderMap;

/// Headers of every export. Their values are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpHeaders(HeaderMap);

// === impl OtlpHeaders ===

impl OtlpHeaders {
    /// The headers, for sending; their values are marked as sensitive.
    #[must_use]
    pub const fn expose(&self) -> &HeaderMap {
        &self.0
    }
}

impl std::fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&headers::show(self))
    }
}

/// Headers as `OTEL_EXPORTER_OTLP_HEADERS` has them (OpenTelemetry Protocol Exporter, "Specifying headers via
/// environment variables"): W3C Baggage without properties.
pub mod headers {
    use http::header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    };

    use percent_encoding::percent_decode_str;

    use super::OtlpHeaders;

    /// The unit, for people.
    pub const UNIT: &str = "headers";
    /// What the text has to be.
    pub const EXPECTED: &str = "name=value pairs joined by commas, the values percent-encoded, as authorization=Bearer%20abc; or none";
    /// As long as W3C Baggage may be.
    const BYTES_MAX: usize = 8_192;
    /// What the exporter or HTTP sets.
    const TAKEN: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];

    /// # Errors
    /// What is wrong with the text, without the text: it holds secrets, and one that was misplaced may look like a name.
    pub fn parse(text: &str) -> Result<OtlpHeaders, String> {
        let mut headers = HeaderMap::new();
        if text.trim() == "none" {
            return Ok(OtlpHeaders(headers));
        }
        if text.len() > BYTES_MAX {
            return Err(format!("has {} bytes, and {BYTES_MAX} are accepted", text.len()));
        }
        let pairs = text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty());
        for (index, pair) in pairs {
            let number = index + 1;
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("pair {number} has no '='"))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| format!("the name of pair {number} is no header's"))?;
            if TAKEN.contains(&name) {
                return Err(format!("pair {number} sets {name}, which is set already"));
            }
            let value = value.trim();
            if !is_percent_encoded(value) {
                return Err(format!("the value of pair {number} has a % that is no percent-encoding"));
            }
            let bytes: Vec<u8> = percent_decode_str(value).collect();
            let mut value = HeaderValue::from_bytes(&bytes)
                .map_err(|_| format!("the value of pair {number} has a character that no header may have"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(OtlpHeaders(headers))
    }

    /// The names, each with a masked value, or `none`.
    #[must_use]
    pub fn show(value: &OtlpHeaders) -> String {
        let names: Vec<String> = value.0.keys().map(|name| format!("{name}=****")).collect();
        if names.is_empty() { "none".into() } else { names.join(",") }
    }

    /// Whether two hexadecimal digits follow each `%`; decoding would let others stand.
    fn is_percent_encoded(text: &str) -> bool {
        let digits =
            |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        text.split('%').skip(1).all(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::headers::{parse, show};

    #[test]
    fn pairs_are_read_as_the_specification_says() {
        let parsed = parse("Authorization=Basic%20dXNlcjpwdw==, x-tenant = a%2Cb%C3%A9 ,, x-empty=").unwrap();
        let value = |name: &str| parsed.expose()[name].as_bytes();
        assert_eq!(value("authorization"), b"Basic dXNlcjpwdw==", "only the first '=' parts");
        assert_eq!(value("x-tenant"), "a,b\u{e9}".as_bytes());
        assert_eq!(value("x-empty"), b"");
        assert_eq!(parsed.expose().len(), 3);
        assert_eq!(parse("a=1,A=2").unwrap().expose()["a"], "2", "the last one counts");
        assert_eq!(parse("api-key=a b;c").unwrap().expose()["api-key"], "a b;c");
        assert_eq!(parse("none").unwrap(), parse("").unwrap());
    }

    #[test]
    fn a_value_is_never_shown() {
        let parsed = parse("authorization=Bearer%20hunter2,x-key=hunter2").unwrap();
        assert_eq!(show(&parsed), "authorization=****,x-key=****");
        assert!(!format!("{parsed:?} {:?}", parsed.expose()).contains("hunter2"));
        let long = format!("a={}", "hunter2".repeat(2_000));
        for (bad, why) in [
            ("hunter2", "pair 1 has no '='"),
            ("a=1,hunter2", "pair 2 has no '='"),
            ("=hunter2", "the name of pair 1"),
            ("Bearer hunter2==", "the name of pair 1"),
            ("a=hunter2%2", "the value of pair 1 has a %"),
            ("a=hunter2%", "the value of pair 1 has a %"),
            ("a=hunter2%%41", "the value of pair 1 has a %"),
            ("a=hunter2%+1", "the value of pair 1 has a %"),
            ("a=hunter2%4\u{661}", "the value of pair 1 has a %"),
            ("a=%0Ahunter2", "a character that no header may have"),
            ("Content-Type=hunter2", "pair 1 sets content-type"),
            (&long, "14002 bytes"),
        ] {
            let problem = parse(bad).unwrap_err();
            assert!(problem.contains(why) && !problem.contains("hunter2"), "{bad}: {problem}");
        }
    }
}
