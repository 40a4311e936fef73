//! The directory: configs and tokens as this replica follows them.
//!
//! Owns: the current [`ConfigSet`] and tokens, and who is told when they change. A changed config replaces one
//! `Arc`; the others, with their secrets, are shared by every version of the set.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::domain::config::StoredConfig;
use crate::domain::ids::{ConfigId, OrganisationId, StreamId};
use crate::domain::token::{Token, TokenHash};

/// Every config and tombstone at one moment.
#[derive(Debug, Default)]
pub struct ConfigSet {
    /// By id, of every organisation: for routing and the walk.
    pub by_id: HashMap<ConfigId, Arc<StoredConfig>>,
    /// By organisation, in no particular order.
    pub by_organisation: HashMap<OrganisationId, Arc<[Arc<StoredConfig>]>>,
    /// False until the first full read: an id that is missing says nothing until then.
    pub complete: bool,
}

/// Configs and tokens of the keyspace, as last read.
#[derive(Debug)]
pub struct Directory {
    configs: watch::Sender<Arc<ConfigSet>>,
    tokens: ArcSwap<HashMap<TokenHash, Arc<Token>>>,
    position: watch::Sender<StreamId>,
}

// === impl ConfigSet ===

impl ConfigSet {
    /// The configs and tombstones of one organisation.
    #[must_use]
    pub fn of(&self, organisation: &OrganisationId) -> &[Arc<StoredConfig>] {
        self.by_organisation.get(organisation).map_or(&[], |configs| configs)
    }

    /// One config or tombstone, if it is the organisation's.
    #[must_use]
    pub fn get(&self, organisation: &OrganisationId, id: ConfigId) -> Option<&Arc<StoredConfig>> {
        self.by_id.get(&id).filter(|config| config.organisation() == organisation)
    }
}

// === impl Directory ===

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Directory {
    /// An empty one, not complete.
    #[must_use]
    pub fn new() -> Self {
        Self {
            configs: watch::Sender::new(Arc::default()),
            tokens: ArcSwap::default(),
            position: watch::Sender::new(StreamId::default()),
        }
    }

    /// The current configs.
    #[must_use]
    pub fn configs(&self) -> Arc<ConfigSet> {
        Arc::clone(&self.configs.borrow())
    }

    /// Tells of every later change; the current set is the first value.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ConfigSet>> {
        self.configs.subscribe()
    }

    /// The token with this hash.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<Arc<Token>> {
        self.tokens.load().get(hash).cloned()
    }

    /// Whether configs and tokens were read whole at least once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.configs.borrow().complete
    }

    /// The last entry of `changes` that was applied.
    #[must_use]
    pub fn position(&self) -> StreamId {
        *self.position.borrow()
    }
}
