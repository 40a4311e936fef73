//! Failed deliveries back into their queue, in a job's batches (docs/WIRE.md section 11, "Recover"). The cursor is
//! `<failed at>:<delivery id>`, the order of `failed:<config>`, so that what is passed over is not looked at again.

use redis::{Value, cmd, pipe};

use super::answer::{Answer, int_of, list_of, text_of};
use super::connection::{During, Redis, RedisError, Result};
use super::deliveries::BATCH_MAX;
use super::health::Ask;
use super::jobs::jobs_age;
use super::keys::ShardKeys;
use super::scripts::RECOVER;
use crate::domain::delivery::{DeliveryRecord, RECORD_HEAD_MAX_BYTES, RecordHead};
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::job::{Job, Progress, Selection};
use crate::domain::owned_config::OwnedConfig;

/// Records whose heads are read at a time to count what matches.
const COUNT_PAGE: usize = 500;

/// What one batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Deliveries or events moved.
    pub moved: u64,
    /// What follows.
    pub next: Next,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There may be more.
    More,
    /// Nothing is left on this shard.
    Done,
    /// The queue has no room for more now.
    Full,
    /// Somebody else has moved the cursor on.
    Overtaken,
}

/// How much of the config's queue a job may fill.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Deliveries.
    pub count: u64,
    /// Bytes of their records.
    pub bytes: u64,
}

/// A place in a failed set: failed at, and the member.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    score: u64,
    member: String,
}

// === impl Place ===

impl Place {
    fn parse(cursor: &str) -> Option<Self> {
        let (score, member) = cursor.split_once(':')?;
        Some(Self { score: score.parse().ok()?, member: member.to_owned() })
    }

    fn cursor(&self) -> String {
        format!("{}:{}", self.score, self.member)
    }
}

/// How many failed deliveries of `config` match.
///
/// # Errors
/// Redis's.
pub async fn count(
    redis: &Redis,
    shards: &[ShardKeys],
    config: &OwnedConfig,
    selection: &Selection,
) -> Result<u64> {
    let operation = "counting failed deliveries";
    let mut total = 0;
    for keys in shards {
        if selection.event.is_none() {
            let mut command = cmd("ZCOUNT");
            command.arg(keys.failed(config.id())).arg(selection.since.0).arg(before(selection));
            total += u64::try_from(int_of(operation, redis.ask(operation, &command).await?)?).unwrap_or(0);
            continue;
        }
        let mut after = None;
        loop {
            let page = page(redis, keys, config.id(), selection, after.as_ref(), COUNT_PAGE).await?;
            total += matching(redis, keys, config.id(), selection, &page).await?.len() as u64;
            match page.last() {
                Some(last) if page.len() == COUNT_PAGE => after = Some(last.clone()),
                _ => break,
            }
        }
    }
    Ok(total)
}

/// Moves the next failed deliveries that match, at most `max` of the next [`BATCH_MAX`], into the queue.
///
/// # Errors
/// Redis's: then the batch was applied whole or not at all, and the next call finds out.
pub async fn recover(
    redis: &Redis,
    keys: &ShardKeys,
    job: &Job,
    progress: &Progress,
    max: usize,
    room: Room,
) -> Result<Batch> {
    let (config, selection) = (job.config, &job.selection);
    let after = Place::parse(&progress.cursor);
    let page = page(redis, keys, config, selection, after.as_ref(), BATCH_MAX).await?;
    let mut found = matching(redis, keys, config, selection, &page).await?;
    let mut last = page.last().cloned();
    let mut done = page.len() < BATCH_MAX;
    if found.len() > max.max(1) {
        found.truncate(max.max(1));
        last = found.last().map(|(_, place)| place.clone());
        done = false;
    }
    let cursor = last.or(after).map(|place| place.cursor()).unwrap_or_default();
    let (mut more_keys, mut more_args) = (Vec::new(), Vec::new());
    for (id, place) in &found {
        more_keys.push(keys.delivery(*id));
        more_keys.push(keys.body(id.event().stream_id()));
        more_args.push(place.member.clone().into_bytes());
        more_args.push(place.cursor().into_bytes());
    }
    let fixed =
        [&keys.failed(config)[..], &keys.queue(config), &keys.due(), &keys.size(config), &keys.job(job.id)];
    let call = RECOVER.call_batch(
        fixed,
        &more_keys,
        [
            config.to_string().as_bytes(),
            &config.bytes(),
            progress.cursor.as_bytes(),
            cursor.as_bytes(),
            if done { b"1" } else { b"0" },
            room.count.to_string().as_bytes(),
            room.bytes.to_string().as_bytes(),
            job.rate_per_second.max(1).to_string().as_bytes(),
            &jobs_age(),
        ],
        &more_args,
    );
    batch_of("recovering failed deliveries", redis, &call, done).await
}

