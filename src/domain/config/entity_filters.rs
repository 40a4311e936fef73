//! `entityFilters`: of some event types, only the events about certain entities (docs/WIRE.md section 6).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EventType, InvalidConfig};

/// Most entity ids of one config, over all its event types.
pub const ENTITY_IDS_MAX: usize = 5_000;
/// Longest entity id, in bytes.
pub const ENTITY_ID_MAX_BYTES: usize = 256;

/// The ids that each filtered event type lets through. A type that is not in it is not filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityFilters(BTreeMap<EventType, Vec<String>>);

// === impl EntityFilters ===

impl EntityFilters {
    /// Checks ids and numbers; an id that is repeated counts once.
    ///
    /// # Errors
    /// Names the event type and what is wrong with its ids.
    pub fn new(filters: BTreeMap<EventType, Vec<String>>) -> Result<Self, InvalidConfig> {
        let mut kept = BTreeMap::new();
        for (event, ids) in filters {
            Self::check_ids(&ids).map_err(|problem| InvalidConfig(format!("'{event}': {problem}")))?;
            let mut seen = std::collections::BTreeSet::new();
            let once: Vec<String> = ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
            kept.insert(event, once);
        }
        if kept.values().map(Vec::len).sum::<usize>() > ENTITY_IDS_MAX {
            return Err(InvalidConfig(format!("expected at most {ENTITY_IDS_MAX} ids in all")));
        }
        Ok(Self(kept))
    }

    /// Checks the ids of one event type.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_ids(ids: &[String]) -> Result<(), &'static str> {
        let fits =
            |id: &String| (1..=ENTITY_ID_MAX_BYTES).contains(&id.len()) && !id.chars().any(char::is_control);
        if ids.is_empty() {
            Err("expected at least one id; leave the event type out to get all of its events")
        } else if ids.iter().all(fits) {
            Ok(())
        } else {
            Err("expected ids of 1 to 256 bytes without control characters")
        }
    }

    /// Whether nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Event types and the ids that they let through.
    #[must_use]
    pub const fn as_map(&self) -> &BTreeMap<EventType, Vec<String>> {
        &self.0
    }
}

impl Serialize for EntityFilters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EntityFilters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(|invalid| serde::de::Error::custom(invalid.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(ids: &[&str]) -> Result<EntityFilters, InvalidConfig> {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        EntityFilters::new([(EventType::new("reward.earned").unwrap(), ids)].into())
    }

    #[test]
    fn ids_count_once_and_none_is_refused() {
        let kept = filters(&["a", "b", "a"]).unwrap();
        assert_eq!(kept.as_map().values().next().unwrap(), &["a", "b"]);
        for wrong in [&[][..], &[""], &["a\n"], &[&*"x".repeat(257)]] {
            assert!(filters(wrong).unwrap_err().0.starts_with("'reward.earned': "));
        }
        let many: Vec<String> = (0..=ENTITY_IDS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(filters(&many).is_err() && filters(&many[1..]).is_ok());
    }
}
