//! A delivery as Postrider sends it (docs/WIRE.md section 3), to a server of the user's own: the same method, headers
//! and bytes, signed with that server's secret. No guard looks at the address: it is the user's choice.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;
use url::Url;

use super::error::CliError;
use super::http::{self, Error, Method, Names};
use crate::domain::clock::Clock;
use crate::domain::signature::Secret;
use crate::domain::standard_signature::{STANDARD_HEADERS, StandardKey, signatures, timestamp};

/// The deadline of an attempt (docs/WIRE.md section 4).
const DEADLINE: Duration = Duration::from_secs(30);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION")));

/// Where deliveries go.
pub(super) struct LocalServer {
    pub(super) url: Url,
    pub(super) secret: Secret,
    /// Headers of the config, which the API masks and the user may give.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// What is sent.
pub(super) struct Forwarded {
    pub(super) delivery: String,
    pub(super) event: String,
    pub(super) body: Bytes,
    pub(super) form: Form,
}

/// What the config says about the request.
#[derive(Clone)]
pub(super) struct Form {
    pub(super) method: Method,
    pub(super) standard_webhooks: bool,
}

/// What the local server answered.
pub(super) struct LocalAnswer {
    pub(super) status: u16,
    pub(super) took_ms: u128,
}

// === impl LocalServer ===

impl LocalServer {
    /// Sends one, and reads the answer.
    ///
    /// # Errors
    /// When no whole answer came in 30 s, in words.
    pub(super) async fn send(&self, forwarded: &Forwarded) -> Result<LocalAnswer, String> {
        let began = Instant::now();
        let exchange = async {
            let request = self.request(forwarded)?;
            http::whole(http::exchange(&self.url, request, Names::Title).await?).await
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer within 30 s".into()));
        let answer = answer.map_err(|error| http::with_causes(&error))?;
        Ok(LocalAnswer { status: answer.status.as_u16(), took_ms: began.elapsed().as_millis() })
    }

    fn request(&self, forwarded: &Forwarded) -> Result<Request<Full<Bytes>>, Error> {
        let Forwarded { delivery, event, body, form } = forwarded;
        let (target, host) = http::target_and_host(&self.url)?;
        let mut request =
            Request::builder().method(&form.method).uri(target).body(Full::new(body.clone()))?;
        let headers = request.headers_mut();
        headers.insert(HOST, host.parse()?);
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let signature = self.secret.signing_key().sign(body);
        headers.insert("x-nudj-signature", HeaderValue::from_bytes(&signature)?);
        headers.insert("x-nudj-event", event.parse()?);
        headers.insert("x-nudj-delivery-id", delivery.parse()?);
        headers.extend(self.headers.iter().cloned());
        if form.standard_webhooks {
            let seconds = timestamp(Clock::default().now());
            let signature = signatures([&StandardKey::of(&self.secret)], delivery, &seconds, body);
            for (name, value) in STANDARD_HEADERS.into_iter().zip([delivery.clone(), seconds, signature]) {
                headers.insert(name, value.parse()?);
            }
        }
        Ok(request)
    }
}

/// A header of `--header`, already split.
///
/// # Errors
/// When no header can be named or valued so. The value is not repeated: it is often a secret.
pub(super) fn checked(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), CliError> {
    match (name.parse(), value.parse()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(CliError::Usage("--header: expected 'Name: value' in visible ASCII characters".into())),
    }
}
