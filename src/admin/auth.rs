//! Who calls (docs/WIRE.md section 8): the two headers that carry a token, the role that each route asks for,
//! and the organisation that the call is for.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::error::ApiError;
use super::state::AdminState;
use crate::domain::ids::OrganisationId;
use crate::domain::token::{Role, TokenText};
use crate::redis::tokens::find_token;

/// Roles that read configs.
pub const READ_CONFIGS: &[Role] = &[Role::Viewer, Role::Manager, Role::Admin, Role::Operator];
/// Roles that change configs.
pub const WRITE_CONFIGS: &[Role] = &[Role::Admin, Role::Operator];
/// Roles that pause, resume and test configs.
pub const OPERATE_CONFIGS: &[Role] = &[Role::Manager, Role::Admin, Role::Operator];
/// Roles that ask for a delivery's retry by hand.
pub const RETRY_DELIVERIES: &[Role] = &[Role::Admin, Role::Operator];
/// Roles that read logs, which hold payloads and responses.
pub const READ_LOGS: &[Role] = &[Role::Admin, Role::Operator];
/// Roles that publish events.
pub const PUBLISH: &[Role] = &[Role::Publisher, Role::Admin, Role::Operator];

/// Roles that read the catalogue of event types: all.
pub const READ_EVENT_TYPES: &[Role] = &Role::ALL;

/// The header in which an operator names the organisation that it acts for.
pub const ORGANISATION_HEADER: &str = "x-organisation-id";
/// The older header for a token.
const TOKEN_HEADER: &str = "x-api-token";

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The organisation that the call is for; an operator's comes from `x-organisation-id`.
    pub organisation: OrganisationId,
    /// What the token may do.
    pub role: Role,
    /// The token's public id.
    pub token_id: String,
    /// The token's name.
    pub token_name: String,
}

/// Finds the caller by its token and checks that its role is among `allowed`.
///
/// `Authorization` wins over `x-api-token`; `Bearer ` before either value is optional; `x-api-domain` is
/// ignored, for the organisation is the token's.
///
/// # Errors
/// 401 for no token or an unknown one, 403 for a role that does not reach, 400 for an operator that names no
/// organisation, 503 while Redis is away and the token is not known here.
pub async fn authenticate(
    state: &AdminState,
    headers: &HeaderMap,
    procedure: &'static str,
    allowed: &[Role],
) -> Result<Caller, ApiError> {
    let text = token_text(headers, procedure)?;
    let hash = TokenText::received(text).hash();
    let token = match state.directory.token(&hash) {
        Some(token) => token,
        // Made a moment ago, by another process, and not followed yet: the caller must not be told that its new
        // token is unknown.
        None => find_token(&state.redis, &hash)
            .await
            .map_err(|error| ApiError::from_redis(procedure, &error))?
            .map(Arc::new)
            .ok_or_else(|| ApiError::unauthorized(procedure, "unknown or revoked token"))?,
    };
    if !allowed.contains(&token.role) {
        let roles: Vec<&str> = allowed.iter().map(|role| role.as_str()).collect();
        let message =
            format!("the token's role is '{}'; this route is for {}", token.role.as_str(), roles.join(", "));
        return Err(ApiError::forbidden(procedure, message));
    }
    let organisation = match token.role {
        Role::Operator => named_organisation(headers, procedure)?,
        _ => token.organisation.clone(),
    };
    Ok(Caller { organisation, role: token.role, token_id: token.id.clone(), token_name: token.name.clone() })
}

fn token_text<'a>(headers: &'a HeaderMap, procedure: &'static str) -> Result<&'a str, ApiError> {
    let missing = || {
        let message = "missing token: send 'Authorization: Bearer <token>' or 'x-api-token: <token>'";
        ApiError::unauthorized(procedure, message)
    };
    let value = headers.get(AUTHORIZATION).or_else(|| headers.get(TOKEN_HEADER)).ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| ApiError::unauthorized(procedure, "malformed token"))?.trim();
    let bare = match text.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer ") => rest.trim_start(),
        _ => text,
    };
    if bare.is_empty() || bare.eq_ignore_ascii_case("bearer") { Err(missing()) } else { Ok(bare) }
}

fn named_organisation(headers: &HeaderMap, procedure: &'static str) -> Result<OrganisationId, ApiError> {
    let Some(value) = headers.get(ORGANISATION_HEADER) else {
        let message =
            format!("an operator's token must name the organisation in the header {ORGANISATION_HEADER}");
        return Err(ApiError::bad_request(procedure, message));
    };
    let wrong =
        |what: &str| ApiError::bad_request(procedure, format!("{ORGANISATION_HEADER}: expected {what}"));
    let text = value.to_str().map_err(|_| wrong("visible ASCII"))?;
    OrganisationId::new(text).map_err(|error| wrong(error.expected))
}
