//! `X-Nudj-Signature`: HMAC-SHA256 over the raw body (docs/WIRE.md section 3).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::sealing::SEALED_PREFIX;

/// A config's secret as it stands in the header's computation: all of its UTF-8 bytes, a `whsec_` prefix
/// included, without any decoding. Never empty, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A secret's HMAC state, computed once per secret and cloned per message: that saves the two compressions of
/// the key schedule on every delivery.
#[derive(Clone)]
pub struct SigningKey {
    keyed: Hmac<Sha256>,
}

/// `sha256=` and 64 hex digits.
pub type SignatureText = [u8; SIGNATURE_LEN];

/// Length of the header's value.
pub const SIGNATURE_LEN: usize = 7 + 64;

/// Longest secret that is accepted, in bytes.
pub const SECRET_MAX_BYTES: usize = 256;

// === impl Secret ===

impl Secret {
    /// `None` when the text is empty, longer than 256 bytes, holds control characters or looks like a sealed value.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=SECRET_MAX_BYTES).contains(&text.len());
        let plain = !text.starts_with(SEALED_PREFIX) && !text.chars().any(char::is_control);
        (fits && plain).then(|| Self(text.to_owned()))
    }

    /// `whsec_` and 32 random bytes in hex.
    #[must_use]
    pub fn generate() -> Self {
        let random: [u8; 32] = rand::random();
        let mut text = String::from("whsec_");
        random.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        Self(text)
    }

    /// The text itself, for storing and for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `whsec_****` and the last four characters: what every later answer shows (docs/WIRE.md section 6).
    /// Secrets under 12 characters show none of theirs.
    #[must_use]
    pub fn masked(&self) -> String {
        let count = self.0.chars().count();
        let shown: String = if count < 12 { String::new() } else { self.0.chars().skip(count - 4).collect() };
        format!("whsec_****{shown}")
    }

    /// The prepared key.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::new(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

// === impl SigningKey ===

impl SigningKey {
    fn new(key: &[u8]) -> Self {
        // HMAC takes keys of any length (RFC 2104 section 2), so the error cannot occur.
        #[allow(clippy::expect_used)]
        let keyed = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        Self { keyed }
    }

    /// The header's value for `body`.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> SignatureText {
        let mut mac = self.keyed.clone();
        mac.update(body);
        let digest = mac.finalize().into_bytes();
        let mut text = [0; SIGNATURE_LEN];
        text[..7].copy_from_slice(b"sha256=");
        for (pair, byte) in text[7..].chunks_exact_mut(2).zip(digest) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }

    /// Whether `header` is the signature of `body`, compared in constant time.
    #[must_use]
    pub fn verify(&self, body: &[u8], header: &[u8]) -> bool {
        let expected = self.sign(body);
        bool::from(subtle::ConstantTimeEq::ct_eq(expected.as_slice(), header))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(****)")
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of docs/WIRE.md section 3.
    #[test]
    fn the_contracts_test_vector() {
        let body = br#"{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"evt_example","data":{"user":{"id":"u1"}}}"#;
        assert_eq!(body.len(), 114);
        let key = Secret::new("whsec_test_secret").unwrap().signing_key();
        let wanted = b"sha256=66fd83446109192d3bb148d9fbbaba9755d39e463d5f59c9aacf2861acb7f364";
        assert_eq!(&key.sign(body), wanted);
        assert!(key.verify(body, wanted));
        assert!(!key.verify(b"{}", wanted));
        assert!(!key.verify(body, b"sha256="));
    }

    #[test]
    fn a_secret_is_never_printed_and_a_mask_tells_little() {
        let secret = Secret::new("whsec_abcdefghijkl").unwrap();
        assert_eq!(format!("{secret:?} {:?}", secret.signing_key()), "Secret(****) SigningKey(****)");
        assert_eq!(secret.masked(), "whsec_****ijkl");
        assert_eq!(Secret::new("short").unwrap().masked(), "whsec_****");
        assert!(Secret::new("").is_none());
        assert!(Secret::generate().expose().len() == 70);
    }
}
