//! TLS of the admin API's listener: the certificate and its key from two PEM files, taken anew when they change.
//!
//! Owns: the configuration that new connections get. Connections that exist keep theirs. Files that cannot be used
//! change nothing: the old ones go on, and the log says why. HTTP/1.1 alone is offered; a proxy that wants HTTP/2
//! towards browsers speaks it itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// A file is no PEM, or does not hold what it has to.
    #[error("{path}: {cause}; expected PEM with {expected}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: pem::Error,
        /// What it has to hold.
        expected: &'static str,
    },
    /// The two do not make a pair that TLS can use.
    #[error("the certificate and the key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// The two files and what was last made of them.
#[derive(Debug)]
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
}

/// The bytes of both files: what is compared, for the time of a change says nothing where links are swapped.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

// === impl Certificates ===

impl Certificates {
    /// Reads both files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = Files::read(cert, key)?.config(cert, key)?;
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current: ArcSwap::from_pointee(config) })
    }

    /// What a new connection uses.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files `every` so often until `stop` is true or its sender is gone.
    pub async fn follow(&self, every: Duration, mut stop: watch::Receiver<bool>) {
        let mut seen = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let (cert, key) = (self.cert.clone(), self.key.clone());
            let read = tokio::task::spawn_blocking(move || Files::read(&cert, &key)).await;
            match read.unwrap_or_else(|error| Err(lost_thread(&self.cert, &error))) {
                Ok(files) if seen.as_ref() == Some(&files) => {}
                Ok(files) => {
                    // The first look replaces what was read at the start, which may be older than this file.
                    self.take(&files, seen.is_none());
                    seen = Some(files);
                }
                Err(error) => {
                    tracing::error!(%error, "the TLS files cannot be read; the old certificate goes on");
                }
            }
        }
    }

    fn take(&self, files: &Files, quiet: bool) {
        match files.config(&self.cert, &self.key) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                if !quiet {
                    tracing::info!(path = %self.cert.display(), "new connections get the new certificate");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the changed TLS files cannot be used; the old certificate goes on");
            }
        }
    }
}

// === impl Files ===

impl Files {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|cause| TlsError::File { path: path.to_owned(), cause })
        };
        Ok(Self { cert: read(cert)?, key: read(key)? })
    }

    fn config(&self, cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
        let bad = |path: &Path, cause, expected| TlsError::Pem { path: path.to_owned(), cause, expected };
        let chain = CertificateDer::pem_slice_iter(&self.cert).collect::<Result<Vec<_>, _>>();
        let chain =
            chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain =
            chain.map_err(|cause| bad(cert, cause, "one certificate or a chain, the server's first"))?;
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|cause| bad(key, cause, "a private key (PKCS #8, PKCS #1 or SEC1)"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn lost_thread(path: &Path, error: &tokio::task::JoinError) -> TlsError {
    TlsError::File { path: path.to_owned(), cause: std::io::Error::other(error.to_string()) }
}
