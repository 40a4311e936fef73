//! Does jobs: recovers and replays that somebody asked for (docs/WIRE.md section 11). One task of each replica that
//! retries looks for jobs that nobody holds, and starts a task for each that it can lease.
//!
//! A step is one script that moves a bounded batch and the job's cursor together, so a job whose replica died goes on
//! where it was, on whichever replica takes the lease next. The lease keeps two from working at the same job for
//! nothing; that nothing is moved twice does not hang on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::clock::Clock;
use crate::domain::config::Config;
use crate::domain::job::{Job, JobKind, JobState, Progress};
use crate::domain::log_limit::limited;
use crate::domain::snapshot::{Lookup, Snapshot};
use crate::metrics;
use crate::redis::connection::{Redis, Result};
use crate::redis::deliveries::BATCH_MAX;
use crate::redis::jobs::{self, JobLease, JobLook, RunningJob, StoredJob};
use crate::redis::keys::ShardKeys;
use crate::redis::publish::MemoryWatch;
use crate::redis::recover::{Batch, Next, Room, recover};
use crate::redis::replay::{backlog, replay};
use crate::settings::Settings;

/// How often a replica looks for jobs that nobody holds. One that this process begins is found at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Jobs that one replica works at.
const JOBS_MAX: usize = 16;

/// A job's steps: so often, and what its rate allows each time.
const STEP_EVERY: Duration = Duration::from_millis(100);

/// A job that cannot go on now looks again after this.
const WAIT: Duration = Duration::from_millis(500);

/// Batches of one step: bounds what is read to find what matches, and what a cancelled job still moves.
const BATCHES_MAX: usize = 16;

/// The part of the queue's limits that jobs fill: the rest is for new events.
const QUEUE_SHARE: u64 = 2;

/// What jobs are done with.
#[derive(Clone)]
pub struct JobRunnerParts {
    /// Redis, over the pool.
    pub redis: Redis,
    /// Every shard, by number.
    pub shards: Arc<[ShardKeys]>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// The settings.
    pub settings: Arc<Settings>,
}

/// Looks for jobs and does them.
pub struct JobRunner {
    parts: JobRunnerParts,
    look: JobLook,
    memory: Arc<MemoryWatch>,
    at_work: Arc<AtomicUsize>,
}

/// One job that this replica holds.
struct Work {
    parts: JobRunnerParts,
    memory: Arc<MemoryWatch>,
    running: RunningJob,
    lease: JobLease,
    allowance: Allowance,
}

/// What a job may move by now: fills at its rate, up to what a second brings.
struct Allowance {
    rate: f64,
    tokens: f64,
    since: Instant,
}

/// What a step came to.
enum Step {
    /// Look again after the usual time.
    More,
    /// Look again a little later: the config is paused, its queue is full, or Redis is.
    Wait,
    /// The job ends so.
    Ended(JobState, Option<String>),
}

// === impl JobRunner ===

impl JobRunner {
    /// A runner that has looked at nothing.
    #[must_use]
    pub fn new(parts: JobRunnerParts) -> Self {
        let look = JobLook::new(parts.redis.clone());
        Self { parts, look, memory: Arc::default(), at_work: Arc::default() }
    }

