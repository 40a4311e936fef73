//! Purging: taking stored payloads and records out of Redis, for one organisation or one delivery (docs/OPERATIONS.md,
//! "Purging"). Every step is bounded and may be repeated, while replicas run. With `dry`, steps only count.

use redis::{Value, cmd, pipe};
use serde::Deserialize;

use super::answer::{int_of, list_of, text_of};
use super::connection::{Link, RedisError, Result};
use super::deliveries::BATCH_MAX;
use super::events::{StreamEntry, entry_of, raise_floor};
use super::keys::ShardKeys;
use super::rejected::taking;
use super::scripts::{PURGE_DELIVERIES, PURGE_PAYLOADS};
use super::unusable::{parsed, remove_strange};
use crate::domain::ids::{ConfigId, DeliveryId, OrganisationId, StreamId};
use crate::domain::log::PayloadPage;

/// Entries of one read of a stream; one may have 256 KiB.
const PAGE: usize = 64;

/// Keys that one step of a scan looks at.
const SCAN: usize = 1_000;

/// The sizes of a log that has gone.
const LOG_SIZES: [&str; 3] = ["logRows", "logBytes", "bodyBytes"];

/// One step over a stream: what it took, and where the next goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries removed, or counted.
    pub removed: u64,
    /// Entries that stay because they are not delivered yet.
    pub undelivered: u64,
    /// Behind this entry; `None` at the end.
    pub next: Option<StreamId>,
}

/// One step of a scan over keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Keys removed, or counted.
    pub removed: u64,
    /// Where the next step goes on; 0 at the end.
    pub cursor: u64,
}

#[derive(Deserialize)]
struct Owner {
    organisation: OrganisationId,
}

