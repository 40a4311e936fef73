//! The order of deliveries that wait, as of the moment at which a walk through them began: one that was tried
//! since stands where it stood then.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource};
use super::log_heads::Heads;
use super::log_rowless::time_of;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::DeliveryId;
use crate::domain::log_merge::LogFilter;

/// One that waits: the time that it stands at, its id, and the index of its config.
pub(super) type Waiting = (UnixMillis, DeliveryId, usize);

/// Those of `heads` that match, newest first.
///
/// # Errors
/// Redis's.
pub(super) async fn in_order(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    heads: &Heads,
    filter: &LogFilter,
    as_of: UnixMillis,
) -> Result<Vec<Waiting>> {
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut moved: Vec<(LogSource<'_>, DeliveryId)> = Vec::new();
    for (config, heads) in heads.of.iter().enumerate() {
        for (id, head) in heads {
            if !filter.wants(head.status(), &head.event_type, head.last_at, head.created_at) {
                continue;
            }
            if time_of(head) > as_of {
                let shard = id.event().shard();
                let source = sources.iter().find(|(of, source)| *of == config && source.keys.shard == shard);
                moved.extend(source.map(|(_, source)| (*source, *id)));
            }
            waiting.push((time_of(head), *id, config));
        }
    }
    let before = times_before(connection, &moved, as_of).await?;
    for (at, id, _) in &mut waiting {
        if let Some(before) = before.get(id) {
            *at = *before;
        }
    }
    waiting.sort_unstable_by(|one, other| other.cmp(one));
    Ok(waiting)
}

/// When each was tried last before `as_of`; its creation where it was not.
async fn times_before(
    connection: &mut MultiplexedConnection,
    moved: &[(LogSource<'_>, DeliveryId)],
    as_of: UnixMillis,
) -> Result<HashMap<DeliveryId, UnixMillis>> {
    let records = delivery_read::records(connection, moved).await?;
    let times = moved.iter().zip(records).filter_map(|((_, id), record)| {
        let record = record.ok().flatten()?;
        let before = record.tried.history.iter().rev().map(|attempt| attempt.at).find(|at| *at <= as_of);
        Some((*id, before.unwrap_or(record.created_at)))
    });
    Ok(times.collect())
}
