//! Deliveries that are queued or failed: claiming, putting back, reading records, evicting. Who gives them a fate:
//! `fates`.

use std::time::Duration;

use bytes::Bytes;
use redis::{Value, cmd, pipe};

use super::answer::{Answer, int_of, list_of};
use super::connection::{Link, RedisError, Result};
use super::keys::ShardKeys;
use super::scripts::{CLAIM, PUT_BACK};
pub use super::unusable::clear;
use super::unusable::{id_in, parsed, remove_strange};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::DeliveryRecord;
use crate::domain::ids::{ConfigId, DeliveryId, StreamId};

/// Most deliveries of one script call: bounds the time for which it blocks Redis.
pub const BATCH_MAX: usize = 64;

/// How long a delivery whose record cannot be read is left alone: longer than any delay or claim, so that its score
/// tells it apart.
pub const UNREADABLE_WAIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The score that a claim or a hand-off set, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(pub i64);

impl Claim {
    /// When a claim that holds for `lease` was made, by Redis's clock.
    #[must_use]
    pub fn at(self, lease: Duration) -> UnixMillis {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(u64::try_from(self.0.saturating_sub(lease)).unwrap_or(0))
    }
}

/// What a claim gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The score that stands for it.
    pub claim: Claim,
    /// When to look at the config again; `None` when its queue is empty.
    pub next: Option<UnixMillis>,
    /// The claimed deliveries.
    pub ids: Vec<DeliveryId>,
}

/// Which deliveries a claim takes, and when the config is looked at next.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    /// At most so many, and never more than [`BATCH_MAX`]; 0 only moves the next look.
    pub max: usize,
    /// How long the claim holds.
    pub lease: Duration,
    /// Only what has been due for this long.
    pub overdue_by: Duration,
    /// Look again no sooner than after this.
    pub hold: Duration,
}

/// A part of the configs that are due.
#[derive(Clone, Copy, Debug)]
pub struct DuePage {
    /// Due by then.
    pub now: UnixMillis,
    /// Without the first so many.
    pub skip: usize,
    /// At most so many.
    pub max: usize,
}

/// Claims due deliveries of `config` and moves its next look.
///
/// # Errors
/// Redis's.
pub async fn claim(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    request: ClaimRequest,
) -> Result<Claimed> {
    let operation = "claiming deliveries";
    let call = CLAIM.call(
        [&keys.queue(config), &keys.due()],
        [
            config.to_string().as_bytes(),
            request.max.min(BATCH_MAX).to_string().as_bytes(),
            &millis(request.lease),
            &millis(request.overdue_by),
            &millis(request.hold),
        ],
    );
    let mut answer = Answer::new(operation, link.query(operation, &call).await?)?;
    let claim = Claim(answer.int()?);
    let next = u64::try_from(answer.int()?).ok().map(UnixMillis);
    let (ids, strange) = parsed::<DeliveryId>(answer.values());
    remove_strange(link, &keys.queue(config), strange).await?;
    Ok(Claimed { claim, next, ids })
}

/// Puts claimed deliveries of `config` back, due at once; answers how many were still the caller's.
///
/// # Errors
/// Redis's.
pub async fn put_back(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    claimed: &[(DeliveryId, Claim)],
    look: Duration,
) -> Result<u64> {
    let mut count = 0;
    for batch in claimed.chunks(BATCH_MAX) {
        let more: Vec<Vec<u8>> = batch
            .iter()
            .flat_map(|(id, claim)| [id.to_string().into_bytes(), claim.0.to_string().into_bytes()])
            .collect();
        let call = PUT_BACK.call_batch(
            [&keys.queue(config), &keys.due()],
            &[],
            [config.to_string().as_bytes(), &millis(look)],
            &more,
        );
        count += link.query::<u64>("putting deliveries back", &call).await?;
    }
    Ok(count)
}

/// Configs whose next look is at or before `now`, the earliest first, at most `max`; and the time of the
/// earliest look that is later, where not more than these are due.
///
/// # Errors
/// Redis's.
pub async fn due_configs(
    link: &Link,
    keys: &ShardKeys,
    page: DuePage,
) -> Result<(Vec<ConfigId>, Option<UnixMillis>)> {
    let operation = "reading due configs";
    let DuePage { now, skip, max } = page;
    let mut command = cmd("ZRANGE");
    command.arg(keys.due()).arg(skip).arg(skip + max).arg("WITHSCORES");
    let mut flat = list_of(operation, link.query(operation, &command).await?)?.into_iter();
    let (mut members, mut later) = (Vec::new(), None);
    while let (Some(member), Some(score)) = (flat.next(), flat.next()) {
        let at = UnixMillis(u64::try_from(int_of(operation, score)?).unwrap_or(0));
        if at > now || members.len() == max {
            later = (at > now).then_some(at);
            break;
        }
        members.push(member);
    }
    let (configs, strange) = parsed::<ConfigId>(members);
    remove_strange(link, &keys.due(), strange).await?;
    Ok((configs, later))
}

