//! Looking for an event by a nonce that names no place: through the stream, the payloads that the logs keep and the
//! records of what waits or failed. Each search is bounded and says where it ended.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::answer::list_of;
use super::connection::{During, Redis, Result};
use super::delivery_read::{self, LogSource, RecordCounts};
use super::keys::ShardKeys;
use super::log_read;
use super::trace::entry_parts;
use crate::domain::delivery::RecordBody;
use crate::domain::event::EventFields;
use crate::domain::ids::{DeliveryId, EventId, OrganisationId, StreamId};
use crate::domain::owned_config::OwnedConfig;

/// Entries of each stream that are looked at, newest first, and how many at a time: an entry holds up to 256 KiB.
const ENTRIES_MAX: usize = 5_000;
const ENTRIES_STEP: usize = 100;
/// Bytes of `data` after which a stream's search ends.
const ENTRIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Payload pages that are looked at, shared among the logs: 80 KiB each at most.
const PAYLOAD_PAGES_MAX: usize = 256;
/// Records that are looked at, shared among the sets.
const RECORDS_MAX: usize = 2_000;
/// Entries of replays of one event that are told, the newest.
const COPIES_MAX: usize = 20;

const OPERATION: &str = "searching for a nonce";

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The event.
    pub event: Option<EventId>,
    /// Entries by which replays brought it again, the newest first.
    pub copies: Vec<EventId>,
    /// What was searched.
    pub searched: Vec<String>,
    /// What was not.
    pub not_searched: Vec<String>,
}

/// Searches for an event of the organisation by its nonce.
///
/// # Errors
/// Redis's.
pub async fn search_nonce(
    redis: &Redis,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    configs: &[OwnedConfig],
    nonce: &str,
) -> Result<Search> {
    let mut connection = redis.pooled(OPERATION).await?;
    let mut search = Search::default();
    for keys in shards {
        search.in_stream(&mut connection, keys, organisation, nonce).await?;
        if search.event.is_some() {
            return Ok(search);
        }
    }
    // The body begins with the event's type and its time; the nonce follows, as JSON writes it.
    let sign = format!("\"nonce\":{},\"id\":", serde_json::Value::from(nonce));
    for keys in shards {
        let sources: Vec<LogSource<'_>> = configs.iter().map(|config| LogSource { config, keys }).collect();
        search.in_records(&mut connection, &sources, sign.as_bytes()).await?;
        if search.event.is_none() {
            search.in_payloads(&mut connection, &sources, sign.as_bytes()).await?;
        }
        if search.event.is_some() {
            return Ok(search);
        }
    }
    Ok(search)
}

/// Searches the stream behind an event whose place is known for what replays made of it.
///
/// # Errors
/// Redis's.
pub async fn search_copies(
    redis: &Redis,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    event: EventId,
    nonce: &str,
) -> Result<Search> {
    let mut search = Search { event: Some(event), ..Search::default() };
    if let Some(keys) = shards.iter().find(|keys| keys.shard == event.shard()) {
        let mut connection = redis.pooled(OPERATION).await?;
        search.in_stream(&mut connection, keys, organisation, nonce).await?;
    }
    Ok(search)
}

// === impl Search ===

impl Search {
    /// From the newest entry back to the event, where it is known or a replay's entry names it; else to the first
    /// one with the nonce that is no replay's.
    async fn in_stream(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &ShardKeys,
        organisation: &OrganisationId,
        nonce: &str,
    ) -> Result<()> {
        let (mut from, mut seen, mut bytes) = ("+".to_owned(), 0, 0);
        loop {
            let until = self.event.map_or_else(|| "-".to_owned(), |event| event.stream_id().to_string());
            let mut command = redis::cmd("XREVRANGE");
            command.arg(keys.events()).arg(&from).arg(&until).arg("COUNT").arg(ENTRIES_STEP);
            let reply: Value = command.query_async(connection).await.during(OPERATION)?;
            let entries = list_of(OPERATION, reply)?;
            let last = entries.len() < ENTRIES_STEP;
            for entry in entries {
                let (id, fields) = entry_parts(entry)?;
                seen += 1;
                bytes += fields.data.as_ref().map_or(0, Vec::len);
                let own = fields.organisation_id.as_deref() == Some(organisation.as_str().as_bytes());
                if own && fields.nonce.as_deref() == Some(nonce.as_bytes()) && self.meets(keys, id, &fields) {
                    return Ok(());
                }
                from = format!("({id}");
            }
            if last && self.event.is_some() {
                return Ok(());
            }
            if last {
                self.searched.push(format!("the stream of shard {}", keys.shard.0));
                return Ok(());
            }
            if seen >= ENTRIES_MAX || bytes >= ENTRIES_BYTES_MAX {
                self.searched
                    .push(format!("the newest {seen} entries of the stream of shard {}", keys.shard.0));
                self.not_searched.push(format!("older entries of the stream of shard {}", keys.shard.0));
                return Ok(());
            }
        }
    }

