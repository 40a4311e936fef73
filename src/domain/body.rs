//! The bodies of an event (docs/WIRE.md section 3): built once per event and format, the same bytes for every
//! config and every attempt.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue;
use super::config::BodyFormat;
use super::event::Event;
use super::subject::{community_paths, entity_paths, id_in, user_paths};
use super::vocabulary::{dotted, hyphenated};

/// An event as one format writes it.
#[derive(Clone, Debug)]
pub struct Written {
    /// The event's type as it stands in the body and in `X-Nudj-Event`.
    pub event_type: Arc<str>,
    /// The bytes that are signed and sent; those of `data` are the producer's.
    pub body: Bytes,
}

/// The bodies of one event, each built when the first config wants it.
#[derive(Debug)]
pub struct Bodies<'e> {
    event: &'e Event,
    standard: OnceCell<Written>,
    developer: OnceCell<Written>,
}

// === impl Bodies ===

impl<'e> Bodies<'e> {
    /// The bodies of `event`, none of them built.
    #[must_use]
    pub const fn of(event: &'e Event) -> Self {
        Self { event, standard: OnceCell::new(), developer: OnceCell::new() }
    }

    /// The event in this format.
    pub fn get(&self, format: BodyFormat) -> &Written {
        match format {
            BodyFormat::Standard => self.standard.get_or_init(|| Written {
                event_type: Arc::clone(self.event.event_type.shared()),
                body: standard(self.event),
            }),
            BodyFormat::Developer => self.developer.get_or_init(|| developer(self.event)),
        }
    }
}

/// `event`, `timestamp`, `nonce`, `id` (the nonce again) and `data`.
#[must_use]
pub fn standard(event: &Event) -> Bytes {
    let nonce = json_text(&event.nonce);
    let mut body =
        Vec::with_capacity(96 + event.event_type.as_str().len() + 2 * nonce.len() + event.data.len());
    body.extend_from_slice(b"{\"event\":\"");
    // An event type's shape holds nothing that JSON escapes.
    body.extend_from_slice(event.event_type.as_str().as_bytes());
    body.extend_from_slice(b"\",\"timestamp\":\"");
    body.extend_from_slice(event.timestamp.to_string().as_bytes());
    body.extend_from_slice(b"\",\"nonce\":");
    body.extend_from_slice(nonce.as_bytes());
    body.extend_from_slice(b",\"id\":");
    body.extend_from_slice(nonce.as_bytes());
    body.extend_from_slice(b",\"data\":");
    body.extend_from_slice(&event.data);
    body.push(b'}');
    Bytes::from(body)
}

