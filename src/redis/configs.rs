//! Changes of configs: read what is stored, let the caller edit it, compare and set, begin again when somebody
//! else was faster. Readers use [`super::directory`].

use std::collections::HashMap;
use std::time::Duration;

use redis::FromRedisValue;
use redis::streams::StreamRangeReply;

use super::audit::{self, AUDIT_AGE_MS};
use super::connection::{During, Link, Redis, RedisError, Result};
use super::directory::Directory;
use super::follower;
use super::health::Ask;
use super::scripts;
use super::stored_config;
use crate::domain::audit::{AuditEntry, By, Who, shown_config};
use crate::domain::clock::UnixMillis;
use crate::domain::config::{Config, Disabled, DisabledReason, StoredConfig};
use crate::domain::ids::{ConfigId, ConfigSequence, OrganisationId, StreamId};
use crate::domain::sealing::Keyring;

/// Entries that `changes` keeps; a replica that was away for more reads everything again.
pub const CHANGES_MAX: u64 = 10_000;
/// How often a change that lost against another is tried again.
const TRIES: u32 = 10;
/// Pause before a further try, times a random number below the count of tries.
const TRY_PAUSE: Duration = Duration::from_millis(4);
/// How long a change waits for the directory to reach what Redis holds; after it the hash is read whole.
const CATCH_UP: Duration = Duration::from_secs(1);
/// What the audit calls it when Postrider itself disables a config.
const DISABLE: &str = "disableWebhookConfig";

/// What a caller makes of an organisation's configs.
#[derive(Debug)]
pub struct Edit<R> {
    /// Configs and tombstones to store; an id that is not stored yet comes from [`NewIds`].
    pub writes: Vec<StoredConfig>,
    /// What changes, in a sentence for the audit; without secrets.
    pub what: String,
    /// What the caller wants back once it is written.
    pub answer: R,
}

/// Ids for configs that an edit makes.
#[derive(Debug)]
pub struct NewIds {
    next: u32,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The caller's edit refused it.
    #[error("refused")]
    Refused(E),
    /// Others changed the same configs each time it was tried.
    #[error("others kept changing the same configs")]
    Contended,
    /// Every config number is used up.
    #[error("no config number is left")]
    Exhausted,
    /// Redis failed.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// What became of the wish to disable a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disabling {
    /// It is disabled now.
    Disabled,
    /// It was disabled before.
    AlreadyDisabled,
    /// It was changed, or deleted, since the attempts read it: what they met was another version's.
    VersionChanged,
}

/// One organisation's configs as stored, with what a compare-and-set compares.
struct Stored {
    configs: Vec<Config>,
    raw: HashMap<ConfigId, Vec<u8>>,
    sequence: String,
}

enum Put {
    Written(StreamId),
    Conflict,
}

// === impl NewIds ===

impl NewIds {
    /// An id that no config has or had; `None` when every number is used up.
    pub fn allocate(&mut self) -> Option<ConfigId> {
        self.next = self.next.checked_add(1)?;
        Some(ConfigId::new(rand::random(), ConfigSequence(self.next)))
    }
}

// === reading and changing ===

/// Changes an organisation's configs: `edit` is given them as stored, in the order of their making, and is
/// called again when somebody else wrote meanwhile. `by` goes to the audit. Returns the edit's answer after this
/// replica's directory has applied the change, or after a second.
///
/// # Errors
/// See [`ChangeError`].
pub async fn change_configs<R, E>(
    redis: &Redis,
    directory: &Directory,
    organisation: &OrganisationId,
    by: &By,
    mut edit: impl FnMut(&[Config], &mut NewIds) -> std::result::Result<Edit<R>, E>,
) -> std::result::Result<R, ChangeError<E>> {
    for tried in 0..TRIES {
        if tried > 0 {
            tokio::time::sleep(TRY_PAUSE.mul_f64(rand::random::<f64>() * f64::from(tried))).await;
        }
        let stored = read_organisation(redis, directory, organisation).await?;
        let before = parse_sequence(&stored.sequence)?;
        let mut ids = NewIds { next: before };
        let edit = edit(&stored.configs, &mut ids).map_err(ChangeError::Refused)?;
        if edit.writes.is_empty() {
            return Ok(edit.answer);
        }
        if ids.next == u32::MAX {
            return Err(ChangeError::Exhausted);
        }
        let audit = Audit { by, organisation, what: &edit.what };
        if let Put::Written(change) = put(redis, &stored, ids.next, &edit.writes, audit).await? {
            directory.wait_for(change, CATCH_UP).await;
            audit::trim(redis, organisation).await;
            return Ok(edit.answer);
        }
    }
    Err(ChangeError::Contended)
}

