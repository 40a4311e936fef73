//! Jobs: the hash of each config's jobs, the index of those that run with their leases, and how far each is on each
//! shard (docs/REDIS.md, "Jobs").

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{cmd, pipe};
use tokio::sync::Notify;

use super::connection::{During, Redis, RedisError, Result};
use super::health::Ask;
use super::keys::ShardKeys;
use super::scripts::{LEASE_JOB, PUT_JOB, WAIT_JOB};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, StreamId};
use crate::domain::job::{Job, JobId, JobState, Progress};
use crate::domain::log_limit::limited;
use crate::domain::owned_config::OwnedConfig;

/// Jobs of one config that are kept after their end.
pub const ENDED_JOBS_MAX: usize = 20;

/// Jobs that run at a time, over all configs.
pub const RUNNING_JOBS_MAX: usize = 1_000;

/// How long jobs are kept after anything was last written of them.
pub const JOBS_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The field of a config's jobs that names the one that runs.
const RUNNING_FIELD: &str = "running";

/// A job and its JSON as it was read: what a compare-and-set compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// The job.
    pub job: Job,
    raw: Vec<u8>,
}

/// What became of the wish to begin a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It runs.
    Begun,
    /// This job of the same config runs.
    Busy(String),
    /// [`RUNNING_JOBS_MAX`] jobs run.
    TooMany,
}

/// The lease of a job: its end, ms by Redis's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLease(i64);

/// Looks for jobs, on a connection of its own: one of the pool is tested each time that it is taken, which is more
/// than an idle replica should ask.
pub struct JobLook {
    redis: Redis,
    connection: Option<MultiplexedConnection>,
}

/// Told when this process begins a job. Other processes find it in their next look.
static BEGUN: Notify = Notify::const_new();

/// A job that runs, as the index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunningJob {
    /// The config.
    pub config: ConfigId,
    /// The job.
    pub id: JobId,
}

// === impl RunningJob ===

impl RunningJob {
    fn member(self) -> String {
        format!("{}/{}", self.config, self.id)
    }

    fn parse(member: &str) -> Option<Self> {
        let (config, id) = member.split_once('/')?;
        Some(Self { config: config.parse().ok()?, id: id.parse().ok()? })
    }
}

impl From<&Job> for RunningJob {
    fn from(job: &Job) -> Self {
        Self { config: job.config, id: job.id }
    }
}

// === for those who ask for jobs ===

/// Begins a job; the oldest ended ones of its config are forgotten past [`ENDED_JOBS_MAX`].
///
/// # Errors
/// Redis's.
pub async fn begin(redis: &Redis, config: &OwnedConfig, job: &Job) -> Result<Begun> {
    let known = list(redis, config).await?;
    let ended = known.iter().filter(|stored| stored.job.state != JobState::Running);
    // The newest come first; the one that begins will be among them.
    let old: Vec<Vec<u8>> = ended
        .skip(ENDED_JOBS_MAX - 1)
        .take(64)
        .map(|stored| stored.job.id.to_string().into_bytes())
        .collect();
    let (status, other) = put(redis, job, &[], true, &old).await?;
    Ok(match (status, other.is_empty()) {
        (1, _) => {
            BEGUN.notify_one();
            Begun::Begun
        }
        (0, false) => Begun::Busy(other),
        (-1, _) => Begun::TooMany,
        _ => return Err(RedisError::answer("beginning a job", "a job with this id is there")),
    })
}

/// Every job of a config that is still known, the newest first.
///
/// # Errors
/// Redis's.
pub async fn list(redis: &Redis, config: &OwnedConfig) -> Result<Vec<StoredJob>> {
    let operation = "listing jobs";
    let mut connection = redis.pooled(operation).await?;
    let all: HashMap<String, Vec<u8>> = cmd("HGETALL")
        .arg(redis.keys().jobs(config.id()))
        .query_async(&mut *connection)
        .await
        .during(operation)?;
    let mut jobs: Vec<StoredJob> = all
        .into_iter()
        .filter(|(field, _)| field != RUNNING_FIELD)
        .filter_map(|(_, raw)| stored(raw))
        .filter(|stored| stored.job.organisation == *config.organisation())
        .collect();
    jobs.sort_by_key(|stored| (std::cmp::Reverse(stored.job.started_at), stored.job.id.to_string()));
    Ok(jobs)
}

