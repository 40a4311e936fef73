//! What all replicas know of the configs' health, in the control hash `health`: compare and set over the pure state
//! machine of [`crate::domain::breaker`]. The follower brings it to every replica ([`super::directory`]).

use redis::{Cmd, Value};

use super::answer::Answer;
use super::configs::CHANGES_MAX;
use super::connection::{Link, Redis, RedisError, Result};
use super::keys::Keys;
use super::scripts;
use crate::domain::breaker::Health;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::ConfigId;
use crate::domain::log_limit::limited;
use crate::domain::sealing::Keyring;
use crate::metrics;

/// How often a change that lost against another is tried again.
const TRIES: u32 = 10;

/// A change that was made, or found to be none.
#[derive(Clone, Debug)]
pub struct Changed {
    /// As it was.
    pub before: Health,
    /// As it is now.
    pub after: Health,
    /// Redis's time, as the change saw it.
    pub now: UnixMillis,
}

/// What can ask Redis: a worker's link, or the pool of everybody else.
pub(crate) trait Ask {
    /// Sends one script call.
    async fn ask(&self, operation: &'static str, command: &Cmd) -> Result<Value>;
    /// The key names.
    fn names(&self) -> &Keys;
    /// What seals and opens stored secrets.
    fn seals(&self) -> &Keyring;
}

/// What the script says.
enum Said {
    Present(Vec<u8>),
    Written,
    Gone,
}

impl Ask for Link {
    async fn ask(&self, operation: &'static str, command: &Cmd) -> Result<Value> {
        self.query(operation, command).await
    }

    fn names(&self) -> &Keys {
        self.keys()
    }

    fn seals(&self) -> &Keyring {
        self.keyring()
    }
}

impl Ask for Redis {
    async fn ask(&self, operation: &'static str, command: &Cmd) -> Result<Value> {
        let mut connection = self.pooled(operation).await?;
        scripts::run(&mut connection, operation, command).await
    }

    fn names(&self) -> &Keys {
        self.keys()
    }

    fn seals(&self) -> &Keyring {
        self.keyring()
    }
}

// === impl Link, impl Redis ===

impl Link {
    /// See [`Redis::change_health`].
    ///
    /// # Errors
    /// See there.
    pub async fn change_health(
        &self,
        config: ConfigId,
        version: u64,
        decide: impl FnMut(&Health, UnixMillis) -> Health,
    ) -> Result<Option<Changed>> {
        change(self, config, version, decide).await
    }
}

impl Redis {
    /// Changes what is known of a config's health: `decide` is given it as stored, and Redis's time, and is called
    /// again when somebody else wrote meanwhile. `None` when the config is not active at `version` any more.
    ///
    /// # Errors
    /// Redis's; or others changed it each time that it was tried.
    pub async fn change_health(
        &self,
        config: ConfigId,
        version: u64,
        decide: impl FnMut(&Health, UnixMillis) -> Health,
    ) -> Result<Option<Changed>> {
        change(self, config, version, decide).await
    }
}

async fn change(
    redis: &impl Ask,
    config: ConfigId,
    version: u64,
    mut decide: impl FnMut(&Health, UnixMillis) -> Health,
) -> Result<Option<Changed>> {
    let operation = "changing a config's health";
    let (mut said, mut now) = call(redis, operation, config, version, ["r", "", ""]).await?;
    for _ in 0..TRIES {
        let present = match said {
            Said::Present(present) => present,
            Said::Written | Said::Gone => return Ok(None),
        };
        let text = String::from_utf8_lossy(&present);
        let before = parse(config, &present).unwrap_or_default();
        let after = decide(&before, now);
        let changed = Changed { before, after, now };
        if changed.after == changed.before {
            return Ok(Some(changed));
        }
        let json =
            if changed.after.is_unremarkable() { String::new() } else { to_json(operation, &changed.after)? };
        let how = if changed.is_news() { "a" } else { "w" };
        let answer = call(redis, operation, config, version, [how, &text, &json]).await?;
        match answer {
            (Said::Written, _) => return Ok(Some(changed)),
            (Said::Gone, _) => return Ok(None),
            (Said::Present(_), at) => (said, now) = (answer.0, at),
        }
    }
    Err(RedisError::answer(operation, format!("config {config} changed at each of {TRIES} tries")))
}

// === impl Changed ===

impl Changed {
    /// Whether other replicas have to know at once: the breaker moved, or failing began or ended.
    #[must_use]
    pub fn is_news(&self) -> bool {
        let told =
            |health: &Health| (health.state, health.until, health.is_unremarkable(), health.failing_since);
        told(&self.before) != told(&self.after)
    }
}

/// Reads a stored value; `None`, counted and logged, when it cannot be read: it then counts as nothing known.
pub(super) fn parse(config: ConfigId, raw: &[u8]) -> Option<Health> {
    if raw.is_empty() {
        return None;
    }
    serde_json::from_slice(raw)
        .inspect_err(|error| {
            metrics::stored_unreadable("health");
            limited!(error, %config, %error, "a config's stored health cannot be read");
        })
        .ok()
}

fn to_json(operation: &'static str, health: &Health) -> Result<String> {
    serde_json::to_string(health).map_err(|error| RedisError::answer(operation, error.to_string()))
}

async fn call(
    redis: &impl Ask,
    operation: &'static str,
    config: ConfigId,
    version: u64,
    [how, present, next]: [&str; 3],
) -> Result<(Said, UnixMillis)> {
    let keys = redis.names();
    let command = scripts::HEALTH.call(
        [&keys.health(), &keys.configs(), &keys.changes()],
        [
            config.to_string().as_bytes(),
            version.to_string().as_bytes(),
            how.as_bytes(),
            present.as_bytes(),
            next.as_bytes(),
            CHANGES_MAX.to_string().as_bytes(),
        ],
    );
    let mut answer = Answer::new(operation, redis.ask(operation, &command).await?)?;
    let what = answer.text()?;
    let now = UnixMillis(u64::try_from(answer.int()?).unwrap_or(0));
    let said = match what.as_str() {
        "read" | "conflict" => Said::Present(answer.text()?.into_bytes()),
        "written" => Said::Written,
        "gone" => Said::Gone,
        other => return Err(RedisError::answer(operation, other)),
    };
    Ok((said, now))
}
