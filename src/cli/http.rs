//! HTTP/1.1 as a client: a connection per request, TLS with the system's roots. Calls of the admin API, read whole
//! or as they come, and requests to a server of the user's own (`listen --forward`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
pub(super) use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Longest wait for the whole answer, unless a call says otherwise.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read: 100 records with their payloads are far smaller.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// An answer whose body is still to be read.
pub(super) type Response = hyper::Response<Incoming>;

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
    /// Longest wait for the whole answer.
    pub(super) patience: Duration,
}

/// A stream of bytes to a server, with TLS or without.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// When there is none within the call's patience.
pub(super) async fn call(call: Call<'_>) -> Result<Answer, Error> {
    let late = || format!("no answer within {} s", call.patience.as_secs());
    let exchange = async { whole(exchange(call.url, request(&call)?, Names::Lower).await?).await };
    tokio::time::timeout(call.patience, exchange).await.map_err(|_| late())?
}

/// Sends a request, and gives the answer with its body still to be read.
///
/// # Errors
/// When there is no answer's head within the call's patience.
pub(super) async fn open(call: Call<'_>, accept: &str, last_event: Option<&str>) -> Result<Response, Error> {
    let mut request = request(&call)?;
    request.headers_mut().insert("accept", accept.parse()?);
    if let Some(id) = last_event {
        request.headers_mut().insert("last-event-id", id.parse()?);
    }
    let late = || format!("no answer within {} s", call.patience.as_secs());
    tokio::time::timeout(call.patience, exchange(call.url, request, Names::Lower))
        .await
        .map_err(|_| late())?
}

/// Reads an answer's body to its end.
///
/// # Errors
/// When it breaks off, or is too large.
pub(super) async fn whole(response: Response) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
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

/// How the names of headers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// As it comes.
    Lower,
    /// As deliveries have them.
    Title,
}

/// Sends `request` on a connection of its own to the URL's server.
///
/// # Errors
/// When there is no connection, or no answer's head.
pub(super) async fn exchange(
    url: &Url,
    request: hyper::Request<Full<Bytes>>,
    names: Names,
) -> Result<Response, Error> {
    let wire = dial(url).await?;
    let title_case = names == Names::Title;
    let shaken = http1::Builder::new().title_case_headers(title_case).handshake(TokioIo::new(wire)).await;
    let (mut sender, connection) = shaken?;
    let driver = tokio::spawn(connection);
    // The connection may end first, even with an error, and the answer be whole: many a server closes without
    // TLS's farewell. Where there is no answer, its error says more than the sender's.
    match sender.send_request(request).await {
        Ok(response) => Ok(response),
        Err(error) => Err(match driver.await {
            Ok(Err(cause)) => cause.into(),
            _ => error.into(),
        }),
    }
}

async fn dial(url: &Url) -> Result<Box<dyn Wire>, Error> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let stream = TcpStream::connect((bare_host, port)).await?;
    match url.scheme() {
        "http" => Ok(Box::new(stream)),
        "https" => {
            let name = ServerName::try_from(bare_host.to_owned())?;
            Ok(Box::new(tls()?.connect(name, stream).await?))
        }
        scheme => Err(format!("{scheme} is no scheme of a server; expected http or https").into()),
    }
}

/// What stands behind the host of a URL in a request, and what stands in `Host`.
///
/// # Errors
/// When the URL has no host.
pub(super) fn target_and_host(url: &Url) -> Result<(String, String), Error> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = url.host_str().ok_or_else(|| io::Error::other("the URL has no host"))?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Ok((target, authority))
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

fn request(call: &Call<'_>) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let (target, authority) = target_and_host(call.url)?;
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
