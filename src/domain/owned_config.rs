//! The proof that a config belongs to an organisation: whatever reads a log, a queue or a record takes it, so
//! no such function can be called for a config of somebody else.

use std::sync::Arc;

use super::config::StoredConfig;
use super::ids::{ConfigId, OrganisationId};

/// A config, or the tombstone of one, that belongs to an organisation. Only [`OwnedConfig::prove`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedConfig {
    organisation: OrganisationId,
    id: ConfigId,
    url: Option<Arc<str>>,
    logs_payloads: bool,
}

impl OwnedConfig {
    /// The proof, if `stored` belongs to `organisation`. A deleted config's log remains readable, so its
    /// tombstone is as good.
    #[must_use]
    pub fn prove(stored: &StoredConfig, organisation: &OrganisationId) -> Option<Self> {
        if stored.organisation() != organisation {
            return None;
        }
        let (url, logs_payloads) = match stored {
            StoredConfig::Config(config) => (Some(Arc::from(config.url.as_str())), config.log_payloads),
            StoredConfig::Tombstone(tombstone) => (None, tombstone.log_payloads),
        };
        Some(Self { organisation: organisation.clone(), id: stored.id(), url, logs_payloads })
    }

    /// The organisation.
    #[must_use]
    pub const fn organisation(&self) -> &OrganisationId {
        &self.organisation
    }

    /// The config's id.
    #[must_use]
    pub const fn id(&self) -> ConfigId {
        self.id
    }

    /// Whether the bodies of its deliveries may be shown.
    #[must_use]
    pub const fn logs_payloads(&self) -> bool {
        self.logs_payloads
    }

    /// The config's URL now; `None` when it was deleted.
    #[must_use]
    pub const fn url(&self) -> Option<&Arc<str>> {
        self.url.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::UnixMillis;
    use crate::domain::config::Tombstone;

    #[test]
    fn nobody_proves_what_belongs_to_another() {
        let [mine, other] = ["org_1", "org_2"].map(|text| OrganisationId::new(text).unwrap());
        let stored = StoredConfig::Tombstone(Tombstone {
            id: ConfigId::from_bytes([7; 12]),
            organisation: mine.clone(),
            deleted_at: UnixMillis(1),
            log_payloads: true,
        });
        assert_eq!(OwnedConfig::prove(&stored, &other), None);
        let owned = OwnedConfig::prove(&stored, &mine).unwrap();
        assert_eq!((owned.id(), owned.organisation(), owned.url()), (stored.id(), &mine, None));
    }
}
