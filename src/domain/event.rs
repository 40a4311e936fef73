//! An event as producers `XADD` it (docs/WIRE.md section 2), checked once. Its bodies are
//! built in [`super::body`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::UnixMillis;
use super::config::EventType;
use super::ids::{ConfigId, EventId, OrganisationId};
use super::subject::{entity_paths, id_in};

/// Largest `data`, in bytes.
pub const DATA_MAX_BYTES: usize = 256 * 1024;
/// Deepest nesting of `data`.
pub const DATA_DEPTH_MAX: usize = 128;
/// Longest nonce, in bytes.
pub const NONCE_MAX_BYTES: usize = 256;
/// Longest of the opaque optional fields, in bytes.
pub const OPAQUE_MAX_BYTES: usize = 256;

/// An event that can be routed.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its shard and stream id.
    pub id: EventId,
    /// Whose event it is.
    pub organisation: OrganisationId,
    /// Its type.
    pub event_type: EventType,
    /// A JSON object, byte for byte as the producer wrote it.
    pub data: Bytes,
    /// The producer's nonce, or the one derived from the id.
    pub nonce: String,
    /// The producer's time, or the stream id's.
    pub timestamp: UnixMillis,
    /// Deliver to this config only.
    pub only_config: Option<ConfigId>,
    /// W3C trace context, sent along.
    pub traceparent: Option<Arc<str>>,
    /// The community that it happened in, where the producer says so; in bodies of the developer format.
    pub community_id: Option<Box<str>>,
    /// The user that it is about, where the producer says so.
    pub user_id: Option<Box<str>>,
    /// The entity that it is about, where the producer says so.
    pub event_source_id: Option<Box<str>>,
}

/// The fields of a stream entry, still unchecked. A field given twice counts once, the last one.
#[derive(Clone, Debug, Default)]
pub struct EventFields {
    /// `organisationId`
    pub organisation_id: Option<Vec<u8>>,
    /// `event`
    pub event: Option<Vec<u8>>,
    /// `data`
    pub data: Option<Vec<u8>>,
    /// `nonce`
    pub nonce: Option<Vec<u8>>,
    /// `timestamp`
    pub timestamp: Option<Vec<u8>>,
    /// `configId`
    pub config_id: Option<Vec<u8>>,
    /// `traceparent`
    pub traceparent: Option<Vec<u8>>,
    /// `communityId`
    pub community_id: Option<Vec<u8>>,
    /// `userId`
    pub user_id: Option<Vec<u8>>,
    /// `eventSourceId`
    pub event_source_id: Option<Vec<u8>>,
    /// `replayOf`: the event that a replay brought again by this entry
    pub replay_of: Option<Vec<u8>>,
    /// How many fields had another name.
    pub unknown: u32,
}

/// Why an entry cannot be routed: the field, what was wrong, what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Rejection {
    /// The field of the stream entry, `id` for the entry's id.
    pub field: &'static str,
    /// What was wrong and what is expected.
    pub problem: String,
}

/// Buffers that JSON checks reuse from one event to the next; one per worker.
#[derive(Default)]
pub struct JsonScratch {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

// === impl EventFields ===

impl EventFields {
    /// The names that are known, in the producers' contract's order.
    pub const NAMES: [&'static str; 10] = [
        "organisationId",
        "event",
        "data",
        "nonce",
        "timestamp",
        "configId",
        "traceparent",
        "communityId",
        "userId",
        "eventSourceId",
    ];

    /// Takes one field of the entry.
    pub fn set(&mut self, name: &[u8], value: Vec<u8>) {
        let place = match name {
            b"organisationId" => &mut self.organisation_id,
            b"event" => &mut self.event,
            b"data" => &mut self.data,
            b"nonce" => &mut self.nonce,
            b"timestamp" => &mut self.timestamp,
            b"configId" => &mut self.config_id,
            b"traceparent" => &mut self.traceparent,
            b"communityId" => &mut self.community_id,
            b"userId" => &mut self.user_id,
            b"eventSourceId" => &mut self.event_source_id,
            b"replayOf" => &mut self.replay_of,
            _ => {
                self.unknown += 1;
                return;
            }
        };
        *place = Some(value);
    }

