//! A worker's life: start, tick, lease, drain.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinHandle as TaskHandle, LocalSet, spawn_local};
use tokio::time::Instant;

use super::build::{Rooms, ShardRooms};
use super::duties::Duty;
use crate::attempt::{Attempter, Egress};
use crate::domain::clock::Clock;
use crate::domain::log_limit::limited;
use crate::domain::snapshot::Snapshot;
use crate::intake::{Membership, MemoryPressure, ReadTurn};
use crate::lanes::{Lanes, Permits};
use crate::metrics::{self, WalkMetrics};
use crate::redis::connection::{Link, Redis};
use crate::redis::keys::ShardKeys;
use crate::retry::Visits;
use crate::settings::Settings;
use crate::settle::Settler;
use crate::spans::SpanSink;
use crate::upkeep::{AgeRotation, ChoreRunner, Observer, Sampler};

/// The worker's tick: the sweep, and whether the leases still hold.
const TICK: Duration = Duration::from_millis(20);

/// Idle connections and lanes are looked for once in so many ticks.
const IDLE_TICKS: u32 = 50;

/// Chores are done this often.
const CHORES_EVERY: Duration = Duration::from_millis(100);

/// A stopping worker waits this long for its last writes and its leave.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What the workers of a replica share.
pub struct Shared {
    /// Random per start of the process: the first part of every consumer's name.
    pub start: String,
    /// Redis.
    pub redis: Redis,
    /// Every shard, by number.
    pub shards: Arc<[ShardKeys]>,
    /// Settings.
    pub settings: Arc<Settings>,
    /// Redis's clock.
    pub clock: Arc<Clock>,
    /// The configs of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Permits over all workers.
    pub permits: Arc<Permits>,
    /// Whose turn it is to block on each shard.
    pub turns: Vec<Arc<ReadTurn>>,
    /// Whether Redis is nearly full.
    pub pressure: Arc<MemoryPressure>,
    /// Wakes the scanning scheduler of each shard.
    pub due_soon: Arc<[Notify]>,
    /// Configs that ask for a visit.
    pub visits: Arc<Visits>,
    /// What attempts share.
    pub egress: Arc<Egress>,
    /// What is counted.
    pub metrics: WalkMetrics,
    /// Takes spans, where a collector is set.
    pub spans: Option<SpanSink>,
    /// Whether each worker holds its leases.
    pub leased: Vec<AtomicBool>,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Attempts that were given up at the deadline; their deliveries are due again.
    pub given_up: usize,
    /// Whether everything was written and the worker left every group.
    pub clean: bool,
}

/// Starts a worker on a thread of its own; it drains when `stop` becomes true.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(
    shared: Arc<Shared>,
    worker: usize,
    duties: Vec<Duty>,
    stop: watch::Receiver<bool>,
) -> std::io::Result<JoinHandle<Drained>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
        let _vital = Vital("worker");
        let local = LocalSet::new();
        local.block_on(&runtime, live(shared, worker, duties, stop))
    })
}

