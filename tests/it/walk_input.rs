//! Stream entries that cannot be understood: set aside whole, with the reason, and the stream goes on.

use std::collections::HashMap;

use serde_json::json;

use crate::arrivals::Reply;
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, wait_for};

const GOOD: [(&str, &str); 3] =
    [("organisationId", ORGANISATION), ("event", EVENT), ("data", r#"{"user":{"id":"u1"}}"#)];

/// The good entry with one field changed; `None` leaves it out.
fn with<'a>(field: &'a str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut fields: Vec<(&str, &str)> = GOOD.into_iter().filter(|(name, _)| *name != field).collect();
    fields.extend(value.map(|value| (field, value)));
    fields
}

#[test]
fn entries_of_every_bad_kind_are_set_aside_with_the_reason_and_the_others_go_on() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    let bad: Vec<(&str, Option<&str>)> = vec![
        ("organisationId", None),
        ("organisationId", Some("a:b")),
        ("event", None),
        ("event", Some("Not An Event")),
        ("data", None),
        ("data", Some("[]")),
        ("data", Some("{")),
        ("data", Some("{\"a\":01}")),
        ("data", Some(&deep)),
        ("data", Some(&large)),
        ("nonce", Some("")),
        ("timestamp", Some("yesterday")),
        ("configId", Some("12")),
        ("traceparent", Some("00-1")),
        ("userId", Some("")),
    ];
    let mut ids = Vec::new();
    for (number, (field, value)) in bad.iter().enumerate() {
        ids.push(stage.add_raw("*", &with(field, *value)));
        stage.add(&[("nonce", &format!("good-{number}"))]);
    }
    let arrivals = stage.wait_arrived(&config, bad.len());
    assert_eq!(arrivals.len(), bad.len());
    stage.wait_acked();

    let rejected = stage.keys.rejected();
    wait_for("all of them to be set aside", || stage.redis::<usize>(&["XLEN", &rejected]) == bad.len());
    let entries = rejected_entries(&stage);
    for (id, (field, value)) in ids.iter().zip(&bad) {
        let told: Vec<_> = entries.iter().filter(|entry| entry.get("_id") == Some(id)).collect();
        let [entry] = told[..] else { panic!("{} entries tell of {field} {id}", told.len()) };
        assert_eq!(entry.get("_field").map(String::as_str), Some(*field));
        assert!(entry.get("_problem").is_some_and(|problem| !problem.is_empty()), "{field}");
        assert_eq!(entry.get(*field).map(String::as_str), *value, "the entry is kept whole");
    }
}

/// The entries that were set aside, oldest first, as docs/REDIS.md describes them.
fn rejected_entries(stage: &Stage) -> Vec<HashMap<String, String>> {
    let rejected = stage.keys.rejected();
    let entries: Vec<(String, HashMap<String, String>)> = stage.redis(&["XRANGE", &rejected, "-", "+"]);
    entries.into_iter().map(|(_, fields)| fields).collect()
}

#[test]
fn valid_json_that_no_number_type_holds_is_delivered_byte_for_byte() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let all = [r#"{"n":1e400}"#, r#"{ "n" : 123456789012345678901234567890 }"#, "{\"s\":\"\\u00e9\\n\"}\n"];
    for (number, data) in all.into_iter().enumerate() {
        stage.add(&[("data", data)]);
        let arrival = stage.wait_arrived(&config, number + 1).remove(number);
        assert!(
            arrival.verified && arrival.body.ends_with(format!(",\"data\":{data}}}").as_bytes()),
            "{data}"
        );
    }
    stage.wait_acked();
    assert_eq!(stage.redis::<usize>(&["XLEN", &stage.keys.rejected()]), 0);
}

#[test]
fn unknown_fields_are_ignored() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    stage.add(&[("colour", "green"), ("nonce", "n")]);
    assert_eq!(stage.wait_arrived(&config, 1)[0].nonce, "n");
    stage.wait_acked();
    assert_eq!(stage.redis::<usize>(&["XLEN", &stage.keys.rejected()]), 0);
}

#[test]
fn an_entry_whose_id_no_delivery_id_can_carry_is_set_aside() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    stage.config("/a", json!({}), |_| Reply::ok());
    // 2^48 milliseconds; nothing with a smaller id can follow it.
    let id = stage.add_raw("281474976710656-0", &GOOD);
    stage.wait_acked();
    let rejected = stage.keys.rejected();
    wait_for("it to be set aside", || stage.redis::<usize>(&["XLEN", &rejected]) == 1);
    let entries = rejected_entries(&stage);
    assert_eq!((&entries[0]["_id"], entries[0]["_field"].as_str()), (&id, "id"));
    assert!(stage.arrivals.at("/a").is_empty());
}
