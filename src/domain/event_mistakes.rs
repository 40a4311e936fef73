//! Every mistake in the fields of an event, for people who can repair them; intake stops at the first. Pure.

use super::event::{EventFields, JsonScratch, Rejection};
use super::ids::{EventId, ShardNumber, StreamId};

/// Every mistake: what is wrong is replaced by something acceptable, and the rest is checked again.
#[must_use]
pub fn every_mistake(fields: &EventFields) -> Vec<Rejection> {
    let mut scratch = JsonScratch::default();
    let mut found: Vec<Rejection> = Vec::new();
    let mut fields = fields.clone();
    // The id is only needed to check; the real one is made by Redis.
    let id = match EventId::new(ShardNumber(0), StreamId::default()) {
        Ok(id) => id,
        Err(error) => return vec![Rejection { field: "id", problem: error.to_string() }],
    };
    while found.len() < EventFields::NAMES.len()
        && let Err(rejection) = fields.clone().check(id, &mut scratch)
    {
        fields.set(rejection.field.as_bytes(), acceptable(rejection.field).into());
        found.push(rejection);
    }
    found
}

fn acceptable(field: &str) -> &'static [u8] {
    match field {
        "data" => b"{}",
        "timestamp" => b"2026-05-01T09:00:00.000Z",
        "configId" => b"000000000000000000000000",
        "traceparent" => b"00-00000000000000000000000000000001-0000000000000001-00",
        _ => b"x",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_told_once() {
        let mut fields = EventFields::default();
        for name in EventFields::NAMES {
            fields.set(name.as_bytes(), b"\n".to_vec());
        }
        let told: Vec<&str> = every_mistake(&fields).iter().map(|rejection| rejection.field).collect();
        assert_eq!(told, EventFields::NAMES);
        let missing: Vec<&str> =
            every_mistake(&EventFields::default()).iter().map(|rejection| rejection.field).collect();
        assert_eq!(missing, ["organisationId", "event", "data"]);
    }
}
