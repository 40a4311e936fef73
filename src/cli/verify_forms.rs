//! What people and programs make of a secret and of a body on the way to a verification: the forms that `postrider
//! verify` tries. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use serde_json::value::RawValue;

use super::verify::unhex;

/// A form, and what it means if it fits; nothing where it is the right one.
type Form<T> = (T, Option<String>);

/// How JSON is spaced.
#[derive(Clone, Copy)]
struct Spacing {
    /// Spaces a level; a line each where there are any.
    indent: usize,
    after_colon: &'static str,
    after_comma: &'static str,
}

/// How text within JSON is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    Kept,
    /// Only what must be escaped is.
    Plain,
    /// All but ASCII is `\u....`.
    Ascii,
}

const COMPACT: Spacing = Spacing { indent: 0, after_colon: "", after_comma: "" };
/// As Python's `json.dumps` does.
const SPACED: Spacing = Spacing { indent: 0, after_colon: " ", after_comma: " " };
const PRETTY: [Spacing; 2] = [
    Spacing { indent: 2, after_colon: " ", after_comma: "" },
    Spacing { indent: 4, after_colon: " ", after_comma: "" },
];

/// Members of the two bodies in their order (docs/WIRE.md section 3).
const STANDARD: &[&str] = &["event", "timestamp", "nonce", "id", "data"];
const DEVELOPER: &[&str] = &[
    "id",
    "eventCategory",
    "eventSubCategory",
    "organisationId",
    "communityId",
    "userId",
    "eventSourceId",
    "payload",
    "createdAt",
];

/// What may have been used as the key, the right one first. `standard` asks for the key of Standard Webhooks.
pub(super) fn keys(secret: &str, standard: bool) -> Vec<Form<Vec<u8>>> {
    let bare = secret.strip_prefix("whsec_").unwrap_or(secret);
    let decoded = BASE64.decode(bare).ok().filter(|key| !key.is_empty());
    let whole = (secret.as_bytes().to_vec(), "the whole text of the secret was used as the key");
    let mut forms = vec![whole];
    if let Some(decoded) = decoded {
        let key = (decoded, "the secret was decoded from base64 before it was used as the key");
        forms.insert(usize::from(!standard), key);
    }
    // The first is what the scheme asks for.
    let mut forms: Vec<Form<Vec<u8>>> = forms
        .into_iter()
        .enumerate()
        .map(|(at, (key, why))| (key, (at > 0).then(|| why.to_owned())))
        .collect();
    let mut add = |key: Vec<u8>, why: &str| forms.push((key, Some(why.to_owned())));
    match secret.strip_prefix("whsec_") {
        Some(bare) => add(bare.into(), "the secret was used without its whsec_; all of it is the key"),
        None => {
            add(format!("whsec_{secret}").into(), "the secret has a whsec_ before it, which is missing here")
        }
    }
    if let Some(key) = unhex(bare) {
        add(key, "the secret's hexadecimal digits were decoded before they were used as the key");
    }
    let trimmed = secret.trim();
    if trimmed != secret {
        add(trimmed.into(), "the secret has spaces or line ends around it");
    }
    add(format!("{trimmed}\n").into(), "a line end was part of the key, as from a file that was not trimmed");
    forms
}

/// What the body may have been before, the present one first.
pub(super) fn bodies(body: &[u8]) -> impl Iterator<Item = Form<Cow<'_, [u8]>>> {
    std::iter::once((Cow::Borrowed(body), None)).chain(edges(body)).chain(rewritten(body))
}

/// Bytes around the JSON, and line ends within.
fn edges(body: &[u8]) -> impl Iterator<Item = Form<Cow<'_, [u8]>>> {
    let mut forms: Vec<(Vec<u8>, &str)> = Vec::new();
    let trimmed = body.trim_ascii_end();
    if trimmed.len() < body.len() {
        forms.push((trimmed.into(), "there is a line end or space behind the body that was not signed"));
    }
    if let Some(bare) = body.strip_prefix(b"\xef\xbb\xbf") {
        forms.push((bare.into(), "there is a byte order mark before the body that was not signed"));
        forms.push((
            bare.trim_ascii_end().into(),
            "there are a byte order mark and a line end around the body",
        ));
    }
    for (end, why) in
        [("\n", "a line end behind the body is missing"), ("\r\n", "a CRLF behind the body is missing")]
    {
        forms.push(([trimmed, end.as_bytes()].concat(), why));
    }
    let marked = [b"\xef\xbb\xbf", body].concat();
    forms.push((marked, "a byte order mark before the body is missing"));
    if let Ok(text) = std::str::from_utf8(body) {
        let lines = text.replace("\r\n", "\n");
        forms.push((lines.replace('\n', "\r\n").into(), "line ends were changed from CRLF to LF"));
        forms.push((lines.into(), "line ends were changed from LF to CRLF"));
    }
    forms.into_iter().map(|(form, why)| (Cow::Owned(form), Some(why.to_owned())))
}

