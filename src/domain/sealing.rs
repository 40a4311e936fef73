//! Sealing: secrets and custom header values as they lie in Redis when a key is set (docs/REDIS.md, "Sealed
//! values"). AES-256-GCM (NIST SP 800-38D) under one of several keys, a random nonce of 96 bits each.
//!
//! A sealed text is `sealed:1:<key id>:<base64url of nonce, ciphertext and tag>`. The config's id and the field's
//! path are authenticated with it: a value that is moved to another config or field does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What every sealed text begins with. No secret and no header value may begin so: it would be taken for sealed.
pub const SEALED_PREFIX: &str = "sealed:1:";

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// Where a stored config's secrets lie; `headers` is a map whose values are meant.
const SECRET_FIELDS: [&[&str]; 3] =
    [&["secret"], &["previousSecret", "secret"], &["clientCertificate", "key"]];
const HEADERS_FIELD: &str = "headers";

/// The keys of a process: the first seals, all of them open. Empty: nothing is sealed.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<SealingKey>,
}

/// First 8 hex digits of a key's SHA-256: says which key sealed a value, and nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

struct SealingKey {
    id: KeyId,
    key: LessSafeKey,
}

/// Why a sealed value does not open. Never holds the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No key of this process sealed it.
    #[error("sealed with key {0}, which is not among this process's keys")]
    UnknownKey(String),
    /// It was cut, changed, or moved from another config or field.
    #[error("a sealed value is damaged, or belongs to another config")]
    Damaged,
}

/// How the secrets of a stored config lie there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealState {
    /// Secrets and header values in plain text.
    pub plain: usize,
    /// The keys that sealed the others.
    pub keys: std::collections::BTreeSet<KeyId>,
}

// === impl KeyId ===

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key)[..4].iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

// === impl Keyring ===

impl Keyring {
    /// Keys separated by commas, spaces or lines: each 32 bytes as 64 hex digits or as base64. `#` begins a comment
    /// that ends with its line.
    ///
    /// # Errors
    /// Says which key, by its place, is none; never the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.lines().map(|line| line.split_once('#').map_or(line, |(before, _)| before));
        let words = bare.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace()));
        let mut keys: Vec<SealingKey> = Vec::new();
        for (place, word) in words.filter(|word| !word.is_empty()).enumerate() {
            let wrong = || format!("key {} is not 32 bytes in hex (64 digits) or base64", place + 1);
            let bytes = key_bytes(word).ok_or_else(wrong)?;
            let unbound = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong())?;
            let id = KeyId::of(&bytes);
            if keys.iter().any(|key| key.id == id) {
                return Err(format!("key {} is given twice", place + 1));
            }
            keys.push(SealingKey { id, key: LessSafeKey::new(unbound) });
        }
        Ok(Self { keys })
    }

    /// A new key as 64 hex digits.
    #[must_use]
    pub fn generate_key() -> String {
        let random: [u8; KEY_BYTES] = rand::random();
        random.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether nothing is sealed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key that seals.
    #[must_use]
    pub fn first(&self) -> Option<&KeyId> {
        self.keys.first().map(|key| &key.id)
    }

    /// Whether this key is among them.
    #[must_use]
    pub fn has(&self, id: &KeyId) -> bool {
        self.keys.iter().any(|key| key.id == *id)
    }

    /// Seals the secrets of a stored config in place; does nothing without a key.
    pub fn seal_config(&self, stored: &mut Value) {
        let Some(key) = self.keys.first() else { return };
        each_secret(stored, |place, text| {
            if !text.starts_with(SEALED_PREFIX) {
                *text = key.seal(place, text);
            }
        });
    }

    /// Opens the secrets of a stored config in place; what is in plain text stays.
    ///
    /// # Errors
    /// When one of them does not open; some may be open by then.
    pub fn open_config(&self, stored: &mut Value) -> Result<(), OpenError> {
        let mut result = Ok(());
        each_secret(stored, |place, text| {
            if let Some(sealed) = text.strip_prefix(SEALED_PREFIX) {
                match self.open(place, sealed) {
                    Ok(open) => *text = open,
                    Err(error) => result = Err(error),
                }
            }
        });
        result
    }

    fn open(&self, place: &str, sealed: &str) -> Result<String, OpenError> {
        let (id, packed) = sealed.split_once(':').ok_or(OpenError::Damaged)?;
        let key = self.keys.iter().find(|key| key.id.0 == id);
        let key = key.ok_or_else(|| OpenError::UnknownKey(id.chars().take(8).collect()))?;
        key.open(place, packed).ok_or(OpenError::Damaged)
    }
}

/// Says how the secrets of a stored config lie there, without any key.
#[must_use]
pub fn seal_state(stored: &mut Value) -> SealState {
    let mut state = SealState::default();
    each_secret(stored, |_, text| {
        match text.strip_prefix(SEALED_PREFIX).and_then(|rest| rest.split_once(':')) {
            Some((id, _)) => drop(state.keys.insert(KeyId(id.to_owned()))),
            None => state.plain += 1,
        }
    });
    state
}

/// Only which keys there are.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

// === impl SealingKey ===

