//! The directory: configs and tokens as this replica follows them ([`super::follower`] keeps it current).
//!
//! Owns: the current [`ConfigSet`], tokens and [`HealthSet`], and who is told when they change. A changed config replaces one
//! `Arc`; the others, with their secrets, are shared by every version of the set.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::domain::breaker::Health;
use crate::domain::config::StoredConfig;
use crate::domain::ids::{ConfigId, OrganisationId, StreamId};
use crate::domain::log_limit::limited;
use crate::domain::token::{Token, TokenHash};
use crate::metrics;

/// How old Redis's last answer may be before the directory no longer counts as fresh: five blocking reads.
const FRESH: Duration = Duration::from_secs(5);

/// Every config and tombstone at one moment.
#[derive(Clone, Debug, Default)]
pub struct ConfigSet {
    /// By id, of every organisation: for routing and the walk.
    pub by_id: HashMap<ConfigId, Arc<StoredConfig>>,
    /// By organisation, in no particular order.
    pub by_organisation: HashMap<OrganisationId, Arc<[Arc<StoredConfig>]>>,
    /// False until the first full read: an id that is missing says nothing until then.
    pub complete: bool,
}

/// What is known of the configs that are not simply healthy.
pub type HealthSet = HashMap<ConfigId, Arc<Health>>;

/// Configs and tokens of the keyspace, as last read.
#[derive(Debug)]
pub struct Directory {
    configs: watch::Sender<Arc<ConfigSet>>,
    health: watch::Sender<Arc<HealthSet>>,
    tokens: ArcSwap<HashMap<TokenHash, Arc<Token>>>,
    /// The last entry of `changes` that was applied; sent after the configs and tokens that it stands for.
    position: watch::Sender<StreamId>,
    last_seen: Mutex<Option<Instant>>,
    full_reads: AtomicU64,
    /// Hash fields whose values do not parse: each is logged when it comes in here.
    unreadable: Mutex<BTreeSet<String>>,
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

    /// A complete set of these.
    fn whole(configs: HashMap<ConfigId, Arc<StoredConfig>>) -> Self {
        let mut grouped: HashMap<OrganisationId, Vec<Arc<StoredConfig>>> = HashMap::new();
        for config in configs.values() {
            grouped.entry(config.organisation().clone()).or_default().push(Arc::clone(config));
        }
        let by_organisation = grouped.into_iter().map(|(id, list)| (id, list.into())).collect();
        Self { by_id: configs, by_organisation, complete: true }
    }

    /// This set with `id` replaced or, for `None`, removed.
    fn replace(&mut self, id: ConfigId, config: Option<Arc<StoredConfig>>) {
        let before = match &config {
            Some(config) => self.by_id.insert(id, Arc::clone(config)),
            None => self.by_id.remove(&id),
        };
        for organisation in [before.as_deref(), config.as_deref()].into_iter().flatten() {
            let organisation = organisation.organisation();
            let others = self.of(organisation).iter().filter(|other| other.id() != id).cloned();
            let now = config.iter().filter(|config| config.organisation() == organisation).cloned();
            let list: Arc<[_]> = others.chain(now).collect();
            self.by_organisation.insert(organisation.clone(), list);
        }
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
            health: watch::Sender::new(Arc::default()),
            tokens: ArcSwap::default(),
            position: watch::Sender::new(StreamId::default()),
            last_seen: Mutex::new(None),
            full_reads: AtomicU64::new(0),
            unreadable: Mutex::default(),
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

    /// What is known of the configs' health.
    #[must_use]
    pub fn health(&self) -> Arc<HealthSet> {
        Arc::clone(&self.health.borrow())
    }

    /// Tells of every later change of health; the current one is the first value.
    #[must_use]
    pub fn subscribe_health(&self) -> watch::Receiver<Arc<HealthSet>> {
        self.health.subscribe()
    }

    /// The token with this hash.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<Arc<Token>> {
        self.tokens.load().get(hash).cloned()
    }

    /// An organisation's tokens, the oldest first; those of operators too that were made in its name.
    #[must_use]
    pub fn tokens_of(&self, organisation: &OrganisationId) -> Vec<Arc<Token>> {
        let all = self.tokens.load();
        let mut tokens: Vec<Arc<Token>> =
            all.values().filter(|token| token.organisation == *organisation).cloned().collect();
        tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        tokens
    }

