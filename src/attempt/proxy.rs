//! A forward proxy (RFC 9110 section 7.6): a tunnel by CONNECT for https targets, the absolute form for http ones.
//!
//! Whose fault is it? Until the proxy has answered CONNECT with 2xx, what goes wrong is the proxy's and an
//! [`Obstacle`]: that it cannot be reached, does not answer, wants other credentials (407), or says 5xx, also where it
//! says so of a target that it could not reach: no answer tells these apart reliably. Only a plain refusal of the
//! target (another 4xx) is `Blocked`: with a proxy it is the proxy that guards. Of the absolute form, 407 alone is
//! known to be the proxy's word.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::obstacle::{NoWay, Obstacle, ObstacleKind};
use crate::domain::config::Endpoint;
use crate::domain::outcome::{Fault, FaultKind};
use crate::settings::egress::{NoProxy, ProxyUrl};

/// Longest head of an answer to CONNECT.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// The proxy that deliveries take.
pub(super) struct Proxy {
    host: String,
    port: u16,
    credentials: Option<HeaderValue>,
    exempt: NoProxy,
}

// === impl Proxy ===

impl Proxy {
    pub(super) fn new(url: &ProxyUrl, exempt: NoProxy) -> Self {
        let url = url.url();
        let decoded = |text: &str| percent_decoded(text);
        let credentials = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let pair =
                [decoded(url.username()), vec![b':'], decoded(url.password().unwrap_or_default())].concat();
            let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let host = url.host_str().unwrap_or_default();
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            credentials: credentials.flatten(),
            exempt,
        }
    }

    /// Whether what goes to `host` takes the proxy.
    pub(super) fn serves(&self, host: &str) -> bool {
        !self.exempt.covers(host)
    }

    /// The proxy's addresses. Its name is the operator's, so it is looked up as the system would, search domains
    /// included, and no guard judges it.
    pub(super) async fn addresses(&self) -> Result<Vec<IpAddr>, Obstacle> {
        if let Ok(address) = self.host.parse() {
            return Ok(vec![address]);
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|error| self.obstacle(format_args!("looking it up failed: {error}")))?;
        Ok(found.map(|address| address.ip()).collect())
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// An obstacle that this proxy is.
    pub(super) fn obstacle(&self, what: impl std::fmt::Display) -> Obstacle {
        Obstacle::new(ObstacleKind::Proxy, format_args!("proxy {}:{}: {what}", self.host, self.port))
    }

    /// Asks for a tunnel to the endpoint on a fresh connection to the proxy.
    pub(super) async fn tunnel(
        &self,
        mut stream: TcpStream,
        endpoint: &Endpoint,
    ) -> Result<TcpStream, NoWay> {
        let host = &endpoint.host;
        let target = if host.contains(':') {
            format!("[{host}]:{}", endpoint.port)
        } else {
            format!("{host}:{}", endpoint.port)
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(credentials) = &self.credentials {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(credentials.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let failed = |error: std::io::Error| self.obstacle(error);
        stream.write_all(&request).await.map_err(failed)?;
        let mut head = Vec::with_capacity(256);
        while !head.ends_with(b"\r\n\r\n") {
            // One byte at a time, so that none of the tunnel's own is taken; once for each connection.
            let byte = stream.read_u8().await.map_err(failed)?;
            head.push(byte);
            if head.len() > HEAD_MAX_BYTES {
                return Err(self.obstacle("its answer to CONNECT has no end").into());
            }
        }
        match status_of(&head) {
            Some(200..=299) => Ok(stream),
            Some(status @ (400..=406 | 409..=428 | 430..=499)) => Err(Fault::new(
                FaultKind::Blocked,
                format_args!("the forward proxy denies this target: it answered CONNECT with {status}"),
            )
            .into()),
            Some(status) => {
                Err(self.obstacle(format_args!("it answered CONNECT to {target} with {status}")).into())
            }
            None => Err(self.obstacle("its answer to CONNECT is not HTTP").into()),
        }
    }

    /// Makes a request one for the proxy: the target in absolute form (RFC 9112 section 3.2.2), and the credentials.
    pub(super) fn address<B>(&self, request: &mut Request<B>, endpoint: &Endpoint) {
        let authority = endpoint.authority.to_str().unwrap_or_default();
        let absolute = format!("http://{authority}{}", endpoint.path_and_query);
        if let Ok(uri) = absolute.parse() {
            *request.uri_mut() = uri;
        }
        if let Some(credentials) = &self.credentials {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
        }
    }
}

/// The status of an answer's head.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok().filter(|status| (100..600).contains(status))
}

/// What `%40` and the like in a URL's user or password stand for.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::egress::proxy_url;

    #[test]
    fn credentials_are_decoded_from_the_url() {
        let url = proxy_url::parse("http://us%40er:p%3Aw@proxy.internal:3128").unwrap().unwrap();
        let proxy = Proxy::new(&url, NoProxy::default());
        let wanted = format!("Basic {}", STANDARD.encode("us@er:p:w"));
        assert_eq!(proxy.credentials.as_ref().unwrap().as_bytes(), wanted.as_bytes());
        assert!(!format!("{:?} {}", proxy.credentials, proxy.obstacle("x")).contains("p:w"));
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.internal", 3128));
    }

    #[test]
    fn a_status_line_is_read_or_refused() {
        assert_eq!(status_of(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for wrong in ["", "\r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 20\r\n\r\n"] {
            assert_eq!(status_of(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
