//! Routing: (event, snapshot of configs) -> targets. Pure; no I/O.
//!
//! Owns: which configs want an event. May use: `domain`. May not touch Redis or the network.

use std::sync::Arc;

use crate::domain::event::Event;
use crate::domain::interest::Entity;
use crate::domain::snapshot::{Snapshot, Target};

/// Where an event goes.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// Active configs that want it.
    pub active: Vec<Arc<Target>>,
    /// Inactive configs that would want it: no delivery is made, unless the event was read before they were
    /// paused.
    pub inactive: Vec<Arc<Target>>,
}

/// Which configs of the event's organisation want it: all that subscribe to its type and do not
/// filter its entity away, or only the one that it names (whatever its subscriptions and filters: test events and
/// replays).
#[must_use]
pub fn route(event: &Event, snapshot: &Snapshot) -> Routed {
    let mut routed = Routed::default();
    let mut entity = Entity::default();
    for target in snapshot.of(&event.organisation) {
        let wanted = match event.only_config {
            Some(only) => target.config.id == only,
            None => target.interest.wants(event, &mut entity),
        };
        if wanted {
            let list = if target.config.active { &mut routed.active } else { &mut routed.inactive };
            list.push(Arc::clone(target));
        }
    }
    routed
}

#[cfg(test)]
mod tests;
