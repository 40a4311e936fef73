//! Migrations: how a keyspace of an older version becomes one of this program's (docs/OPERATIONS.md, "Upgrades").
//!
//! Owns: the list of steps and the way they are planned, applied and verified. A step works in bounded batches, each
//! of which may be done twice; how far it came is kept in `meta`, so that a run that was killed is gone on with.

use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::cmd;

use super::answer::Answer;
use super::connection::{Cause, Link, Redis, RedisError, Result};
use super::keys::{Keys, ShardKeys};
use super::keyspace::{KEYSPACE_VERSION, all_shards};
use super::scripts::MIGRATE;

/// What one batch did, or would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Values looked at.
    pub seen: u64,
    /// Values changed; in a dry run, those that are still in the old form.
    pub changed: u64,
    /// Where the next batch begins; `None` after the last one.
    pub next: Option<String>,
}

/// One change of the keyspace's form.
pub trait Step: Send + Sync {
    /// Names it for ever: lower case and hyphens.
    fn id(&self) -> &'static str;
    /// What it does, for people.
    fn what(&self) -> &'static str;
    /// The keyspace's version when it is done: one more than before.
    fn to(&self) -> u32;
    /// Whether replicas of the version before cannot work beside it.
    fn needs_stop(&self) -> bool;
    /// Does one batch from `cursor` on (empty at the start), or only counts it. Bounded, and without effect where it
    /// was done before.
    fn batch<'a>(&'a self, scope: Scope<'a>, cursor: &'a str, is_dry: bool) -> BoxFuture<'a, Result<Batch>>;
}

/// Where a step works.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The connections.
    pub redis: &'a Redis,
    /// Every shard.
    pub shards: &'a [ShardKeys],
}

/// Every step from version 1 on, in their order. There is none yet: version 1 is the first.
pub static STEPS: &[&dyn Step] = &[];

/// What is known of the keyspace before anything is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its version; `None` where there is no keyspace.
    pub version: Option<u32>,
    /// The step that was begun and not finished, and what it changed so far.
    pub under_way: Option<(String, u64)>,
    /// Consumers that hold a lease.
    pub live: u64,
    shards: u16,
}

/// A step that is to be done, or that was done and is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The step's id.
    pub id: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The version after it.
    pub to: u32,
    /// Whether replicas must be stopped.
    pub needs_stop: bool,
    /// Values that it looks at.
    pub seen: u64,
    /// Those that are in the old form.
    pub old: u64,
}

/// How a migration is applied.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names this run: random.
    pub owner: String,
    /// How long a run may be silent before another may go on with its work.
    pub lease: Duration,
}

/// The version that `steps` lead to.
#[must_use]
pub fn target(steps: &[&dyn Step]) -> u32 {
    steps.iter().map(|step| step.to()).max().unwrap_or(KEYSPACE_VERSION)
}

/// Reads what is there.
///
/// # Errors
/// Redis's, or when the keyspace is newer than `steps` lead to.
pub async fn state(redis: &Redis, steps: &[&dyn Step]) -> Result<State> {
    let operation = "reading the keyspace's version";
    let link = redis.link();
    let mut command = cmd("HMGET");
    command.arg(redis.keys().meta()).arg(&["keyspaceVersion", "shards", "migration", "migrationChanged"]);
    let (version, shards, step, changed): (Option<u32>, Option<u16>, Option<String>, Option<u64>) =
        link.query(operation, &command).await?;
    let newest = target(steps);
    if let Some(version) = version.filter(|version| *version > newest) {
        return Err(refused(format!(
            "the keyspace has version {version}, and this program knows {newest}: use the newer program"
        )));
    }
    let mut state = State {
        version,
        under_way: step.map(|step| (step, changed.unwrap_or(0))),
        live: 0,
        shards: shards.unwrap_or(0),
    };
    state.live = live(&link, &state.shards(redis.keys())).await?;
    Ok(state)
}

