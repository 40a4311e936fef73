//! Who calls (docs/WIRE.md section 8): the two headers that carry a token, what is known of it, and the
//! organisation that the call is for. Which role may call what is [`super::access`]'s.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::access::{Access, Scope};
use super::error::{ApiError, NO_PROCEDURE};
use crate::domain::audit::{By, Who};
use crate::domain::ids::OrganisationId;
use crate::domain::token::{Role, Token, TokenHash, TokenText};

/// The header in which an operator names the organisation that it acts for.
pub const ORGANISATION_HEADER: &str = "x-organisation-id";
/// The older header for a token.
const TOKEN_HEADER: &str = "x-api-token";

/// An authenticated caller. A handler takes it as a parameter: [`super::gate`] puts it into every request that it
/// lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The organisation that the call is for; an operator's comes from `x-organisation-id`, and is the one that the
    /// token was made in where the route concerns no single organisation.
    pub organisation: OrganisationId,
    /// What the token may do.
    pub role: Role,
    /// The token's public id.
    pub token_id: String,
    /// The token's name.
    pub token_name: String,
    /// The token's hash: whether it was revoked meanwhile is seen by it, where an answer takes long.
    pub token_hash: TokenHash,
}

// === impl Caller ===

impl Caller {
    /// The caller behind a token that is known, where its role reaches.
    ///
    /// # Errors
    /// 403 for a role that does not reach, 400 for an operator that names no organisation.
    pub fn admit(
        token_hash: TokenHash,
        token: &Token,
        headers: &HeaderMap,
        access: &Access,
    ) -> Result<Self, ApiError> {
        let procedure = access.procedure;
        if !access.roles.contains(&token.role) {
            let roles: Vec<&str> = access.roles.iter().map(|role| role.as_str()).collect();
            let role = token.role.as_str();
            let message = format!("the token's role is '{role}'; this route is for {}", roles.join(", "));
            return Err(ApiError::forbidden(procedure, message));
        }
        let organisation = match (token.role, access.scope) {
            (Role::Operator, Scope::Organisation) => named_organisation(headers, procedure)?,
            _ => token.organisation.clone(),
        };
        let (token_id, token_name) = (token.id.clone(), token.name.clone());
        Ok(Self { organisation, role: token.role, token_id, token_name, token_hash })
    }

    /// Who the audit says makes a change by `procedure`.
    #[must_use]
    pub fn by(&self, procedure: &'static str) -> By {
        let (id, name) = (self.token_id.clone(), self.token_name.clone());
        By { who: Who::Token { id, name }, action: procedure }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::internal(NO_PROCEDURE, "a handler outside of the gate asks who calls"))
    }
}

/// The hash of the token that a request carries. `Authorization` wins over `x-api-token`; `Bearer ` before either
/// value is optional; `x-api-domain` is ignored, for the organisation is the token's.
///
/// A token is never compared as text: its SHA-256 is looked up, and how long that takes says nothing about the
/// 256 random bits of a token that somebody else has.
///
/// # Errors
/// 401 for no token, or one that cannot be ours.
pub fn token_hash(headers: &HeaderMap, procedure: &'static str) -> Result<TokenHash, ApiError> {
    let missing = || {
        let message = "missing token: send 'Authorization: Bearer <token>' or 'x-api-token: <token>'";
        ApiError::unauthorized(procedure, message)
    };
    let malformed = || ApiError::unauthorized(procedure, "malformed token: expected prt_ and 64 hex digits");
    let value = headers.get(AUTHORIZATION).or_else(|| headers.get(TOKEN_HEADER)).ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| malformed())?.trim();
    let bare = match text.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer ") => rest.trim_start(),
        _ => text,
    };
    if bare.is_empty() || bare.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let token = TokenText::received(bare);
    if token.is_well_formed() { Ok(token.hash()) } else { Err(malformed()) }
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
