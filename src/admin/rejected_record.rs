//! A rejected entry as JSON, and the repair that a requeue asks for (docs/WIRE.md section 12).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::Mistakes;
use super::described::{ConfigIdText, EventTypeText, NonceText, OrganisationIdText, RejectReasonWord};
use super::described::{RejectedIdText, Time};
use crate::domain::event::{EventFields, Rejection};
use crate::domain::rejected::{Fixes, RejectedEntry};

/// Bytes of an entry's names and values that a list shows.
pub(super) const SHOWN_IN_LIST: usize = 16 * 1024;

/// An entry of the stream that could not be understood.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RejectedRecord {
    /// Its id here.
    #[schema(value_type = RejectedIdText)]
    id: String,
    /// Its id in the events stream.
    #[schema(examples("1777626000118-0"))]
    event_id: String,
    /// The shard that it came to.
    shard: u16,
    /// When it was rejected.
    #[schema(value_type = Time)]
    rejected_at: String,
    #[schema(value_type = RejectReasonWord)]
    reason: &'static str,
    /// The field that was wrong; `id` for the entry as a whole.
    field: String,
    /// What was wrong, and what is expected.
    #[schema(examples("expected a JSON object"))]
    expected: String,
    /// The organisation that it names; null where that is none.
    #[schema(value_type = Option<OrganisationIdText>, required)]
    organisation_id: Option<String>,
    /// The event type that it names, right or wrong.
    #[schema(required)]
    event: Option<String>,
    /// Its fields, in their order.
    fields: Vec<RejectedField>,
    /// Whether values were cut, or fields left out, because the entry is large.
    truncated: bool,
}

/// One field of an entry.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RejectedField {
    /// Its name; bytes that are no UTF-8 are replaced.
    name: String,
    /// Its value; bytes that are no UTF-8 are replaced.
    value: String,
    /// The value's bytes, only where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    base64: Option<String>,
    /// The value's whole size.
    bytes: usize,
    /// Only when it is true: `value` is only its beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    truncated: bool,
}

/// The body of a requeue.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Described here; [`Repair::parse`] reads the fields one by one, to tell every mistake.
pub(super) struct RequeueBody {
    /// New values of fields of the producers' contract; `null` takes a field out. `data` may be an object or its
    /// text.
    #[schema(required = false)]
    fields: RepairFields,
}

/// What a requeue asks for.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// The new values, as far as they can be read.
    pub(super) fixes: Fixes,
    /// What cannot.
    pub(super) mistakes: Mistakes,
    /// The fields whose new values cannot: nothing more can be said of these.
    wrong: Vec<&'static str>,
}

/// The fields that can be repaired, as the description shows them.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // Never constructed.
struct RepairFields {
    #[schema(value_type = Option<OrganisationIdText>)]
    organisation_id: Option<String>,
    #[schema(value_type = Option<EventTypeText>)]
    event: Option<String>,
    /// An object, whose bytes are kept, or its text.
    data: Option<RepairedData>,
    #[schema(value_type = Option<NonceText>)]
    nonce: Option<String>,
    #[schema(value_type = Option<Time>)]
    timestamp: Option<String>,
    #[schema(value_type = Option<ConfigIdText>)]
    config_id: Option<String>,
    #[schema(pattern = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
    traceparent: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    community_id: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    user_id: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    event_source_id: Option<String>,
}

/// What `data` may be in a repair.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // Never constructed.
enum RepairedData {
    #[schema(value_type = Object)]
    Object(serde_json::Value),
    Text(String),
}

// === impl RejectedRecord ===

impl RejectedRecord {
    /// Shows at most `limit` bytes of the fields; `None` shows everything that was kept.
    pub(super) fn new(entry: &RejectedEntry, limit: Option<usize>) -> Self {
        let mut left = limit.unwrap_or(usize::MAX);
        let mut fields = Vec::new();
        for (name, value) in &entry.fields {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(name.len());
            let shown = shown_part(value, left);
            left = left.saturating_sub(shown.len());
            fields.push(RejectedField::new(name, shown, value.len()));
        }
        let truncated = fields.len() < entry.fields.len() || fields.iter().any(|field| field.truncated);
        Self {
            id: entry.id.to_string(),
            event_id: entry.event_id.clone(),
            shard: entry.id.shard.0,
            rejected_at: entry.rejected_at().to_string(),
            reason: entry.reason().as_str(),
            field: entry.field.clone(),
            expected: entry.problem.clone(),
            organisation_id: entry.organisation().map(|organisation| organisation.to_string()),
            event: entry.text("event").map(|event| event.chars().take(256).collect()),
            fields,
            truncated,
        }
    }
}

/// The beginning of a value; of UTF-8 whole characters, so that what is cut does not look broken.
fn shown_part(value: &[u8], limit: usize) -> &[u8] {
    if value.len() <= limit {
        return value;
    }
    let cut = &value[..limit];
    match (std::str::from_utf8(cut), std::str::from_utf8(value)) {
        (Err(error), Ok(_)) => &cut[..error.valid_up_to()],
        _ => cut,
    }
}

// === impl RejectedField ===

impl RejectedField {
    fn new(name: &[u8], shown: &[u8], bytes: usize) -> Self {
        let is_text = std::str::from_utf8(shown).is_ok();
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            value: String::from_utf8_lossy(shown).into_owned(),
            base64: (!is_text).then(|| STANDARD.encode(shown)),
            bytes,
            truncated: shown.len() < bytes,
        }
    }
}

// === impl Repair ===