    /// Looks for jobs until `stop`; no error ends it.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if let Err(error) = self.run_once(&stop).await {
                metrics::redis_error(error.operation);
                limited!(warn, %error, "looking for jobs failed; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.look.begun() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Takes what nobody holds, as far as there is room, and starts it.
    ///
    /// # Errors
    /// Redis's.
    pub async fn run_once(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        let room = JOBS_MAX.saturating_sub(self.at_work.load(Ordering::Relaxed));
        if room == 0 {
            return Ok(());
        }
        let found = self.look.free(self.parts.clock.now(), room).await?;
        let parts = &self.parts;
        for running in found {
            let held = jobs::lease(&parts.redis, running, None, parts.settings.redis.lease).await?;
            let Some(lease) = held else { continue };
            let Some(stored) = jobs::take_up(&parts.redis, running).await? else { continue };
            let allowance = Allowance::new(stored.job.rate_per_second);
            let (parts, memory) = (parts.clone(), Arc::clone(&self.memory));
            let work = Work { parts, memory, running, lease, allowance };
            let at_work = Arc::clone(&self.at_work);
            at_work.fetch_add(1, Ordering::Relaxed);
            let stop = stop.clone();
            tokio::spawn(async move {
                work.run(stored, stop).await;
                at_work.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Ok(())
    }
}

// === impl Work ===

impl Work {
    /// Works until the job ends, or the lease is lost, or `stop`: the lease is then given back. After an error it goes
    /// on while the lease holds; Redis may be away for a moment.
    async fn run(mut self, stored: StoredJob, mut stop: watch::Receiver<bool>) {
        let (config, job) = (stored.job.config, stored.job.id);
        tracing::info!(%config, %job, kind = ?stored.job.kind, "a job is taken up");
        loop {
            let pause = match self.run_once(&stored).await {
                Ok(Some(Step::More)) => STEP_EVERY,
                Ok(Some(Step::Wait)) => WAIT,
                Ok(Some(Step::Ended(state, reason))) => {
                    tracing::info!(%config, %job, ?state, reason, "a job has ended");
                    return;
                }
                Ok(None) => {
                    tracing::info!(%config, %job, "a job is let go: it was cancelled, or another replica holds it");
                    return;
                }
                Err(error) => {
                    metrics::redis_error(error.operation);
                    limited!(warn, %config, %job, %error, "a job's step failed; trying again");
                    WAIT
                }
            };
            let stopped = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopped {
                let redis = &self.parts.redis;
                // Without the answer the lease ends by itself.
                let _ = jobs::lease(redis, self.running, Some(self.lease), Duration::ZERO).await;
                return;
            }
        }
    }

    /// One step: the lease, then what the rate allows. `None` when the job is not this replica's any more.
    async fn run_once(&mut self, stored: &StoredJob) -> Result<Option<Step>> {
        let lease = self.parts.settings.redis.lease;
        let Some(held) = jobs::lease(&self.parts.redis, self.running, Some(self.lease), lease).await? else {
            return Ok(None);
        };
        self.lease = held;
        let step = self.step(&stored.job).await?;
        let redis = &self.parts.redis;
        match (&step, self.parts.shards.first()) {
            (Step::Ended(state, reason), _) => {
                let ended = stored.job.ended(*state, self.parts.clock.now(), reason.clone());
                // Where it was cancelled meanwhile, that stands.
                jobs::end(redis, stored, &ended).await?;
            }
            (Step::Wait, Some(shard)) => jobs::note_wait(redis, shard, stored.job.id).await?,
            (Step::Wait | Step::More, _) => {}
        }
        Ok(Some(step))
    }

    async fn step(&mut self, job: &Job) -> Result<Step> {
        let target = match self.parts.snapshot.load().lookup(job.config) {
            Lookup::Active(target) => target,
            Lookup::Deleted => {
                return Ok(Step::Ended(JobState::Failed, Some("the config was deleted".to_owned())));
            }
            Lookup::Paused | Lookup::Gone | Lookup::Unknown => return Ok(Step::Wait),
        };
        let mut progress = jobs::progress(&self.parts.redis, &self.parts.shards, job.id).await?;
        for _ in 0..BATCHES_MAX {
            let Some(shard) = progress.iter().position(|part| !part.done) else {
                return Ok(Step::Ended(JobState::Done, None));
            };
            let max = self.allowance.whole(Instant::now()).min(BATCH_MAX);
            if max == 0 {
                break;
            }
            let batch = self.batch(job, &target.config, shard, &progress[shard], max).await?;
            let Some(Batch { moved, next }) = batch else { return Ok(Step::Wait) };
            self.allowance.take(moved);
            match next {
                Next::Full => return Ok(Step::Wait),
                Next::More | Next::Done | Next::Overtaken => {}
            }
            progress = jobs::progress(&self.parts.redis, &self.parts.shards, job.id).await?;
        }
        Ok(Step::More)
    }

    /// One batch on one shard; `None` when it has to wait.
    async fn batch(
        &self,
        job: &Job,
        config: &Config,
        shard: usize,
        progress: &Progress,
        max: usize,
    ) -> Result<Option<Batch>> {
        let Some(keys) = self.parts.shards.get(shard) else { return Ok(None) };
        let (redis, room) = (&self.parts.redis, self.room());
        match job.kind {
            JobKind::Recover => recover(redis, keys, job, progress, max, room).await.map(Some),
            JobKind::Replay => {
                if self.memory.is_full(redis).await? {
                    return Ok(None);
                }
                let (count, bytes) = backlog(redis, keys, config.id).await?;
                if count >= room.count || bytes >= room.bytes {
                    return Ok(None);
                }
                replay(redis, keys, job, config, progress, max).await.map(Some)
            }
        }
    }

    fn room(&self) -> Room {
        let retention = &self.parts.settings.retention;
        let share = |limit: u64| (limit / QUEUE_SHARE).max(1);
        Room { count: share(retention.queue_max), bytes: share(retention.queue_bytes_max) }
    }
}

// === impl Allowance ===

impl Allowance {
    fn new(rate_per_second: u32) -> Self {
        Self { rate: f64::from(rate_per_second.max(1)), tokens: 1.0, since: Instant::now() }
    }

    /// How many may be moved at `now`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and the largest rate.
    fn whole(&mut self, now: Instant) -> usize {
        let filled = now.duration_since(self.since).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + filled).min(self.rate);
        self.since = now;
        self.tokens.max(0.0) as usize
    }

    #[allow(clippy::cast_precision_loss)] // A batch is small.
    fn take(&mut self, moved: u64) {
        self.tokens -= moved as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowance_fills_at_its_rate_and_no_further_than_a_second() {
        let mut allowance = Allowance::new(100);
        let start = allowance.since;
        assert_eq!(allowance.whole(start), 1);
        allowance.take(1);
        assert_eq!(allowance.whole(start + Duration::from_millis(500)), 50);
        allowance.take(50);
        assert_eq!(allowance.whole(start + Duration::from_millis(500)), 0);
        assert_eq!(allowance.whole(start + Duration::from_secs(60)), 100);
    }
}