    /// A token for which `wanted` holds, and its hash.
    pub(super) fn find_token(&self, wanted: impl Fn(&Token) -> bool) -> Option<(TokenHash, Arc<Token>)> {
        let all = self.tokens.load();
        all.iter().find(|(_, token)| wanted(token)).map(|(hash, token)| (hash.clone(), Arc::clone(token)))
    }

    /// Whether configs and tokens were read whole at least once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.configs.borrow().complete
    }

    /// Whether it was read whole and Redis answered its follower lately: one latch of readiness.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.is_complete() && self.last_seen().is_some_and(|at| at.elapsed() < FRESH)
    }

    /// When Redis last answered the follower.
    #[must_use]
    pub fn last_seen(&self) -> Option<Instant> {
        *self.last_seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many full reads there were: one at each connection, one a minute, one for each gap in `changes`.
    #[must_use]
    pub fn full_reads(&self) -> u64 {
        self.full_reads.load(Ordering::Relaxed)
    }

    /// How many stored values do not parse and are kept out.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The last entry of `changes` that was applied.
    #[must_use]
    pub fn position(&self) -> StreamId {
        *self.position.borrow()
    }

    /// Tells of every later change of configs, health or tokens, after it was applied.
    #[must_use]
    pub fn subscribe_position(&self) -> watch::Receiver<StreamId> {
        self.position.subscribe()
    }

    /// Waits until the change `id` is applied; false when it is not within `limit`.
    pub async fn wait_for(&self, id: StreamId, limit: Duration) -> bool {
        let mut position = self.position.subscribe();
        matches!(tokio::time::timeout(limit, position.wait_for(|at| *at >= id)).await, Ok(Ok(_)))
    }

    /// Records that Redis answered.
    pub(super) fn saw_redis(&self) {
        *self.last_seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Takes a full read that holds everything up to `position`. What did not change keeps its `Arc`, and
    /// nobody is woken where nothing changed.
    pub(super) fn take_all(
        &self,
        mut configs: HashMap<ConfigId, Arc<StoredConfig>>,
        tokens: HashMap<TokenHash, Arc<Token>>,
        position: StreamId,
    ) {
        self.full_reads.fetch_add(1, Ordering::Relaxed);
        self.tokens.store(Arc::new(tokens));
        self.configs.send_if_modified(|set| {
            let same_count = set.complete && set.by_id.len() == configs.len();
            let mut kept = 0;
            for (id, config) in &mut configs {
                if let Some(before) = set.by_id.get(id).filter(|before| *before == config) {
                    *config = Arc::clone(before);
                    kept += 1;
                }
            }
            if same_count && kept == configs.len() {
                return false;
            }
            *set = Arc::new(ConfigSet::whole(std::mem::take(&mut configs)));
            true
        });
        self.position.send_replace(position);
    }

    /// Takes what single entries of `changes` announced, the last of them at `position`. `None` removes.
    pub(super) fn take_changes(
        &self,
        configs: Vec<(ConfigId, Option<StoredConfig>)>,
        tokens: Vec<(TokenHash, Option<Token>)>,
        position: StreamId,
    ) {
        if !tokens.is_empty() {
            let mut all = HashMap::clone(&self.tokens.load());
            for (hash, token) in tokens {
                match token {
                    Some(token) => drop(all.insert(hash, Arc::new(token))),
                    None => drop(all.remove(&hash)),
                }
            }
            self.tokens.store(Arc::new(all));
        }
        if !configs.is_empty() {
            let mut set = ConfigSet::clone(&self.configs());
            for (id, config) in configs {
                set.replace(id, config.map(Arc::new));
            }
            self.configs.send_replace(Arc::new(set));
        }
        self.position.send_replace(position);
    }

    /// Takes a full read of the configs' health.
    pub(super) fn take_all_health(&self, mut all: HealthSet) {
        self.health.send_if_modified(|set| {
            for (id, health) in &mut all {
                if let Some(before) = set.get(id).filter(|before| *before == health) {
                    *health = Arc::clone(before);
                }
            }
            if **set == all {
                return false;
            }
            *set = Arc::new(std::mem::take(&mut all));
            true
        });
    }

    /// Takes what became of single configs' health; `None` removes. Nobody is woken where nothing changed.
    pub(super) fn take_health(&self, changed: Vec<(ConfigId, Option<Health>)>) {
        self.health.send_if_modified(|set| {
            let differs = |(id, health): &(ConfigId, Option<Health>)| {
                set.get(id).map(|known| &**known) != health.as_ref()
            };
            if !changed.iter().any(differs) {
                return false;
            }
            let mut all = HealthSet::clone(set);
            for (id, health) in changed {
                match health {
                    Some(health) => drop(all.insert(id, Arc::new(health))),
                    None => drop(all.remove(&id)),
                }
            }
            *set = Arc::new(all);
            true
        });
    }

    /// Parses a value of the hash `noun` under `field`; `None`, logged at its first sight, when it does not
    /// parse. The log names place and kind of the mistake only: the value holds secrets.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(
        &self,
        noun: &'static str,
        field: &str,
        raw: &[u8],
    ) -> Option<T> {
        let parsed = serde_json::from_slice(raw);
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        match parsed {
            Ok(value) => {
                unreadable.remove(field);
                Some(value)
            }
            Err(error) => {
                if unreadable.insert(field.to_owned()) {
                    metrics::stored_unreadable(noun);
                    let (kind, column) = (error.classify(), error.column());
                    limited!(
                        error,
                        noun,
                        field,
                        ?kind,
                        column,
                        "a stored value does not parse and is kept out"
                    );
                }
                None
            }
        }
    }

    /// Forgets unreadable fields that are gone from the hashes: those that a full read did not meet.
    pub(super) fn retain_unreadable(&self, met: impl Fn(&str) -> bool) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        unreadable.retain(|field| met(field));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::UnixMillis;
    use crate::domain::config::Tombstone;
    use crate::domain::ids::ConfigSequence;

    fn stored(number: u32, organisation: &str, at: u64) -> StoredConfig {
        StoredConfig::Tombstone(Tombstone {
            id: ConfigId::new([7; 8], ConfigSequence(number)),
            organisation: OrganisationId::new(organisation).unwrap(),
            deleted_at: UnixMillis(at),
            log_payloads: true,
        })
    }

    fn all(configs: &[StoredConfig]) -> HashMap<ConfigId, Arc<StoredConfig>> {
        configs.iter().map(|config| (config.id(), Arc::new(config.clone()))).collect()
    }

    #[test]
    fn a_change_replaces_one_arc_and_keeps_the_others() {
        let directory = Directory::new();
        assert!(!directory.is_complete());
        let (one, two) = (stored(1, "a", 1), stored(2, "a", 1));
        directory.take_all(all(&[one.clone(), two.clone()]), HashMap::new(), StreamId { ms: 5, seq: 0 });
        let before = directory.configs();
        let changed = stored(2, "a", 9);
        directory.take_changes(vec![(two.id(), Some(changed.clone()))], vec![], StreamId { ms: 6, seq: 0 });
        let after = directory.configs();
        assert!(Arc::ptr_eq(&before.by_id[&one.id()], &after.by_id[&one.id()]));
        assert_eq!(*after.by_id[&two.id()], changed);
        assert_eq!(after.of(one.organisation()).len(), 2);
        assert_eq!(directory.position(), StreamId { ms: 6, seq: 0 });
        directory.take_changes(vec![(two.id(), None)], vec![], StreamId { ms: 7, seq: 0 });
        assert_eq!(directory.configs().of(one.organisation()).len(), 1);
    }

    #[test]
    fn a_full_read_without_news_wakes_nobody() {
        let directory = Directory::new();
        let configs = [stored(1, "a", 1), stored(2, "b", 1)];
        directory.take_all(all(&configs), HashMap::new(), StreamId::default());
        let mut watcher = directory.subscribe();
        watcher.mark_unchanged();
        directory.take_all(all(&configs), HashMap::new(), StreamId::default());
        assert!(!watcher.has_changed().unwrap());
        directory.take_all(all(&configs[..1]), HashMap::new(), StreamId::default());
        assert!(watcher.has_changed().unwrap());
        assert_eq!(directory.configs().of(configs[1].organisation()).len(), 0);
    }
}
