//! The stored form of a config: text, and reading it validates as the constructors do.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CustomHeaders, EndpointUrl, EventType, InvalidConfig, StoredConfig};
use crate::domain::ids::{ConfigId, OrganisationId};
use crate::domain::signature::Secret;

// === impl StoredConfig ===

impl StoredConfig {
    /// The id of the config that it is or was.
    #[must_use]
    pub const fn id(&self) -> ConfigId {
        match self {
            Self::Config(config) => config.id,
            Self::Tombstone(tombstone) => tombstone.id,
        }
    }

    /// The organisation.
    #[must_use]
    pub const fn organisation(&self) -> &OrganisationId {
        match self {
            Self::Config(config) => &config.organisation,
            Self::Tombstone(tombstone) => &tombstone.organisation,
        }
    }
}

// === serde ===

fn refused<E: serde::de::Error>(invalid: InvalidConfig) -> E {
    E::custom(invalid.0)
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(refused)
    }
}

impl Serialize for EndpointUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for EndpointUrl {
    /// A stored URL was checked when it was put; whether `http` may still be used is the attempt's to decide.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?, true).map_err(refused)
    }
}

impl Serialize for CustomHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CustomHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(refused)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| serde::de::Error::custom("expected a secret of 1 to 256 bytes"))
    }
}
