//! What a config chooses about its requests: the method and the format of the body (docs/WIRE.md sections 3, 6).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The method of a config's requests. `GET` is none of them: a payload in a `GET` cannot be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// `POST`, unless the config says otherwise.
    #[default]
    Post,
    /// `PUT`.
    Put,
}

/// The format of a config's bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum BodyFormat {
    /// `event`, `timestamp`, `nonce`, `id`, `data`; types by the names that producers gave.
    #[default]
    Standard,
    /// The platform's developer guide's: `eventCategory`, `payload` and others; hyphenated names where there are.
    Developer,
}

// === impl HttpMethod ===

impl HttpMethod {
    /// Whether it is what a config has that chose none.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The method with this word, exactly.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "POST" => Some(Self::Post),
            "PUT" => Some(Self::Put),
            _ => None,
        }
    }

    /// The method for a request.
    #[must_use]
    pub const fn to_http(self) -> http::Method {
        match self {
            Self::Post => http::Method::POST,
            Self::Put => http::Method::PUT,
        }
    }
}

// === impl BodyFormat ===

impl BodyFormat {
    /// Whether it is what a config has that chose none.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The format with this word, exactly.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "standard" => Some(Self::Standard),
            "developer" => Some(Self::Developer),
            _ => None,
        }
    }
}
