//! `clientCertificate` of a config's body and of its answers (docs/WIRE.md section 6): the certificate is shown, the
//! key never is.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::body::Mistakes;
use super::config_body::{ConfigInput, HEADER_MASK};
use super::described::Time;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{ClientCertificate, InvalidConfig};

/// A config's `clientCertificate` as sent.
#[derive(Debug)]
pub enum CertificateInput {
    /// With its key.
    Whole(ClientCertificate),
    /// A certificate whose key is the mask, which stands for the stored one. `None`: it was wrong.
    Masked(Option<String>),
}

/// A config's `clientCertificate` as answers show it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ClientCertificate)]
pub(super) struct ShownCertificate {
    /// The certificate and those that vouch for it, as PEM.
    #[schema(max_length = 32768)]
    certificate: String,
    /// Always masked.
    #[schema(value_type = String, examples("****"))]
    key: &'static str,
    /// When the certificate ends, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Time, required = false)]
    expires_at: Option<String>,
}

// === impl ShownCertificate ===

impl ShownCertificate {
    pub(super) fn of(pair: &ClientCertificate) -> Self {
        Self {
            certificate: pair.certificate().to_owned(),
            key: HEADER_MASK,
            expires_at: pair.expires_at().map(|at| at.to_string()),
        }
    }
}

/// Reads the field: null takes the certificate away.
#[allow(clippy::option_option)] // Outside: it was wrong. Inside: null.
pub(super) fn parse_certificate(
    path: &str,
    value: Value,
    mistakes: &mut Mistakes,
) -> Option<Option<CertificateInput>> {
    let mut fields = match value {
        Value::Null => return Some(None),
        Value::Object(fields) => fields,
        _ => {
            mistakes.add(
                format_args!("{path}.clientCertificate"),
                "expected {\"certificate\": PEM, \"key\": PEM}, or null",
            );
            return None;
        }
    };
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => {
            mistakes.add(format_args!("{path}.clientCertificate.{name}"), "expected PEM as a string");
            None
        }
    };
    let (certificate, key) = (text("certificate"), text("key"));
    // Answers show it, and it may come back.
    for name in fields.keys().filter(|name| *name != "expiresAt") {
        mistakes.add(format_args!("{path}.clientCertificate.{name}"), "expected certificate and key alone");
    }
    let key = key?;
    if key == HEADER_MASK {
        return Some(Some(CertificateInput::Masked(certificate)));
    }
    pair(path, &certificate?, &key, mistakes).map(|pair| Some(CertificateInput::Whole(pair)))
}

/// A certificate and its key, which belong together.
fn pair(path: &str, certificate: &str, key: &str, mistakes: &mut Mistakes) -> Option<ClientCertificate> {
    let pair = ClientCertificate::new(certificate, key);
    let told = |(name, invalid): (&str, InvalidConfig)| {
        mistakes.add(format_args!("{path}.clientCertificate.{name}"), invalid.0);
    };
    pair.map_err(told).ok()
}

/// What the field makes of the stored certificate. Left out, it stays; a masked key keeps the stored one, which must
/// be that of the certificate that was sent. A certificate that has ended by `now` is refused, unless it is the stored
/// one that comes back: then other fields of the config can still be changed.
#[allow(clippy::option_option)] // Outside: it was wrong. Inside: the config has none.
pub(super) fn client_certificate(
    input: &ConfigInput,
    stored: Option<&ClientCertificate>,
    now: UnixMillis,
    mistakes: &mut Mistakes,
) -> Option<Option<ClientCertificate>> {
    let sent = match &input.client_certificate {
        None => return Some(stored.cloned()),
        Some(None) => return Some(None),
        Some(Some(sent)) => sent,
    };
    let path = &input.path;
    let pair = match (sent, stored) {
        (CertificateInput::Whole(pair), _) => pair.clone(),
        (CertificateInput::Masked(certificate), Some(stored)) => {
            pair(path, certificate.as_ref()?, stored.expose_key(), mistakes)?
        }
        (CertificateInput::Masked(_), None) => {
            let problem = "a masked key, and none stored to keep; send it whole";
            mistakes.add(format_args!("{path}.clientCertificate.key"), problem);
            return None;
        }
    };
    if let Some(ended) = pair.expires_at().filter(|at| *at <= now && stored != Some(&pair)) {
        let problem = format_args!("expected one that has not expired; this one ended {ended}");
        mistakes.add(format_args!("{path}.clientCertificate.certificate"), problem);
        return None;
    }
    Some(Some(pair))
}
