//! What a change of the API's description breaks for those who wrote against the last released one.
//!
//! Each description becomes a set of facts about its operations, a fact a line; the two sets are compared. A client
//! breaks when something is gone that it may use (an operation, a parameter, a field, a word, a type that it sends),
//! when it must send what it did not have to, and when it gets what it was told that it would not (a type) or no
//! longer what it was promised (a field).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Deepest nesting that is compared: no answer is deeper, and a schema may name itself.
const DEPTH_MAX: usize = 12;

/// Facts about one place of a request or an answer, by the place.
type Places = BTreeMap<String, Place>;

/// One place: a parameter, a body, a field.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    /// Whether it is always there, or must be.
    required: bool,
    types: BTreeSet<String>,
    /// The closed set of values; empty where any is allowed.
    words: BTreeSet<String>,
}

/// Everything that the change from `old` to `new` breaks, a line each.
pub(crate) fn breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, before) in operations(old) {
        let Some(after) = operations(new).remove(&name) else {
            broken.push(format!("{name}: is gone"));
            continue;
        };
        let request = |document, operation| request_places(document, operation);
        compare(&name, &request(old, &before), &request(new, &after), true, &mut broken);
        for status in before["responses"].as_object().into_iter().flatten().map(|(status, _)| status) {
            let answer = |document, operation: &Value| {
                let response = resolve(document, &operation["responses"][status]);
                let mut places = Places::new();
                walk(
                    document,
                    &response["content"]["application/json"]["schema"],
                    "answer",
                    true,
                    0,
                    &mut places,
                );
                places
            };
            if after["responses"].get(status).is_none() {
                broken.push(format!("{name}: the answer {status} is gone"));
            } else {
                let name = format!("{name} {status}");
                compare(&name, &answer(old, &before), &answer(new, &after), false, &mut broken);
            }
        }
    }
    broken
}

/// Every operation, as `GET /path`.
pub(crate) fn operations(document: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in ["get", "put", "post", "patch", "delete"] {
            if let Some(operation) = item.get(method) {
                found.insert(format!("{} {path}", method.to_uppercase()), operation.clone());
            }
        }
    }
    found
}

/// The value, or what its `$ref` points to.
pub(crate) fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            document.pointer(reference.trim_start_matches('#')).expect("what a $ref points to")
        }
        None => value,
    }
}

fn request_places(document: &Value, operation: &Value) -> Places {
    let mut places = Places::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let place = format!("{}.{}", parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap());
        walk(document, &parameter["schema"], &place, parameter["required"] == true, 0, &mut places);
    }
    let body = &operation["requestBody"];
    if !body.is_null() {
        let schema = &body["content"]["application/json"]["schema"];
        walk(document, schema, "body", body["required"] == true, 0, &mut places);
    }
    places
}

/// Notes what a schema says of a place and of those inside of it.
fn walk(document: &Value, schema: &Value, place: &str, required: bool, depth: usize, places: &mut Places) {
    let schema = resolve(document, schema);
    if depth > DEPTH_MAX {
        return;
    }
    let here = places.entry(place.to_owned()).or_default();
    here.required |= required;
    match &schema["type"] {
        Value::String(kind) => drop(here.types.insert(kind.clone())),
        Value::Array(kinds) => here.types.extend(kinds.iter().map(|kind| kind.as_str().unwrap().to_owned())),
        _ => {}
    }
    here.words.extend(schema["enum"].as_array().into_iter().flatten().map(Value::to_string));
    for part in schema["allOf"].as_array().into_iter().flatten() {
        walk(document, part, place, required, depth + 1, places);
    }
    let must =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(document, field, &format!("{place}.{name}"), must(name), depth + 1, places);
    }
    if schema["items"].is_object() {
        walk(document, &schema["items"], &format!("{place}[]"), false, depth + 1, places);
    }
    let choices = ["oneOf", "anyOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
    let forms: Vec<Places> = choices
        .map(|form| {
            let mut places = Places::new();
            walk(document, form, place, required, depth + 1, &mut places);
            places
        })
        .collect();
    // A field is required when every form requires it that has fields there at all.
    for (inner, noted) in forms.iter().flatten() {
        let siblings = inner.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}."));
        let has_fields = |form: &&Places| form.keys().any(|place| place.starts_with(&siblings));
        let mut rivals = forms.iter().filter(has_fields);
        let everywhere = rivals.all(|form| form.get(inner).is_some_and(|place| place.required));
        let merged = places.entry(inner.clone()).or_default();
        merged.required |= noted.required && (everywhere || inner == place);
        merged.types.extend(noted.types.clone());
        merged.words.extend(noted.words.clone());
    }
}

