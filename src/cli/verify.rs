//! `postrider verify`: is this the signature of this body? And if not, what went wrong on the way: another secret,
//! another form of the signature, or a body that was parsed and written again.

use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde::Serialize;

use super::configs::read;
use super::error::CliError;
use super::output::OutputFormat;
use super::verify_forms::{bodies, keys};
use super::{Context, logging};
use crate::domain::signature::Secret;
use crate::domain::standard_signature::{StandardKey, signatures};

/// Largest body that is read: 16 of the largest events.
const BODY_MAX: u64 = 4 * 1024 * 1024;

/// Length of HMAC-SHA256.
const DIGEST_LEN: usize = 32;

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// The config's secret, whole, as the API showed it
    #[arg(long, env = "POSTRIDER_RECEIVE_SECRET", hide_env_values = true)]
    secret: String,
    /// What stood in X-Nudj-Signature, or in webhook-signature
    #[arg(long, allow_hyphen_values = true)]
    signature: String,
    /// What stood in webhook-id, for a webhook-signature
    #[arg(long, requires = "timestamp")]
    id: Option<String>,
    /// What stood in webhook-timestamp, for a webhook-signature
    #[arg(long, requires = "id")]
    timestamp: Option<String>,
    /// The file with the body as it was received; stdin unless given
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// What is to be checked.
pub(super) struct Question<'a> {
    pub(super) secret: &'a str,
    pub(super) signature: &'a str,
    /// `webhook-id` and `webhook-timestamp`.
    pub(super) standard: Option<(&'a str, &'a str)>,
    pub(super) body: &'a [u8],
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) ok: bool,
    pub(super) verdict: Verdict,
    /// What has to be done to make it fit; where it does not fit, what else may be.
    pub(super) reasons: Vec<String>,
}

/// The first thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    Ok,
    /// The right digest, written otherwise.
    SignatureForm,
    /// The signature of this body by what somebody made of the secret.
    Secret,
    /// The signature of this body before somebody changed its bytes.
    Body,
    /// Nothing that was tried fits.
    Unknown,
}

impl std::fmt::Debug for VerifyArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyArgs").field("body", &self.body).finish_non_exhaustive()
    }
}

pub(super) fn run(args: &VerifyArgs, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    let body = match &args.body {
        Some(path) => read(path)?,
        None => {
            let mut body = Vec::new();
            let read = std::io::stdin().take(BODY_MAX + 1).read_to_end(&mut body);
            read.map_err(|error| CliError::Failure(format!("cannot read the body: {error}")))?;
            body
        }
    };
    if body.len() as u64 > BODY_MAX {
        return Err(CliError::Failure(format!("the body has more than {BODY_MAX} bytes")));
    }
    let standard = args.id.as_deref().zip(args.timestamp.as_deref());
    if args.signature.contains("v1,") && standard.is_none() {
        let message = "a webhook-signature (v1,...) also covers --id and --timestamp: give both";
        return Err(CliError::Usage(message.into()));
    }
    let finding =
        Question { secret: &args.secret, signature: &args.signature, standard, body: &body }.answer();
    match args.output {
        OutputFormat::Json => context.output.json(&finding)?,
        OutputFormat::Text => {
            context.output.line(finding.verdict.words())?;
            finding.reasons.iter().try_for_each(|reason| context.output.line(format_args!("- {reason}")))?;
        }
    }
    if finding.ok { Ok(()) } else { Err(CliError::Said) }
}

// === impl Question ===