    /// The fields that are there, by their names, in the producers' contract's order.
    #[must_use]
    pub fn into_named(self) -> Vec<(&'static str, Vec<u8>)> {
        let values = [
            self.organisation_id,
            self.event,
            self.data,
            self.nonce,
            self.timestamp,
            self.config_id,
            self.traceparent,
            self.community_id,
            self.user_id,
            self.event_source_id,
        ];
        Self::NAMES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Checks everything and makes the event.
    ///
    /// # Errors
    /// The first field that is not acceptable.
    pub fn check(self, id: EventId, scratch: &mut JsonScratch) -> Result<Event, Rejection> {
        let organisation = text("organisationId", required("organisationId", self.organisation_id)?)?;
        let organisation =
            OrganisationId::new(&organisation).map_err(|error| reject("organisationId", error))?;
        let event_type = text("event", required("event", self.event)?)?;
        let event_type = EventType::new(&event_type).map_err(|error| reject("event", error))?;
        let data = required("data", self.data)?;
        check_data(&data, scratch)?;
        let nonce = match optional("nonce", self.nonce)? {
            Some(nonce) => check_nonce(nonce)?,
            None => id.derived_nonce(),
        };
        let timestamp = match optional("timestamp", self.timestamp)? {
            Some(text) => UnixMillis::parse_iso8601(&text).ok_or_else(|| {
                reject("timestamp", "expected ISO-8601 with a zone, as 2026-05-01T09:00:00.000Z")
            })?,
            None => UnixMillis(id.stream_id().ms),
        };
        let only_config = optional("configId", self.config_id)?
            .map(|text| text.parse().map_err(|error| reject("configId", error)))
            .transpose()?;
        let traceparent = optional("traceparent", self.traceparent)?.map(check_traceparent).transpose()?;
        let community_id = check_opaque("communityId", self.community_id)?;
        let user_id = check_opaque("userId", self.user_id)?;
        let event_source_id = check_opaque("eventSourceId", self.event_source_id)?;
        Ok(Event {
            id,
            organisation,
            event_type,
            data: Bytes::from(data),
            nonce,
            timestamp,
            only_config,
            traceparent,
            community_id,
            user_id,
            event_source_id,
        })
    }
}

// === impl Event ===

impl Event {
    /// The entity that filters are about: the one that `data` names where the catalogue says, else the stream
    /// entry's `eventSourceId`. `data` comes first because that field may name one occurrence (a participation)
    /// instead of the thing itself (the action).
    #[must_use]
    pub fn filtered_entity(&self) -> Option<String> {
        id_in(&self.data, entity_paths(self.event_type.as_str()))
            .or_else(|| self.event_source_id.as_deref().map(str::to_owned))
    }

    /// The body of the standard format.
    #[must_use]
    pub fn body(&self) -> Bytes {
        super::body::standard(self)
    }
}

impl fmt::Debug for JsonScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonScratch").finish_non_exhaustive()
    }
}

fn reject(field: &'static str, problem: impl fmt::Display) -> Rejection {
    Rejection { field, problem: problem.to_string() }
}

fn required(field: &'static str, value: Option<Vec<u8>>) -> Result<Vec<u8>, Rejection> {
    value.ok_or_else(|| reject(field, "missing; it is required"))
}

fn text(field: &'static str, value: Vec<u8>) -> Result<String, Rejection> {
    String::from_utf8(value).map_err(|_| reject(field, "expected UTF-8 text"))
}

fn optional(field: &'static str, value: Option<Vec<u8>>) -> Result<Option<String>, Rejection> {
    value.map(|bytes| text(field, bytes)).transpose()
}

/// Checks a nonce.
///
/// # Errors
/// When it is empty, too long, or holds control characters.
pub fn check_nonce(nonce: String) -> Result<String, Rejection> {
    if (1..=NONCE_MAX_BYTES).contains(&nonce.len()) && !nonce.chars().any(char::is_control) {
        Ok(nonce)
    } else {
        Err(reject("nonce", "expected 1 to 256 bytes without control characters"))
    }
}

/// Checks a W3C `traceparent` (Trace Context, section 3.2): `00-<32 hex>-<16 hex>-<2 hex>`.
///
/// # Errors
/// When it does not have that shape.
pub fn check_traceparent(value: String) -> Result<Arc<str>, Rejection> {
    let parts: Vec<&str> = value.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f' | '-');
    if lengths == [2, 32, 16, 2] && value.chars().all(hex) {
        Ok(value.into())
    } else {
        Err(reject("traceparent", "expected 00-<32 hex>-<16 hex>-<2 hex> (W3C Trace Context)"))
    }
}

fn check_opaque(field: &'static str, value: Option<Vec<u8>>) -> Result<Option<Box<str>>, Rejection> {
    match optional(field, value)? {
        Some(text)
            if text.is_empty() || text.len() > OPAQUE_MAX_BYTES || text.chars().any(char::is_control) =>
        {
            Err(reject(field, "expected 1 to 256 bytes without control characters"))
        }
        text => Ok(text.map(Into::into)),
    }
}

