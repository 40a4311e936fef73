//! One entry of the audit (docs/WIRE.md section 12): who changed what, as it was before and is after. Secrets and
//! values of headers are taken out where an entry is made, so that no caller can forget it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::clock::UnixMillis;
use super::config::Config;

/// Largest member of `before` and `after` that is kept, as JSON in bytes.
pub const MEMBER_MAX_BYTES: usize = 4 * 1024;
/// Largest `before` or `after`, as JSON in bytes.
pub const STATE_MAX_BYTES: usize = 16 * 1024;
/// Longest target and sentence, in characters.
const TEXT_MAX_CHARS: usize = 512;

/// What stands in the place of a secret.
const MASK: &str = "****";
/// A member whose name holds one of these, or is `key` (a client certificate's), is masked, wherever it stands.
const SECRET_NAMES: &[&str] = &["secret", "password", "token", "privatekey", "credential", "authorization"];

/// Who changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Who {
    /// A caller of the admin API.
    Token {
        /// The token's public id.
        id: String,
        /// Its name.
        name: String,
    },
    /// The command line, straight in Redis.
    Cli,
    /// Postrider itself: a 410, or days of nothing but failures.
    System,
}

/// Who changes something, by which procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub who: Who,
    /// The procedure's name, as `updateWebhookConfigs`.
    pub action: &'static str,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Who.
    pub by: Who,
    /// The procedure's name.
    pub action: String,
    /// What was changed: the id of a config, a token, a delivery.
    pub target: String,
    /// A sentence, where there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// As it was, without secrets; `None` where it is new, or nothing was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// As it is; `None` where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

// === impl AuditEntry ===

impl AuditEntry {
    /// An entry: secrets masked, headers as names only, what is too large left out.
    #[must_use]
    pub fn new(
        by: &By,
        target: impl std::fmt::Display,
        what: &str,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Self {
        let cut = |text: &str| text.chars().take(TEXT_MAX_CHARS).collect::<String>();
        Self {
            by: by.who.clone(),
            action: by.action.to_owned(),
            target: cut(&target.to_string()),
            what: cut(what),
            before: before.map(clean),
            after: after.map(clean),
        }
    }
}

/// A config as the audit shows it: what is stored, with the secret masked, the headers' names, and times as text.
#[must_use]
pub fn shown_config(config: &Config) -> Value {
    let mut shown = serde_json::to_value(config).unwrap_or_default();
    if let Value::Object(members) = &mut shown {
        members.insert("secret".into(), Value::from(config.secret.masked()));
        write_time(members, "createdAt", config.created_at);
        write_time(members, "updatedAt", config.updated_at);
        if let (Some(disabled), Some(Value::Object(members))) =
            (&config.disabled, members.get_mut("disabled"))
        {
            write_time(members, "at", disabled.at);
            disabled.since.into_iter().for_each(|since| write_time(members, "since", since));
        }
    }
    clean(shown)
}

/// Times are stored as numbers, and told as everywhere.
fn write_time(members: &mut Map<String, Value>, name: &str, at: UnixMillis) {
    members.insert(name.into(), Value::from(at.to_string()));
}

fn clean(mut state: Value) -> Value {
    mask(&mut state);
    if let Value::Object(members) = &mut state {
        members.values_mut().for_each(|member| leave_out_above(MEMBER_MAX_BYTES, member));
    }
    leave_out_above(STATE_MAX_BYTES, &mut state);
    state
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                let lower = name.to_ascii_lowercase();
                if lower == "headers" {
                    *member = header_names(member);
                } else if lower == "key" || SECRET_NAMES.iter().any(|secret| lower.contains(secret)) {
                    mask_whole(member);
                } else {
                    mask(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// Masks a secret, unless it was masked already or says only that there is one.
fn mask_whole(member: &mut Value) {
    let harmless = match member {
        Value::Null | Value::Bool(_) => true,
        Value::String(text) => text.contains(MASK) || text.is_empty(),
        _ => false,
    };
    if !harmless {
        *member = Value::from(MASK);
    }
}

fn header_names(headers: &Value) -> Value {
    match headers {
        Value::Object(headers) => headers.keys().map(String::as_str).collect(),
        Value::Array(names) if names.iter().all(Value::is_string) => headers.clone(),
        _ => Value::from(MASK),
    }
}

fn leave_out_above(limit: usize, value: &mut Value) {
    let bytes = value.to_string().len();
    if bytes > limit {
        *value = Value::Object(Map::from_iter([("leftOutBytes".to_owned(), Value::from(bytes))]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(before: Value) -> AuditEntry {
        let by = By { who: Who::Token { id: "0123".into(), name: "ci".into() }, action: "doIt" };
        AuditEntry::new(&by, "x", "", Some(before), None)
    }

    #[test]
    fn secrets_and_header_values_never_come_in() {
        let entry = entry(json!({
            "url": "https://a.example/", "secret": "whsec_12345678", "previousSecrets": ["a", "b"],
            "nested": [{ "apiToken": 7, "headers": { "authorization": "Bearer x", "x-a": "1" } }],
            "secretMasked": "whsec_****5678", "hasSecret": true,
            "clientCertificate": { "certificate": "PEM", "key": "PEM of the key" },
        }));
        let wanted = json!({
            "url": "https://a.example/", "secret": "****", "previousSecrets": "****",
            "nested": [{ "apiToken": "****", "headers": ["authorization", "x-a"] }],
            "secretMasked": "whsec_****5678", "hasSecret": true,
            "clientCertificate": { "certificate": "PEM", "key": "****" },
        });
        assert_eq!(entry.before.unwrap(), wanted);
    }

    #[test]
    fn what_is_too_large_is_left_out_member_by_member() {
        let state = entry(json!({ "events": "x".repeat(5_000), "url": "u" })).before.unwrap();
        assert_eq!(state, json!({ "events": { "leftOutBytes": 5_002 }, "url": "u" }));
        let many: Map<String, Value> =
            (0..10).map(|n| (n.to_string(), Value::from("x".repeat(4_000)))).collect();
        let state = entry(Value::Object(many)).before.unwrap();
        assert!(state["leftOutBytes"].as_u64().unwrap() > 40_000, "{state}");
    }

    #[test]
    fn an_entry_is_stored_and_read() {
        let entry = entry(json!({ "a": 1 }));
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            text,
            r#"{"by":{"kind":"token","id":"0123","name":"ci"},"action":"doIt","target":"x","before":{"a":1}}"#
        );
        assert_eq!(serde_json::from_str::<AuditEntry>(&text).unwrap(), entry);
    }
}
