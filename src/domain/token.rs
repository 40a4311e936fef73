//! API tokens: what a caller of the admin API may do, and for which organisation.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::clock::UnixMillis;
use super::ids::OrganisationId;

/// What a token may do; which route needs which role is written beside the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Reads configs (secrets masked).
    Viewer,
    /// Publishes events, and nothing else.
    Publisher,
    /// Reads configs; as a person who manages them, not their logs.
    Manager,
    /// Everything within its organisation.
    Admin,
    /// Everything, for the organisation that it names in `x-organisation-id`.
    Operator,
}

/// Longest name of a token, in characters.
const NAME_MAX_CHARS: usize = 128;

/// A token's name, as it may be.
///
/// # Errors
/// What was expected.
pub fn token_name(text: &str) -> Result<&str, &'static str> {
    let fits = (1..=NAME_MAX_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err("expected 1 to 128 characters, none of them control") }
}

/// A value of the `tokens` hash; its field is [`TokenHash`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// A short public id, to list and revoke it by: the first 12 hex digits of its hash.
    pub id: String,
    /// The organisation; for an operator the one that made it, of no further effect.
    pub organisation: OrganisationId,
    /// What it may do.
    pub role: Role,
    /// A name for people.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// The secret half of a token, shown once: `prt_` and 64 hex digits.
#[derive(Clone)]
pub struct TokenText(String);

/// SHA-256 of a token's text, in lower-case hex: what Redis knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(String);

// === impl Role ===

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Publisher, Self::Manager, Self::Admin, Self::Operator];

    /// The word on the command line and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Publisher => "publisher",
            Self::Manager => "manager",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }

    /// The role with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

// === impl TokenText ===

impl TokenText {
    /// A new token of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let random: [u8; 32] = rand::random();
        let mut text = String::from("prt_");
        random.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        Self(text)
    }

    /// What a caller sent.
    #[must_use]
    pub fn received(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it has the form that [`Self::generate`] gives; anything else is no token of ours.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        self.0.strip_prefix("prt_").is_some_and(|rest| rest.len() == 64 && rest.bytes().all(hex))
    }

    /// The text, for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its hash. Looking up the hash of 256 random bits leaks nothing through timing that helps to guess them.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let digest = Sha256::digest(self.0.as_bytes());
        TokenHash(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(****)")
    }
}

// === impl TokenHash ===

impl TokenHash {
    /// A hash as it stands in Redis.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token's public id.
    #[must_use]
    pub fn id(&self) -> String {
        self.0.chars().take(12).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_hashed_and_never_printed() {
        let token = TokenText::generate();
        assert_eq!(token.expose().len(), 68);
        assert!(token.is_well_formed());
        for other in ["", "prt_", "eyJhbGciOi", &token.expose()[1..], &token.expose().to_uppercase()] {
            assert!(!TokenText::received(other).is_well_formed(), "{other}");
        }
        assert_eq!(format!("{token:?}"), "TokenText(****)");
        assert_eq!(TokenText::received(token.expose()).hash(), token.hash());
        assert_eq!(token.hash().as_str().len(), 64);
        assert_eq!(token.hash().id().len(), 12);
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
    }
}
