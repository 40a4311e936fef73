//! The values of `configs`: JSON, its secrets sealed where the process has a key (docs/REDIS.md, "Sealed values").
//!
//! Owns: the only way from a config to its stored bytes and back, and the sealing of all that is stored.

use std::borrow::Cow;
use std::collections::BTreeSet;

use redis::{Value as Answer, cmd};

use super::connection::{Cause, Redis, RedisError, Result};
use super::follower;
use super::scripts::{self, RESEAL};
use crate::domain::config::StoredConfig;
use crate::domain::sealing::{KeyId, Keyring, SEALED_PREFIX, seal_state};

/// How all stored secrets lie there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seals {
    /// Configs with secrets.
    pub configs: u64,
    /// Those with a secret or header value in plain text.
    pub plain: u64,
    /// The keys that sealed the others.
    pub keys: BTreeSet<KeyId>,
}

/// What became of one config that was to be sealed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// It lies sealed under the first key now.
    Sealed,
    /// It was, or it is a tombstone, or it is gone.
    AsItWas,
    /// No key opens it, or it is no config.
    Unreadable,
}

/// How often a config that others change meanwhile is tried again.
const TRIES: usize = 10;

/// The bytes to store.
///
/// # Errors
/// When the config cannot be written as JSON.
pub(super) fn encode(operation: &'static str, keyring: &Keyring, config: &StoredConfig) -> Result<Vec<u8>> {
    let wrong = |error: serde_json::Error| RedisError::answer(operation, error.to_string());
    if keyring.is_empty() {
        return serde_json::to_vec(config).map_err(wrong);
    }
    let mut value = serde_json::to_value(config).map_err(wrong)?;
    keyring.seal_config(&mut value);
    serde_json::to_vec(&value).map_err(wrong)
}

/// The stored bytes with their secrets open. What does not open stays as it is, and then does not parse as a
/// config: a secret never begins as a sealed value does.
pub(super) fn open<'a>(keyring: &Keyring, raw: &'a [u8]) -> Cow<'a, [u8]> {
    if !is_sealed(raw) {
        return Cow::Borrowed(raw);
    }
    let opened = serde_json::from_slice(raw).ok().and_then(|mut value: serde_json::Value| {
        keyring.open_config(&mut value).ok()?;
        serde_json::to_vec(&value).ok()
    });
    opened.map_or(Cow::Borrowed(raw), Cow::Owned)
}

/// The config; `None` when the bytes are none, or no key opens them.
pub(super) fn decode(keyring: &Keyring, raw: &[u8]) -> Option<StoredConfig> {
    serde_json::from_slice(&open(keyring, raw)).ok()
}

/// Most configs of most installations are not sealed; looking for the mark is far cheaper than parsing.
fn is_sealed(raw: &[u8]) -> bool {
    let mark = SEALED_PREFIX.as_bytes();
    raw.windows(mark.len()).any(|window| window == mark)
}

/// Refuses a keyspace of which a config was sealed with a key that this process does not have: its deliveries
/// could not be signed. Answers how the secrets lie.
///
/// # Errors
/// Redis's, or names the missing keys by their ids.
pub async fn check_keys(redis: &Redis) -> Result<Seals> {
    let operation = "checking the keys of sealed secrets";
    let seals = read_seals(redis).await?;
    let missing: Vec<String> =
        seals.keys.iter().filter(|id| !redis.keyring().has(id)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(seals);
    }
    let what = format!(
        "secret-key: configs are sealed with key {}, which this process was not given; add it to \
         POSTRIDER_SECRET_KEY or to the file of secret-key-file",
        missing.join(", ")
    );
    Err(RedisError { operation, cause: Cause::Setting(what) })
}

/// How the secrets of all configs lie.
///
/// # Errors
/// Redis's.
pub async fn read_seals(redis: &Redis) -> Result<Seals> {
    let operation = "reading how secrets are sealed";
    let mut connection = redis.pooled(operation).await?;
    let mut seals = Seals::default();
    follower::scan(&mut connection, operation, &redis.keys().configs(), |_, raw| {
        if let Ok(mut value) = serde_json::from_slice(raw) {
            let state = seal_state(&mut value);
            seals.configs += u64::from(state.plain > 0 || !state.keys.is_empty());
            seals.plain += u64::from(state.plain > 0);
            seals.keys.extend(state.keys);
        }
    })
    .await?;
    Ok(seals)
}

/// The ids of everything in `configs`.
///
/// # Errors
/// Redis's.
pub async fn config_ids(redis: &Redis) -> Result<Vec<String>> {
    let operation = "listing configs";
    let mut connection = redis.pooled(operation).await?;
    let mut command = cmd("HKEYS");
    command.arg(redis.keys().configs());
    scripts::run(&mut connection, operation, &command).await
}

/// Seals the secrets of one config under the first key. The config itself, its version and `changes` stay as
/// they are: replicas read the same config from it.
///
/// # Errors
/// Redis's, or when others change the config each time that it is tried.
pub async fn reseal(redis: &Redis, id: &str) -> Result<Resealed> {
    let operation = "sealing a config again";
    let configs = redis.keys().configs();
    let mut connection = redis.pooled(operation).await?;
    for _ in 0..TRIES {
        let mut read = cmd("HGET");
        read.arg(&configs).arg(id);
        let raw: Option<Vec<u8>> = scripts::run(&mut connection, operation, &read).await?;
        let Some(raw) = raw else { return Ok(Resealed::AsItWas) };
        let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&raw) else {
            return Ok(Resealed::Unreadable);
        };
        let state = seal_state(&mut value);
        let first = redis.keyring().first();
        if state.plain == 0 && state.keys.iter().all(|id| Some(id) == first) {
            return Ok(Resealed::AsItWas);
        }
        let Some(config) = decode(redis.keyring(), &raw) else { return Ok(Resealed::Unreadable) };
        let sealed = encode(operation, redis.keyring(), &config)?;
        let call = RESEAL.call([&configs], [id.as_bytes(), &raw, &sealed]);
        let answer: Answer = scripts::run(&mut connection, operation, &call).await?;
        if answer == Answer::Int(1) {
            return Ok(Resealed::Sealed);
        }
    }
    Err(RedisError::answer(operation, format!("config {id} changed at each of {TRIES} tries")))
}
