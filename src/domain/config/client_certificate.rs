//! The certificate that Postrider shows to an endpoint (docs/WIRE.md section 6).

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::InvalidConfig;

/// Longest certificate chain and longest key, as PEM.
const PEM_MAX_BYTES: usize = 32 * 1024;

/// A client certificate and its key, as PEM, checked: they can be read and belong together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    certificate: String,
    key: String,
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
        let pair = Self { certificate: certificate.to_owned(), key: key.to_owned() };
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

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(****)")
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
    fn it_is_stored_under_the_names_that_sealing_knows() {
        let (certificate, key) = pair();
        let stored = serde_json::to_value(ClientCertificate::new(&certificate, &key).unwrap()).unwrap();
        assert_eq!(
            (stored["certificate"].as_str(), stored["key"].as_str()),
            (Some(&*certificate), Some(&*key))
        );
    }
}
