//! Builds a worker's rooms; nothing is started here.

use std::rc::Rc;
use std::sync::Arc;

use super::duties::Duty;
use super::life::Shared;
use crate::attempt::Attempter;
use crate::intake::{BLOCK, Intake, IntakeParts, Membership};
use crate::lanes::{Lanes, LanesParts};
use crate::redis::connection::Link;
use crate::redis::keys::ShardKeys;
use crate::retry::{Scheduler, SchedulerParts};
use crate::settle::{Credit, Settler, SettlerParts};
use crate::upkeep::{ChoreRunner, Observer};

/// A worker's rooms.
pub(super) struct Rooms {
    pub(super) link: Rc<Link>,
    pub(super) attempter: Rc<Attempter>,
    pub(super) settler: Rc<Settler>,
    pub(super) lanes: Rc<Lanes>,
    pub(super) chores: ChoreRunner,
    pub(super) shards: Vec<ShardRooms>,
}

/// A worker's rooms on one shard.
pub(super) struct ShardRooms {
    pub(super) keys: ShardKeys,
    pub(super) duty: Duty,
    pub(super) membership: Rc<Membership>,
    pub(super) intake: Option<Rc<Intake>>,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) observer: Option<Observer>,
}

// === impl Rooms ===

impl Rooms {
    pub(super) fn build(shared: &Arc<Shared>, worker: usize, duties: &[Duty]) -> Self {
        let settings = &shared.settings;
        let workers = u32::try_from(settings.process.workers.max(1)).unwrap_or(u32::MAX);
        let limits = &settings.limits;
        let link = Rc::new(shared.redis.link());
        let credit = Credit::new(
            limits.deliveries_max / workers,
            limits.delivery_bytes_max / u64::from(workers),
            shared.metrics.in_memory.clone(),
        );
        let attempter = Rc::new(Attempter::new(Arc::clone(&shared.egress)));
        let settler = Settler::new(SettlerParts {
            link: Rc::clone(&link),
            shards: Arc::clone(&shared.shards),
            due_soon: Arc::clone(&shared.due_soon),
            settings: Arc::clone(settings),
            snapshot: Arc::clone(&shared.snapshot),
            clock: Arc::clone(&shared.clock),
            metrics: shared.metrics.clone(),
        });
        let lanes = Lanes::new(LanesParts {
            permits: Arc::clone(&shared.permits),
            snapshot: Arc::clone(&shared.snapshot),
            attempter: Rc::clone(&attempter),
            settler: Rc::clone(&settler),
            credit: Rc::clone(&credit),
            clock: Arc::clone(&shared.clock),
            settings: Arc::clone(settings),
            metrics: shared.metrics.clone(),
            spans: shared.spans.clone(),
        });
        let chores = ChoreRunner::new(
            Rc::clone(&link),
            Arc::clone(&shared.shards),
            Rc::clone(&settler),
            Arc::clone(&shared.clock),
            Arc::clone(settings),
            shared.metrics.clone(),
        );
        let parts = Parts { shared, worker, link: &link, credit: &credit, settler: &settler, lanes: &lanes };
        let shards = duties.iter().map(|duty| parts.shard_rooms(*duty)).collect();
        Self { link, attempter, settler, lanes, chores, shards }
    }
}

/// What the rooms of each shard share.
struct Parts<'a> {
    shared: &'a Arc<Shared>,
    worker: usize,
    link: &'a Rc<Link>,
    credit: &'a Rc<Credit>,
    settler: &'a Rc<Settler>,
    lanes: &'a Rc<Lanes>,
}

// === impl Parts ===

impl Parts<'_> {
    fn shard_rooms(&self, duty: Duty) -> ShardRooms {
        let shared = self.shared;
        let keys = shared.shards[usize::from(duty.shard.0)].clone();
        let name = format!("{}.{}", shared.start, self.worker);
        let lease = shared.settings.redis.lease;
        let membership = Membership::new(name, lease);
        let roles = shared.settings.process.roles;
        let intake = roles.intake.then(|| self.intake(duty, &keys, &membership));
        let scheduler = roles.retry.then(|| self.scheduler(duty, &keys));
        let observer = duty.scans.then(|| {
            let link = Rc::clone(self.link);
            let metrics = shared.metrics.clone();
            let (membership, intake) = (Rc::clone(&membership), intake.clone());
            // Every replica is a member of every shard: one of them says who lives.
            let permits = (duty.shard.0 == 0).then(|| Arc::clone(&shared.permits));
            Observer::new(link, keys.clone(), membership, intake, permits, lease, metrics)
        });
        ShardRooms { keys, duty, membership, intake, scheduler, observer }
    }

    fn intake(&self, duty: Duty, keys: &ShardKeys, membership: &Rc<Membership>) -> Rc<Intake> {
        let shared = self.shared;
        Intake::new(IntakeParts {
            blocking: shared.redis.blocking_link(BLOCK),
            link: Rc::clone(self.link),
            keys: keys.clone(),
            membership: Rc::clone(membership),
            turn: Arc::clone(&shared.turns[usize::from(duty.shard.0)]),
            pressure: Arc::clone(&shared.pressure),
            snapshot: Arc::clone(&shared.snapshot),
            lanes: Rc::clone(self.lanes),
            settler: Rc::clone(self.settler),
            credit: Rc::clone(self.credit),
            clock: Arc::clone(&shared.clock),
            settings: Arc::clone(&shared.settings),
            metrics: shared.metrics.clone(),
            spans: shared.spans.clone(),
        })
    }

    fn scheduler(&self, duty: Duty, keys: &ShardKeys) -> Scheduler {
        let shared = self.shared;
        Scheduler::new(SchedulerParts {
            link: Rc::clone(self.link),
            keys: keys.clone(),
            scans: duty.scans,
            due_soon: Arc::clone(&shared.due_soon),
            visits: Arc::clone(&shared.visits),
            snapshot: Arc::clone(&shared.snapshot),
            lanes: Rc::clone(self.lanes),
            settler: Rc::clone(self.settler),
            credit: Rc::clone(self.credit),
            clock: Arc::clone(&shared.clock),
            settings: Arc::clone(&shared.settings),
            metrics: shared.metrics.clone(),
        })
    }
}
