//! Which events a config wants, prepared from its subscriptions and entity filters, so that routing only looks
//! things up (docs/WIRE.md sections 5 and 6).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::catalogue::ALIASES;
use super::config::{Config, Subscription};
use super::event::Event;
use super::vocabulary::other_name;

/// Which events a config wants.
#[derive(Debug, Default)]
pub struct Interest {
    all: bool,
    /// Wildcards without their `*`.
    below: Box<[Box<str>]>,
    /// Types by both of their names, sorted; also the other names of what the wildcards cover.
    names: Box<[Arc<str>]>,
    /// The entities that a filtered type lets through, by both of its names.
    filters: HashMap<Arc<str>, Arc<HashSet<Box<str>>>>,
}

/// What an event is about, found at most once however many configs filter.
#[derive(Debug, Default)]
pub struct Entity(Option<Option<String>>);

// === impl Interest ===

impl Interest {
    /// The interest of a config.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut names: Vec<Arc<str>> = Vec::with_capacity(config.events.len());
        let mut interest = Self::default();
        let mut below: Vec<Box<str>> = Vec::new();
        for subscription in &config.events {
            match subscription {
                Subscription::All => interest.all = true,
                Subscription::Below(text) => {
                    below.push(text.trim_end_matches('*').into());
                    let both = ALIASES.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
                    names.extend(
                        both.filter(|(one, _)| subscription.covers(one)).map(|(_, other)| other.into()),
                    );
                }
                Subscription::Exact(event) => {
                    names.push(Arc::clone(event.shared()));
                    names.extend(other_name(event.as_str()).map(Arc::from));
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        interest.names = names.into();
        interest.below = below.into();
        for (event, ids) in config.entity_filters.as_map() {
            let ids: Arc<HashSet<Box<str>>> = Arc::new(ids.iter().map(|id| id.as_str().into()).collect());
            if let Some(other) = other_name(event.as_str()) {
                interest.filters.insert(other.into(), Arc::clone(&ids));
            }
            interest.filters.insert(Arc::clone(event.shared()), ids);
        }
        interest
    }

    /// Whether the config subscribes to events of this type, by either of its names.
    #[must_use]
    pub fn covers(&self, event_type: &str) -> bool {
        self.all
            || self.names.binary_search_by(|name| (**name).cmp(event_type)).is_ok()
            || self.below.iter().any(|above| event_type.starts_with(&**above))
    }

    /// Whether a filter judges events of this type.
    #[must_use]
    pub fn filters(&self, event_type: &str) -> bool {
        self.filters.contains_key(event_type)
    }

    /// Whether the config wants this event: it subscribes to its type, and its filter, if there is one for the
    /// type, has the event's entity. An event that names no entity passes no filter.
    #[must_use]
    pub fn wants(&self, event: &Event, entity: &mut Entity) -> bool {
        self.covers(event.event_type.as_str()) && self.lets_through(event, entity)
    }

    fn lets_through(&self, event: &Event, entity: &mut Entity) -> bool {
        // The usual case costs one comparison: no hash, and nothing is read of the event's data.
        if self.filters.is_empty() {
            return true;
        }
        match self.filters.get(event.event_type.as_str()) {
            Some(ids) => entity.of(event).is_some_and(|id| ids.contains(id)),
            None => true,
        }
    }
}

// === impl Entity ===

impl Entity {
    fn of(&mut self, event: &Event) -> Option<&str> {
        self.0.get_or_insert_with(|| event.filtered_entity()).as_deref()
    }
}
