//! The configs of one moment, prepared for sending. Replaced whole when one changes; unchanged targets are shared.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{Config, DisabledReason, Endpoint, StoredConfig};
use super::ids::{ConfigId, OrganisationId};
use super::interest::Interest;
use super::log_limit::limited;

/// A config and the endpoint prepared from it.
#[derive(Debug)]
pub struct Target {
    /// The config.
    pub config: Config,
    /// What attempts use.
    pub endpoint: Endpoint,
    /// Which events it wants.
    pub interest: Interest,
    /// The stored value that both were made of; the same pointer means nothing changed.
    source: Arc<StoredConfig>,
}

/// All configs of one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    by_id: HashMap<ConfigId, Known>,
    by_organisation: HashMap<OrganisationId, Vec<Arc<Target>>>,
}

#[derive(Clone, Debug)]
enum Known {
    Target(Arc<Target>),
    Deleted { log_payloads: bool },
}

/// What the snapshot says of a config at the moment of sending.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Send.
    Active(Arc<Target>),
    /// Hold: it is paused.
    Paused,
    /// Fail its queue: the receiver is gone.
    Gone,
    /// Fail its queue: it was deleted.
    Deleted,
    /// Hold: neither known nor tombstoned, so the snapshot is behind or Redis lost a write.
    Unknown,
}

// === impl Snapshot ===

impl Snapshot {
    /// Prepares `configs`, sharing targets with `previous` where the stored value is the same.
    #[must_use]
    pub fn build<'a>(configs: impl IntoIterator<Item = &'a Arc<StoredConfig>>, previous: &Self) -> Self {
        let mut snapshot = Self::default();
        for stored in configs {
            let config = match &**stored {
                StoredConfig::Config(config) => config,
                StoredConfig::Tombstone(tombstone) => {
                    let log_payloads = tombstone.log_payloads;
                    snapshot.by_id.insert(tombstone.id, Known::Deleted { log_payloads });
                    continue;
                }
            };
            let target = match previous.by_id.get(&config.id) {
                Some(Known::Target(known)) if Arc::ptr_eq(&known.source, stored) => Arc::clone(known),
                _ => match Target::prepare(config, stored) {
                    Some(target) => target,
                    None => continue,
                },
            };
            snapshot.by_id.insert(config.id, Known::Target(Arc::clone(&target)));
            snapshot.by_organisation.entry(config.organisation.clone()).or_default().push(target);
        }
        snapshot
    }

    /// The targets of an organisation.
    #[must_use]
    pub fn of(&self, organisation: &OrganisationId) -> &[Arc<Target>] {
        self.by_organisation.get(organisation).map_or(&[], Vec::as_slice)
    }

    /// The ids after `after` in their order, at most `max`: of configs, and of deleted ones that are still known.
    #[must_use]
    pub fn ids_after(&self, after: Option<ConfigId>, max: usize) -> Vec<ConfigId> {
        let mut ids: Vec<ConfigId> =
            self.by_id.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).collect();
        ids.sort_unstable();
        ids.truncate(max);
        ids
    }

    /// Whether the bodies of this config's deliveries may be kept with the log; not while nothing is known of it.
    #[must_use]
    pub fn logs_payloads(&self, config: ConfigId) -> bool {
        match self.by_id.get(&config) {
            None => false,
            Some(Known::Deleted { log_payloads }) => *log_payloads,
            Some(Known::Target(target)) => target.config.log_payloads,
        }
    }

    /// What to do with a delivery of `config` now.
    #[must_use]
    pub fn lookup(&self, config: ConfigId) -> Lookup {
        match self.by_id.get(&config) {
            None => Lookup::Unknown,
            Some(Known::Deleted { .. }) => Lookup::Deleted,
            Some(Known::Target(target)) if target.config.active => Lookup::Active(Arc::clone(target)),
            Some(Known::Target(target)) => match &target.config.disabled {
                Some(disabled) if disabled.reason == DisabledReason::Gone => Lookup::Gone,
                _ => Lookup::Paused,
            },
        }
    }
}

// === impl Target ===

impl Target {
    /// `None` when the config cannot be sent to: its constructors rule that out, so it is logged, and its
    /// deliveries are held rather than failed.
    fn prepare(config: &Config, source: &Arc<StoredConfig>) -> Option<Arc<Self>> {
        match config.endpoint() {
            Ok(endpoint) => Some(Arc::new(Self {
                config: config.clone(),
                endpoint,
                interest: Interest::of(config),
                source: Arc::clone(source),
            })),
            Err(error) => {
                limited!(error, config = %config.id, %error, "a stored config cannot be sent to; its deliveries wait");
                None
            }
        }
    }
}
