//! API tokens in `tokens`: made, listed and revoked over the pool; every replica learns of it through `changes`.
//! Looking one up is [`super::directory`]'s.

use super::audit::{self, AUDIT_AGE_MS};
use super::configs::CHANGES_MAX;
use super::connection::{During as _, Redis, RedisError, Result};
use super::follower;
use super::scripts;
use crate::domain::audit::{AuditEntry, By, Who};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::OrganisationId;
use crate::domain::token::{Role, Token, TokenHash, TokenText};

/// Makes a token and stores its hash. The text is not stored and cannot be shown again.
///
/// # Errors
/// When Redis fails.
pub async fn create_token(
    redis: &Redis,
    organisation: &OrganisationId,
    role: Role,
    name: &str,
    now: UnixMillis,
) -> Result<(TokenText, Token)> {
    let text = TokenText::generate();
    let hash = text.hash();
    let token = Token {
        id: hash.id(),
        organisation: organisation.clone(),
        role,
        name: name.to_owned(),
        created_at: now,
    };
    let operation = "storing a token";
    let json =
        serde_json::to_vec(&token).map_err(|error| RedisError::answer(operation, error.to_string()))?;
    put(redis, operation, &hash, &json, &token).await?;
    Ok((text, token))
}

/// The token with this hash, read from Redis itself; `None` when it does not exist, was revoked or cannot be read.
///
/// # Errors
/// Redis's.
pub async fn find_token(redis: &Redis, hash: &TokenHash) -> Result<Option<Token>> {
    let operation = "looking for a token";
    let mut connection = redis.pooled(operation).await?;
    let mut command = redis::cmd("HGET");
    command.arg(redis.keys().tokens()).arg(hash.as_str());
    let stored: Option<Vec<u8>> = command.query_async(&mut connection).await.during(operation)?;
    Ok(stored.and_then(|json| serde_json::from_slice(&json).ok()))
}

/// Lists tokens, the oldest first; of one organisation or, for the operator's command line, of all.
///
/// # Errors
/// When Redis fails.
pub async fn list_tokens(redis: &Redis, organisation: Option<&OrganisationId>) -> Result<Vec<Token>> {
    let mut tokens: Vec<Token> = read_all(redis).await?.into_iter().map(|(_, token)| token).collect();
    tokens.retain(|token| organisation.is_none_or(|wanted| token.organisation == *wanted));
    tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(tokens)
}

/// Revokes a token by its public id or its text; `None` when there is none.
///
/// # Errors
/// When Redis fails.
pub async fn revoke_token(redis: &Redis, id_or_text: &str) -> Result<Option<Token>> {
    let hash = TokenText::received(id_or_text).hash();
    let named = |(stored, token): &(TokenHash, Token)| token.id == id_or_text || *stored == hash;
    let Some((hash, token)) = read_all(redis).await?.into_iter().find(named) else { return Ok(None) };
    let written = put(redis, "revoking a token", &hash, b"", &token).await?;
    Ok(written.then_some(token))
}

async fn read_all(redis: &Redis) -> Result<Vec<(TokenHash, Token)>> {
    let operation = "reading tokens";
    let mut connection = redis.pooled(operation).await?;
    let mut tokens = std::collections::HashMap::new();
    follower::scan(&mut connection, operation, &redis.keys().tokens(), |field, raw| {
        if let Ok(token) = serde_json::from_slice::<Token>(raw) {
            tokens.insert(TokenHash::stored(field), token);
        }
    })
    .await?;
    Ok(tokens.into_iter().collect())
}

/// Runs the script; false when there was nothing to change.
async fn put(
    redis: &Redis,
    operation: &'static str,
    hash: &TokenHash,
    json: &[u8],
    token: &Token,
) -> Result<bool> {
    let keys = redis.keys();
    let shown = serde_json::json!({
        "role": token.role, "name": token.name, "createdAt": token.created_at.to_string(),
    });
    let (action, before, after) = match json {
        [] => ("revokeToken", Some(shown), None),
        _ => ("createToken", None, Some(shown)),
    };
    let by = By { who: Who::Cli, action };
    let entry = audit::to_json(&AuditEntry::new(&by, &token.id, "", before, after))?;
    let command = scripts::PUT_TOKEN.call(
        [
            &keys.tokens(),
            &keys.changes(),
            &keys.audit(&token.organisation),
            &keys.audit_bytes(&token.organisation),
        ],
        [
            hash.as_str().as_bytes(),
            json,
            CHANGES_MAX.to_string().as_bytes(),
            AUDIT_AGE_MS.to_string().as_bytes(),
            &entry,
        ],
    );
    let mut connection = redis.pooled(operation).await?;
    let answer: Vec<String> = scripts::run(&mut connection, operation, &command).await?;
    match answer.first().map(String::as_str) {
        Some("written") => {
            drop(connection);
            audit::trim(redis, &token.organisation).await;
            Ok(true)
        }
        Some("unchanged") => Ok(false),
        _ => Err(RedisError::answer(operation, format!("{answer:?}"))),
    }
}
