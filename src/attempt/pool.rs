//! A worker's idle connections, by config.
//!
//! Last in, first out: a few connections stay warm and the rest grow old and are closed. A connection is used
//! again only for the target that it was opened to, so a changed URL never meets an old connection. The cap is
//! the replica's: past it the worker that wants to keep one more closes its own oldest.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Instant;

use super::connection::Connection;
use super::egress::Egress;
use crate::domain::config::Endpoint;
use crate::domain::ids::ConfigId;

/// The idle connections of one worker.
pub(super) struct Pool {
    egress: Arc<Egress>,
    /// Every idle connection by the order in which they became idle.
    idle: BTreeMap<Serial, Idle>,
    /// For each config, its idle connections, oldest first.
    shelves: HashMap<ConfigId, Shelf>,
    next: Serial,
}

type Serial = u64;

struct Idle {
    config: ConfigId,
    since: Instant,
    connection: Box<Connection>,
}

#[derive(Default)]
struct Shelf {
    idle: VecDeque<Serial>,
    /// Whether it was used since the last [`Pool::close_idle`].
    used: bool,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(egress: Arc<Egress>) -> Self {
        Self { egress, idle: BTreeMap::new(), shelves: HashMap::new(), next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len()
    }

    /// The connection that was used last and is still open, if any. Closed ones and those that lead elsewhere go.
    pub(super) fn take(&mut self, endpoint: &Endpoint, cx: &mut Context<'_>) -> Option<Box<Connection>> {
        let shelf = self.shelves.get_mut(&endpoint.config)?;
        shelf.used = true;
        while let Some(serial) = shelf.idle.pop_back() {
            let Some(mut idle) = self.idle.remove(&serial) else { continue };
            self.egress.idle_connections.fetch_sub(1, Ordering::Relaxed);
            if idle.connection.leads_to(endpoint) && idle.connection.is_usable(cx) {
                return Some(idle.connection);
            }
            idle.connection.close();
        }
        None
    }

    /// Keeps a connection that was used for `config`, or closes it.
    pub(super) fn keep(&mut self, config: ConfigId, connection: Box<Connection>, now: Instant) {
        if self.egress.idle_connections.fetch_add(1, Ordering::Relaxed) >= self.egress.idle_connections_max {
            if self.idle.is_empty() {
                // The other workers hold them all; theirs grow old too.
                self.egress.idle_connections.fetch_sub(1, Ordering::Relaxed);
                connection.close();
                return;
            }
            self.close_oldest();
        }
        let serial = self.next;
        self.next += 1;
        let shelf = self.shelves.entry(config).or_default();
        shelf.used = true;
        shelf.idle.push_back(serial);
        self.idle.insert(serial, Idle { config, since: now, connection });
    }

    /// Closes what has been idle for too long and forgets configs that are no longer sent to.
    pub(super) fn close_idle(&mut self, now: Instant) {
        let timeout = self.egress.idle_connection_timeout;
        while self
            .idle
            .first_key_value()
            .is_some_and(|(_, oldest)| now.saturating_duration_since(oldest.since) >= timeout)
        {
            self.close_oldest();
        }
        self.shelves.retain(|_, shelf| std::mem::take(&mut shelf.used) || !shelf.idle.is_empty());
    }

    fn close_oldest(&mut self) {
        let Some((serial, oldest)) = self.idle.pop_first() else { return };
        self.egress.idle_connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(shelf) = self.shelves.get_mut(&oldest.config) {
            // Serials only grow, so the oldest of all stands first on its shelf.
            debug_assert_eq!(shelf.idle.front(), Some(&serial));
            shelf.idle.pop_front();
        }
        oldest.connection.close();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.egress.idle_connections.fetch_sub(self.idle.len(), Ordering::Relaxed);
    }
}
