//! The fields of a config that say which events it gets: `events` and `entityFilters` (docs/WIRE.md sections 5
//! and 6). Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::body::Mistakes;
use crate::domain::config::{ENTITY_IDS_MAX, EVENTS_MAX, EntityFilters, EventType, Subscription};
use crate::domain::vocabulary::other_name;

/// `events`: types and wildcards, without repetitions.
pub(super) fn parse_events(
    path: &str,
    value: Option<Value>,
    mistakes: &mut Mistakes,
) -> Option<Vec<Subscription>> {
    let place = format!("{path}.events");
    let values = match value {
        Some(Value::Array(values)) if (1..=EVENTS_MAX).contains(&values.len()) => values,
        None => {
            mistakes.add(place, "missing; expected an array of event types");
            return None;
        }
        Some(_) => {
            mistakes.add(place, format!("expected an array of 1 to {EVENTS_MAX} event types"));
            return None;
        }
    };
    let mut events: Vec<Subscription> = Vec::with_capacity(values.len());
    let mut wrong = false;
    for (index, value) in values.iter().enumerate() {
        let parsed = match value.as_str() {
            Some(text) => Subscription::new(text).map_err(|error| error.0),
            None => Err("expected a string".to_owned()),
        };
        match mistakes.keep(format_args!("{place}[{index}]"), parsed) {
            Some(event) if events.contains(&event) => {}
            Some(event) => events.push(event),
            None => wrong = true,
        }
    }
    (!wrong).then_some(events)
}

/// `entityFilters`: event types to arrays of entity ids. A type that `events` does not cover is refused: a name
/// that was misspelt would let everything through. `events` is `None` where it was wrong itself.
pub(super) fn parse_entity_filters(
    path: &str,
    value: Value,
    events: Option<&[Subscription]>,
    mistakes: &mut Mistakes,
) -> Option<EntityFilters> {
    let place = format!("{path}.entityFilters");
    let Value::Object(fields) = value else {
        mistakes.add(place, "expected an object of event types and arrays of entity ids");
        return None;
    };
    if fields.len() > ENTITY_IDS_MAX {
        mistakes.add(place, format_args!("expected at most {ENTITY_IDS_MAX} ids in all"));
        return None;
    }
    let mut filters = BTreeMap::new();
    let mut wrong = false;
    for (name, value) in fields {
        let place = format!("{place}.{name}");
        let event = mistakes.keep(&place, filtered_type(&name, events, &filters));
        let ids = parse_ids(&place, value, mistakes);
        match (event, ids) {
            (Some(event), Some(ids)) => drop(filters.insert(event, ids)),
            _ => wrong = true,
        }
    }
    let checked = mistakes.keep(place, EntityFilters::new(filters));
    checked.filter(|_| !wrong)
}

fn filtered_type(
    name: &str,
    events: Option<&[Subscription]>,
    others: &BTreeMap<EventType, Vec<String>>,
) -> Result<EventType, String> {
    if name.contains('*') {
        return Err("expected an event type, not a wildcard".to_owned());
    }
    let event = EventType::new(name).map_err(|error| error.0)?;
    let is_covered = |subscription: &Subscription| {
        subscription.covers(name) || other_name(name).is_some_and(|other| subscription.covers(other))
    };
    if events.is_some_and(|events| !events.iter().any(is_covered)) {
        return Err("this event type is not among 'events'".to_owned());
    }
    // An object has a name once, so only the other name of the event can be there already.
    let other = other_name(name).and_then(|other| EventType::new(other).ok());
    match other.filter(|other| others.contains_key(other)) {
        Some(other) => Err(format!("names the same event as '{other}'; send one of them")),
        None => Ok(event),
    }
}

fn parse_ids(place: &str, value: Value, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let Value::Array(values) = value else {
        mistakes.add(place, "expected an array of entity ids");
        return None;
    };
    let mut ids = Vec::with_capacity(values.len());
    let mut wrong = false;
    for (index, value) in values.into_iter().enumerate() {
        if let Value::String(id) = value {
            ids.push(id);
        } else {
            mistakes.add(format_args!("{place}[{index}]"), "expected an entity id as a string");
            wrong = true;
        }
    }
    if wrong {
        return None;
    }
    mistakes.keep(place, EntityFilters::check_ids(&ids)).map(|()| ids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filters(events: &[&str], value: Value) -> Result<EntityFilters, String> {
        let events: Vec<Subscription> = events.iter().map(|text| Subscription::new(text).unwrap()).collect();
        let mut mistakes = Mistakes::default();
        let parsed = parse_entity_filters("body", value, Some(&events), &mut mistakes);
        assert_eq!(parsed.is_none(), !mistakes.is_empty(), "{mistakes}");
        parsed.ok_or_else(|| mistakes.to_string())
    }

    #[test]
    fn a_filter_belongs_to_an_event_that_is_subscribed_by_any_of_its_names() {
        for events in [["reward-claim"], ["reward.claimed"], ["reward.*"], ["*"]] {
            for name in ["reward-claim", "reward.claimed"] {
                let kept = filters(&events, json!({name: ["r1", "r1"]})).unwrap();
                assert_eq!(kept.as_map().values().next().unwrap(), &["r1"], "{events:?} {name}");
            }
        }
        assert!(filters(&["a"], json!({})).unwrap().is_empty());
    }

    #[test]
    fn every_mistake_in_a_filter_is_told_with_its_place() {
        for (value, wanted) in [
            (json!([]), "body.entityFilters: expected an object"),
            (json!({"reward.earnd": ["r"]}), "body.entityFilters.reward.earnd: this event type is not among"),
            (
                json!({"reward.*": ["r"]}),
                "body.entityFilters.reward.*: expected an event type, not a wildcard",
            ),
            (json!({"Reward": ["r"]}), "body.entityFilters.Reward: "),
            (json!({"reward.earned": "r"}), "body.entityFilters.reward.earned: expected an array"),
            (json!({"reward.earned": ["r", 1]}), "body.entityFilters.reward.earned[1]: "),
            (json!({"reward.earned": []}), "body.entityFilters.reward.earned: expected at least one id"),
            (json!({"reward.earned": [""]}), "body.entityFilters.reward.earned: expected ids of"),
            (
                json!({"reward-claim": ["r"], "reward.claimed": ["s"]}),
                "body.entityFilters.reward.claimed: names the same event as 'reward-claim'",
            ),
        ] {
            let error = filters(&["reward.earned", "reward.claimed"], value.clone()).unwrap_err();
            assert!(error.contains(wanted), "{value}: {error}");
        }
    }

    #[test]
    fn as_many_filters_as_a_body_holds_are_looked_through_at_once() {
        let of = |number| {
            let all = (0..number).map(|n| (format!("reward.e{n}"), json!(["r"]))).collect();
            let begun = std::time::Instant::now();
            (filters(&["*"], Value::Object(all)).map(|filters| filters.as_map().len()), begun.elapsed())
        };
        let (kept, _) = of(ENTITY_IDS_MAX);
        assert_eq!(kept, Ok(ENTITY_IDS_MAX));
        // Each against each other would take minutes.
        let (refused, took) = of(100_000);
        assert!(refused.unwrap_err().contains("at most 5000 ids") && took.as_secs() < 20, "{took:?}");
    }

    proptest! {
        #[test]
        fn any_object_of_strings_is_a_filter_or_refused(name in ".{0,12}", id in ".{0,12}") {
            let mut mistakes = Mistakes::default();
            let parsed = parse_entity_filters("body", json!({name: [id]}), None, &mut mistakes);
            prop_assert_eq!(parsed.is_none(), !mistakes.is_empty());
        }
    }
}