/// What the audit is told of a change; each config gets an entry of its own.
#[derive(Clone, Copy)]
struct Audit<'a> {
    by: &'a By,
    organisation: &'a OrganisationId,
    what: &'a str,
}

// === impl Audit ===

impl Audit<'_> {
    fn entry(&self, id: ConfigId, before: Option<&Config>, after: Option<&Config>) -> Result<Vec<u8>> {
        let [before, after] = [before, after].map(|config| config.map(shown_config));
        audit::to_json(&AuditEntry::new(self.by, id, self.what, before, after))
    }
}

/// Reads an organisation's configs from Redis itself.
///
/// Which ids it has is known from the directory, once that has applied every change up to now; the config
/// sequence, read before, shows at the compare-and-set whether one was made since.
async fn read_organisation(
    redis: &Redis,
    directory: &Directory,
    organisation: &OrganisationId,
) -> Result<Stored> {
    let operation = "reading configs to change them";
    let mut connection = redis.pooled(operation).await?;
    let keys = redis.keys();
    let mut head = redis::pipe();
    head.cmd("HGET").arg(keys.meta()).arg("configSequence");
    head.cmd("XREVRANGE").arg(keys.changes()).arg("+").arg("-").arg("COUNT").arg(1);
    let (sequence, last): (Option<String>, StreamRangeReply) =
        head.query_async(&mut *connection).await.during(operation)?;
    let last = last.ids.first().and_then(|entry| entry.id.parse::<StreamId>().ok()).unwrap_or_default();
    let mut raw = HashMap::new();
    if directory.is_complete() && directory.wait_for(last, CATCH_UP).await {
        let ids: Vec<String> =
            directory.configs().of(organisation).iter().map(|config| config.id().to_string()).collect();
        if !ids.is_empty() {
            let mut command = redis::cmd("HMGET");
            command.arg(keys.configs()).arg(&ids);
            let values: Vec<Option<Vec<u8>>> =
                command.query_async(&mut *connection).await.during(operation)?;
            raw.extend(ids.into_iter().zip(values).filter_map(|(id, value)| Some((id, value?))));
        }
    } else {
        follower::scan(&mut connection, operation, &keys.configs(), |field, value| {
            raw.insert(field.to_owned(), value.to_vec());
        })
        .await?;
    }
    Ok(Stored::new(redis.keyring(), organisation, raw, sequence.unwrap_or_else(|| "0".into())))
}

impl Stored {
    /// Keeps what parses, lives and is the organisation's.
    fn new(
        keyring: &Keyring,
        organisation: &OrganisationId,
        raw: HashMap<String, Vec<u8>>,
        sequence: String,
    ) -> Self {
        let mut configs = Vec::new();
        let mut kept = HashMap::new();
        for value in raw.into_values() {
            if let Some(StoredConfig::Config(config)) = stored_config::decode(keyring, &value)
                && config.organisation == *organisation
            {
                kept.insert(config.id, value);
                configs.push(config);
            }
        }
        configs.sort_by_key(|config| (config.created_at, config.id.sequence()));
        Self { configs, raw: kept, sequence }
    }
}

fn parse_sequence(text: &str) -> Result<u32> {
    let wrong = |_| RedisError::answer("reading the config sequence", format!("'{text}' is no number"));
    text.parse().map_err(wrong)
}

async fn put(
    redis: &Redis,
    stored: &Stored,
    sequence: u32,
    writes: &[StoredConfig],
    audit: Audit<'_>,
) -> Result<Put> {
    let operation = "writing configs";
    let known: HashMap<ConfigId, &Config> = stored.configs.iter().map(|config| (config.id, config)).collect();
    let mut more = Vec::with_capacity(writes.len() * 4);
    for write in writes {
        let id = write.id();
        let after = match write {
            StoredConfig::Config(config) => Some(config),
            StoredConfig::Tombstone(_) => None,
        };
        more.push(id.to_string().into_bytes());
        more.push(stored.raw.get(&id).cloned().unwrap_or_default());
        more.push(stored_config::encode(operation, redis.keyring(), write)?);
        more.push(audit.entry(id, known.get(&id).copied(), after)?);
    }
    let sequences = [stored.sequence.as_str(), &sequence.to_string()];
    let command = put_command(redis.keys(), sequences, audit.organisation, &more);
    let mut connection = redis.pooled(operation).await?;
    let answer = scripts::run(&mut connection, operation, &command).await?;
    parse_put(operation, answer)
}

