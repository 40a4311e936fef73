//! What the errors of sockets, TLS and HTTP mean to an integrator, in one line each.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use rustls::{AlertDescription, CertificateError};

use crate::domain::outcome::{Fault, FaultKind};

/// A TCP connect that failed.
pub(super) fn of_connect(error: &io::Error, target: SocketAddr) -> Fault {
    Fault::new(FaultKind::Connection, format!("{}, connecting to {target}", in_a_sentence(error)))
}

/// A TLS handshake that failed.
pub(super) fn of_handshake(error: &io::Error) -> Fault {
    let message = match tls_cause(error) {
        Some(cause) => explain_tls(cause),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed during the TLS handshake".to_owned()
        }
        None => format!("{} during the TLS handshake", in_a_sentence(error)),
    };
    Fault::new(FaultKind::Tls, message)
}

/// An exchange that failed after it was connected. `received` says whether any byte of an answer had come.
pub(super) fn of_exchange(error: &hyper::Error, received: bool) -> Fault {
    let cause = io_cause(error);
    if let Some(tls) = cause.and_then(tls_cause) {
        return Fault::new(FaultKind::Tls, explain_tls(tls));
    }
    let what = cause.map_or_else(|| "connection closed".to_owned(), in_a_sentence);
    if error.is_parse() {
        return Fault::new(FaultKind::Protocol, format!("the answer is not HTTP: {error}"));
    }
    if received {
        // A broken chunk is an io error without a number of the system's.
        return Fault::new(FaultKind::Protocol, format!("{what} inside the answer"));
    }
    Fault::new(FaultKind::Connection, format!("{what} before an answer"))
}

/// `connection refused (os error 111)`: the system's words, as part of a sentence.
fn in_a_sentence(error: &io::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // Not an abbreviation.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = inner.source();
    }
    None
}

fn tls_cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn explain_tls(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "certificate not trusted: unknown issuer (a private authority, or the chain is incomplete)"
                .to_owned()
        }
        Tls::InvalidCertificate(certificate) => {
            let text = certificate.to_string();
            // Some say it in a sentence, the rest only have a name.
            if text.starts_with("certificate ") { text } else { format!("certificate not valid: {text}") }
        }
        Tls::InvalidMessage(_) => "the server does not speak TLS on this port".to_owned(),
        Tls::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion)
        | Tls::PeerIncompatible(_) => {
            format!("no common TLS version (1.2 or 1.3) or cipher suite: {error}")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_put_into_a_sentence() {
        let target = SocketAddr::from(([127, 0, 0, 1], 9));
        let refused = of_connect(&io::Error::from_raw_os_error(111), target);
        assert_eq!(refused.kind, FaultKind::Connection);
        assert_eq!(refused.message, "connection refused (os error 111), connecting to 127.0.0.1:9");
        assert_eq!(in_a_sentence(&io::Error::other("TLS said no")), "TLS said no");
    }

    #[test]
    fn tls_errors_say_what_the_integrator_can_change() {
        let of = |error: rustls::Error| of_handshake(&io::Error::new(io::ErrorKind::InvalidData, error));
        let unknown = of(CertificateError::UnknownIssuer.into());
        assert_eq!(unknown.kind, FaultKind::Tls);
        assert!(unknown.message.contains("unknown issuer"), "{unknown}");
        let signature = of(CertificateError::BadSignature.into());
        assert_eq!(signature.message, "certificate not valid: BadSignature");
        let version = of(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert!(version.message.contains("1.2 or 1.3"), "{version}");
        let closed = of_handshake(&io::ErrorKind::UnexpectedEof.into());
        assert!(closed.message.contains("closed during the TLS handshake"), "{closed}");
    }
}
