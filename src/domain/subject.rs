//! What an event is about: the entity, the user and the community that its `data` names (docs/WIRE.md sections 3
//! and 5). They are looked for only where a filter or a body needs them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::vocabulary::dotted;

/// Where an event's own entity stands in `data`, by the first word of its dotted name.
const ENTITIES: [(&str, &[&str]); 5] = [
    ("reward", &["reward.id", "rewardId"]),
    ("challenge", &["challenge.id", "challengeId"]),
    ("action", &["action.id", "actionId"]),
    ("achievement", &["achievement.id", "achievementId"]),
    ("referral", &["referral.id", "referralId"]),
];

/// Types that differ from their first word's row, or have none. An empty list: the event is about no entity.
const EXCEPTIONS: [(&str, &[&str]); 5] = [
    ("achievement.streak_milestone", &[]),
    ("user.community_joined", &["community.id", "communityId"]),
    ("shop-purchase", &["purchaseId"]),
    ("post-like", &["postId"]),
    ("post-comment", &["postId"]),
];

const USER: [&str; 2] = ["user.id", "userId"];
const COMMUNITY: [&str; 2] = ["community.id", "communityId"];

/// The user of a referral is the one whom the event credits, or who acted.
const REFERRAL_USERS: [(&str, &[&str]); 4] = [
    ("referral.clicked", &["referrer.id"]),
    ("referral.converted", &["referee.id"]),
    ("referral.referrer_credited", &["referrer.id"]),
    ("referral.referee_credited", &["referee.id"]),
];

/// The places in `data` that name the event's own entity, the first that is there counts.
#[must_use]
pub fn entity_paths(event_type: &str) -> &'static [&'static str] {
    let name = dotted(event_type);
    let first = name.split('.').next().unwrap_or_default();
    let listed = |table: &[(&str, &'static [&'static str])], wanted: &str| {
        table.iter().find(|(key, _)| *key == wanted).map(|(_, paths)| *paths)
    };
    listed(&EXCEPTIONS, name).or_else(|| listed(&ENTITIES, first)).unwrap_or_default()
}

/// The places in `data` that name the user.
#[must_use]
pub fn user_paths(event_type: &str) -> &'static [&'static str] {
    let name = dotted(event_type);
    REFERRAL_USERS.iter().find(|(key, _)| *key == name).map_or(&USER, |(_, paths)| paths)
}

/// The places in `data` that name the community.
#[must_use]
pub const fn community_paths() -> &'static [&'static str] {
    &COMMUNITY
}

/// The id at the first of `paths` that holds one: a string that is not empty, or a number as it is written.
/// Of a key that is repeated, the last one counts. `data` is a JSON object; another gives `None`.
#[must_use]
pub fn id_in(data: &[u8], paths: &[&str]) -> Option<String> {
    if paths.is_empty() {
        return None;
    }
    let mut tops = Vec::with_capacity(paths.len());
    tops.extend(paths.iter().map(|path| path.split('.').next().unwrap_or_default()));
    let found = fields(data, &tops)?;
    paths.iter().zip(&tops).enumerate().find_map(|(index, (path, top))| {
        let value = found[index]?.get();
        match path.get(top.len() + 1..) {
            None => text(value),
            Some(below) => fields(value.as_bytes(), &[below])?[0].and_then(|value| text(value.get())),
        }
    })
}

/// The values of these keys of a JSON object, each in its key's place.
fn fields<'a>(object: &'a [u8], keys: &[&str]) -> Option<Vec<Option<&'a RawValue>>> {
    let mut json = serde_json::Deserializer::from_slice(object);
    Fields(keys).deserialize(&mut json).ok()
}

/// The text of an id; nothing else is one.
fn text(value: &str) -> Option<String> {
    match value.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(value).ok().filter(|text| !text.is_empty()),
        b'-' | b'0'..=b'9' => Some(value.to_owned()),
        _ => None,
    }
}

/// Reads an object's fields of these names.
struct Fields<'k>(&'k [&'k str]);

/// Says of a key whether it is one of the names, without keeping it; two paths may begin with the same name.
struct Key<'k> {
    names: &'k [&'k str],
    is_wanted: &'k mut [bool],
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        let mut wanted = vec![false; self.0.len()];
        while let Some(any) = map.next_key_seed(Key { names: self.0, is_wanted: &mut wanted })? {
            if !any {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&'de RawValue>()?;
            for (place, wanted) in found.iter_mut().zip(&wanted) {
                if *wanted {
                    *place = Some(value);
                }
            }
        }
        Ok(found)
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        for (wanted, name) in self.is_wanted.iter_mut().zip(self.names) {
            *wanted = *name == key;
        }
        Ok(self.is_wanted.contains(&true))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::catalogue;

    #[test]
    fn an_id_is_found_where_the_first_path_has_one() {
        let id = |data: &str, paths: &[&str]| id_in(data.as_bytes(), paths);
        let reward = ["reward.id", "rewardId"];
        assert_eq!(id(r#"{"reward":{"id":"r1"},"rewardId":"r2"}"#, &reward), Some("r1".into()));
        assert_eq!(id(r#"{"reward":{"name":"x"},"rewardId":"r2"}"#, &reward), Some("r2".into()));
        assert_eq!(
            id(r#"{"reward":7,"rewardId":820982911946154508}"#, &reward),
            Some("820982911946154508".into())
        );
        assert_eq!(id(r#"{"rewardId":"a\u0062"}"#, &reward), Some("ab".into()));
        assert_eq!(id(r#"{"rewardId":"a","rewardId":"b"}"#, &reward), Some("b".into()));
        assert_eq!(id(r#"{"n":1e400,"d":[[[{}]]],"reward\u0049d":"r"}"#, &reward), Some("r".into()));
        assert_eq!(id(r#"{"a":{"id":"1","b":"2"}}"#, &["a.x", "a.b"]), Some("2".into()));
        for none in
            ["{}", r#"{"rewardId":""}"#, r#"{"rewardId":null}"#, r#"{"rewardId":{"id":1}}"#, "[]", "{"]
        {
            assert_eq!(id(none, &reward), None, "{none}");
        }
    }

    #[test]
    fn samples_of_the_catalogue_name_their_entity_and_user() {
        for known in catalogue::of_producers() {
            let data = known.sample.as_bytes();
            let paths = entity_paths(known.name);
            assert_eq!(id_in(data, paths).is_some(), !paths.is_empty(), "{}: {paths:?}", known.name);
            assert!(id_in(data, user_paths(known.name)).is_some(), "{}", known.name);
        }
        assert_eq!(entity_paths("reward-claim"), entity_paths("reward.claimed"));
        assert!(entity_paths("auth.email").is_empty() && entity_paths("streak-extended").is_empty());
    }

    #[test]
    fn the_documented_table_lists_exactly_these() {
        let text = include_str!("../../docs/WIRE.md");
        let section = text.split_once("\n### Entities\n").expect("the heading stands in WIRE.md").1;
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2) // The head and the rule below it.
            .map(|line| line.trim_matches('|').replace(['`', ' '], ""));
        let ours = ENTITIES.iter().chain(&EXCEPTIONS).map(|(key, paths)| match paths.is_empty() {
            true => format!("{key}|none"),
            false => format!("{key}|{}", paths.join(",")),
        });
        assert_eq!(rows.collect::<Vec<_>>(), ours.collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_id_or_none(data: Vec<u8>, object in "\\{\"a\":.{0,30}") {
            let _ = id_in(&data, &["a.b", "a"]);
            let _ = id_in(object.as_bytes(), &["a.b", "a"]);
        }
    }
}
