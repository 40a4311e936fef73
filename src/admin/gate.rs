//! The gate before every route: finds the route's row in [`super::access`], the caller behind the token, and
//! whether it may call and how often; what comes through carries a [`Caller`].
//!
//! Owns: the order of these checks and what they count. An address that sent bad tokens is slowed, and only its bad
//! tokens are: a good one passes, for behind a proxy or a NAT others have the same address. So nobody can lock
//! others out, and while an address is slowed its bad tokens cost a look into memory each.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::BASE_PATH;
use super::access::{self, Access, Scope};
use super::auth::{Caller, token_hash};
use super::client_address::{Peer, client_address};
use super::error::{ApiError, NO_PROCEDURE};
use super::state::AdminState;
use super::throttle::{Failures, Search, Searches, TokenRates};
use crate::domain::token::{Token, TokenHash};
use crate::metrics;
use crate::redis::tokens::find_token;

/// What the gate remembers, and what it asks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    state: AdminState,
    failures: Failures,
    rates: TokenRates,
    searches: Searches,
}

/// The gate as a layer of routes.
pub(super) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let below = path.as_deref().and_then(|path| path.strip_prefix(BASE_PATH)).unwrap_or_default();
    let Some(access) = access::find(request.method(), below) else { return no_method(below) };
    if access.scope == Scope::Public {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    // The body is not shared between threads, so the headers are parted from it while Redis may be asked.
    let (parts, body) = request.into_parts();
    let admitted = gate.admit(&parts.headers, peer, access).await;
    let mut request = Request::from_parts(parts, body);
    match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn no_method(path: &str) -> Response {
    let allowed = access::allowed_methods(path);
    if allowed.is_empty() {
        let detail = format_args!("the route {path} has no row in the table of access");
        return ApiError::internal(NO_PROCEDURE, detail).into_response();
    }
    ApiError::method_not_supported(NO_PROCEDURE, &allowed).into_response()
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(state: AdminState) -> Self {
        let admin = &state.settings.admin;
        let failures = Failures::new(admin.auth_failures_max);
        let rates = TokenRates::new(admin.rate_limit);
        Self(Arc::new(Inner { failures, rates, searches: Searches::new(Instant::now()), state }))
    }

    async fn admit(
        &self,
        headers: &HeaderMap,
        peer: Option<Peer>,
        access: &Access,
    ) -> Result<Caller, ApiError> {
        let address = client_address(peer, headers, &self.0.state.settings.admin.trusted_proxies);
        let (hash, token) = match token_hash(headers, access.procedure) {
            Ok(hash) => (hash.clone(), self.token(hash, address, access.procedure).await?),
            Err(refusal) => {
                self.check_pause(address, access.procedure)?;
                return Err(self.failed(address, refusal));
            }
        };
        self.0.rates.take(&token.id, Instant::now()).map_err(|wait| {
            metrics::admin_refused("token rate");
            let most = self.0.state.settings.admin.rate_limit;
            let message = format!("this token's {most} requests a minute are spent");
            ApiError::too_many(access.procedure, message, wait)
        })?;
        Caller::admit(hash, &token, headers, access)
    }

    /// The token with this hash: as followed, or as Redis has it. One that was made a moment ago by another
    /// process may not be followed yet, and its bearer must not be told that it is unknown.
    async fn token(
        &self,
        hash: TokenHash,
        address: IpAddr,
        procedure: &'static str,
    ) -> Result<Arc<Token>, ApiError> {
        let Inner { state, searches, .. } = &*self.0;
        if let Some(token) = state.directory.token(&hash) {
            return Ok(token);
        }
        self.check_pause(address, procedure)?;
        let unknown = || self.failed(address, ApiError::unauthorized(procedure, "unknown or revoked token"));
        match searches.ask(&hash, Instant::now()) {
            Search::KnownUnknown => Err(unknown()),
            // The follower is at most a tenth of a second behind, so this refuses hardly anything that exists;
            // while it hears nothing from Redis, only Redis could say.
            Search::Spent if state.directory.is_fresh() => Err(unknown()),
            Search::Spent | Search::Go => {
                let found = find_token(&state.redis, &hash).await;
                let found = found.map_err(|error| ApiError::from_redis(procedure, &error))?;
                found.map(Arc::new).ok_or_else(|| {
                    searches.remember_unknown(hash, Instant::now());
                    unknown()
                })
            }
        }
    }

    fn check_pause(&self, address: IpAddr, procedure: &'static str) -> Result<(), ApiError> {
        let Some(wait) = self.0.failures.pause(address, Instant::now()) else { return Ok(()) };
        metrics::admin_refused("address");
        let message = "too many requests with a bad token from this address";
        Err(ApiError::too_many(procedure, message, wait))
    }

    fn failed(&self, address: IpAddr, refusal: ApiError) -> ApiError {
        metrics::admin_unauthorized();
        self.0.failures.count(address, Instant::now());
        refusal
    }
}
