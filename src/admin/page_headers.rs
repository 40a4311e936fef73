//! What browsers are told: that nothing here is to be kept, guessed or framed, and which origins may call (CORS).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL,
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::settings::admin::AdminSettings;

/// Set on every answer that does not say otherwise: answers hold what only their caller may see.
const ALWAYS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];
/// A year, as is common; without subdomains, which are not ours to speak for.
const HSTS: &str = "max-age=31536000";
/// What a page may send and read beyond what every page may. With `last-event-id` it goes on with the live tail: the
/// browser's own `EventSource` cannot send a token.
const REQUEST_HEADERS: &str =
    "authorization, content-type, last-event-id, x-api-token, x-api-domain, x-organisation-id";
const ANSWER_HEADERS: &str = "retry-after, x-postrider-ignored";
const METHODS: &str = "GET, PUT, POST, DELETE";
/// How long a browser may remember what it was told, in seconds: as long as any browser does.
const PREFLIGHT_SECONDS: &str = "7200";

/// Which origins may call, and whether the listener has TLS.
#[derive(Debug)]
pub(super) struct Pages {
    origins: Vec<String>,
    tls: bool,
}

// === impl Pages ===

impl Pages {
    pub(super) fn new(settings: &AdminSettings) -> Arc<Self> {
        Arc::new(Self { origins: settings.cors_origins.clone(), tls: settings.tls_cert.is_some() })
    }

    /// The request's origin, if its pages may call.
    fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// Answers a browser's question before a call, and sets the headers of every answer.
pub(super) async fn tell(State(pages): State<Arc<Pages>>, request: Request, next: Next) -> Response {
    let origin = pages.origin(request.headers());
    let asks =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &origin {
        Some(_) if asks => preflight(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if pages.tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
    if !pages.origins.is_empty() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
    }
    response
}

fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