/// One job of a config.
///
/// # Errors
/// Redis's.
pub async fn find(redis: &Redis, config: &OwnedConfig, id: JobId) -> Result<Option<StoredJob>> {
    let found = read(redis, RunningJob { config: config.id(), id }).await?;
    Ok(found.filter(|stored| stored.job.organisation == *config.organisation()))
}

/// Ends a job, if it is still as it was read: cancelled, done or failed. False when it is another by now.
///
/// # Errors
/// Redis's.
pub async fn end(redis: &Redis, stored: &StoredJob, ended: &Job) -> Result<bool> {
    put(redis, ended, &stored.raw, false, &[]).await.map(|(status, _)| status == 1)
}

/// How far a job is, shard by shard.
///
/// # Errors
/// Redis's.
pub async fn progress(redis: &Redis, shards: &[ShardKeys], id: JobId) -> Result<Vec<Progress>> {
    let operation = "reading a job's progress";
    let mut commands = pipe();
    for keys in shards {
        commands.cmd("HMGET").arg(keys.job(id)).arg(&["moved", "skipped", "cursor", "at", "done"]);
    }
    let mut connection = redis.pooled(operation).await?;
    let found: Vec<Vec<Option<String>>> = commands.query_async(&mut *connection).await.during(operation)?;
    Ok(found.into_iter().map(progress_of).collect())
}

// === impl JobLook, and what else is for those who do them ===

impl JobLook {
    /// One that has looked at nothing.
    #[must_use]
    pub const fn new(redis: Redis) -> Self {
        Self { redis, connection: None }
    }

    /// Jobs that run and that nobody holds at `now`, at most `max`.
    ///
    /// # Errors
    /// Redis's; the next look connects again.
    pub async fn free(&mut self, now: UnixMillis, max: usize) -> Result<Vec<RunningJob>> {
        let operation = "looking for jobs";
        let key = self.redis.keys().running();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.redis.connect(Some(self.redis.response_timeout())).await?,
        };
        let mut command = cmd("ZRANGEBYSCORE");
        command.arg(&key).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(max);
        let members: Vec<String> = command.query_async(&mut connection).await.during(operation)?;
        let mut jobs = Vec::with_capacity(members.len());
        for member in members {
            if let Some(job) = RunningJob::parse(&member) {
                jobs.push(job);
            } else {
                tracing::error!(member, "a member of the running jobs is no job; removed");
                let mut command = cmd("ZREM");
                command.arg(&key).arg(&member);
                command.query_async::<i64>(&mut connection).await.during(operation)?;
            }
        }
        self.connection = Some(connection);
        Ok(jobs)
    }

    /// Waits until a job was begun in this process: its look need not wait for the next round.
    pub async fn begun(&self) {
        BEGUN.notified().await;
    }
}

/// Takes a job's lease where `held` is `None`, else renews it; a `lease` of zero gives it back. `None` when the job
/// does not run any more, or somebody else holds it.
///
/// # Errors
/// Redis's.
pub async fn lease(
    redis: &Redis,
    job: RunningJob,
    held: Option<JobLease>,
    lease: Duration,
) -> Result<Option<JobLease>> {
    let held = held.map_or_else(String::new, |held| held.0.to_string());
    let millis = lease.as_millis().to_string();
    let call = LEASE_JOB
        .call([&redis.keys().running()], [job.member().as_bytes(), held.as_bytes(), millis.as_bytes()]);
    let operation = "leasing a job";
    let answer = super::answer::int_of(operation, redis.ask(operation, &call).await?)?;
    Ok(Some(answer).filter(|end| *end > 0).map(JobLease))
}

/// Notes that a job has looked and has to wait. One shard is enough: the latest of all shards counts.
///
/// # Errors
/// Redis's.
pub async fn note_wait(redis: &Redis, shard: &ShardKeys, id: JobId) -> Result<()> {
    let call = WAIT_JOB.call([&shard.job(id)], [&jobs_age()]);
    redis.ask("noting that a job waits", &call).await.map(drop)
}

