//! Leases of consumers in `replicas`: taking, renewing, observing, taking over, leaving.

use std::time::Duration;

use redis::{Value, cmd, pipe};

use super::answer::{Answer, int_of, list_of, text_of};
use super::connection::{Link, RedisError, Result};
use super::keys::{GROUP, ShardKeys};
use super::scripts::{LEAVE, RECLAIM, RENEW};
use crate::domain::clock::UnixMillis;

/// Entries moved by one call of reclaim.
const RECLAIM_MAX: u32 = 64;

/// A lease's end, ms by Redis's clock: what the next renewal must find unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseEnd(pub i64);

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Redis's time.
    pub now: UnixMillis,
    /// The lease's new end; `None` when it is lost.
    pub end: Option<LeaseEnd>,
}

/// The answer to an attempt to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// So many entries now belong to the caller; there may be more.
    Moved(u64),
    /// Nothing was left: consumer and member are gone.
    Gone,
    /// The consumer lives, or has entries that the caller cannot take.
    Alive,
}

/// A consumer as observed: its lease's end, `None` where it has no member in `replicas`.
pub type Observation = (String, Option<LeaseEnd>);

/// Takes (`held` is `None`) or renews the lease of `consumer`.
///
/// # Errors
/// Redis's.
pub async fn renew(
    link: &Link,
    keys: &ShardKeys,
    consumer: &str,
    lease: Duration,
    held: Option<LeaseEnd>,
) -> Result<Renewal> {
    let operation = "renewing a lease";
    let held = held.map_or_else(String::new, |end| end.0.to_string());
    let lease = lease.as_millis().to_string();
    let call = RENEW.call([&keys.replicas()], [consumer.as_bytes(), lease.as_bytes(), held.as_bytes()]);
    let mut answer = Answer::new(operation, link.query(operation, &call).await?)?;
    let now = UnixMillis(u64::try_from(answer.int()?).unwrap_or(0));
    let end = Some(answer.int()?).filter(|end| *end > 0).map(LeaseEnd);
    Ok(Renewal { now, end })
}

/// Every consumer of the group and every member of `replicas`.
///
/// # Errors
/// Redis's.
pub async fn observe(link: &Link, keys: &ShardKeys) -> Result<Vec<Observation>> {
    let operation = "observing leases";
    let mut commands = pipe();
    commands.cmd("ZRANGE").arg(keys.replicas()).arg(0).arg(-1).arg("WITHSCORES");
    commands.cmd("XINFO").arg("CONSUMERS").arg(keys.events()).arg(GROUP);
    let mut answers = link.pipeline(operation, &commands).await?.into_iter();
    let (Some(members), Some(consumers)) = (answers.next(), answers.next()) else {
        return Err(RedisError::answer(operation, "two lists expected"));
    };
    let mut found: Vec<Observation> = Vec::new();
    let mut flat = list_of(operation, members?)?.into_iter();
    while let (Some(name), Some(score)) = (flat.next(), flat.next()) {
        found.push((text_of(operation, name)?, Some(LeaseEnd(int_of(operation, score)?))));
    }
    for consumer in list_of(operation, consumers?)? {
        let name = consumer_name(operation, consumer)?;
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, None));
        }
    }
    Ok(found)
}

/// Takes over entries of `dead`, whose lease was observed to end at `observed` for a whole lease. Without a `caller`
/// to give them to, `dead` is only removed where it has none.
///
/// # Errors
/// Redis's.
pub async fn reclaim(
    link: &Link,
    keys: &ShardKeys,
    dead: &str,
    observed: Option<LeaseEnd>,
    caller: Option<&str>,
) -> Result<Reclaimed> {
    let observed = observed.map_or_else(String::new, |end| end.0.to_string());
    let max = RECLAIM_MAX.to_string();
    let call = RECLAIM.call(
        [&keys.events(), &keys.replicas()],
        [dead.as_bytes(), observed.as_bytes(), caller.unwrap_or_default().as_bytes(), max.as_bytes()],
    );
    match link.query::<i64>("reclaiming events", &call).await? {
        0 => Ok(Reclaimed::Gone),
        moved => Ok(u64::try_from(moved).map_or(Reclaimed::Alive, Reclaimed::Moved)),
    }
}

/// Removes `consumer` and its lease; false when something is still pending for it.
///
/// # Errors
/// Redis's.
pub async fn leave(link: &Link, keys: &ShardKeys, consumer: &str) -> Result<bool> {
    let call = LEAVE.call([&keys.events(), &keys.replicas()], [consumer.as_bytes()]);
    link.query::<i64>("leaving", &call).await.map(|left| left == 1)
}

/// How many consumers hold a lease.
///
/// # Errors
/// Redis's.
pub async fn count(link: &Link, keys: &ShardKeys) -> Result<u64> {
    let mut command = cmd("ZCARD");
    command.arg(keys.replicas());
    link.query("counting leases", &command).await
}

fn consumer_name(operation: &'static str, info: Value) -> Result<String> {
    let mut flat = match info {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(k, v)| [k, v]).collect::<Vec<_>>(),
        other => list_of(operation, other)?,
    }
    .into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        if text_of(operation, name)? == "name" {
            return text_of(operation, value);
        }
    }
    Err(RedisError::answer(operation, "a consumer without a name"))
}