impl Question<'_> {
    /// Checks as a receiver should; then looks for what was meant.
    pub(super) fn answer(&self) -> Finding {
        if self.is_right() {
            return Finding { ok: true, verdict: Verdict::Ok, reasons: Vec::new() };
        }
        let given = digests(self.signature);
        let standard_first = self.standard.is_some() && self.signature.contains("v1,");
        for (key, of_secret) in keys(self.secret, standard_first) {
            for (body, of_body) in bodies(self.body) {
                let Some(of_scheme) = self.scheme(&key, &body, &given, standard_first) else { continue };
                let alone = of_secret.is_none() && of_body.is_none() && of_scheme.is_none();
                let of_form = alone.then(|| self.form()).flatten();
                let verdict = match (of_secret.is_some(), of_body.is_some()) {
                    (_, true) => Verdict::Body,
                    (true, false) => Verdict::Secret,
                    (false, false) => Verdict::SignatureForm,
                };
                let reasons = [of_body, of_secret, of_form, of_scheme].into_iter().flatten();
                return Finding { ok: false, verdict, reasons: reasons.collect() };
            }
        }
        Finding { ok: false, verdict: Verdict::Unknown, reasons: self.hints(given.is_empty()) }
    }

    /// Exactly the contract (docs/WIRE.md section 3).
    fn is_right(&self) -> bool {
        let Some(secret) = Secret::new(self.secret) else { return false };
        if let Some((id, seconds)) = self.standard {
            let wanted = signatures([&StandardKey::of(&secret)], id, seconds, self.body);
            return self.signature.split(' ').any(|one| one == wanted);
        }
        secret.signing_key().verify(self.body, self.signature.as_bytes())
    }

    /// Whether a key and a body give one of the digests: `Some(None)` in the scheme that was asked for, else with
    /// a remark.
    fn scheme(
        &self,
        key: &[u8],
        body: &[u8],
        given: &[Vec<u8>],
        standard_first: bool,
    ) -> Option<Option<String>> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let fits = |parts: &[&[u8]]| {
            let mut context = ring::hmac::Context::with_key(&key);
            parts.iter().for_each(|part| context.update(part));
            let digest = context.sign();
            given.iter().any(|given| given == digest.as_ref())
        };
        let plain = fits(&[body]);
        let standard = self
            .standard
            .is_some_and(|(id, seconds)| fits(&[id.as_bytes(), b".", seconds.as_bytes(), b".", body]));
        match (standard, plain) {
            (false, false) => None,
            (true, _) if standard_first => Some(None),
            (_, true) if self.standard.is_none() => Some(None),
            (true, _) => {
                Some(Some("it is the digest of a webhook-signature: write it as v1, and base64".into()))
            }
            (false, true) => Some(Some(
                "it covers the body alone, as X-Nudj-Signature does: leave --id and --timestamp out".into(),
            )),
        }
    }

    /// How the signature is written, where that is not how it is sent.
    fn form(&self) -> Option<String> {
        let text = self.signature.trim();
        if self.standard.is_some() {
            return Some("webhook-signature is v1, and base64".into());
        }
        let bare = text.strip_prefix("sha256=");
        Some(match bare {
            _ if text.contains(':') => "give the header's value without its name".into(),
            None if is_hex(text) => "sha256= is missing before the digits; the header has it".into(),
            Some(digits) if is_hex(digits) && digits.chars().any(|c| c.is_ascii_uppercase()) => {
                "the digits are in upper case; the header has lower case".into()
            }
            _ if text.len() != self.signature.len() => "there are spaces or line ends around it".into(),
            _ => "it is base64; the header has sha256= and 64 hexadecimal digits".into(),
        })
    }

    fn hints(&self, no_digest: bool) -> Vec<String> {
        let mut hints = Vec::new();
        if no_digest {
            hints.push("the signature is none: expected sha256= and 64 hexadecimal digits".into());
        }
        if self.body.is_empty() {
            hints.push("the body is empty: something else may have read it before".into());
        } else if serde_json::from_slice::<serde::de::IgnoredAny>(self.body).is_err() {
            hints.push("the body is no JSON: it is cut off, or in another encoding".into());
        }
        if self.secret.contains("****") {
            hints.push("the secret is a mask: the API shows a secret once, when it is set or made".into());
        }
        hints.push("the secret may be another config's, or was rotated or replaced since".into());
        hints.push(
            "the body may be another delivery's, or changed in its content (numbers rounded, text)".into(),
        );
        hints
    }
}

// === impl Verdict ===

impl Verdict {
    const fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok: the signature is right",
            Self::SignatureForm => "wrong: the digest is right, but not its form",
            Self::Secret => "wrong: the secret was changed before it was used",
            Self::Body => {
                "wrong: this is not the body that was signed, but its content is; verify the raw bytes"
            }
            Self::Unknown => "wrong: nothing that was tried fits",
        }
    }
}

/// Every digest that the text may mean: hexadecimal in either case, or base64, with or without what stands before.
fn digests(text: &str) -> Vec<Vec<u8>> {
    let words = text.split([' ', '\t', '\n', '\r', '"', '\'']).filter(|word| !word.is_empty());
    let bare = words.map(|word| word.strip_prefix("sha256=").or(word.strip_prefix("v1,")).unwrap_or(word));
    let digest = |word: &str| {
        let bytes = if is_hex(word) { unhex(word) } else { BASE64.decode(word).ok() };
        bytes.filter(|bytes| bytes.len() == DIGEST_LEN)
    };
    bare.filter_map(digest).collect()
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The bytes of hexadecimal digits in either case.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let whole = is_hex(text) && text.len().is_multiple_of(2);
    let pairs = whole.then(|| (0..text.len()).step_by(2))?;
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
