//! `GET` and `POST /auth-config/tokens`, `POST /auth-config/tokens/{tokenId}/revoke` (docs/WIRE.md section 8).
//!
//! An organisation's tokens are its own affair: who may call these routes makes, sees and revokes those of its
//! organisation, of no role above its own. Operators' tokens are seen and touched by operators alone, whichever
//! organisation they were made in.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Map, Value};

use super::auth::Caller;
use super::body::{Ignored, Mistakes, read_body};
use super::described::{RoleWord, Time, TokenIdText};
use super::error::ApiError;
use super::state::AdminState;
use crate::domain::token::{Role, Token, token_name};
use crate::redis::tokens::{NewToken, create_token_through, revoke_token_through};

const LIST: &str = "getTokens";
const CREATE: &str = "createToken";
const REVOKE: &str = "revokeToken";

/// Tokens of one organisation: every replica holds them all in memory.
const TOKENS_MAX: usize = 1_000;
const ROLES: &str = "expected viewer, publisher, manager, admin or operator";

/// A token as answers show it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token)]
pub(super) struct ShownToken {
    /// The public id, by which it is revoked.
    #[schema(value_type = TokenIdText)]
    id: String,
    /// A name for people.
    #[schema(examples("ci"))]
    name: String,
    #[schema(value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = Time)]
    created_at: String,
    /// The token itself: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, pattern = "^prt_[0-9a-f]{64}$")]
    token: Option<String>,
}

/// The organisation's tokens.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct TokensAnswer {
    /// The oldest first.
    tokens: Vec<ShownToken>,
}

/// What a token is made of.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = TokenInput)]
#[allow(dead_code)] // Read by hand, so that every mistake is told at once.
pub(super) struct TokenRequest {
    /// A name for people.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        examples("ci")
    )]
    name: String,
    /// Only operators make `operator`.
    #[schema(value_type = RoleWord)]
    role: String,
}

/// What a body asks for.
struct Wanted {
    name: String,
    role: Role,
    ignored: Ignored,
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/auth-config/tokens", get(list).post(create))
        .route("/auth-config/tokens/{tokenId}/revoke", post(revoke))
}

/// List tokens
///
/// Those of the organisation, the oldest first, without the tokens themselves.
#[utoipa::path(get, path = "/auth-config/tokens", operation_id = "getTokens", tag = "tokens",
    responses((status = 200, description = "The organisation's tokens.", body = TokensAnswer)))]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Json<TokensAnswer>, ApiError> {
    if !state.directory.is_complete() {
        let wait = Duration::from_secs(1);
        return Err(ApiError::unavailable(LIST, "starting: tokens are not read yet", wait));
    }
    let tokens = state.directory.tokens_of(&caller.organisation);
    let visible = tokens.iter().filter(|token| is_visible(caller.role, token));
    Ok(Json(TokensAnswer { tokens: visible.map(|token| ShownToken::of(token)).collect() }))
}

/// Make a token
///
/// The answer shows it, this once.
#[utoipa::path(post, path = "/auth-config/tokens", operation_id = "createToken", tag = "tokens",
    request_body = TokenRequest,
    responses((status = 201, description = "The token, shown this once.", body = ShownToken)))]
pub(super) async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = read_body(request.into_body(), CREATE).await?;
    let Wanted { name, role, ignored } =
        Wanted::parse(&bytes).map_err(|mistakes| ApiError::bad_request(CREATE, mistakes.to_string()))?;
    if role == Role::Operator && caller.role != Role::Operator {
        return Err(ApiError::forbidden(CREATE, "body.role: only an operator makes operators"));
    }
    if state.directory.tokens_of(&caller.organisation).len() >= TOKENS_MAX {
        let message = format!("the organisation has {TOKENS_MAX} tokens; revoke some");
        return Err(ApiError::conflict(CREATE, message));
    }
    let (organisation, created_at) = (&caller.organisation, state.clock.now());
    let new = NewToken { organisation, role, name: &name, created_at };
    let made = create_token_through(&state.redis, &state.directory, &caller.by(CREATE).who, new).await;
    let (text, token) = made.map_err(|error| ApiError::from_redis(CREATE, &error))?;
    let shown = ShownToken { token: Some(text.expose().to_owned()), ..ShownToken::of(&token) };
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    ignored.tell(&mut response);
    Ok(response)
}

