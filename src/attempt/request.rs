//! The request of one attempt (docs/WIRE.md sections 2 and 3).

use std::fmt::Write;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http_body_util::Full;

use crate::domain::clock::UnixMillis;
use crate::domain::config::Endpoint;
use crate::domain::ids::DeliveryId;
use crate::domain::standard_signature::{STANDARD_HEADERS, StandardKey, signatures, timestamp};

/// What is sent, apart from where to.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The delivery: `X-Nudj-Delivery-Id`.
    pub delivery: DeliveryId,
    /// The event's type as the body has it: `X-Nudj-Event`.
    pub event_type: Arc<str>,
    /// When the attempt began, by Redis's clock: `webhook-timestamp`, and which secrets sign.
    pub at: UnixMillis,
    /// W3C `traceparent`, sent along as it came.
    pub traceparent: Option<Arc<str>>,
    /// The bytes that are signed and sent.
    pub body: Bytes,
}

/// `User-Agent`, unless the config has one of its own.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SIGNATURE: HeaderName = HeaderName::from_static("x-nudj-signature");
const SIGNATURE_PREVIOUS: HeaderName = HeaderName::from_static("x-nudj-signature-previous");
const EVENT: HeaderName = HeaderName::from_static("x-nudj-event");
const DELIVERY_ID: HeaderName = HeaderName::from_static("x-nudj-delivery-id");
const STANDARD_ID: HeaderName = HeaderName::from_static(STANDARD_HEADERS[0]);
const STANDARD_TIMESTAMP: HeaderName = HeaderName::from_static(STANDARD_HEADERS[1]);
const STANDARD_SIGNATURE: HeaderName = HeaderName::from_static(STANDARD_HEADERS[2]);
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers that Postrider sets itself; `Content-Length` is added by the connection.
const OWN_HEADERS: usize = 12;

/// Length of a delivery id's text.
const DELIVERY_ID_LEN: usize = 30;

/// Builds the request in `headers`, an empty map. The names' case is the connection's to set.
pub(super) fn build(
    endpoint: &Endpoint,
    outgoing: &Outgoing,
    mut headers: HeaderMap,
) -> Request<Full<Bytes>> {
    headers.reserve(OWN_HEADERS + endpoint.headers.len());
    headers.insert(HOST, endpoint.authority.clone());
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CONTENT_TYPE, JSON);
    // Values that cannot be in a header are ruled out where events come in; should one get here, the delivery
    // goes out without that header rather than never.
    let keys = endpoint.signing_keys(outgoing.at);
    if let Ok(value) = HeaderValue::from_bytes(&keys.current.sign(&outgoing.body)) {
        headers.insert(SIGNATURE, value);
    }
    if let Some(value) = keys.previous.and_then(|key| HeaderValue::from_bytes(&key.sign(&outgoing.body)).ok())
    {
        headers.insert(SIGNATURE_PREVIOUS, value);
    }
    if let Ok(value) = HeaderValue::from_str(&outgoing.event_type) {
        headers.insert(EVENT, value);
    }
    if let Some(value) = delivery_id(outgoing.delivery) {
        headers.insert(DELIVERY_ID, value);
    }
    if let Some(value) = outgoing.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(TRACEPARENT, value);
    }
    for (name, value) in &endpoint.headers {
        headers.insert(name.clone(), value.clone());
    }
    // Last, so that no custom header of these names stands beside a signature of ours.
    if let Some(key) = &endpoint.standard_key {
        put_standard(std::iter::once(key).chain(keys.previous_standard), outgoing, &mut headers);
    }
    let mut request = Request::new(Full::new(outgoing.body.clone()));
    *request.method_mut() = endpoint.method.clone();
    *request.uri_mut() = endpoint.path_and_query.clone();
    *request.headers_mut() = headers;
    request
}

/// The three headers of Standard Webhooks, with a signature by each key. The delivery is what that standard calls a
/// message: its id is the same at every attempt, and the time is the attempt's.
fn put_standard<'k>(
    keys: impl Iterator<Item = &'k StandardKey>,
    outgoing: &Outgoing,
    headers: &mut HeaderMap,
) {
    let (id, seconds) = (outgoing.delivery.to_string(), timestamp(outgoing.at));
    let signature = signatures(keys, &id, &seconds, &outgoing.body);
    for (name, value) in [(STANDARD_ID, id), (STANDARD_TIMESTAMP, seconds), (STANDARD_SIGNATURE, signature)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn delivery_id(id: DeliveryId) -> Option<HeaderValue> {
    let mut text = BytesMut::with_capacity(DELIVERY_ID_LEN);
    write!(text, "{id}").ok()?;
    HeaderValue::from_maybe_shared(text.freeze()).ok()
}