/// Checks that `data` is one JSON object within the limits, without changing or re-serialising it.
///
/// # Errors
/// What is wrong with it.
pub fn check_data(data: &[u8], scratch: &mut JsonScratch) -> Result<(), Rejection> {
    let wrong = |problem: String| Err(reject("data", problem));
    if data.len() > DATA_MAX_BYTES {
        return wrong(format!("{} bytes; at most {DATA_MAX_BYTES} are accepted", data.len()));
    }
    if data.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return wrong("expected a JSON object".into());
    }
    if depth(data) > DATA_DEPTH_MAX {
        return wrong(format!("nested deeper than {DATA_DEPTH_MAX} levels"));
    }
    if std::str::from_utf8(data).is_err() {
        return wrong("expected JSON in UTF-8".into());
    }
    scratch.copy.clear();
    scratch.copy.extend_from_slice(data);
    let mut tape = simd_json::Tape::null().reset();
    if simd_json::fill_tape(&mut scratch.copy, &mut scratch.buffers, &mut tape).is_ok() {
        return Ok(());
    }
    // simd-json refuses numbers that no 64-bit type holds (30-digit integers, 1e400), which are valid JSON.
    match serde_json::from_slice::<&serde_json::value::RawValue>(data) {
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("invalid JSON: {error}")),
    }
}

/// The deepest nesting of brackets outside strings; an upper bound where the text is not valid JSON.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ShardNumber, StreamId};
    use proptest::prelude::*;

    fn id() -> EventId {
        EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: 2 }).unwrap()
    }

    fn check(fields: &[(&str, &str)]) -> Result<Event, Rejection> {
        let mut entry = EventFields::default();
        for (name, value) in fields {
            entry.set(name.as_bytes(), value.as_bytes().to_vec());
        }
        entry.check(id(), &mut JsonScratch::default())
    }

    const GOOD: [(&str, &str); 3] =
        [("organisationId", "org_1"), ("event", "reward.earned"), ("data", r#"{"user":{"id":"u1"}}"#)];

    #[test]
    fn a_minimal_entry_becomes_the_contracts_body() {
        let event = check(&GOOD).unwrap();
        assert_eq!(
            event.body(),
            &br#"{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"evt_0_1777626000000-2","id":"evt_0_1777626000000-2","data":{"user":{"id":"u1"}}}"#[..]
        );
    }

    #[test]
    fn data_goes_into_the_body_byte_for_byte() {
        for data in [
            r#"{ "n" : 123456789012345678901234567890 }"#,
            r#"{"n":1e400}"#,
            r#"{"s":"\u00e9\n\"\\ ü"}"#,
            "{\n\t\"a\": [1, 2]}\n",
            r#"{"a":1,"a":2}"#,
        ] {
            let event = check(&[GOOD[0], GOOD[1], ("data", data), ("nonce", "n\"1")]).unwrap();
            let body = event.body();
            assert!(body.ends_with(format!(",\"data\":{data}}}").as_bytes()), "{data}");
            assert!(body.windows(14).any(|w| w == br#""nonce":"n\"1""#));
            serde_json::from_slice::<serde_json::Value>(&body)
                .map(drop)
                .or_else(|e| if data.contains("e400") { Ok(()) } else { Err(e) })
                .unwrap();
        }
    }

    #[test]
    fn each_bad_field_is_named() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(128), "]".repeat(128));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(DATA_MAX_BYTES));
        for (name, value) in [
            ("organisationId", ""),
            ("organisationId", "a:b"),
            ("event", "Reward"),
            ("data", "[]"),
            ("data", "{"),
            ("data", "{} {}"),
            ("data", r#"{"a":01}"#),
            ("data", r#"{"a":"\x"}"#),
            ("data", &deep),
            ("data", &large),
            ("nonce", ""),
            ("timestamp", "yesterday"),
            ("configId", "12"),
            ("traceparent", "00-1"),
            ("userId", ""),
        ] {
            let mut fields = GOOD.to_vec();
            fields.push((name, value));
            assert_eq!(check(&fields).unwrap_err().field, name, "{value:.40}");
        }
        for missing in 0..3 {
            let mut fields = GOOD.to_vec();
            let (name, _) = fields.remove(missing);
            assert_eq!(check(&fields).unwrap_err().field, name);
        }
    }

    #[test]
    fn brackets_in_strings_are_not_depth() {
        assert_eq!(depth(br#"{"a":"[[[[\"[[","b":[1]}"#), 2);
    }

    proptest! {
        #[test]
        fn any_data_is_accepted_or_refused_as_serde_json_does(data in "\\{.{0,40}") {
            let ours = check_data(data.as_bytes(), &mut JsonScratch::default()).is_ok();
            let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&data).is_ok();
            prop_assert_eq!(ours, theirs);
        }
    }
}
