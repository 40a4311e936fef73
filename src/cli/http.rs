//! One HTTP/1.1 request to the admin API: a connection per call, TLS with the system's roots.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
pub(super) use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Longest wait for the whole answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read: 100 records with their payloads are far smaller.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a call can fail with before there is an answer.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) token: &'a str,
    /// Sent as `x-organisation-id`.
    pub(super) organisation: Option<&'a str>,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
}

/// One answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// When there is none within 30 s.
pub(super) async fn call(call: Call<'_>) -> Result<Answer, Error> {
    tokio::time::timeout(CALL_TIMEOUT, connect_and_send(call)).await.map_err(|_| "no answer within 30 s")?
}

/// An error and what it was caused by: hyper's own texts name only the step that failed.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

async fn connect_and_send(call: Call<'_>) -> Result<Answer, Error> {
    let host = call.url.host_str().ok_or("the URL has no host")?;
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let port = call.url.port_or_known_default().ok_or("the URL has no port")?;
    let stream = TcpStream::connect((bare_host, port)).await?;
    match call.url.scheme() {
        "http" => send(stream, &call).await,
        "https" => {
            let name = ServerName::try_from(bare_host.to_owned())?;
            send(tls()?.connect(name, stream).await?, &call).await
        }
        scheme => Err(format!("{scheme} is no scheme of a server; expected http or https").into()),
    }
}

fn tls() -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(
            "this system has no root certificates; install ca-certificates or set SSL_CERT_FILE".into()
        );
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn send<S>(stream: S, call: &Call<'_>) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request(call)?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await?.to_bytes();
        Ok(Answer { status, body })
    };
    tokio::pin!(exchange);
    // The connection is polled beside the exchange and may end first, even with an error, and the answer be
    // whole: many a server closes without TLS's farewell.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => exchange.await.map_err(|error| ended.err().map_or(error, Into::into)),
    }
}

fn request(call: &Call<'_>) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let target = match call.url.query() {
        Some(query) => format!("{}?{query}", call.url.path()),
        None => call.url.path().to_owned(),
    };
    let host = call.url.host_str().ok_or_else(|| io::Error::other("the URL has no host"))?;
    let authority = call.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut request = hyper::Request::builder()
        .method(&call.method)
        .uri(target)
        .header("host", authority)
        .header("user-agent", concat!("postrider/", env!("CARGO_PKG_VERSION")))
        .header("accept", "application/json")
        .header("authorization", format!("Bearer {}", call.token));
    if let Some(organisation) = call.organisation {
        request = request.header("x-organisation-id", organisation);
    }
    if call.body.is_some() {
        request = request.header("content-type", "application/json");
    }
    Ok(request.body(Full::from(call.body.clone().unwrap_or_default()))?)
}
