//! The certificate that Postrider shows to an endpoint (docs/WIRE.md section 6).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::InvalidConfig;
use crate::domain::clock::UnixMillis;

/// Longest certificate chain and longest key, as PEM.
const PEM_MAX_BYTES: usize = 32 * 1024;

/// A client certificate and its key, as PEM, checked: they can be read and belong together.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClientCertificate {
    certificate: String,
    key: String,
    /// When the certificate ends, once somebody asked.
    #[serde(skip)]
    expires_at: OnceLock<Option<UnixMillis>>,
}

/// The same, ready for a handshake.
#[derive(Debug)]
pub struct ClientIdentity {
    /// The certificate, then those that vouch for it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// Checks a certificate (with its chain, if any) and its key.
    ///
    /// # Errors
    /// Which of the two is wrong, by its name, and what is expected. Never the key.
    pub fn new(certificate: &str, key: &str) -> Result<Self, (&'static str, InvalidConfig)> {
        let pair =
            Self { certificate: certificate.to_owned(), key: key.to_owned(), expires_at: OnceLock::new() };
        let identity = pair.identity()?;
        let wrong = |what: &str| ("key", InvalidConfig(what.into()));
        let signer = any_supported_type(&identity.key)
            .map_err(|_| wrong("expected an RSA, ECDSA (P-256, P-384) or Ed25519 key"))?;
        match CertifiedKey::new(identity.chain.clone(), signer).keys_match() {
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                Err(wrong("expected the key of the certificate"))
            }
            Err(rustls::Error::InvalidCertificate(_)) => {
                Err(("certificate", InvalidConfig("expected an X.509 certificate".into())))
            }
            _ if pair.expires_at().is_none() => {
                let what = "expected an X.509 certificate whose validity can be read";
                Err(("certificate", InvalidConfig(what.into())))
            }
            _ => Ok(pair),
        }
    }

    /// The certificate and its chain, as PEM: nothing secret.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, for keeping it where an answer's mask came back.
    #[must_use]
    pub fn expose_key(&self) -> &str {
        &self.key
    }

    /// When the certificate ends (`notAfter`, RFC 5280 section 4.1.2.5), those that vouch for it aside. `None` where
    /// that cannot be read, which [`ClientCertificate::new`] rules out.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixMillis> {
        *self.expires_at.get_or_init(|| {
            let first = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).next()?;
            not_after(&first.ok()?)
        })
    }

    /// Prepares both for handshakes.
    ///
    /// # Errors
    /// As [`ClientCertificate::new`], but whether they belong together is not looked at.
    pub fn identity(&self) -> Result<Arc<ClientIdentity>, (&'static str, InvalidConfig)> {
        for (name, text) in [("certificate", &self.certificate), ("key", &self.key)] {
            if text.len() > PEM_MAX_BYTES {
                return Err((name, InvalidConfig(format!("expected at most {PEM_MAX_BYTES} bytes"))));
            }
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap_or_default();
        if chain.is_empty() {
            return Err(("certificate", InvalidConfig("expected PEM with a CERTIFICATE section".into())));
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| {
            ("key", InvalidConfig("expected PEM with a PRIVATE KEY section that is not encrypted".into()))
        })?;
        Ok(Arc::new(ClientIdentity { chain, key }))
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        (&self.certificate, &self.key) == (&other.certificate, &other.key)
    }
}

impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(****)")
    }
}

/// The `notAfter` of a certificate. webpki tells it of a certificate that has ended, and at the end of time every one
/// has: it looks at the validity before it looks for anybody who vouches.
fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixMillis> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let usage = webpki::KeyUsage::client_auth();
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Some(UnixMillis(not_after.as_secs().saturating_mul(1_000)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn both_are_read_and_must_belong_together() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let good = ClientCertificate::new(&certificate, &key).unwrap();
        assert_eq!(good.identity().unwrap().chain.len(), 1);
        assert_eq!(format!("{good:?}"), "ClientCertificate(****)");
        let problem = |certificate: &str, key: &str| ClientCertificate::new(certificate, key).unwrap_err().0;
        assert_eq!(problem(&certificate, &other), "key");
        assert_eq!(problem(&certificate, "hunter2"), "key");
        assert_eq!(problem(&certificate, &certificate), "key");
        assert_eq!(problem("", &key), "certificate");
        assert_eq!(
            problem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key),
            "certificate"
        );
        assert_eq!(problem(&certificate, &"x".repeat(PEM_MAX_BYTES + 1)), "key");
    }

    #[test]
    fn the_end_of_the_certificate_itself_is_told() {
        let key = rcgen::KeyPair::generate().unwrap();
        let ending = |year| {
            let mut params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(1999, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 2, 3);
            params.self_signed(&key).unwrap().pem()
        };
        // Both forms of a time (RFC 5280), one that is over, and "never".
        for (year, told) in [
            (2001, "2001-02-03T00:00:00.000Z"),
            (2049, "2049-02-03T00:00:00.000Z"),
            (2050, "2050-02-03T00:00:00.000Z"),
            (9999, "9999-02-03T00:00:00.000Z"),
        ] {
            let chain = format!("{}{}", ending(year), ending(2030));
            let pair = ClientCertificate::new(&chain, &key.serialize_pem()).unwrap();
            let unasked: ClientCertificate =
                serde_json::from_value(serde_json::to_value(&pair).unwrap()).unwrap();
            assert_eq!(pair, unasked, "what was asked of it makes no difference");
            assert_eq!(unasked.expires_at().unwrap().to_string(), told);
        }
    }

    #[test]
    fn it_is_stored_under_the_names_that_sealing_knows() {
        let (certificate, key) = pair();
        let stored = serde_json::to_value(ClientCertificate::new(&certificate, &key).unwrap()).unwrap();
        assert_eq!(
            (stored["certificate"].as_str(), stored["key"].as_str()),
            (Some(&*certificate), Some(&*key))
        );
    }
}