/// Counts what the steps above the keyspace's version would do (`is_done` false), or what those up to it have left
/// (`is_done` true). Changes nothing.
///
/// # Errors
/// Redis's.
pub async fn count(redis: &Redis, steps: &[&dyn Step], state: &State, is_done: bool) -> Result<Vec<Counted>> {
    let shards = state.shards(redis.keys());
    let scope = Scope { redis, shards: &shards };
    let version = state.version.unwrap_or(0);
    let mut counted = Vec::new();
    for step in steps.iter().filter(|step| (step.to() <= version) == is_done) {
        let (mut seen, mut old, mut cursor) = (0, 0, String::new());
        loop {
            let batch = step.batch(scope, &cursor, true).await?;
            seen += batch.seen;
            old += batch.changed;
            match batch.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        let (id, what, to, needs_stop) = (step.id(), step.what(), step.to(), step.needs_stop());
        counted.push(Counted { id, what, to, needs_stop, seen, old });
    }
    Ok(counted)
}

/// Does every step above the keyspace's version, and goes on with one that was begun; tells `progress` of each batch.
/// Answers the version then.
///
/// # Errors
/// Redis's, or when the keyspace is newer, another run is at work, or replicas run that may not.
pub async fn apply(
    redis: &Redis,
    steps: &[&dyn Step],
    run: &Run,
    progress: &mut (dyn FnMut(&dyn Step, &Batch) + Send),
) -> Result<u32> {
    let state = state(redis, steps).await?;
    let Some(mut version) = state.version else {
        return Err(refused("the namespace has no keyspace: the first 'postrider serve' makes it".into()));
    };
    let shards = state.shards(redis.keys());
    let scope = Scope { redis, shards: &shards };
    for step in steps.iter().filter(|step| step.to() > version).copied().collect::<Vec<_>>() {
        let ledger = Ledger { link: redis.link(), run, version, step };
        let outcome = do_step(scope, &ledger, progress).await;
        if outcome.is_err() {
            // What was done stays done; the next run goes on where this one ended.
            let _ = ledger.tell("release", "", 0).await;
        }
        outcome?;
        version = step.to();
    }
    Ok(version)
}

async fn do_step(
    scope: Scope<'_>,
    ledger: &Ledger<'_>,
    progress: &mut (dyn FnMut(&dyn Step, &Batch) + Send),
) -> Result<()> {
    let step = ledger.step;
    // Replicas that start from now on see it in `meta`; those that run are counted after that.
    let mut cursor = ledger.tell("begin", if step.needs_stop() { "1" } else { "0" }, 0).await?;
    loop {
        if step.needs_stop() {
            let live = live(&ledger.link, scope.shards).await?;
            if live > 0 {
                return Err(refused(format!(
                    "{live} consumers hold a lease, and step {} cannot work beside their version: stop every replica \
                     (after a crash, wait for its lease to end)",
                    step.id()
                )));
            }
        }
        let batch = step.batch(scope, &cursor, false).await?;
        progress(step, &batch);
        let Some(next) = batch.next else { break };
        cursor = ledger.tell("advance", &next, batch.changed).await?;
    }
    ledger.tell("finish", &step.to().to_string(), 0).await.map(drop)
}

/// Consumers whose lease has not ended.
async fn live(link: &Link, shards: &[ShardKeys]) -> Result<u64> {
    let operation = "counting replicas";
    let (seconds, micros): (u64, u64) = link.query(operation, &cmd("TIME")).await?;
    let now = seconds * 1_000 + micros / 1_000;
    let mut live = 0;
    for shard in shards {
        let mut command = cmd("ZCOUNT");
        command.arg(shard.replicas()).arg(now).arg("+inf");
        live += link.query::<u64>(operation, &command).await?;
    }
    Ok(live)
}

fn refused(what: String) -> RedisError {
    RedisError { operation: "migrating the keyspace", cause: Cause::Setting(what) }
}

/// A run's hold on one step.
struct Ledger<'a> {
    link: Link,
    run: &'a Run,
    version: u32,
    step: &'a dyn Step,
}

// === impl Ledger ===

impl Ledger<'_> {
    /// Writes to `meta`; answers the cursor.
    async fn tell(&self, verb: &str, value: &str, changed: u64) -> Result<String> {
        let operation = "migrating the keyspace";
        let (lease, version) = (self.run.lease.as_millis().to_string(), self.version.to_string());
        let changed = changed.to_string();
        let args =
            [verb, &self.run.owner, &lease, &version, self.step.id(), value, &changed].map(str::as_bytes);
        let call = MIGRATE.call([&self.link.keys().meta()], args);
        let mut answer = Answer::new(operation, self.link.query(operation, &call).await?)?;
        let (code, text) = (answer.int()?, answer.text()?);
        match code {
            1 => Ok(text),
            0 => Err(refused(format!("the keyspace has version {text:?} now, and had {}", self.version))),
            -1 => Err(refused(format!("another run is at work ({text}); wait until it ends"))),
            _ => Err(refused(format!("step {text} is under way: go on with the program that began it"))),
        }
    }
}

// === impl State ===

impl State {
    fn shards(&self, keys: &Keys) -> Vec<ShardKeys> {
        all_shards(keys, self.shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_lead_to_this_programs_version_one_by_one() {
        assert_eq!(target(STEPS), KEYSPACE_VERSION);
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(usize::try_from(step.to()).ok(), Some(place + 2), "{}", step.id());
        }
    }
}