/// `id` (the nonce), `eventCategory`, `eventSubCategory`, `organisationId`, `communityId`, `userId`,
/// `eventSourceId`, `payload` and `createdAt`.
fn developer(event: &Event) -> Written {
    let published = event.event_type.as_str();
    let name = hyphenated(published).unwrap_or(published);
    let id = |given: &Option<Box<str>>, paths: &[&str]| match given {
        Some(given) => json_text(given),
        None => id_in(&event.data, paths).map_or_else(|| "null".to_owned(), |id| json_text(&id)),
    };
    let fields = [
        ("{\"id\":", json_text(&event.nonce)),
        (",\"eventCategory\":", json_text(category(published))),
        (",\"eventSubCategory\":", json_text(name)),
        (",\"organisationId\":", json_text(event.organisation.as_str())),
        (",\"communityId\":", id(&event.community_id, community_paths())),
        (",\"userId\":", id(&event.user_id, user_paths(published))),
        (",\"eventSourceId\":", id(&event.event_source_id, entity_paths(published))),
    ];
    let head: usize = fields.iter().map(|(key, value)| key.len() + value.len()).sum();
    let mut body = Vec::with_capacity(head + event.data.len() + 64);
    for (key, value) in &fields {
        body.extend_from_slice(key.as_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(b",\"payload\":");
    body.extend_from_slice(&event.data);
    body.extend_from_slice(b",\"createdAt\":\"");
    body.extend_from_slice(event.timestamp.to_string().as_bytes());
    body.extend_from_slice(b"\"}");
    Written { event_type: name.into(), body: Bytes::from(body) }
}

/// The catalogue's category; of a type that it does not know, the word before the first joiner.
fn category(event_type: &str) -> &str {
    match catalogue::find(dotted(event_type)) {
        Some(known) => known.category.as_str(),
        None => event_type.split(['.', '-', '_']).next().unwrap_or(event_type),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::domain::event::{EventFields, JsonScratch};
    use crate::domain::ids::{EventId, ShardNumber, StreamId};

    fn event(fields: &[(&str, &str)]) -> Event {
        let mut entry = EventFields::default();
        entry.set(b"organisationId", b"org_1".to_vec());
        for (name, value) in fields {
            entry.set(name.as_bytes(), value.as_bytes().to_vec());
        }
        let id = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: 2 }).unwrap();
        entry.check(id, &mut JsonScratch::default()).unwrap()
    }

    #[test]
    fn the_developer_format_is_the_contracts() {
        let data = r#"{ "actionId": "a1",  "n": 123456789012345678901234567890 }"#;
        let event =
            event(&[("event", "action.completed"), ("data", data), ("nonce", "n\"1"), ("userId", "u1")]);
        let bodies = Bodies::of(&event);
        let written = bodies.get(BodyFormat::Developer);
        let wanted = format!(
            r#"{{"id":"n\"1","eventCategory":"action","eventSubCategory":"action-participation","organisationId":"org_1","communityId":null,"userId":"u1","eventSourceId":"a1","payload":{data},"createdAt":"2026-05-01T09:00:00.000Z"}}"#
        );
        assert_eq!(written.body, wanted.as_bytes());
        assert_eq!(&*written.event_type, "action-participation");
        let again = bodies.get(BodyFormat::Developer);
        assert!(std::ptr::eq(written.body.as_ptr(), again.body.as_ptr()), "built once");
        assert_eq!(&*bodies.get(BodyFormat::Standard).event_type, "action.completed");
    }

    #[test]
    fn ids_come_from_the_entry_then_from_data_and_are_null_otherwise() {
        let read = |fields: &[(&str, &str)]| {
            let event = event(fields);
            let body: Value =
                serde_json::from_slice(&Bodies::of(&event).get(BodyFormat::Developer).body).unwrap();
            ["eventCategory", "communityId", "userId", "eventSourceId"].map(|name| body[name].clone())
        };
        let data = r#"{"user":{"id":"u"},"reward":{"id":"r"},"community":{"id":7}}"#;
        let of_data = read(&[("event", "reward-claim"), ("data", data)]);
        assert_eq!(of_data, ["reward".into(), Value::from("7"), "u".into(), "r".into()]);
        let given =
            [("event", "reward.claimed"), ("data", data), ("eventSourceId", "s"), ("communityId", "c")];
        assert_eq!(read(&given), ["reward".into(), Value::from("c"), "u".into(), "s".into()]);
        let unknown = read(&[("event", "level-up_now"), ("data", "{}")]);
        assert_eq!(unknown, [Value::from("level"), Value::Null, Value::Null, Value::Null]);
        assert_eq!(read(&[("event", "auth.email"), ("data", "{}")])[0], "user");
    }

    proptest! {
        #[test]
        fn a_developer_body_is_json_whatever_the_fields_hold(
            nonce in "[^\\p{Cc}]{1,40}", user in "[^\\p{Cc}]{1,40}", text in "[^\\p{Cc}]{0,40}",
        ) {
            let data = serde_json::json!({"reward": {"id": text}}).to_string();
            let event = event(&[("event", "reward.earned"), ("data", &data), ("nonce", &nonce), ("userId", &user)]);
            let body = Bodies::of(&event).get(BodyFormat::Developer).body.clone();
            let value: Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(value["id"].as_str(), Some(nonce.as_str()));
            prop_assert_eq!(value["userId"].as_str(), Some(user.as_str()));
            prop_assert_eq!(value["eventSourceId"].as_str(), Some(text.as_str()).filter(|text| !text.is_empty()));
        }
    }
}
