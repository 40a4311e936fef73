//! API tokens in `tokens`: made, listed and revoked over the pool; every replica learns of it through `changes`.
//! Looking one up is [`super::directory`]'s.

use std::time::Duration;

use super::audit::{self, AUDIT_AGE_MS};
use super::configs::CHANGES_MAX;
use super::connection::{During as _, Redis, RedisError, Result};
use super::directory::Directory;
use super::follower;
use super::scripts;
use crate::domain::audit::{AuditEntry, By, Who};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{InvalidId, OrganisationId, StreamId};
use crate::domain::token::{Role, Token, TokenHash, TokenText};

/// How long a change waits for this replica's own follower, so that who made it finds it here.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A token to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// Its organisation.
    pub organisation: &'a OrganisationId,
    /// What it may do.
    pub role: Role,
    /// A name for people.
    pub name: &'a str,
    /// Now.
    pub created_at: UnixMillis,
}

/// Makes a token at the command line and stores its hash. The text is not stored and cannot be shown again.
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
    let new = NewToken { organisation, role, name, created_at: now };
    let (text, token, _) = create(redis, &Who::Cli, new).await?;
    Ok((text, token))
}

/// Makes a token for `who`, and waits until `directory` has it.
///
/// # Errors
/// When Redis fails.
pub async fn create_token_through(
    redis: &Redis,
    directory: &Directory,
    who: &Who,
    new: NewToken<'_>,
) -> Result<(TokenText, Token)> {
    let (text, token, change) = create(redis, who, new).await?;
    directory.wait_for(change, CATCH_UP).await;
    Ok((text, token))
}

async fn create(redis: &Redis, who: &Who, new: NewToken<'_>) -> Result<(TokenText, Token, StreamId)> {
    let text = TokenText::generate();
    let hash = text.hash();
    let NewToken { organisation, role, name, created_at } = new;
    let token =
        Token { id: hash.id(), organisation: organisation.clone(), role, name: name.to_owned(), created_at };
    let operation = "storing a token";
    let json =
        serde_json::to_vec(&token).map_err(|error| RedisError::answer(operation, error.to_string()))?;
    let change = put(redis, operation, who, &hash, &json, &token).await?;
    Ok((text, token, change.unwrap_or_default()))
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

/// Revokes a token at the command line, by its public id or its text; `None` when there is none.
///
/// # Errors
/// When Redis fails.
pub async fn revoke_token(redis: &Redis, id_or_text: &str) -> Result<Option<Token>> {
    let hash = TokenText::received(id_or_text).hash();
    let named = |(stored, token): &(TokenHash, Token)| token.id == id_or_text || *stored == hash;
    let Some((hash, token)) = read_all(redis).await?.into_iter().find(named) else { return Ok(None) };
    let written = put(redis, "revoking a token", &Who::Cli, &hash, b"", &token).await?;
    Ok(written.map(|_| token))
}

/// Revokes one of an organisation's tokens for `who`, and waits until `directory` no longer has it; `None` when
/// the organisation has no such token that `may` allows.
///
/// # Errors
/// When Redis fails.
pub async fn revoke_token_through(
    redis: &Redis,
    directory: &Directory,
    who: &Who,
    organisation: &OrganisationId,
    id: &str,
    may: impl Fn(&Token) -> bool,
) -> Result<Option<Token>> {
    let named = |token: &Token| token.id == id && token.organisation == *organisation && may(token);
    let operation = "reading the last change";
    let last = follower::last_change(&mut *redis.pooled(operation).await?, redis.keys()).await?;
    // Caught up, the directory knows what another replica made a moment ago; reading every token is the exception.
    let found = match directory.wait_for(last, CATCH_UP).await {
        true => directory.find_token(named).map(|(hash, token)| (hash, (*token).clone())),
        false => read_all(redis).await?.into_iter().find(|(_, token)| named(token)),
    };
    let Some((hash, token)) = found else { return Ok(None) };
    let written = put(redis, "revoking a token", who, &hash, b"", &token).await?;
    if let Some(change) = written {
        directory.wait_for(change, CATCH_UP).await;
    }
    Ok(written.map(|_| token))
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

/// Runs the script and gives the entry of `changes`; `None` when there was nothing to change.
async fn put(
    redis: &Redis,
    operation: &'static str,
    who: &Who,
    hash: &TokenHash,
    json: &[u8],
    token: &Token,
) -> Result<Option<StreamId>> {
    let keys = redis.keys();
    let shown = serde_json::json!({
        "role": token.role, "name": token.name, "createdAt": token.created_at.to_string(),
    });
    let (action, before, after) = match json {
        [] => ("revokeToken", Some(shown), None),
        _ => ("createToken", None, Some(shown)),
    };
    let by = By { who: who.clone(), action };
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
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["written", change] => {
            let change = change.parse();
            drop(connection);
            audit::trim(redis, &token.organisation).await;
            change.map(Some).map_err(|error: InvalidId| RedisError::answer(operation, error.to_string()))
        }
        ["unchanged"] => Ok(None),
        _ => Err(RedisError::answer(operation, format!("{answer:?}"))),
    }
}