fn put_command(
    keys: &super::keys::Keys,
    sequence: [&str; 2],
    organisation: &OrganisationId,
    more: &[Vec<u8>],
) -> redis::Cmd {
    scripts::PUT_CONFIGS.call_batch(
        [
            &keys.configs(),
            &keys.meta(),
            &keys.changes(),
            &keys.health(),
            &keys.audit(organisation),
            &keys.audit_bytes(organisation),
        ],
        &[],
        [
            sequence[0].as_bytes(),
            sequence[1].as_bytes(),
            CHANGES_MAX.to_string().as_bytes(),
            AUDIT_AGE_MS.to_string().as_bytes(),
        ],
        more,
    )
}

fn parse_put(operation: &'static str, answer: Vec<String>) -> Result<Put> {
    match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["written", id] => id
            .parse()
            .map(Put::Written)
            .map_err(|error| RedisError::answer(operation, format!("'{id}': {error}"))),
        ["conflict"] => Ok(Put::Conflict),
        other => Err(RedisError::answer(operation, format!("{other:?}"))),
    }
}

// === disabling ===

impl Link {
    /// Disables the config `id` because its receiver answered 410, only while it is still the `version` that
    /// the attempt used (docs/WIRE.md section 4). Writes `changes` and `audit`; needs no configs in memory.
    ///
    /// # Errors
    /// When Redis fails, or others change the config each time that it is tried.
    pub async fn disable_gone(&self, id: ConfigId, version: u64, at: UnixMillis) -> Result<Disabling> {
        let disabled = Disabled { reason: DisabledReason::Gone, at, since: None, attempts: None };
        disable(self, id, version, disabled, "its receiver answered 410").await
    }
}

impl Redis {
    /// Disables the config `id` because nothing but failures came from it since `since`, over `attempts`; only
    /// while it is still this `version`.
    ///
    /// # Errors
    /// As [`Link::disable_gone`].
    pub async fn disable_failing(
        &self,
        id: ConfigId,
        version: u64,
        at: UnixMillis,
        since: UnixMillis,
        attempts: u64,
    ) -> Result<Disabling> {
        let disabled =
            Disabled { reason: DisabledReason::Failing, at, since: Some(since), attempts: Some(attempts) };
        let why = format!("nothing but failures since {since}, {attempts} attempts");
        disable(self, id, version, disabled, &why).await
    }
}

async fn disable(
    redis: &impl Ask,
    id: ConfigId,
    version: u64,
    disabled: Disabled,
    why: &str,
) -> Result<Disabling> {
    let operation = "disabling a config";
    let field = id.to_string();
    for _ in 0..TRIES {
        let mut read = redis::cmd("HGET");
        read.arg(redis.names().configs()).arg(&field);
        let raw = Option::<Vec<u8>>::from_redis_value(redis.ask(operation, &read).await?)
            .map_err(|error| RedisError::answer(operation, error.to_string()))?;
        let Some(raw) = raw else { return Ok(Disabling::VersionChanged) };
        let Some(StoredConfig::Config(mut config)) = stored_config::decode(redis.seals(), &raw) else {
            return Ok(Disabling::VersionChanged);
        };
        if config.disabled.is_some() {
            return Ok(Disabling::AlreadyDisabled);
        }
        if config.id != id || config.version != version {
            return Ok(Disabling::VersionChanged);
        }
        let before = config.clone();
        config.changed(disabled.at);
        config.active = false;
        config.disabled = Some(disabled.clone());
        let organisation = config.organisation.clone();
        let by = By { who: Who::System, action: DISABLE };
        let audit = Audit { by: &by, organisation: &organisation, what: &format!("disabled: {why}") };
        let entry = audit.entry(id, Some(&before), Some(&config))?;
        let json = stored_config::encode(operation, redis.seals(), &StoredConfig::Config(config))?;
        let more = [field.clone().into_bytes(), raw, json, entry];
        let command = put_command(redis.names(), ["", ""], &organisation, &more);
        let answer = Vec::<String>::from_redis_value(redis.ask(operation, &command).await?)
            .map_err(|error| RedisError::answer(operation, error.to_string()))?;
        if let Put::Written(_) = parse_put(operation, answer)? {
            return Ok(Disabling::Disabled);
        }
    }
    Err(RedisError::answer(operation, format!("config {id} changed at each of {TRIES} tries")))
}