    /// Takes an entry that has the nonce; whether it is the event itself.
    fn meets(&mut self, keys: &ShardKeys, id: StreamId, fields: &EventFields) -> bool {
        let Some(original) = &fields.replay_of else {
            self.event = self.event.or_else(|| EventId::new(keys.shard, id).ok());
            return true;
        };
        self.copies.extend(EventId::new(keys.shard, id).ok().filter(|_| self.copies.len() < COPIES_MAX));
        let original = String::from_utf8_lossy(original).parse::<StreamId>().ok();
        self.event = self.event.or_else(|| EventId::new(keys.shard, original?).ok());
        false
    }

    async fn in_records(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        sign: &[u8],
    ) -> Result<()> {
        let share = (RECORDS_MAX / (2 * sources.len().max(1))).max(1);
        let counts = delivery_read::count_records(connection, sources).await?;
        let lowered = |count: usize| count.min(share);
        let asked: Vec<(LogSource<'_>, RecordCounts)> = sources
            .iter()
            .zip(&counts)
            .map(|(source, counts)| {
                (*source, RecordCounts { queued: lowered(counts.queued), failed: lowered(counts.failed) })
            })
            .collect();
        let members = delivery_read::members(connection, &asked).await?;
        let places: Vec<(LogSource<'_>, DeliveryId)> = sources
            .iter()
            .zip(members)
            .flat_map(|(source, members)| members.ids.into_iter().map(|id| (*source, id)))
            .collect();
        let mut apart = 0;
        for (place, record) in places.iter().zip(delivery_read::records(connection, &places).await?) {
            match record.ok().flatten().map(|record| record.body) {
                Some(RecordBody::Inline(body)) if holds(&body, sign) => {
                    self.event = Some(place.1.event());
                    return Ok(());
                }
                Some(RecordBody::Apart(_)) => apart += 1,
                _ => {}
            }
        }
        self.searched.push(format!("{} deliveries that wait or have failed", places.len() - apart));
        if apart > 0 {
            self.not_searched.push(format!("{apart} waiting or failed deliveries with bodies over 4 KiB"));
        }
        if counts.iter().any(|counts| counts.queued > share || counts.failed > share) {
            self.not_searched.push("more deliveries that wait or have failed".to_owned());
        }
        Ok(())
    }

    async fn in_payloads(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[LogSource<'_>],
        sign: &[u8],
    ) -> Result<()> {
        let each = (PAYLOAD_PAGES_MAX / sources.len().max(1)).max(1);
        let mut more = false;
        let mut pages = 0;
        for source in sources {
            let read = log_read::payload_pages(connection, *source, each).await?;
            more |= read.len() >= each;
            pages += read.len();
            for one in read.into_iter().flat_map(|page| page.payloads) {
                if holds(&one.payload, sign) {
                    self.event = Some(one.delivery.event());
                    return Ok(());
                }
            }
        }
        self.searched.push(format!("the newest {pages} pages of payloads"));
        if more {
            self.not_searched.push("older payloads".to_owned());
        }
        self.not_searched.push("payloads over 16 KiB, which the log does not keep".to_owned());
        Ok(())
    }
}

/// Whether the body is that event's: the sign stands before `data`, which could hold the same text.
fn holds(body: &[u8], sign: &[u8]) -> bool {
    let head = &body[..body.len().min(512 + 2 * sign.len())];
    head.windows(sign.len())
        .position(|window| window == sign)
        .is_some_and(|at| !head[..at].windows(8).any(|window| window == b",\"data\":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_inside_of_data_is_none() {
        let sign = br#""nonce":"n-1","id":"#;
        let body =
            br#"{"event":"a.b","timestamp":"2026-05-01T09:00:00.000Z","nonce":"n-1","id":"n-1","data":{}}"#;
        assert!(holds(body, sign));
        let other = br#"{"event":"a.b","timestamp":"2026-05-01T09:00:00.000Z","nonce":"n-2","id":"n-2","data":{"nonce":"n-1","id":"n-1"}}"#;
        assert!(!holds(other, sign));
        assert!(!holds(b"", sign));
    }
}