async fn live(
    shared: Arc<Shared>,
    worker: usize,
    duties: Vec<Duty>,
    mut stop: watch::Receiver<bool>,
) -> Drained {
    let Rooms { link, attempter, settler, lanes, chores, shards } = Rooms::build(&shared, worker, &duties);
    let (mut tasks, mut leasing, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    let run = Rc::clone(&settler);
    tasks.push(spawn_vital("settler", async move { run.run().await }));
    let resume = (Rc::clone(&settler), Rc::clone(&lanes));
    tasks.push(spawn_vital("resume", async move { resume_sending(&resume.0, &resume.1).await }));
    let (end_chores, chores_ended) = oneshot::channel();
    let chores = spawn_vital("chores", do_chores(chores, Rc::clone(&settler), chores_ended));
    let mut memberships = Vec::new();
    for rooms in shards {
        memberships.push((rooms.keys.clone(), Rc::clone(&rooms.membership)));
        let renewing =
            renew(Arc::clone(&shared), Rc::clone(&link), rooms.keys.clone(), Rc::clone(&rooms.membership));
        leasing.push(spawn_vital("lease", renewing));
        start_shard(&shared, &link, rooms, &stop, &mut tasks, &mut sources);
    }
    let leases: Vec<_> = memberships.iter().map(|(_, membership)| Rc::clone(membership)).collect();
    let ticking = tick(Arc::clone(&shared), worker, Rc::clone(&lanes), Rc::clone(&attempter), leases);
    tasks.push(spawn_vital("tick", ticking));
    let _ = stop.wait_for(|stop| *stop).await;
    let mut drained = drain(&shared, &lanes, &settler, sources).await;
    let _ = end_chores.send(());
    let _ = tokio::time::timeout(LAST_WRITES, chores).await;
    // A renewal after the leave would make a member that nobody is.
    leasing.iter().for_each(TaskHandle::abort);
    drained.clean &= leave(&link, &memberships).await;
    tasks.iter().for_each(TaskHandle::abort);
    drained
}

/// Starts what runs for one shard. `sources` are what feeds the lanes: a drain waits for them.
fn start_shard(
    shared: &Arc<Shared>,
    link: &Rc<Link>,
    rooms: ShardRooms,
    stop: &watch::Receiver<bool>,
    tasks: &mut Vec<TaskHandle<()>>,
    sources: &mut Vec<TaskHandle<()>>,
) {
    let ShardRooms { keys, duty, intake, scheduler, observer, .. } = rooms;
    if let Some(intake) = intake {
        let stop = stop.clone();
        sources.push(spawn_vital("intake", async move { intake.run(stop).await }));
    }
    if let Some(scheduler) = scheduler {
        let stop = stop.clone();
        sources.push(spawn_vital("scheduler", async move { scheduler.run(stop).await }));
    }
    if let Some(observer) = observer {
        tasks.push(spawn_vital("observer", observe(observer, stop.clone())));
    }
    if duty.scans {
        let (snapshot, clock) = (Arc::clone(&shared.snapshot), Arc::clone(&shared.clock));
        let (settings, metrics) = (Arc::clone(&shared.settings), shared.metrics.clone());
        let ages = AgeRotation::new(Rc::clone(link), keys.clone(), snapshot, clock, settings, metrics);
        tasks.push(spawn_vital("ages", rotate(ages)));
        let (clock, pressure) = (Arc::clone(&shared.clock), Arc::clone(&shared.pressure));
        let settings = Arc::clone(&shared.settings);
        let sampler = Sampler::new(Rc::clone(link), keys, clock, pressure, settings);
        tasks.push(spawn_vital("sampler", keep_up(sampler)));
    }
}

/// What a worker cannot live without. A panic in it ends the process at once, as a crash would: a worker that went
/// on without its settler would hold its lease, and so its events, for ever. Other replicas take them over.
struct Vital(&'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(part = self.0, "a part of a worker panicked; the process ends");
            std::process::abort();
        }
    }
}

fn spawn_vital(part: &'static str, work: impl Future<Output = ()> + 'static) -> TaskHandle<()> {
    spawn_local(async move {
        let _vital = Vital(part);
        work.await;
    })
}

async fn tick(
    shared: Arc<Shared>,
    worker: usize,
    lanes: Rc<Lanes>,
    attempter: Rc<Attempter>,
    memberships: Vec<Rc<Membership>>,
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut count = 0_u32;
    loop {
        ticks.tick().await;
        let leased = memberships.iter().all(|membership| membership.is_valid());
        shared.leased[worker].store(leased, Ordering::Relaxed);
        // No lease sorts before any time, so one that is missing stops the worker.
        lanes.set_sending(memberships.iter().map(|membership| membership.valid_until()).min().flatten());
        lanes.sweep();
        count = count.wrapping_add(1);
        if count.is_multiple_of(IDLE_TICKS) {
            attempter.close_idle();
            lanes.forget_idle();
            shared.permits.forget_unused();
        }
    }
}