/// Revoke a token
///
/// Every replica refuses it within about a tenth of a second.
#[utoipa::path(post, path = "/auth-config/tokens/{tokenId}/revoke", operation_id = "revokeToken", tag = "tokens",
    params(("tokenId" = inline(TokenIdText), Path, description = "The token, as the list names it.")),
    responses((status = 200, description = "The token that was revoked.", body = ShownToken)))]
pub(super) async fn revoke(
    State(state): State<AdminState>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ShownToken>, ApiError> {
    let unknown = || ApiError::not_found(REVOKE, "path.tokenId: no such token");
    let malformed = |what: &str| ApiError::bad_request(REVOKE, format!("path.tokenId: {what}"));
    let Path(id) = path.map_err(|rejection| malformed(&rejection.body_text()))?;
    if id.len() != 12 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(malformed("expected 12 hex digits, the id that the list shows"));
    }
    let may = |token: &Token| is_visible(caller.role, token);
    let (redis, directory, organisation) = (&state.redis, &state.directory, &caller.organisation);
    let revoked =
        revoke_token_through(redis, directory, &caller.by(REVOKE).who, organisation, &id, may).await;
    let token = revoked.map_err(|error| ApiError::from_redis(REVOKE, &error))?.ok_or_else(unknown)?;
    Ok(Json(ShownToken::of(&token)))
}

/// Whether a caller of this role sees the token.
fn is_visible(role: Role, token: &Token) -> bool {
    role == Role::Operator || token.role != Role::Operator
}

// === impl ShownToken ===

impl ShownToken {
    fn of(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            role: token.role.as_str(),
            created_at: token.created_at.to_string(),
            token: None,
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn parse(bytes: &[u8]) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let body = serde_json::from_slice::<Map<String, Value>>(bytes);
        let Ok(body) = body else {
            mistakes.add("body", "expected a JSON object with name and role");
            return Err(mistakes);
        };
        let mut ignored = Ignored::default();
        body.keys()
            .filter(|name| !matches!(name.as_str(), "name" | "role"))
            .for_each(|name| ignored.add(name));
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = mistakes.keep("body.name", token_name(text("name"))).map(str::to_owned);
        let role = mistakes.keep("body.role", Role::parse(text("role")).ok_or(ROLES));
        match (name, role) {
            (Some(name), Some(role)) => Ok(Self { name, role, ignored }),
            _ => Err(mistakes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_body_is_told() {
        let told = |text: &str| Wanted::parse(text.as_bytes()).err().map(|mistakes| mistakes.to_string());
        assert_eq!(told(r#"{"name": "ci", "role": "publisher"}"#), None);
        let both = told(r#"{"name": 7, "role": "queen"}"#).unwrap();
        assert!(both.contains("body.name: expected 1 to 128") && both.contains("body.role: expected viewer"));
        for bad in ["", "[]", "null", "{", r#""x""#] {
            assert!(told(bad).unwrap().contains("a JSON object"), "{bad}");
        }
        for bad in [r#"{"role": "admin"}"#, r#"{"name": "a\nb", "role": "admin"}"#] {
            assert!(told(bad).unwrap().starts_with("body.name"), "{bad}");
        }
    }

    #[test]
    fn operators_tokens_are_the_operators_own() {
        let token = |role| Token {
            id: String::new(),
            organisation: crate::domain::ids::OrganisationId::new("o").unwrap(),
            role,
            name: String::new(),
            created_at: crate::domain::clock::UnixMillis(0),
        };
        assert!(!is_visible(Role::Admin, &token(Role::Operator)));
        assert!(is_visible(Role::Operator, &token(Role::Operator)));
        assert!(is_visible(Role::Admin, &token(Role::Admin)));
    }
}
