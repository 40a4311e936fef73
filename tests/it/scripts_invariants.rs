//! Random walks of deliveries through settle, claim, put_back and eviction: what holds after every step.

use std::collections::{BTreeMap, BTreeSet};

use postrider::domain::delivery::{DeliveryRecord, RecordBody, Standing};
use postrider::domain::ids::{ConfigId, DeliveryId, EventId};
use postrider::redis::deliveries::{Claim, ClaimRequest, put_back};
use postrider::redis::failed::evict_failed;
use postrider::redis::fates::{Applied, Proof, Step};
use proptest::prelude::*;
use redis::Commands;

use crate::script_world::{
    CLAIM, CONSUMER, LARGE, SMALL, Walk, at_once, config, fail, hand_off, queue, seconds,
};

/// Events of a walk; the bodies of those with an odd number lie apart.
const EVENTS: u64 = 4;

/// One step: what, of which event and config, and whether due at once.
type Move = (u8, u64, u8, bool);

fn moves() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec((0_u8..12, 0..EVENTS, 1_u8..=2, any::<bool>()), 1..40)
}

struct Run {
    walk: Walk,
    events: Vec<EventId>,
    /// The last claim of each delivery, as its holder knows it; it may be lost by now.
    claims: BTreeMap<DeliveryId, Claim>,
}

impl Run {
    async fn new() -> Self {
        let mut walk = Walk::new().await;
        walk.retention.queue_max = 3;
        let mut events = Vec::new();
        for ms in 1..=EVENTS {
            events.push(walk.read_event(ms, CONSUMER).await);
        }
        Self { walk, events, claims: BTreeMap::new() }
    }

    async fn step(&mut self, (what, event, number, soon): Move) {
        let (event, config) = (self.events[usize::try_from(event).unwrap()], config(number));
        let id = event.delivery(config.sequence());
        let len = if event.stream_id().ms % 2 == 1 { LARGE } else { SMALL };
        let claim = self.claims.get(&id).copied();
        let (proof, first) = match claim {
            Some(claim) if what % 2 == 0 => (Proof::Claimed(claim), false),
            _ => (Walk::pending(event), true),
        };
        let step = match what {
            0..=2 if soon => at_once(queue(config, len, first)),
            0..=2 => queue(config, len, first),
            3 => hand_off(config, len),
            4 | 5 => fail(config, len, first),
            6 => Step::Finish,
            7..=9 => return self.claim(config, soon).await,
            10 => return self.put_back(config, id, claim).await,
            _ => {
                let _ = evict_failed(&self.walk.link, &self.walk.keys, config, None, 1).await.unwrap();
                return;
            }
        };
        if let Applied::Now(score) = self.walk.settle(config, event, proof, step).await {
            self.claims.insert(id, score);
        }
    }

    async fn claim(&mut self, config: ConfigId, all: bool) {
        let claimed = self.walk.claim(config, ClaimRequest { max: if all { 64 } else { 1 }, ..CLAIM }).await;
        self.claims.extend(claimed.ids.into_iter().map(|id| (id, claimed.claim)));
    }

    async fn put_back(&mut self, config: ConfigId, id: DeliveryId, claim: Option<Claim>) {
        let held = [(id, claim.unwrap_or(Claim(1)))];
        let _ = put_back(&self.walk.link, &self.walk.keys, config, &held, seconds(0)).await.unwrap();
    }

    fn members(&mut self, key: &str) -> BTreeSet<DeliveryId> {
        let members: Vec<String> = self.walk.raw.zrange(key, 0, -1).unwrap();
        members.iter().map(|member| member.parse().unwrap()).collect()
    }

    /// What must hold, whatever was done.
    fn check(&mut self) {
        let keys = self.walk.keys.clone();
        let mut owners: BTreeMap<EventId, u32> = BTreeMap::new();
        let due: BTreeSet<String> =
            self.walk.raw.zrange::<_, Vec<String>>(keys.due(), 0, -1).unwrap().into_iter().collect();
        for number in [1, 2] {
            let config = config(number);
            let (queue, failed) = (self.members(&keys.queue(config)), self.members(&keys.failed(config)));
            assert_eq!(
                due.contains(&config.to_string()),
                !queue.is_empty(),
                "in due exactly when something waits"
            );
            let mut sums = BTreeMap::new();
            for event in self.events.clone() {
                let id = event.delivery(config.sequence());
                let record: Option<Vec<u8>> = self.walk.raw.get(keys.delivery(id)).unwrap();
                // The mark of a delivered one is none.
                let record = record.filter(|bytes| !DeliveryRecord::is_mark(bytes));
                let places = usize::from(queue.contains(&id)) + usize::from(failed.contains(&id));
                assert_eq!(places, usize::from(record.is_some()), "a record is in exactly one place");
                let Some(bytes) = record else { continue };
                let record = DeliveryRecord::decode(&bytes).unwrap();
                let waits = record.standing == Standing::Waiting;
                assert_eq!((record.config, waits), (config, queue.contains(&id)));
                let mut weight = bytes.len() as u64;
                if let RecordBody::Apart(len) = record.body {
                    weight += u64::from(len);
                    *owners.entry(event).or_default() += 1;
                }
                *sums.entry(if waits { "queueBytes" } else { "failedBytes" }.to_owned()).or_default() +=
                    weight;
            }
            let sizes: BTreeMap<String, u64> = self.walk.raw.hgetall(keys.size(config)).unwrap();
            assert_eq!(sizes, sums, "the sizes are sums, and gone where there is nothing");
        }
        for event in self.events.clone() {
            let body: Option<Vec<u8>> = self.walk.raw.get(keys.body(event.stream_id())).unwrap();
            let count = body.map(|body| u32::from_be_bytes(body[..4].try_into().unwrap()));
            assert_eq!(count, owners.get(&event).copied(), "a body is counted by the records that need it");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_step_breaks_what_must_hold(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for one in moves {
                run.step(one).await;
                run.check();
            }
        });
    }
}
