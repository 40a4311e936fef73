//! What one replica reads of a shard for all: its lease, the look at the shard, the sample of the backlog.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider::domain::clock::UnixMillis;
use postrider::domain::ids::{ConfigId, ConfigSequence};
use postrider::redis::backlog::{QUEUES_MAX, look};
use postrider::redis::sampling::{hold, let_go};
use postrider::redis::shard_state;
use redis::Commands;

use crate::script_world::{Walk, seconds};

fn config(number: u32) -> ConfigId {
    ConfigId::new([1; 8], ConfigSequence(number))
}

#[tokio::test]
async fn the_lease_to_sample_is_one_replicas_until_it_ends_or_is_given_back() {
    let mut walk = Walk::new().await;
    let key = walk.keys.sampler();
    assert!(hold(&walk.link, &walk.keys, "a", seconds(300)).await.unwrap());
    assert!(hold(&walk.link, &walk.keys, "a", seconds(300)).await.unwrap(), "renewed");
    assert!(!hold(&walk.link, &walk.keys, "b", seconds(300)).await.unwrap());
    let left: i64 = walk.raw.pttl(&key).unwrap();
    assert!((1..=300_000).contains(&left), "{left}");
    let_go(&walk.link, &walk.keys, "b").await.unwrap();
    assert_eq!(walk.raw.get::<_, String>(&key).unwrap(), "a", "nobody gives back what another holds");
    let_go(&walk.link, &walk.keys, "a").await.unwrap();
    assert!(hold(&walk.link, &walk.keys, "b", Duration::from_millis(1)).await.unwrap());
    while walk.raw.exists::<_, bool>(&key).unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(hold(&walk.link, &walk.keys, "a", seconds(300)).await.unwrap(), "it ended by itself");
}

#[tokio::test]
async fn a_shard_is_looked_at_as_it_is_and_where_there_is_nothing() {
    let mut walk = Walk::new().await;
    let state = shard_state::read(&walk.link, &walk.keys, None).await.unwrap();
    assert_eq!((state.entries, state.due_configs, state.rejected_bytes), (0, 0, 0));
    assert_eq!(state.oldest_undelivered, None);
    for ms in [7, 8, 9] {
        let _: String = walk.raw.xadd(walk.keys.events(), format!("{ms}-0"), &[("event", "a.b")]).unwrap();
    }
    let _: u64 = walk.raw.zadd(walk.keys.due(), config(1).to_string(), 1).unwrap();
    let _: String = walk.raw.xadd(walk.keys.rejected(), "*", &[("_id", "1-0")]).unwrap();
    let _: u64 = walk.raw.incr(walk.keys.rejected_bytes(), 6).unwrap();
    let state = shard_state::read(&walk.link, &walk.keys, Some("7-0")).await.unwrap();
    assert_eq!((state.entries, state.due_configs, state.rejected, state.rejected_bytes), (3, 1, 1, 6));
    assert_eq!(state.oldest_undelivered.map(|id| id.ms), Some(8));
    let state = shard_state::read(&walk.link, &walk.keys, Some("9-0")).await.unwrap();
    assert_eq!(state.oldest_undelivered, None);
}

#[tokio::test]
async fn a_backlog_of_many_configs_is_looked_at_in_part_and_the_heaviest_always() {
    let mut walk = Walk::new().await;
    let mut pipeline = redis::pipe();
    let all = u32::try_from(QUEUES_MAX).unwrap() + 500;
    for number in 1..=all {
        let id = config(number).to_string();
        pipeline.zadd(walk.keys.due(), &id, 1).ignore();
        pipeline.zadd(walk.keys.queue(config(number)), "dlv_1", 1_000).ignore();
        pipeline.zadd(walk.keys.queue(config(number)), "dlv_2", 9_000).ignore();
    }
    pipeline.query::<()>(&mut walk.raw).unwrap();
    let _: u64 = walk.raw.zadd(walk.keys.due(), "no id", 1).unwrap();
    let heavy = [config(1), config(all + 1)];
    let found = look(&walk.link, &walk.keys, &heavy, UnixMillis(5_000)).await.unwrap();
    assert!(found.len() <= QUEUES_MAX + heavy.len() && found.len() >= QUEUES_MAX - heavy.len());
    let distinct: BTreeSet<ConfigId> = found.iter().map(|waiting| waiting.config).collect();
    assert_eq!(distinct.len(), found.len());
    assert!(found.iter().all(|waiting| (waiting.deliveries, waiting.due) == (2, 1)));
    let told: Vec<ConfigId> =
        found.iter().filter(|waiting| !waiting.drawn).map(|waiting| waiting.config).collect();
    assert_eq!(told, [config(1)], "one that was told and is empty by now is left out");
}