/// The JSON in other words: spacing, order of members, escapes.
fn rewritten(body: &[u8]) -> impl Iterator<Item = Form<Cow<'_, [u8]>>> {
    let text = std::str::from_utf8(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).unwrap_or_default();
    let json = serde_json::from_str::<&RawValue>(text).ok();
    let spacings = [COMPACT, SPACED, PRETTY[0], PRETTY[1]];
    let texts = [Text::Kept, Text::Plain, Text::Ascii];
    let styles: Vec<(Spacing, Text)> =
        texts.iter().flat_map(|text| spacings.iter().map(|spacing| (*spacing, *text))).collect();
    let sorted =
        json.and_then(|json| serde_json::from_str::<Value>(json.get()).ok()).map(|value| value.to_string());
    json.into_iter().flat_map(move |json| {
        let sorted = sorted.clone();
        let forms: Vec<_> = styles
            .iter()
            .flat_map(|(spacing, text)| {
                let styled = |json: &str| restyled(json, *spacing, *text);
                let mut forms = vec![(
                    styled(json.get()),
                    "it was parsed and written again with other spaces or escapes",
                )];
                for order in [STANDARD, DEVELOPER] {
                    forms.extend(envelope(json.get(), order, styled).map(|form| {
                        (form, "it was parsed and written again with its members in another order")
                    }));
                }
                if let Some(sorted) = &sorted {
                    forms.push((styled(sorted), "its members lost their order by name"));
                }
                forms
            })
            .collect();
        forms.into_iter().map(|(form, why)| (Cow::Owned(form.into_bytes()), Some(why.to_owned())))
    })
}

/// The members in this order without spaces, each styled; `None` where there are others, or fewer.
fn envelope(json: &str, order: &[&str], styled: impl Fn(&str) -> String) -> Option<String> {
    let members: BTreeMap<&str, &RawValue> = serde_json::from_str(json).ok()?;
    if members.len() != order.len() {
        return None;
    }
    let member = |name: &&str| Some(format!("\"{name}\":{}", styled(members.get(*name)?.get())));
    let written: Option<Vec<String>> = order.iter().map(member).collect();
    Some(format!("{{{}}}", written?.join(",")))
}

/// Valid JSON with other spaces between its tokens, and its texts written otherwise; numbers stay as they are.
fn restyled(json: &str, spacing: Spacing, text: Text) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut rest, mut depth) = (json, 0_usize);
    let line = |out: &mut String, depth: usize| {
        if spacing.indent > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', spacing.indent * depth));
        }
    };
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let length = text_length(rest);
            out.push_str(&rewrite(&rest[..length], text));
            rest = &rest[length..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '{' | '[' => {
                out.push(c);
                // Nothing is between the brackets of what is empty.
                let inner = rest.trim_ascii_start();
                if let Some(end) = inner.chars().next().filter(|end| matches!(end, '}' | ']')) {
                    out.push(end);
                    rest = &inner[1..];
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                out.push_str(spacing.after_comma);
                line(&mut out, depth);
            }
            ':' => {
                out.push(':');
                out.push_str(spacing.after_colon);
            }
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Bytes of the JSON text that `json` begins with, both quotes included.
fn text_length(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

fn rewrite(quoted: &str, text: Text) -> Cow<'_, str> {
    let parsed = if text == Text::Kept { None } else { serde_json::from_str::<String>(quoted).ok() };
    let Some(parsed) = parsed else { return quoted.into() };
    let plain = Value::from(parsed).to_string();
    if text == Text::Plain || plain.is_ascii() {
        return plain.into();
    }
    let mut units = [0; 2];
    let mut ascii = String::with_capacity(plain.len() * 2);
    for c in plain.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            c.encode_utf16(&mut units).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}")));
        }
    }
    ascii.into()
}

#[cfg(test)]
mod tests {
    use super::super::verify::{Finding, Question, Verdict};
    use super::*;
    use crate::domain::signature::Secret;

    const SECRET: &str = "whsec_test_secret";
    const BODY: &str = r#"{"event":"reward.earned","timestamp":"2026-05-01T09:00:00.000Z","nonce":"n","id":"n","data":{"name":"Zoë","b":1.50,"a":[],"url":"a/b"}}"#;