impl SealingKey {
    fn seal(&self, place: &str, text: &str) -> String {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut packed = text.as_bytes().to_vec();
        let aad = Aad::from(place.as_bytes());
        // Refused only above 64 GiB (SP 800-38D section 5.2.1.1); a header's value is at most 4 KiB.
        #[allow(clippy::expect_used)]
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut packed)
            .expect("far under the cipher's limit");
        let whole = [&nonce[..], &packed].concat();
        format!("{SEALED_PREFIX}{}:{}", self.id, URL_SAFE_NO_PAD.encode(whole))
    }

    fn open(&self, place: &str, packed: &str) -> Option<String> {
        let mut whole = URL_SAFE_NO_PAD.decode(packed).ok()?;
        let (nonce, _) = whole.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(place.as_bytes());
        let open = self.key.open_within(nonce, aad, &mut whole, NONCE_LEN..).ok()?;
        String::from_utf8(open.to_vec()).ok()
    }
}

fn key_bytes(word: &str) -> Option<[u8; KEY_BYTES]> {
    if word.len() == 2 * KEY_BYTES && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut bytes = [0; KEY_BYTES];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(word.get(at..at + 2)?, 16).ok()?;
        }
        return Some(bytes);
    }
    let decoded =
        STANDARD.decode(word).or_else(|_| URL_SAFE_NO_PAD.decode(word.trim_end_matches('='))).ok()?;
    decoded.try_into().ok()
}

/// Gives every secret text of a stored config to `visit`, with its place: the config's id and the field's path.
fn each_secret(stored: &mut Value, mut visit: impl FnMut(&str, &mut String)) {
    let id = stored.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    for path in SECRET_FIELDS {
        let found = path.iter().try_fold(&mut *stored, |value, name| value.get_mut(name));
        if let Some(Value::String(text)) = found {
            visit(&format!("{id}/{}", path.join("/")), text);
        }
    }
    if let Some(Value::Object(headers)) = stored.get_mut(HEADERS_FIELD) {
        for (name, value) in headers {
            if let Value::String(text) = value {
                visit(&format!("{id}/{HEADERS_FIELD}/{name}"), text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn keyring(keys: &[u8]) -> Keyring {
        let text: Vec<String> = keys.iter().map(|key| format!("{key:02x}").repeat(KEY_BYTES)).collect();
        Keyring::parse(&text.join(",")).unwrap()
    }

    fn config(secret: &str) -> Value {
        json!({"kind": "config", "id": "a1", "secret": secret, "url": "https://x.example/",
               "headers": {"X-Key": "the key", "Authorization": "Bearer t"},
               "previousSecret": {"secret": "whsec_old", "until": 5}})
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_opens_with_any_key_of_the_ring() {
        let mut stored = config("whsec_new");
        keyring(&[1]).seal_config(&mut stored);
        let text = stored.to_string();
        for secret in ["whsec_new", "the key", "Bearer t", "whsec_old"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        assert!(text.contains("https://x.example/") && text.contains("X-Key"));
        let mut open = stored.clone();
        keyring(&[2, 1]).open_config(&mut open).unwrap();
        assert_eq!(open, config("whsec_new"));
        let unknown = keyring(&[2]).open_config(&mut stored).unwrap_err();
        assert!(matches!(unknown, OpenError::UnknownKey(_)), "{unknown}");
    }

    #[test]
    fn a_value_that_was_moved_or_changed_does_not_open() {
        let ring = keyring(&[1]);
        let mut one = config("whsec_new");
        ring.seal_config(&mut one);
        let mut moved = one.clone();
        moved["id"] = json!("a2");
        assert_eq!(ring.open_config(&mut moved), Err(OpenError::Damaged));
        let mut swapped = one.clone();
        swapped["secret"] = one["previousSecret"]["secret"].clone();
        assert_eq!(ring.open_config(&mut swapped), Err(OpenError::Damaged));
        let mut cut = one.clone();
        cut["secret"] = json!(one["secret"].as_str().unwrap().strip_suffix(|_| true).unwrap());
        assert_eq!(ring.open_config(&mut cut), Err(OpenError::Damaged));
    }

    #[test]
    fn keys_are_read_in_both_forms_and_never_repeated_in_a_mistake() {
        let hex = Keyring::generate_key();
        let file = format!("# the new one\n{hex}\n\n{}  # the old one\n", STANDARD.encode([7_u8; 32]));
        assert_eq!(Keyring::parse(&file).unwrap().keys.len(), 2);
        assert!(Keyring::parse("").unwrap().is_empty());
        for wrong in ["hunter2", &hex[1..], &format!("{hex},{hex}")] {
            let error = Keyring::parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains(&hex[1..20]), "{error}");
        }
        assert!(!format!("{:?}", keyring(&[7])).contains("0707"));
    }

    #[test]
    fn the_state_is_known_without_a_key() {
        let mut stored = config("whsec_new");
        assert_eq!(seal_state(&mut stored), SealState { plain: 4, keys: [].into() });
        keyring(&[1]).seal_config(&mut stored);
        let state = seal_state(&mut stored);
        assert_eq!((state.plain, state.keys.len()), (0, 1));
        assert!(keyring(&[1]).has(state.keys.first().unwrap()));
    }

    proptest! {
        #[test]
        fn every_text_round_trips(secret in "\\PC{1,80}", other in "\\PC{0,80}") {
            prop_assume!(!secret.starts_with(SEALED_PREFIX));
            let ring = keyring(&[3, 4]);
            let mut stored = config(&secret);
            ring.seal_config(&mut stored);
            ring.open_config(&mut stored).unwrap();
            prop_assert_eq!(stored, config(&secret));
            let mut noise = json!({"id": "a1", "secret": format!("{SEALED_PREFIX}{other}")});
            prop_assert!(ring.open_config(&mut noise).is_err());
        }
    }
}