/// The configs for which `wanted` holds, deleted ones that are still known included. A value that does not parse is
/// left out.
///
/// # Errors
/// Redis's.
pub async fn configs(
    link: &Link,
    wanted: impl Fn(ConfigId, &OrganisationId) -> bool,
) -> Result<Vec<ConfigId>> {
    let operation = "reading configs";
    let (mut cursor, mut found) = (0_u64, Vec::new());
    loop {
        let mut command = cmd("HSCAN");
        command.arg(link.keys().configs()).arg(cursor).arg("COUNT").arg(SCAN);
        let (next, flat): (u64, Vec<Value>) = link.query(operation, &command).await?;
        let mut flat = flat.into_iter();
        while let (Some(field), Some(Value::BulkString(json))) = (flat.next(), flat.next()) {
            let id = text_of(operation, field)?.parse::<ConfigId>().ok();
            let owner = serde_json::from_slice::<Owner>(&json).ok();
            if let Some((id, owner)) = id.zip(owner)
                && wanted(id, &owner.organisation)
            {
                found.push(id);
            }
        }
        cursor = next;
        if cursor == 0 {
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
    }
}

/// How many deliveries of a config wait or have failed.
///
/// # Errors
/// Redis's.
pub async fn deliveries_count(link: &Link, keys: &ShardKeys, config: ConfigId) -> Result<u64> {
    let operation = "counting deliveries";
    let mut commands = pipe();
    commands.cmd("ZCARD").arg(keys.queue(config));
    commands.cmd("ZCARD").arg(keys.failed(config));
    let mut sum = 0;
    for answer in link.pipeline(operation, &commands).await? {
        sum += u64::try_from(int_of(operation, answer?)?).unwrap_or(0);
    }
    Ok(sum)
}

/// Removes the next deliveries of a config that wait or have failed, at most [`BATCH_MAX`]; 0 when none are left.
///
/// # Errors
/// Redis's.
pub async fn next_deliveries(link: &Link, keys: &ShardKeys, config: ConfigId) -> Result<u64> {
    for key in [keys.queue(config), keys.failed(config)] {
        let mut command = cmd("ZRANGE");
        command.arg(&key).arg(0).arg(BATCH_MAX - 1);
        let (ids, strange) = parsed::<DeliveryId>(link.query("reading deliveries", &command).await?);
        let strangers = strange.len() as u64;
        remove_strange(link, &key, strange).await?;
        if !ids.is_empty() {
            return Ok(strangers + deliveries(link, keys, config, &ids).await?.max(1));
        }
        if strangers > 0 {
            return Ok(strangers);
        }
    }
    Ok(0)
}

/// Removes these deliveries of a config, at most [`BATCH_MAX`]; answers how many there were.
///
/// # Errors
/// Redis's.
pub async fn deliveries(link: &Link, keys: &ShardKeys, config: ConfigId, ids: &[DeliveryId]) -> Result<u64> {
    let mut more_keys = Vec::with_capacity(2 * ids.len());
    for id in ids {
        more_keys.push(keys.delivery(*id));
        more_keys.push(keys.body(id.event().stream_id()));
    }
    let more_args: Vec<Vec<u8>> = ids.iter().map(|id| id.to_string().into_bytes()).collect();
    let fixed = [&keys.failed(config)[..], &keys.queue(config), &keys.due(), &keys.size(config)];
    let call = PURGE_DELIVERIES.call_batch(
        fixed,
        &more_keys,
        [config.to_string().as_bytes(), &config.bytes()],
        &more_args,
    );
    link.query("removing deliveries", &call).await
}

/// Whether a delivery of a config has a record.
///
/// # Errors
/// Redis's.
pub async fn has_record(link: &Link, keys: &ShardKeys, config: ConfigId, id: DeliveryId) -> Result<bool> {
    let mut command = cmd("GETRANGE");
    command.arg(keys.delivery(id)).arg(0).arg(15);
    let head: Vec<u8> = link.query("looking for a record", &command).await?;
    Ok(head.len() == 16 && head[0] != 0 && head[4..] == config.bytes())
}

/// Removes a config's log and payloads; answers how many rows there were, as far as was told, and pages of payloads.
///
/// # Errors
/// Redis's.
pub async fn log(link: &Link, keys: &ShardKeys, config: ConfigId, dry: bool) -> Result<(u64, u64)> {
    let operation = "removing a log";
    let mut command = cmd("HGET");
    command.arg(keys.size(config)).arg("logRows");
    let told: Option<u64> = link.query(operation, &command).await?;
    let mut command = cmd("XLEN");
    command.arg(keys.log(config));
    // Rows are told after a while; a page has one at least.
    let rows = told.unwrap_or(0).max(link.query(operation, &command).await?);
    let mut command = cmd("XLEN");
    command.arg(keys.bodies(config));
    let payload_pages = link.query(operation, &command).await?;
    if !dry {
        let mut commands = pipe();
        commands.cmd("UNLINK").arg(keys.log(config)).arg(keys.bodies(config));
        commands.cmd("HDEL").arg(keys.size(config)).arg(&LOG_SIZES);
        for answer in link.pipeline(operation, &commands).await? {
            answer?;
        }
    }
    Ok((rows, payload_pages))
}

/// Removes the payload pages among the next ones of a config that hold a payload of `delivery`.
///
/// # Errors
/// Redis's.
pub async fn payloads(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    delivery: DeliveryId,
    after: Option<StreamId>,
    dry: bool,
) -> Result<Swept> {
    let key = keys.bodies(config);
    let page = page(link, &key, after).await?;
    let holds = |entry: &&StreamEntry| {
        let packed = entry.fields.iter().find(|(name, _)| name == b"p").map(|(_, packed)| packed);
        let page = packed.and_then(|packed| PayloadPage::decode(packed).ok());
        page.is_some_and(|page| page.payloads.iter().any(|one| one.delivery == delivery))
    };
    let ids: Vec<Vec<u8>> =
        page.iter().filter(holds).map(|entry| entry.id.to_string().into_bytes()).collect();
    if !ids.is_empty() && !dry {
        let call = PURGE_PAYLOADS.call_batch([&key, &keys.size(config)], &[], [], &ids);
        link.query::<u64>("removing payloads", &call).await?;
    }
    Ok(Swept { removed: ids.len() as u64, undelivered: 0, next: next(&page) })
}

/// Removes the organisation's entries among the next ones of `events`, as far as they have a durable fate.
///
/// # Errors
/// Redis's.
pub async fn events(
    link: &Link,
    keys: &ShardKeys,
    organisation: &OrganisationId,
    after: Option<StreamId>,
    dry: bool,
) -> Result<Swept> {
    let floor = floor(link, keys).await?;
    let page = page(link, &keys.events(), after).await?;
    let theirs = page.iter().filter(|entry| is_of(entry, organisation)).map(|entry| entry.id);
    let (done, open): (Vec<StreamId>, Vec<StreamId>) =
        theirs.partition(|id| floor.is_some_and(|floor| *id <= floor));
    if !dry {
        remove(link, &keys.events(), &done).await?;
    }
    Ok(Swept { removed: done.len() as u64, undelivered: open.len() as u64, next: next(&page) })
}

/// Removes one event, if it has a durable fate.
///
/// # Errors
/// Redis's.
pub async fn event(link: &Link, keys: &ShardKeys, id: StreamId, dry: bool) -> Result<Swept> {
    let floor = floor(link, keys).await?;
    let mut command = cmd("XRANGE");
    command.arg(keys.events()).arg(id.to_string()).arg(id.to_string());
    let there = list_of("reading an event", link.query("reading an event", &command).await?)?.len() as u64;
    if floor.is_none_or(|floor| id > floor) {
        return Ok(Swept { removed: 0, undelivered: there, next: None });
    }
    if !dry && there > 0 {
        remove(link, &keys.events(), &[id]).await?;
    }
    Ok(Swept { removed: there, undelivered: 0, next: None })
}

/// Removes the organisation's entries among the next ones of `rejected`.
///
/// # Errors
/// Redis's.
pub async fn rejected(
    link: &Link,
    keys: &ShardKeys,
    organisation: &OrganisationId,
    after: Option<StreamId>,
    dry: bool,
) -> Result<Swept> {
    let page = page(link, &keys.rejected(), after).await?;
    let ids: Vec<StreamId> =
        page.iter().filter(|entry| is_of(entry, organisation)).map(|entry| entry.id).collect();
    if !dry {
        for id in &ids {
            link.query::<Vec<String>>("removing rejected entries", &taking(keys, *id, &[])).await?;
        }
    }
    Ok(Swept { removed: ids.len() as u64, undelivered: 0, next: next(&page) })
}

/// Removes the organisation's nonces among the next keys.
///
/// # Errors
/// Redis's.
pub async fn nonces(
    link: &Link,
    keys: &ShardKeys,
    organisation: &OrganisationId,
    cursor: u64,
    dry: bool,
) -> Result<Scanned> {
    let prefix = keys.nonce(organisation, "");
    scan(link, &prefix, cursor, dry, |key| key.starts_with(prefix.as_bytes())).await
}

/// Removes the statistics of these configs among the next keys.
///
/// # Errors
/// Redis's.
pub async fn stats(
    link: &Link,
    keys: &ShardKeys,
    configs: &[ConfigId],
    cursor: u64,
    dry: bool,
) -> Result<Scanned> {
    let prefix = keys.all_stats();
    scan(link, &prefix, cursor, dry, |key| {
        let rest = key.strip_prefix(prefix.as_bytes()).and_then(|rest| rest.get(..24));
        let id = rest.and_then(|id| std::str::from_utf8(id).ok()?.parse::<ConfigId>().ok());
        id.is_some_and(|id| configs.binary_search(&id).is_ok())
    })
    .await
}

async fn scan(
    link: &Link,
    prefix: &str,
    cursor: u64,
    dry: bool,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Scanned> {
    let operation = "scanning keys";
    let mut command = cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(format!("{}*", escaped(prefix))).arg("COUNT").arg(SCAN);
    let (cursor, mut found): (u64, Vec<Vec<u8>>) = link.query(operation, &command).await?;
    found.retain(|key| wanted(key));
    if !found.is_empty() && !dry {
        let mut command = cmd("UNLINK");
        command.arg(&found);
        link.query::<u64>("removing keys", &command).await?;
    }
    Ok(Scanned { removed: found.len() as u64, cursor })
}

/// A text as a pattern that only matches itself.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| [Some('\\').filter(|_| matches!(c, '*' | '?' | '[' | ']' | '^' | '\\')), Some(c)])
        .flatten()
        .collect()
}

async fn page(link: &Link, key: &str, after: Option<StreamId>) -> Result<Vec<StreamEntry>> {
    let operation = "reading a stream";
    let mut command = cmd("XRANGE");
    command.arg(key).arg(after.map_or_else(|| "-".to_owned(), |id| format!("({id}")));
    command.arg("+").arg("COUNT").arg(PAGE);
    let entries = list_of(operation, link.query(operation, &command).await?)?;
    entries.into_iter().map(|entry| entry_of(operation, entry)).collect()
}

fn next(page: &[StreamEntry]) -> Option<StreamId> {
    page.last().map(|entry| entry.id).filter(|_| page.len() == PAGE)
}

fn is_of(entry: &StreamEntry, organisation: &OrganisationId) -> bool {
    let given = entry.fields.iter().rev().find(|(name, _)| name == b"organisationId");
    given.is_some_and(|(_, value)| value == organisation.as_str().as_bytes())
}

async fn remove(link: &Link, key: &str, ids: &[StreamId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut command = cmd("XDEL");
    command.arg(key).arg(ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    link.query::<u64>("removing entries", &command).await.map(drop)
}

/// Up to where everything has a durable fate, as of now.
async fn floor(link: &Link, keys: &ShardKeys) -> Result<Option<StreamId>> {
    let operation = "reading the floor";
    let text = raise_floor(link, keys).await?.floor;
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|error| RedisError::answer(operation, format!("the floor: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_nothing_but_its_text() {
        assert_eq!(escaped(r"n:{0}:nonce:o*[a]?\:"), r"n:{0}:nonce:o\*\[a\]\?\\:");
    }
}
