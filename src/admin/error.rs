//! The error envelope (docs/WIRE.md section 8): every answer that is no success has this form, and no other
//! file of this room builds one.

use std::fmt;
use std::time::Duration;

use axum::http::header::{ALLOW, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::log_limit::limited;
use crate::redis::connection::RedisError;

/// What a caller is told to wait when Redis is away or full.
const RETRY_AFTER_REDIS: Duration = Duration::from_secs(2);

/// `data.path` where no procedure was reached: an unknown route or method.
pub const NO_PROCEDURE: &str = "unknown";

/// A failed request: what the caller is told. Details that are not the caller's were logged where it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    procedure: &'static str,
    retry_after: Option<Duration>,
    allow: Option<HeaderValue>,
}

/// What every answer that is no success holds.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorEnvelope {
    /// What is wrong, for people; names each wrong field with its path.
    #[schema(examples("query.limit: expected a whole number from 1 to 100"))]
    message: String,
    /// What is wrong, for programs.
    #[schema(pattern = "^[A-Z_]+$", examples("BAD_REQUEST"))]
    code: &'static str,
    data: ErrorData,
}

/// Where it went wrong.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ErrorData {
    /// The answer's status.
    #[schema(minimum = 400, maximum = 599, examples(400))]
    http_status: u16,
    /// The procedure, as in `operationId`.
    #[schema(examples("getWebhookLogs"))]
    path: &'static str,
}

// === impl ApiError ===

impl ApiError {
    fn new(
        procedure: &'static str,
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), procedure, retry_after: None, allow: None }
    }

    /// 400: a body, query, path or header that is not acceptable; the message names the field.
    #[must_use]
    pub fn bad_request(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// 401: no token, a malformed one, or one that is not known.
    #[must_use]
    pub fn unauthorized(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// 403: the token's role does not reach.
    #[must_use]
    pub fn forbidden(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// 404: unknown, deleted, or another organisation's; the answer does not tell which.
    #[must_use]
    pub fn not_found(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 409: somebody else changed the same thing meanwhile, or its state forbids the request.
    #[must_use]
    pub fn conflict(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 413: the body is larger than the route takes.
    #[must_use]
    pub fn too_large(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    }

    /// 405: the route exists, not with this method; `allowed` is the `Allow` header.
    #[must_use]
    pub fn method_not_supported(procedure: &'static str, allowed: &str) -> Self {
        let message = "this route does not support the method (see the Allow header)";
        let mut error = Self::new(procedure, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_SUPPORTED", message);
        error.allow = HeaderValue::from_str(allowed).ok();
        error
    }

    /// 429 with `Retry-After`: the caller asks too often.
    #[must_use]
    pub fn too_many(procedure: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(procedure, StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", message);
        error.retry_after = Some(retry_after);
        error
    }

    /// 504: the request was not finished in time, and nobody can say how far it came.
    #[must_use]
    pub fn not_finished(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::GATEWAY_TIMEOUT, "GATEWAY_TIMEOUT", message)
    }

    /// 408: the body did not arrive in time.
    #[must_use]
    pub fn timeout(procedure: &'static str, message: impl Into<String>) -> Self {
        Self::new(procedure, StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message)
    }

    /// 503 with `Retry-After`: nothing was changed, and the same request may work later.
    #[must_use]
    pub fn unavailable(procedure: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(procedure, StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message);
        error.retry_after = Some(retry_after);
        error
    }

    /// 500: a fault of ours. `detail` is logged here and not shown.
    #[must_use]
    pub fn internal(procedure: &'static str, detail: impl fmt::Display) -> Self {
        limited!(error, procedure, error = %detail, "an admin request failed");
        let message = "internal error; the details are in the server's log";
        Self::new(procedure, StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", message)
    }

    /// What a failed Redis operation is to the caller: 503 when Redis is away or full, else 500. Logged here.
    #[must_use]
    pub fn from_redis(procedure: &'static str, error: &RedisError) -> Self {
        let message = match error.code() {
            Some("OOM") => "the store is full; nothing was written",
            _ if error.is_connection() => "the store cannot be reached",
            _ => return Self::internal(procedure, error),
        };
        limited!(warn, procedure, %error, "an admin request met an unavailable redis");
        Self::unavailable(procedure, message, RETRY_AFTER_REDIS)
    }

    /// The status that it answers with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The message that it answers with.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = ErrorEnvelope {
            message: self.message,
            code: self.code,
            data: ErrorData { http_status: self.status.as_u16(), path: self.procedure },
        };
        let mut response = (self.status, axum::Json(envelope)).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes a moment early is refused again.
            headers.insert(RETRY_AFTER, HeaderValue::from((wait.as_millis().div_ceil(1_000) as u64).max(1)));
        }
        if let Some(allowed) = self.allow {
            headers.insert(ALLOW, allowed);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let name = HeaderName::from_static("www-authenticate");
            headers.insert(name, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