impl Repair {
    /// Reads a body; an empty one repairs nothing.
    ///
    /// # Errors
    /// What keeps it from being an object with an object of fields. All else stands in `mistakes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Mistakes> {
        let mut repair = Self::default();
        if bytes.is_empty() {
            return Ok(repair);
        }
        let mistakes = &mut repair.mistakes;
        let body = serde_json::from_slice::<Fields>(bytes);
        let body = mistakes.keep("body", body.map_err(|error| format!("expected {{fields?}}: {error}")));
        for name in body.iter().flat_map(Fields::keys).filter(|name| *name != "fields") {
            mistakes.add(format_args!("body.{name}"), "unknown; expected fields");
        }
        let fields = body.as_ref().and_then(|body| body.get("fields")).map_or(Ok(Fields::new()), |fields| {
            let parsed = serde_json::from_str::<Fields>(fields.get());
            parsed.map_err(|error| format!("expected an object of fields and their new values: {error}"))
        });
        let fields = mistakes.keep("body.fields", fields);
        let (Some(_), Some(fields)) = (body, fields) else { return Err(repair.mistakes) };
        for (name, value) in &fields {
            repair.read(name, value.get());
        }
        Ok(repair)
    }

    fn read(&mut self, name: &str, json: &str) {
        let path = format!("body.fields.{}", name.chars().take(64).collect::<String>());
        let Some(known) = EventFields::NAMES.into_iter().find(|known| *known == name) else {
            let names = EventFields::NAMES.join(", ");
            self.mistakes.add(path, format_args!("not a field of events; they are {names}"));
            return;
        };
        match self.mistakes.keep(path, fix(known, json)) {
            Some(value) => self.fixes.push((known, value)),
            None => self.wrong.push(known),
        }
    }

    /// Adds what would still be wrong with the entry after the repair.
    pub(super) fn add(&mut self, still: &[Rejection]) {
        for one in still.iter().filter(|one| !self.wrong.contains(&one.field)) {
            self.mistakes.add(format_args!("body.fields.{}", one.field), &one.problem);
        }
    }
}

/// An object whose values keep their bytes.
type Fields = BTreeMap<String, Box<RawValue>>;

/// The bytes of a new value; `data` given as an object keeps its bytes as they were sent.
fn fix(name: &str, json: &str) -> Result<Option<Vec<u8>>, &'static str> {
    match json.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => serde_json::from_str::<String>(json)
            .map(|text| Some(text.into_bytes()))
            .map_err(|_| "expected a string"),
        Some(b'{') if name == "data" => Ok(Some(json.as_bytes().to_vec())),
        _ if name == "data" => Err("expected an object, or its text as a string; null takes the field out"),
        _ => Err("expected a string; null takes the field out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: Vec<(Vec<u8>, Vec<u8>)>) -> RejectedEntry {
        RejectedEntry {
            id: "rej_0_1777626000000-2".parse().unwrap(),
            event_id: "1777625999000-7".into(),
            field: "data".into(),
            problem: "expected a JSON object".into(),
            fields,
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_both_ways() {
        let entry = entry(vec![(b"data".to_vec(), b"\xffab".to_vec()), (b"event".to_vec(), "é".into())]);
        let shown = serde_json::to_value(RejectedRecord::new(&entry, None)).unwrap();
        let data = serde_json::json!({ "name": "data", "value": "\u{fffd}ab", "base64": "/2Fi", "bytes": 3 });
        assert_eq!(shown["fields"][0], data);
        assert_eq!(shown["fields"][1], serde_json::json!({ "name": "event", "value": "é", "bytes": 2 }));
        assert_eq!(
            (&shown["truncated"], &shown["organisationId"]),
            (&false.into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn a_large_entry_is_cut_at_whole_characters() {
        let entry = entry(vec![(b"ab".to_vec(), "ééé".into()), (b"c".to_vec(), b"d".to_vec())]);
        let shown = RejectedRecord::new(&entry, Some(5));
        assert_eq!((shown.fields[0].value.as_str(), shown.fields[0].bytes), ("é", 6));
        assert!(shown.truncated && shown.fields[0].truncated && shown.fields[0].base64.is_none());
        assert_eq!(RejectedRecord::new(&entry, Some(9)).fields.len(), 2);
    }

    #[test]
    fn a_repair_says_everything_that_is_wrong_with_it() {
        let good = br#"{"fields":{"data": {"n" : 1e400}, "event":"a.b","nonce":null}}"#;
        let wanted: Fixes = vec![
            ("data", Some(br#"{"n" : 1e400}"#.to_vec())),
            ("event", Some(b"a.b".to_vec())),
            ("nonce", None),
        ];
        let parsed = Repair::parse(good).unwrap();
        assert!(parsed.fixes == wanted && parsed.mistakes.is_empty(), "{parsed:?}");
        assert_eq!(Repair::parse(b"").unwrap().fixes, Fixes::new());
        let bad = br#"{"fields":{"colour":"x","event":7,"data":[]},"field":{}}"#;
        let told = Repair::parse(bad).unwrap().mistakes.to_string();
        for part in [
            "body.field: unknown",
            "body.fields.colour: not",
            "body.fields.event: expected a string",
            "body.fields.data: expected",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(Repair::parse(b"[").unwrap_err().to_string().starts_with("body: expected"));
        let told = Repair::parse(br#"{"fields":[],"field":{}}"#).unwrap_err().to_string();
        assert!(told.contains("body.field: ") && told.contains("body.fields: expected an object"), "{told}");
    }
}