fn compare(name: &str, old: &Places, new: &Places, request: bool, broken: &mut Vec<String>) {
    let mut tell = |place: &str, what: String| broken.push(format!("{name}: {place} {what}"));
    for (place, before) in old {
        let Some(after) = new.get(place) else {
            tell(place, "is gone".into());
            continue;
        };
        for word in before.words.difference(&after.words).filter(|_| !after.words.is_empty() || !request) {
            tell(place, format!("can no longer be {word}"));
        }
        if request && before.words.is_empty() && !after.words.is_empty() {
            tell(place, "takes only some values now".into());
        }
        let (had, has) = if request { (before, after) } else { (after, before) };
        for kind in had.types.difference(&has.types).filter(|_| !has.types.is_empty()) {
            tell(place, format!("{} {kind}", if request { "can no longer be a" } else { "may now be a" }));
        }
        if !request && before.required && !after.required {
            tell(place, "may be missing now".into());
        }
    }
    // A field of something that is new itself asks nothing of those who do not send that.
    let parent = |place: &str| place.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_owned());
    let known = |place: &str| ["query", "path", "header"].contains(&place) || old.contains_key(place);
    for (place, _) in new.iter().filter(|(_, after)| request && after.required) {
        if !old.get(place).is_some_and(|before| before.required) && known(&parent(place)) {
            tell(place, "is required now".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "paths": {"/things": {"get": {
                "parameters": [{"name": "limit", "in": "query", "required": false, "schema": {"type": "integer"}}],
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
            }, "put": {
                "requestBody": {"required": true, "content": {"application/json": {"schema": {"oneOf": [
                    {"$ref": "#/components/schemas/Input"},
                    {"type": "array", "items": {"$ref": "#/components/schemas/Input"}},
                ]}}}},
                "responses": {"200": {"content": {}}},
            }}},
            "components": {"schemas": {
                "Thing": {"type": "object", "required": ["id"], "properties": {
                    "id": {"type": "string"},
                    "state": {"type": "string", "enum": ["on", "off"]},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
                }},
                "Input": {"type": "object", "required": ["url"], "properties": {
                    "url": {"type": "string"},
                    "mode": {"type": ["string", "null"], "enum": ["a", "b"]},
                }},
            }},
        })
    }

    fn after(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut new = document();
        change(&mut new);
        breaking_changes(&document(), &new)
    }

    #[test]
    fn what_is_added_breaks_nobody() {
        assert_eq!(after(|_| {}), Vec::<String>::new());
        let added = after(|new| {
            new["paths"]["/others"] = json!({"get": {"responses": {}}});
            new["paths"]["/things"]["get"]["parameters"].as_array_mut().unwrap().push(
                json!({"name": "skip", "in": "query", "required": false, "schema": {"type": "integer"}}),
            );
            let schemas = &mut new["components"]["schemas"];
            schemas["Thing"]["properties"]["name"] = json!({"type": "string"});
            schemas["Thing"]["properties"]["state"]["enum"] = json!(["on", "off", "broken"]);
            schemas["Input"]["properties"]["limit"] =
                json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
            let forms =
                &mut new["paths"]["/things"]["put"]["requestBody"]["content"]["application/json"]["schema"];
            forms["oneOf"].as_array_mut().unwrap().push(
                json!({"type": "object", "required": ["all"], "properties": {"all": {"type": "array"}}}),
            );
        });
        assert_eq!(added, Vec::<String>::new());
    }

    #[test]
    fn what_is_taken_away_or_asked_for_is_named() {
        let schema = |path: &str, value: Value| {
            let path = path.to_owned();
            after(move |new| *new.pointer_mut(&format!("/components/schemas/{path}")).unwrap() = value)
        };
        let remove = |parent: &str, name: &str| {
            let (parent, name) = (parent.to_owned(), name.to_owned());
            after(move |new| drop(new.pointer_mut(&parent).unwrap().as_object_mut().unwrap().remove(&name)))
        };
        for (broken, wanted) in [
            (remove("/paths", "/things"), "GET /things: is gone"),
            (remove("/paths/~1things", "put"), "PUT /things: is gone"),
            (remove("/paths/~1things/get", "parameters"), "GET /things: query.limit is gone"),
            (remove("/paths/~1things/get/responses", "200"), "GET /things: the answer 200 is gone"),
            (remove("/components/schemas/Thing/properties", "id"), "GET /things 200: answer.id is gone"),
            (remove("/components/schemas/Input/properties", "mode"), "PUT /things: body.mode is gone"),
            (schema("Thing/required", json!([])), "GET /things 200: answer.id may be missing now"),
            (schema("Thing/properties/state/enum", json!(["on"])), "answer.state can no longer be \"off\""),
            (schema("Thing/properties/id/type", json!(["string", "null"])), "answer.id may now be a null"),
            (schema("Input/properties/mode/enum", json!(["a"])), "body.mode can no longer be \"b\""),
            (schema("Input/properties/mode/type", json!("string")), "body.mode can no longer be a null"),
            (schema("Input/required", json!(["url", "mode"])), "PUT /things: body.mode is required now"),
            (schema("Input/properties/url", json!({"enum": ["x"]})), "body.url takes only some values now"),
        ] {
            assert!(broken.iter().any(|line| line.contains(wanted)), "{wanted}: {broken:?}");
        }
    }
}