    fn digest(key: &[u8], body: &[u8]) -> Vec<u8> {
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), body).as_ref().to_vec()
    }

    fn sign(key: &[u8], body: &str) -> String {
        let digest = digest(key, body.as_bytes());
        format!("sha256={}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn ask(secret: &str, signature: &str, body: &str) -> Finding {
        Question { secret, signature, standard: None, body: body.as_bytes() }.answer()
    }

    fn assert_wrong(finding: &Finding, verdict: Verdict, reason: &str) {
        assert!(!finding.ok);
        assert_eq!(finding.verdict, verdict, "{:?}", finding.reasons);
        assert!(
            finding.reasons.iter().any(|found| found.contains(reason)),
            "{reason}: {:?}",
            finding.reasons
        );
    }

    #[test]
    fn a_body_that_was_written_again_is_known() {
        let signature = sign(SECRET.as_bytes(), BODY);
        assert!(ask(SECRET, &signature, BODY).ok);
        let spaced = restyled(BODY, SPACED, Text::Kept);
        for (body, reason) in [
            (restyled(BODY, PRETTY[0], Text::Kept), "spaces or escapes"),
            (restyled(BODY, PRETTY[1], Text::Ascii), "spaces or escapes"),
            (spaced.replace("a/b", r"a\/b"), "spaces or escapes"),
            (format!("{BODY}\r\n"), "line end"),
            (format!("\u{feff}{BODY}"), "byte order mark"),
        ] {
            assert_wrong(&ask(SECRET, &signature, &body), Verdict::Body, reason);
        }
        // Members sorted by name, at the top alone, for the order within data is the producer's.
        let mut top: BTreeMap<&str, &RawValue> = serde_json::from_str(BODY).unwrap();
        let sorted = serde_json::to_string_pretty(&top).unwrap();
        assert_wrong(&ask(SECRET, &signature, &sorted), Verdict::Body, "another order");
        top.remove("nonce");
        let less = serde_json::to_string(&top).unwrap();
        assert_wrong(&ask(SECRET, &signature, &less), Verdict::Unknown, "changed in its content");
    }

    #[test]
    fn a_secret_that_was_changed_is_known() {
        for (key, given, reason) in [
            ("test_secret", SECRET, "without its whsec_"),
            (SECRET, "test_secret", "whsec_ before it"),
            ("whsec_test_secret\n", SECRET, "line end"),
            (SECRET, " whsec_test_secret", "spaces"),
        ] {
            assert_wrong(&ask(given, &sign(key.as_bytes(), BODY), BODY), Verdict::Secret, reason);
        }
        let secret = "whsec_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let hex = unhex(&secret[6..]).unwrap();
        assert_wrong(&ask(secret, &sign(&hex, BODY), BODY), Verdict::Secret, "hexadecimal digits");
        let decoded = BASE64.decode(&secret[6..]).unwrap();
        assert_wrong(&ask(secret, &sign(&decoded, BODY), BODY), Verdict::Secret, "base64");
        assert_wrong(&ask("whsec_****abcd", &sign(b"x", BODY), BODY), Verdict::Unknown, "mask");
        assert_wrong(&ask(SECRET, "sha256=", ""), Verdict::Unknown, "empty");
    }

    #[test]
    fn a_signature_of_another_form_is_known() {
        let signature = sign(SECRET.as_bytes(), BODY);
        let base64 = BASE64.encode(digest(SECRET.as_bytes(), BODY.as_bytes()));
        for (text, reason) in [
            (signature[7..].to_owned(), "sha256= is missing"),
            (format!("sha256={}", signature[7..].to_uppercase()), "upper case"),
            (base64.clone(), "base64"),
            (format!("sha256={base64}"), "base64"),
            (format!("X-Nudj-Signature: {signature}"), "without its name"),
            (format!("{signature}\n"), "around it"),
        ] {
            assert_wrong(&ask(SECRET, &text, BODY), Verdict::SignatureForm, reason);
        }
    }

    #[test]
    fn standard_webhooks_are_checked_over_id_time_and_body() {
        use crate::domain::standard_signature::{StandardKey, signatures};
        let secret = Secret::generate();
        let signature = signatures([&StandardKey::of(&secret)], "dlv_1", "1777626000", BODY.as_bytes());
        let ask = |id, signature: &str, body: &str| {
            let standard = Some((id, "1777626000"));
            Question { secret: secret.expose(), signature, standard, body: body.as_bytes() }.answer()
        };
        assert!(ask("dlv_1", &format!("v1,AAAA {signature}"), BODY).ok);
        assert_wrong(&ask("dlv_2", &signature, BODY), Verdict::Unknown, "another delivery's");
        let pretty = restyled(BODY, PRETTY[0], Text::Kept);
        assert_wrong(&ask("dlv_1", &signature, &pretty), Verdict::Body, "spaces");
        let plain = sign(secret.expose().as_bytes(), BODY);
        let finding = ask("dlv_1", &plain, BODY);
        assert!(
            !finding.ok && finding.reasons.iter().any(|reason| reason.contains("body alone")),
            "{finding:?}"
        );
        let whole = digest(secret.expose().as_bytes(), format!("dlv_1.1777626000.{BODY}").as_bytes());
        let whole = format!("v1,{}", BASE64.encode(whole));
        assert_wrong(&ask("dlv_1", &whole, BODY), Verdict::Secret, "whole text");
    }
}