/// The job that the index names; its config's jobs are kept for [`JOBS_AGE`] from now on. `None` where this program
/// cannot do it: it is gone, and then out of the index too, or a newer program wrote it.
///
/// # Errors
/// Redis's.
pub async fn take_up(redis: &Redis, job: RunningJob) -> Result<Option<StoredJob>> {
    let operation = "taking up a job";
    let (keys, id) = (redis.keys(), job.id.to_string());
    let mut commands = pipe();
    commands.cmd("PEXPIRE").arg(keys.jobs(job.config)).arg(millis_of(JOBS_AGE)).ignore();
    commands.cmd("HMGET").arg(keys.jobs(job.config)).arg(&[&id[..], RUNNING_FIELD]);
    let mut connection = redis.pooled(operation).await?;
    let (found,): ((Option<Vec<u8>>, Option<String>),) =
        commands.query_async(&mut *connection).await.during(operation)?;
    let (raw, running) = found;
    if raw.is_none() {
        tracing::error!(config = %job.config, job = %id, "a job that runs is not known; it is dropped");
        let mut commands = pipe();
        commands.cmd("ZREM").arg(keys.running()).arg(job.member()).ignore();
        if running.is_some_and(|running| running == id) {
            commands.cmd("HDEL").arg(keys.jobs(job.config)).arg(RUNNING_FIELD).ignore();
        }
        commands.query_async::<()>(&mut *connection).await.during(operation)?;
    }
    Ok(raw.and_then(stored))
}

/// `JOBS_AGE` as scripts take it.
pub(super) fn jobs_age() -> Vec<u8> {
    millis_of(JOBS_AGE).to_string().into_bytes()
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn read(redis: &Redis, job: RunningJob) -> Result<Option<StoredJob>> {
    let operation = "reading a job";
    let mut connection = redis.pooled(operation).await?;
    let raw: Option<Vec<u8>> = cmd("HGET")
        .arg(redis.keys().jobs(job.config))
        .arg(job.id.to_string())
        .query_async(&mut *connection)
        .await
        .during(operation)?;
    Ok(raw.and_then(stored))
}

async fn put(
    redis: &Redis,
    job: &Job,
    known: &[u8],
    runs: bool,
    forget: &[Vec<u8>],
) -> Result<(i64, String)> {
    let operation = if runs { "beginning a job" } else { "ending a job" };
    let json = serde_json::to_vec(job).map_err(|error| RedisError::answer(operation, error.to_string()))?;
    let keys = redis.keys();
    let call = PUT_JOB.call_batch(
        [&keys.jobs(job.config), &keys.running()],
        &[],
        [
            job.id.to_string().as_bytes(),
            RunningJob::from(job).member().as_bytes(),
            known,
            &json,
            RUNNING_JOBS_MAX.to_string().as_bytes(),
            if runs { b"1" } else { b"0" },
            &jobs_age(),
        ],
        forget,
    );
    let mut answer = super::answer::Answer::new(operation, redis.ask(operation, &call).await?)?;
    Ok((answer.int()?, answer.text()?))
}

fn stored(raw: Vec<u8>) -> Option<StoredJob> {
    match serde_json::from_slice(&raw) {
        Ok(job) => Some(StoredJob { job, raw }),
        Err(error) => {
            limited!(error, %error, "a stored job does not parse and is left out");
            None
        }
    }
}

fn progress_of(fields: Vec<Option<String>>) -> Progress {
    let mut fields = fields.into_iter();
    let mut next = || fields.next().flatten().unwrap_or_default();
    let (moved, skipped) = (next().parse().unwrap_or(0), next().parse().unwrap_or(0));
    let cursor = next();
    let updated_at = next().parse().ok().map(UnixMillis);
    let done = next() == "1";
    let reached = reached(&cursor);
    Progress { moved, skipped, cursor, reached, updated_at, done }
}

/// Both kinds of cursor begin with milliseconds: a stream id, or a score and a delivery's id.
fn reached(cursor: &str) -> Option<UnixMillis> {
    let id = cursor.parse::<StreamId>().ok().map(|id| id.ms);
    id.or_else(|| cursor.split_once(':')?.0.parse().ok()).map(UnixMillis)
}
