//! A delivery's request as a shell script around `curl` (docs/WIRE.md section 12): the same method, URL, headers
//! and bytes, without a secret. The signature is computed by whoever runs it, and the values of a config's own
//! headers are variables, for they hold credentials.

use std::fmt::Write;

/// What a request was made of.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The URL.
    pub url: &'a str,
    /// Headers whose values anybody may see.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Names of headers whose values stay hidden.
    pub hidden: Vec<&'a str>,
    /// The body, byte for byte. Bodies are JSON, so they hold no NUL, which no shell could carry.
    pub body: &'a str,
}

/// The variable that holds the secret.
pub const SECRET_VARIABLE: &str = "WEBHOOK_SECRET";

/// The script. It stops with a message when a variable that it needs is not set.
#[must_use]
pub fn script(request: &Request<'_>) -> String {
    let mut script = format!(": \"${{{SECRET_VARIABLE}:?set it to the secret of the webhook config}}\"\n");
    for name in &request.hidden {
        let _ = writeln!(script, ": \"${{{}:?set it to the value of the header}}\"", variable(name));
    }
    let _ = writeln!(script, "body={}", quoted(request.body));
    let _ = writeln!(
        script,
        "signature=$(printf %s \"$body\" | openssl dgst -sha256 -hmac \"${SECRET_VARIABLE}\" -r | cut -c1-64)"
    );
    // Through a pipe: one argument of a program is bounded to 128 KiB, a shell's own printf is not.
    let _ = write!(script, "printf %s \"$body\" | curl --request {}", quoted(request.method));
    let _ = write!(script, " --url {}", quoted(request.url));
    for (name, value) in &request.headers {
        let _ = write!(script, " \\\n  --header {}", quoted(&format!("{name}: {value}")));
    }
    for name in &request.hidden {
        // The name is quoted apart from the value: it may hold what a shell would expand.
        let _ = write!(script, " \\\n  --header {}\"${}\"", quoted(&format!("{name}: ")), variable(name));
    }
    script.push_str(" \\\n  --header \"X-Nudj-Signature: sha256=$signature\" \\\n  --data-binary @-\n");
    script
}

/// The variable for a header's value: `X-Api-Key` is `X_API_KEY`.
#[must_use]
pub fn variable(header: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    // A prefix, so that no header's name can set PATH or begin with a digit.
    format!("HEADER_{}", header.chars().map(word).collect::<String>())
}

/// The text as one word of a POSIX shell (2.2.2, single quotes).
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_shows_no_hidden_value_and_quotes_the_rest() {
        let script = script(&Request {
            method: "POST",
            url: "https://a.example/it's?a=1&b=$x",
            headers: vec![("Content-Type", "application/json")],
            hidden: vec!["X-Api-Key"],
            body: r#"{"name":"it's"}"#,
        });
        for part in [
            r"--url 'https://a.example/it'\''s?a=1&b=$x'",
            r"body='{ONE}'".replace("{ONE}", r#"{"name":"it'\''s"}"#).as_str(),
            "--header 'Content-Type: application/json'",
            "--header 'X-Api-Key: '\"$HEADER_X_API_KEY\"",
            "sha256=$signature",
        ] {
            assert!(script.contains(part), "{part} in {script}");
        }
    }
}