/// Sends a batch's script and reads `{status, moved, skipped}`.
pub(super) async fn batch_of(
    operation: &'static str,
    redis: &Redis,
    call: &redis::Cmd,
    done: bool,
) -> Result<Batch> {
    let mut answer = Answer::new(operation, redis.ask(operation, call).await?)?;
    let next = match answer.int()? {
        0 => Next::Overtaken,
        1 if done => Next::Done,
        1 => Next::More,
        2 => Next::Full,
        other => return Err(RedisError::answer(operation, format!("status {other}"))),
    };
    Ok(Batch { moved: u64::try_from(answer.int()?).unwrap_or(0), next })
}

fn before(selection: &Selection) -> String {
    format!("({}", selection.until.0)
}

/// The next members after a place, in the set's order (score, then member), at most `count`. Many may have failed in
/// one millisecond, so pages are asked for until one goes beyond the place.
async fn page(
    redis: &Redis,
    keys: &ShardKeys,
    config: ConfigId,
    selection: &Selection,
    after: Option<&Place>,
    count: usize,
) -> Result<Vec<Place>> {
    let operation = "reading failed deliveries";
    let from = after.map_or(selection.since.0, |place| place.score.max(selection.since.0));
    let (mut found, mut skip) = (Vec::new(), 0);
    loop {
        let mut command = cmd("ZRANGEBYSCORE");
        command.arg(keys.failed(config)).arg(from).arg(before(selection)).arg("WITHSCORES");
        command.arg("LIMIT").arg(skip).arg(count);
        let mut flat = list_of(operation, redis.ask(operation, &command).await?)?.into_iter();
        let mut read = 0;
        while let (Some(member), Some(score)) = (flat.next(), flat.next()) {
            read += 1;
            let score = u64::try_from(int_of(operation, score)?).unwrap_or(0);
            let place = Place { score, member: text_of(operation, member)? };
            let beyond = |after: &Place| (place.score, &place.member) > (after.score, &after.member);
            if after.is_none_or(beyond) && found.len() < count {
                found.push(place);
            }
        }
        if read < count || found.len() == count {
            return Ok(found);
        }
        skip += read;
    }
}

/// Those of a page whose record is this config's, failed, and of the wanted type. Without a type every one matches:
/// the script looks at the records anyway.
async fn matching(
    redis: &Redis,
    keys: &ShardKeys,
    config: ConfigId,
    selection: &Selection,
    page: &[Place],
) -> Result<Vec<(DeliveryId, Place)>> {
    let operation = "reading failed records";
    let parsed = page.iter().filter_map(|place| Some((place.member.parse().ok()?, place.clone())));
    let parsed: Vec<(DeliveryId, Place)> = parsed.collect();
    if selection.event.is_none() || parsed.is_empty() {
        return Ok(parsed);
    }
    let mut commands = pipe();
    for (id, _) in &parsed {
        commands.cmd("GETRANGE").arg(keys.delivery(*id)).arg(0).arg(RECORD_HEAD_MAX_BYTES - 1);
    }
    let mut connection = redis.pooled(operation).await?;
    let heads: Vec<Value> = commands.query_async(&mut *connection).await.during(operation)?;
    let wanted = |head: &Value| match head {
        Value::BulkString(bytes) if !bytes.is_empty() && !DeliveryRecord::is_mark(bytes) => {
            RecordHead::decode(bytes)
                .is_ok_and(|head| head.config == config && selection.wants(&head.event_type))
        }
        _ => false,
    };
    Ok(parsed.into_iter().zip(heads).filter(|(_, head)| wanted(head)).map(|(one, _)| one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_place() {
        let place = Place { score: 5, member: "dlv_x".into() };
        assert_eq!(Place::parse(&place.cursor()), Some(place));
        assert_eq!(Place::parse(""), None);
    }
}
