//! The whole log of one config, added up: for a judge who compares it with what was published.

use std::collections::HashMap;

use redis::{Value, cmd};

use super::answer::{fields_of, list_of, text_of};
use super::connection::{Link, RedisError, Result};
use super::keys::ShardKeys;
use super::stored_config;
use crate::domain::config::StoredConfig;
use crate::domain::delivery::FailReason;
use crate::domain::ids::{ConfigId, DeliveryId, OrganisationId};
use crate::domain::log::{LogPage, LogRow, Status};

/// Log pages that one command reads: 4 MiB at most.
const PAGES_PER_READ: usize = 256;

const OPERATION: &str = "reading a whole log";

/// What a config's log says about its deliveries, each counted once by its final row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTally {
    /// Ended delivered.
    pub delivered: u64,
    /// Ended failed, by reason.
    pub failed: HashMap<FailReason, u64>,
    /// Took more than one attempt, however they ended.
    pub retried: u64,
    /// Have no final row: they are waiting, or a cap evicted it.
    pub unfinished: u64,
    /// Attempts made.
    pub attempts: u64,
}

/// How a delivery ended.
#[derive(Clone, Copy)]
enum End {
    Delivered,
    Failed(FailReason),
}

/// What the rows so far say of each delivery: the attempts made, and the end.
#[derive(Default)]
struct Deliveries(HashMap<DeliveryId, (u32, Option<End>)>);

/// Reads the log of one of the organisation's configs from its oldest page to its newest. Memory grows with the
/// deliveries in it, which the log's cap bounds.
///
/// # Errors
/// Redis's, when the organisation has no such config, or when a page cannot be understood.
pub async fn tally(
    link: &Link,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    config: ConfigId,
) -> Result<LogTally> {
    prove_owner(link, organisation, config).await?;
    let mut deliveries = Deliveries::default();
    for shard in shards {
        read_log(link, &shard.log(config), |row| deliveries.add(row)).await?;
    }
    Ok(deliveries.tally())
}

async fn prove_owner(link: &Link, organisation: &OrganisationId, config: ConfigId) -> Result<()> {
    let mut command = cmd("HGET");
    command.arg(link.keys().configs()).arg(config.to_string());
    let stored: Option<Vec<u8>> = link.query("reading a config", &command).await?;
    let stored: Option<StoredConfig> = stored.and_then(|json| stored_config::decode(link.keyring(), &json));
    match stored {
        Some(stored) if stored.organisation() == organisation => Ok(()),
        _ => Err(RedisError::answer(OPERATION, "the organisation has no such config")),
    }
}

async fn read_log(link: &Link, key: &str, mut visit: impl FnMut(&LogRow)) -> Result<()> {
    let mut from = "-".to_owned();
    loop {
        let mut command = cmd("XRANGE");
        command.arg(key).arg(&from).arg("+").arg("COUNT").arg(PAGES_PER_READ);
        let entries = list_of(OPERATION, link.query::<Value>(OPERATION, &command).await?)?;
        let last = entries.len() < PAGES_PER_READ;
        for entry in entries {
            let (id, page) = page_of(entry)?;
            page.rows.iter().for_each(&mut visit);
            from = format!("({id}");
        }
        if last {
            return Ok(());
        }
    }
}

fn page_of(entry: Value) -> Result<(String, LogPage)> {
    let mut id_and_fields = list_of(OPERATION, entry)?.into_iter();
    let (Some(id), Some(fields)) = (id_and_fields.next(), id_and_fields.next()) else {
        return Err(RedisError::answer(OPERATION, "an entry without fields"));
    };
    let id = text_of(OPERATION, id)?;
    let fields = fields_of(OPERATION, fields)?;
    let packed = fields.iter().find(|(name, _)| name == b"p").map(|(_, page)| page);
    let packed = packed.ok_or_else(|| RedisError::answer(OPERATION, "an entry without a page"))?;
    let page = LogPage::decode(packed).map_err(|error| RedisError::answer(OPERATION, error.to_string()))?;
    Ok((id, page))
}

// === impl Deliveries ===

impl Deliveries {
    fn add(&mut self, row: &LogRow) {
        let (attempts, end) = self.0.entry(row.delivery).or_default();
        *attempts = row.attempt.max(*attempts);
        match row.status {
            Status::Delivered => *end = Some(End::Delivered),
            // A row without its reason was written by a newer program; it is an end all the same.
            Status::Failed => *end = Some(End::Failed(row.reason.unwrap_or(FailReason::Refused))),
            Status::Pending | Status::Retrying => {}
        }
    }

    fn tally(self) -> LogTally {
        let mut tally = LogTally::default();
        for (attempts, end) in self.0.into_values() {
            tally.attempts += u64::from(attempts);
            tally.retried += u64::from(attempts > 1);
            match end {
                Some(End::Delivered) => tally.delivered += 1,
                Some(End::Failed(reason)) => *tally.failed.entry(reason).or_default() += 1,
                None => tally.unfinished += 1,
            }
        }
        tally
    }
}
