//! What is fuzzed: everything that reads bytes which others wrote. Each target takes any bytes, and panics where
//! the program would be wrong about them. `fuzz_targets/` runs them under libFuzzer (`make fuzz`), `tests/fuzz.rs`
//! runs the corpus and seeded mutations of it with every `cargo test`.

use postrider::admin::config_body::ConfigBody;
use postrider::admin::log_query::LogParameters;
use postrider::attempt::retry_after::{self, RETRY_AFTER_MAX};
use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{DeliveryRecord, RecordHead};
use postrider::domain::event::{EventFields, JsonScratch};
use postrider::domain::ids::{ConfigId, DeliveryId, EventId, OrganisationId, ShardNumber, StreamId};
use postrider::domain::log::{LogPage, PayloadPage};
use postrider::domain::log_cursor::LogCursor;
use postrider::domain::log_glance::glance;
use postrider::domain::signature::Secret;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
#[allow(dead_code)]
pub const ALL: [(&str, Target); 10] = [
    ("config_body", config_body),
    ("delivery_record", delivery_record),
    ("ids", ids),
    ("log_cursor", log_cursor),
    ("log_page", log_page),
    ("log_query", log_query),
    ("payload_page", payload_page),
    ("retry_after", retry_after),
    ("signature", signature),
    ("stream_entry", stream_entry),
];

/// A stream entry: names and values, each ended by a zero byte. What is accepted makes a body that is JSON.
pub fn stream_entry(bytes: &[u8]) {
    let mut fields = EventFields::default();
    let mut parts = bytes.split(|byte| *byte == 0);
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        fields.set(name, value.to_vec());
    }
    let id = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: 1 }).unwrap();
    if let Ok(event) = fields.check(id, &mut JsonScratch::default()) {
        let _ = event.filtered_entity();
        serde_json::from_slice::<serde::de::IgnoredAny>(&event.body()).expect("the body is JSON");
    }
}

/// The body of `PUT /webhooks/configs`: understood, or refused with at least one reason.
pub fn config_body(bytes: &[u8]) {
    let _ = ConfigBody::parse(bytes, bytes.len().is_multiple_of(2));
}

/// The query string of `GET /webhooks/logs`.
pub fn log_query(bytes: &[u8]) {
    let query = String::from_utf8_lossy(bytes);
    if let Ok(mut parameters) = LogParameters::parse(&query) {
        assert!((1..=100).contains(&parameters.query.limit) && parameters.query.skip <= 10_000);
        let _ = parameters.asked_by(&OrganisationId::new("org_1").unwrap());
    }
}

/// A cursor: what is understood is written so that it is understood again.
pub fn log_cursor(bytes: &[u8]) {
    if let Ok(cursor) = LogCursor::decode(&String::from_utf8_lossy(bytes)) {
        assert_eq!(LogCursor::decode(&cursor.encode()), Ok(cursor));
    }
}

/// Ids: what is understood is written so that it is understood again.
pub fn ids(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = text.parse::<ConfigId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = text.parse::<DeliveryId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        let _ = (id.event().stream_id(), id.config());
    }
    if let Ok(id) = text.parse::<StreamId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = OrganisationId::new(&text) {
        assert_eq!(id.as_str(), text);
    }
}

/// A log page: a glance sees what reading sees.
pub fn log_page(bytes: &[u8]) {
    let mut seen = Vec::new();
    let glanced = glance(bytes, |row| seen.push((row.delivery, row.status, row.at)));
    if let Ok(page) = LogPage::decode(bytes) {
        assert_eq!(glanced, Ok(page.rows.len()));
        assert!(page.rows.iter().map(|row| (row.delivery, row.status, row.at)).eq(seen));
    }
}

/// A payload page.
pub fn payload_page(bytes: &[u8]) {
    let _ = PayloadPage::decode(bytes);
}

/// A delivery's record: its head says what it says, and written again it is the same.
pub fn delivery_record(bytes: &[u8]) {
    let _ = (RecordHead::decode(bytes), DeliveryRecord::is_mark(bytes));
    if let Ok(record) = DeliveryRecord::decode(bytes) {
        let _ = record.head();
        assert_eq!(DeliveryRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
}

/// `Retry-After`: never above its cap.
pub fn retry_after(bytes: &[u8]) {
    let wait = retry_after::parse(bytes, UnixMillis(1_777_626_000_000));
    assert!(wait.is_none_or(|wait| wait <= RETRY_AFTER_MAX));
}

/// A signature header and a body, parted by the first zero byte: accepted only when it is the body's.
pub fn signature(bytes: &[u8]) {
    let (header, body) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    let key = Secret::new("whsec_fuzz_0123456789abcdef").unwrap().signing_key();
    let right = key.sign(body);
    assert!(key.verify(body, &right));
    assert_eq!(key.verify(body, header), header == right.as_slice());
}
