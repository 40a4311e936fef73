//! The rotation of a config's secret: the new one signs at once, the one before signs beside it until the overlap
//! ends (docs/WIRE.md section 3).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, Endpoint};
use crate::domain::clock::UnixMillis;
use crate::domain::signature::{Secret, SigningKey};
use crate::domain::standard_signature::StandardKey;

/// The overlap where a rotation names none.
pub const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// Longest overlap.
pub const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The secret before the present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: Secret,
    /// It signs before this time, and not from then on.
    pub until: UnixMillis,
}

/// The prepared key of the secret before.
#[derive(Debug)]
pub struct PreviousKey {
    key: SigningKey,
    standard: StandardKey,
    until: UnixMillis,
}

/// The keys that sign an attempt.
#[derive(Clone, Copy, Debug)]
pub struct SigningKeys<'a> {
    /// Of the config's secret: `X-Nudj-Signature`.
    pub current: &'a SigningKey,
    /// Of the one before, during an overlap: `X-Nudj-Signature-Previous`.
    pub previous: Option<&'a SigningKey>,
    /// The same secret's key for the headers of Standard Webhooks.
    pub previous_standard: Option<&'a StandardKey>,
}

// === impl PreviousSecret ===

impl PreviousSecret {
    /// The prepared key.
    #[must_use]
    pub fn key(&self) -> PreviousKey {
        PreviousKey {
            key: self.secret.signing_key(),
            standard: StandardKey::of(&self.secret),
            until: self.until,
        }
    }
}

// === impl Config ===

impl Config {
    /// The secret before, while it still signs.
    #[must_use]
    pub fn previous_secret_at(&self, now: UnixMillis) -> Option<&PreviousSecret> {
        self.previous_secret.as_ref().filter(|previous| now < previous.until)
    }

    /// Makes `secret` the config's; the present one signs beside it for `overlap`, not at all where that is zero.
    /// The header carries one signature, so a secret from before the present one ends. Where `secret` is the
    /// present one already, only the end of the overlap is set anew: a repeated request rotates once.
    pub fn rotate(&mut self, secret: Secret, overlap: Duration, now: UnixMillis) {
        let before = if secret == self.secret {
            self.previous_secret_at(now).map(|previous| previous.secret.clone())
        } else {
            Some(std::mem::replace(&mut self.secret, secret))
        };
        self.previous_secret = before
            .filter(|_| !overlap.is_zero())
            .map(|secret| PreviousSecret { secret, until: now.plus(overlap) });
    }

    /// To be called when a field was changed: counts the version up, and drops a secret whose overlap is over.
    pub fn changed(&mut self, now: UnixMillis) {
        self.version += 1;
        self.updated_at = now;
        if self.previous_secret_at(now).is_none() {
            self.previous_secret = None;
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The keys that sign an attempt which begins at `now`.
    #[must_use]
    pub fn signing_keys(&self, now: UnixMillis) -> SigningKeys<'_> {
        let previous = self.previous_key.as_ref().filter(|previous| now < previous.until);
        SigningKeys {
            current: &self.signing_key,
            previous: previous.map(|previous| &previous.key),
            previous_standard: previous.map(|previous| &previous.standard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::tests::config as sample;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn config() -> Config {
        Config { secret: secret("whsec_1"), ..sample("https://a.example/") }
    }

    fn stands(config: &Config) -> (&str, Option<(&str, u64)>) {
        let previous = config.previous_secret.as_ref().map(|one| (one.secret.expose(), one.until.0));
        (config.secret.expose(), previous)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_secret_at_most_signs_beside_the_present_one() {
        let mut config = config();
        config.rotate(secret("whsec_2"), SECOND, UnixMillis(1_000));
        assert_eq!(stands(&config), ("whsec_2", Some(("whsec_1", 2_000))));
        config.rotate(secret("whsec_3"), SECOND, UnixMillis(1_500));
        assert_eq!(stands(&config), ("whsec_3", Some(("whsec_2", 2_500))));
        config.rotate(secret("whsec_4"), Duration::ZERO, UnixMillis(1_600));
        assert_eq!(stands(&config), ("whsec_4", None), "a leak");
    }

    #[test]
    fn a_repeated_rotation_sets_the_end_anew_and_can_end_an_overlap() {
        let mut config = config();
        config.rotate(secret("whsec_2"), SECOND, UnixMillis(1_000));
        config.rotate(secret("whsec_2"), SECOND, UnixMillis(1_700));
        assert_eq!(stands(&config), ("whsec_2", Some(("whsec_1", 2_700))));
        let mut late = config.clone();
        late.rotate(secret("whsec_2"), SECOND, UnixMillis(2_700));
        assert_eq!(stands(&late), ("whsec_2", None), "what is over does not come back");
        config.rotate(secret("whsec_2"), Duration::ZERO, UnixMillis(1_800));
        assert_eq!(stands(&config), ("whsec_2", None));
    }

    #[test]
    fn the_clock_ends_the_overlap_and_the_next_change_drops_what_is_left() {
        let mut config = config();
        config.rotate(secret("whsec_2"), SECOND, UnixMillis(1_000));
        let endpoint = config.endpoint().unwrap();
        let sign = |at| endpoint.signing_keys(UnixMillis(at)).previous.map(|key| key.sign(b"{}"));
        assert_eq!(sign(1_999), Some(secret("whsec_1").signing_key().sign(b"{}")));
        assert_eq!(sign(2_000), None);
        assert_eq!(
            endpoint.signing_keys(UnixMillis(0)).current.sign(b"x"),
            config.secret.signing_key().sign(b"x")
        );
        config.changed(UnixMillis(1_999));
        assert_eq!((config.version, config.previous_secret.is_some()), (2, true));
        config.changed(UnixMillis(2_000));
        assert_eq!((config.version, config.previous_secret), (3, None));
    }

    #[test]
    fn the_secret_before_is_stored_and_never_printed() {
        let mut config = config();
        config.rotate(secret("whsec_2"), SECOND, UnixMillis(1_000));
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(r#""previousSecret":{"secret":"whsec_1","until":2000}"#), "{json}");
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        let printed = format!("{config:?} {:?}", config.endpoint().unwrap());
        assert!(!printed.contains("whsec_"), "{printed}");
    }
}