/// Starts what waited while the settler was behind.
async fn resume_sending(settler: &Settler, lanes: &Rc<Lanes>) {
    loop {
        settler.caught_up.notified().await;
        lanes.pump_waiting();
    }
}

async fn renew(shared: Arc<Shared>, link: Rc<Link>, keys: ShardKeys, membership: Rc<Membership>) {
    let period = shared.settings.redis.lease / 3;
    let retry = (period / 8).min(Duration::from_millis(250));
    loop {
        let pause = match membership.renew(&link, &keys, &shared.clock).await {
            Ok(true) => period,
            Ok(false) => {
                shared.metrics.leases_lost.increment(1);
                tracing::warn!(shard = keys.shard.0, "the lease was lost; going on under a new name");
                Duration::ZERO
            }
            Err(error) => {
                metrics::redis_error(error.operation);
                limited!(warn, %error, "the lease could not be renewed; trying again");
                retry
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Ends with the intake: what is taken over then would only wait for the next replica.
async fn observe(mut observer: Observer, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        if let Err(error) = observer.run_once().await {
            metrics::redis_error(error.operation);
        }
        tokio::time::sleep(observer.period()).await;
    }
}

/// Ends after a last round that leaves nothing for later, when `ended` says so.
async fn do_chores(mut chores: ChoreRunner, settler: Rc<Settler>, mut ended: oneshot::Receiver<()>) {
    loop {
        let last = tokio::select! {
            _ = &mut ended => true,
            () = settler.chore_wake.notified() => false,
            () = tokio::time::sleep(CHORES_EVERY) => false,
        };
        if let Err(error) = chores.run_once(last).await {
            metrics::redis_error(error.operation);
            limited!(warn, %error, "a chore failed; trying again");
        }
        if last {
            return;
        }
    }
}

async fn rotate(mut ages: AgeRotation) {
    loop {
        tokio::time::sleep(AgeRotation::PERIOD).await;
        if let Err(error) = ages.run_once().await {
            metrics::redis_error(error.operation);
        }
    }
}

async fn keep_up(mut sampler: Sampler) {
    loop {
        if let Err(error) = sampler.run_once().await {
            metrics::redis_error(error.operation);
        }
        tokio::time::sleep(sampler.period()).await;
    }
}

/// Stops in this order, and why: the sources first, so that nothing new comes; then what waits in memory is
/// parked, so that another replica may have it; then attempts may end until the deadline; what is still under way
/// is given up; the last writes and acknowledgements go out. The worker then leaves what it owns nothing of.
async fn drain(
    shared: &Shared,
    lanes: &Rc<Lanes>,
    settler: &Settler,
    sources: Vec<TaskHandle<()>>,
) -> Drained {
    let deadline = Instant::now() + shared.settings.delivery.drain_timeout;
    for mut source in sources {
        if tokio::time::timeout_at(deadline, &mut source).await.is_err() {
            // What it has read and not begun stays pending, for another replica.
            source.abort();
        }
    }
    lanes.park_waiting();
    let given_up = match tokio::time::timeout_at(deadline, lanes.all_done()).await {
        Ok(()) => 0,
        Err(_) => lanes.give_up(),
    };
    let written = tokio::time::timeout(LAST_WRITES, settler.all_written()).await.is_ok();
    Drained { given_up, clean: written }
}

/// Leaves every group; false where something is still pending. Without Redis nothing can be left: the first error
/// ends it, and other replicas remove the consumers once their leases are past.
async fn leave(link: &Link, memberships: &[(ShardKeys, Rc<Membership>)]) -> bool {
    let deadline = Instant::now() + LAST_WRITES;
    let mut left = true;
    for (keys, membership) in memberships {
        match tokio::time::timeout_at(deadline, membership.leave(link, keys)).await {
            Ok(Ok(own)) => left &= own,
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    left
}
