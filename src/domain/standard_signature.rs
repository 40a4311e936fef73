//! The `webhook-signature` header of Standard Webhooks (its specification, "Signature scheme"; docs/WIRE.md
//! section 3): HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, in base64 behind `v1,`.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::clock::UnixMillis;
use super::signature::Secret;

/// As leniently as any of the published verifiers decodes a secret: padding may be left out, and bits that are left
/// over are not looked at. So none of them reads another key out of a secret than Postrider does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The names of that standard's three headers: the message's id, the time in seconds, the signatures.
pub const STANDARD_HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// Prepared HMAC state of a secret as that standard reads it. Never printed.
#[derive(Clone)]
pub struct StandardKey(Hmac<Sha256>);

// === impl StandardKey ===

impl StandardKey {
    /// The key of a secret: what stands behind `whsec_` (or all of it, where it has no such prefix) decoded from
    /// base64. A secret that is not base64 is used as its UTF-8 bytes, all of them.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        let text = secret.expose();
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let decoded = BASE64.decode(encoded).ok().filter(|key| !key.is_empty());
        Self::new(decoded.as_deref().unwrap_or(text.as_bytes()))
    }

    fn new(key: &[u8]) -> Self {
        // HMAC takes keys of any length (RFC 2104 section 2), so the error cannot occur.
        #[allow(clippy::expect_used)]
        let keyed = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        Self(keyed)
    }

    fn append(&self, out: &mut String, id: &str, seconds: &str, body: &[u8]) {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
            mac.update(part);
        }
        out.push_str("v1,");
        BASE64.encode_string(mac.finalize().into_bytes(), out);
    }
}

impl fmt::Debug for StandardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandardKey(****)")
    }
}

/// The value of `webhook-timestamp`: whole seconds.
#[must_use]
pub fn timestamp(at: UnixMillis) -> String {
    (at.0 / 1000).to_string()
}

/// The value of `webhook-signature`: a signature by each key, in their order, with spaces between. `id` and
/// `seconds` are what stands in the other two headers.
#[must_use]
pub fn signatures<'k>(
    keys: impl IntoIterator<Item = &'k StandardKey>,
    id: &str,
    seconds: &str,
    body: &[u8],
) -> String {
    let mut value = String::with_capacity(48);
    for key in keys {
        if !value.is_empty() {
            value.push(' ');
        }
        key.append(&mut value, id, seconds, body);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secrets: &[&str], id: &str, seconds: &str, body: &str) -> String {
        let keys: Vec<StandardKey> =
            secrets.iter().map(|text| StandardKey::of(&Secret::new(text).unwrap())).collect();
        signatures(&keys, id, seconds, body.as_bytes())
    }

    /// The vector of the published verifiers' own tests.
    #[test]
    fn the_standards_test_vector() {
        let (secret, id) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek");
        let (seconds, body) = ("1614265330", r#"{"test": 2432232314}"#);
        let wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(&[secret], id, seconds, body), wanted);
        assert_eq!(sign(&[&secret[6..]], id, seconds, body), wanted, "the prefix is optional");
        assert_eq!(sign(&[secret, secret], id, seconds, body), format!("{wanted} {wanted}"));
    }

    #[test]
    fn a_secret_that_is_not_base64_is_its_own_bytes() {
        let by_bytes = |key: &[u8]| {
            let mut value = String::new();
            StandardKey::new(key).append(&mut value, "i", "1", b"{}");
            value
        };
        for text in ["whsec_test_secret", "whsec_", "whsec_abcde", "not base64!"] {
            assert_eq!(sign(&[text], "i", "1", "{}"), by_bytes(text.as_bytes()), "{text}");
        }
        for zeros in ["whsec_AAAA", "AAAA"] {
            assert_eq!(sign(&[zeros], "i", "1", "{}"), by_bytes(&[0, 0, 0]), "{zeros}");
        }
        for a in ["whsec_YQ==", "whsec_YQ", "whsec_YR=="] {
            assert_eq!(sign(&[a], "i", "1", "{}"), by_bytes(b"a"), "{a}");
        }
        let generated = Secret::generate();
        let hex = generated.expose().trim_start_matches("whsec_").to_owned();
        assert_eq!(sign(&[generated.expose()], "i", "1", "{}"), by_bytes(&BASE64.decode(hex).unwrap()));
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(timestamp(UnixMillis(1_614_265_330_999)), "1614265330");
    }
}
