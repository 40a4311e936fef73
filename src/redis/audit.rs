//! The audit: one capped stream an organisation, written by every change and read newest first. Changes of configs
//! and tokens write theirs in the script that makes the change; what else is changed calls [`record`] afterwards.

use redis::Value;

use super::answer::{Answer, fields_of, list_of, text_of};
use super::connection::{During, Redis, RedisError, Result};
use super::ranges::older_than;
use super::scripts;
use crate::domain::audit::AuditEntry;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{OrganisationId, StreamId};
use crate::domain::log_limit::limited;
use crate::metrics;

/// Entries that one organisation's audit keeps.
pub const AUDIT_MAX: u64 = 10_000;
/// Bytes of entries that it keeps.
pub const AUDIT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long an entry is kept, in milliseconds: a year.
pub(super) const AUDIT_AGE_MS: u64 = 365 * 86_400_000;
/// Entries read at a time while looking for those that match.
const PAGE: usize = 128;
/// Entries that one query reads.
const READ_MAX: usize = 2_048;

/// Which entries a query wants; `None` wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Inclusive.
    pub since: Option<UnixMillis>,
    /// Exclusive.
    pub until: Option<UnixMillis>,
    /// The procedure's name, exactly.
    pub action: Option<String>,
    /// The target, exactly.
    pub target: Option<String>,
    /// Only what lies before this entry.
    pub before: Option<StreamId>,
    /// Most entries.
    pub limit: usize,
}

/// A page of the audit, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// Each with the id of its stream entry, whose milliseconds are its time.
    pub entries: Vec<(StreamId, AuditEntry)>,
    /// Where the next page begins; `None` when there is nothing more.
    pub next: Option<StreamId>,
}

/// Writes an entry to the organisation's audit.
///
/// # Errors
/// Redis's.
pub async fn record(redis: &Redis, organisation: &OrganisationId, entry: &AuditEntry) -> Result<()> {
    run(redis, "writing the audit", organisation, &to_json(entry)?).await
}

/// Keeps the audit's limits, after a script wrote entries. A failure is logged: the next change tries again.
pub(super) async fn trim(redis: &Redis, organisation: &OrganisationId) {
    if let Err(error) = run(redis, "trimming the audit", organisation, b"").await {
        limited!(warn, %error, %organisation, "the audit was not trimmed");
    }
}

/// The entry as scripts take it.
pub(super) fn to_json(entry: &AuditEntry) -> Result<Vec<u8>> {
    serde_json::to_vec(entry).map_err(|error| RedisError::answer("writing the audit", error.to_string()))
}

async fn run(
    redis: &Redis,
    operation: &'static str,
    organisation: &OrganisationId,
    entry: &[u8],
) -> Result<()> {
    let keys = redis.keys();
    let keys = [keys.audit(organisation), keys.audit_bytes(organisation)];
    let limits = [AUDIT_MAX, AUDIT_BYTES_MAX, AUDIT_AGE_MS].map(|limit| limit.to_string());
    let [count, bytes, age] = limits.each_ref().map(|text| text.as_bytes());
    let mut connection = redis.pooled(operation).await?;
    let mut entry = entry;
    loop {
        let command = scripts::AUDIT.call([&keys[0], &keys[1]], [entry, count, bytes, age]);
        let answer: Value = scripts::run(&mut connection, operation, &command).await?;
        let mut answer = Answer::new(operation, answer)?;
        metrics::audit_evicted(u64::try_from(answer.int()?).unwrap_or(0));
        if answer.int()? == 0 {
            return Ok(());
        }
        entry = b"";
    }
}

/// Reads a page of the organisation's audit. A query reads at most 2,048 entries: a page may then be short, even
/// empty, and still name where the next begins.
///
/// # Errors
/// Redis's. An entry that cannot be understood is left out.
pub async fn read(redis: &Redis, organisation: &OrganisationId, query: &AuditQuery) -> Result<AuditPage> {
    let operation = "reading the audit";
    let key = redis.keys().audit(organisation);
    let mut connection = redis.pooled(operation).await?;
    let lowest = query.since.map_or_else(|| "-".to_owned(), |since| since.0.to_string());
    let mut highest = match (query.until, query.before) {
        (until, Some(before)) if until.is_none_or(|until| before.ms < until.0) => older_than(before),
        (Some(until), _) => older_than(StreamId { ms: until.0, seq: 0 }),
        (None, _) => "+".to_owned(),
    };
    let (mut page, mut read) = (AuditPage::default(), 0);
    loop {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&key).arg(&highest).arg(&lowest).arg("COUNT").arg(PAGE);
        let answer: Value = command.query_async(&mut connection).await.during(operation)?;
        let entries = list_of(operation, answer)?;
        let count = entries.len();
        for (place, entry) in entries.into_iter().enumerate() {
            let (id, entry) = parse(operation, entry)?;
            read += 1;
            highest = format!("({id}");
            page.entries.extend(entry.filter(|entry| query.wants(entry)).map(|entry| (id, entry)));
            let full = page.entries.len() >= query.limit || read >= READ_MAX;
            if full {
                page.next = (place + 1 < count || count == PAGE).then_some(id);
                return Ok(page);
            }
        }
        if count < PAGE {
            return Ok(page);
        }
    }
}

/// One stream entry; `None` for what an audit entry is not.
fn parse(operation: &'static str, entry: Value) -> Result<(StreamId, Option<AuditEntry>)> {
    let mut parts = list_of(operation, entry)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(RedisError::answer(operation, "an entry without id and fields"));
    };
    let id = text_of(operation, id)?;
    let id = id.parse().map_err(|error| RedisError::answer(operation, format!("'{id}': {error}")))?;
    let fields = fields_of(operation, fields)?;
    let json = fields.into_iter().find(|(name, _)| name == b"entry").map(|(_, json)| json);
    let entry = json.and_then(|json| serde_json::from_slice(&json).ok());
    if entry.is_none() {
        metrics::stored_unreadable("audit");
    }
    Ok((id, entry))
}

// === impl AuditQuery ===

impl AuditQuery {
    fn wants(&self, entry: &AuditEntry) -> bool {
        self.action.as_ref().is_none_or(|action| *action == entry.action)
            && self.target.as_ref().is_none_or(|target| *target == entry.target)
    }
}
