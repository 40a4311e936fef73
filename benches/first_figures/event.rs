//! The event of the figures: 420 bytes as it is sent, with its nonce set by the producer.

use bytes::Bytes;
use postrider::domain::event::{EventFields, JsonScratch};
use postrider::domain::ids::{EventId, ShardNumber, StreamId};

use crate::Failure;

/// Bytes of the body that every request carries.
pub(crate) const BODY_BYTES: usize = 420;
/// The organisation that it belongs to.
pub(crate) const ORGANISATION: &str = "org_figures";
/// Its type.
pub(crate) const EVENT_TYPE: &str = "reward.earned";
/// What signs it.
pub(crate) const SECRET: &str = "whsec_figures_0123456789abcdef0123456789abcdef";
/// The producer's time.
pub(crate) const TIMESTAMP: &str = "2026-05-01T09:00:00.000Z";

/// `data` of such a length that the body has [`BODY_BYTES`].
pub(crate) fn data() -> Result<String, Failure> {
    let missing = BODY_BYTES.checked_sub(body_with(&with_note(""))?.len());
    Ok(with_note(&"n".repeat(missing.ok_or("the event is longer than it should be")?)))
}

/// The nonce of event `number`; all are of one length.
pub(crate) fn nonce(number: u64) -> String {
    format!("figures-{number:012}")
}

/// The body as Postrider sends it.
pub(crate) fn body() -> Result<Bytes, Failure> {
    body_with(&data()?)
}

fn with_note(note: &str) -> String {
    format!(
        r#"{{"reward":{{"id":"66f0c0ffee00000000000001","type":"asset","value":25,"name":"Spring credit"}},"user":{{"id":"66f0c0ffee00000000000002"}},"note":"{note}"}}"#
    )
}

fn body_with(data: &str) -> Result<Bytes, Failure> {
    let mut fields = EventFields::default();
    for (name, value) in [
        ("organisationId", ORGANISATION),
        ("event", EVENT_TYPE),
        ("data", data),
        ("nonce", &nonce(0)),
        ("timestamp", TIMESTAMP),
    ] {
        fields.set(name.as_bytes(), value.as_bytes().to_vec());
    }
    let id = EventId::new(ShardNumber(0), StreamId { ms: 1, seq: 0 })?;
    Ok(fields.check(id, &mut JsonScratch::default())?.body())
}