/// The first deliveries in a config's queue with their scores, whether due or not, at most [`BATCH_MAX`].
///
/// # Errors
/// Redis's.
pub async fn queued(link: &Link, keys: &ShardKeys, config: ConfigId) -> Result<Vec<(DeliveryId, Claim)>> {
    let operation = "reading a queue";
    let mut command = cmd("ZRANGE");
    command.arg(keys.queue(config)).arg(0).arg(BATCH_MAX - 1).arg("WITHSCORES");
    let mut flat = list_of(operation, link.query(operation, &command).await?)?.into_iter();
    let (mut found, mut strange) = (Vec::new(), Vec::new());
    while let (Some(id), Some(score)) = (flat.next(), flat.next()) {
        match id_in(&id) {
            Some(id) => found.push((id, Claim(int_of(operation, score)?))),
            None => strange.push(id),
        }
    }
    remove_strange(link, &keys.queue(config), strange).await?;
    Ok(found)
}

/// The packed records of these deliveries, `None` where there is none.
///
/// # Errors
/// Redis's.
pub async fn records(link: &Link, keys: &ShardKeys, ids: &[DeliveryId]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut commands = pipe();
    for id in ids {
        commands.cmd("GET").arg(keys.delivery(*id));
    }
    strings(link, "reading records", &commands).await
}

/// Which of these deliveries have a record.
///
/// # Errors
/// Redis's.
pub async fn have_records(link: &Link, keys: &ShardKeys, ids: &[DeliveryId]) -> Result<Vec<bool>> {
    let operation = "looking for records";
    let mut commands = pipe();
    for id in ids {
        commands.cmd("EXISTS").arg(keys.delivery(*id));
    }
    let answers = link.pipeline(operation, &commands).await?;
    answers.into_iter().map(|answer| Ok(int_of(operation, answer?)? == 1)).collect()
}

/// The bodies that lie apart for these events, `None` where there is none.
///
/// # Errors
/// Redis's.
pub async fn bodies(link: &Link, keys: &ShardKeys, events: &[StreamId]) -> Result<Vec<Option<Bytes>>> {
    let mut commands = pipe();
    for event in events {
        commands.cmd("GET").arg(keys.body(*event));
    }
    let found = strings(link, "reading bodies", &commands).await?;
    // The first four bytes count the deliveries that wait for the body.
    Ok(found
        .into_iter()
        .map(|value| value.filter(|v| v.len() >= 4).map(|v| Bytes::from(v).slice(4..)))
        .collect())
}

/// Those of `configs` that hold a delivery which failed before `before`.
///
/// # Errors
/// Redis's.
pub async fn with_failed_before(
    link: &Link,
    keys: &ShardKeys,
    configs: &[ConfigId],
    before: UnixMillis,
) -> Result<Vec<ConfigId>> {
    let operation = "looking for old failed deliveries";
    let mut commands = pipe();
    for config in configs {
        commands.cmd("ZCOUNT").arg(keys.failed(*config)).arg("-inf").arg(format!("({}", before.0));
    }
    let mut found = Vec::new();
    for (config, count) in configs.iter().zip(link.pipeline(operation, &commands).await?) {
        if int_of(operation, count?)? > 0 {
            found.push(*config);
        }
    }
    Ok(found)
}

/// Unpacks a record and checks that it is `config`'s.
///
/// # Errors
/// When the stored bytes are not a record of that config.
pub fn unpack(bytes: &[u8], config: ConfigId) -> Result<DeliveryRecord> {
    let operation = "unpacking a record";
    let record =
        DeliveryRecord::decode(bytes).map_err(|error| RedisError::answer(operation, error.to_string()))?;
    if record.config == config {
        Ok(record)
    } else {
        Err(RedisError::answer(operation, "the record belongs to another config"))
    }
}

pub(super) fn millis(duration: Duration) -> Vec<u8> {
    duration.as_millis().to_string().into_bytes()
}

async fn strings(
    link: &Link,
    operation: &'static str,
    commands: &redis::Pipeline,
) -> Result<Vec<Option<Vec<u8>>>> {
    let answers = link.pipeline(operation, commands).await?;
    answers
        .into_iter()
        .map(|answer| match answer? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::Nil => Ok(None),
            _ => Err(RedisError::answer(operation, "expected strings")),
        })
        .collect()
}
