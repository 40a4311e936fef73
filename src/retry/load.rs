//! From claimed ids to deliveries: records, and the bodies that lie apart.

use std::collections::HashMap;

use bytes::Bytes;

use crate::domain::clock::UnixMillis;
use crate::domain::delivery::{Delivery, DeliveryRecord, RecordBody};
use crate::domain::ids::{ConfigId, DeliveryId, StreamId};
use crate::domain::log_limit::limited;
use crate::metrics;
use crate::redis::connection::{Link, Result};
use crate::redis::deliveries;
use crate::redis::keys::ShardKeys;

/// What was found for a claimed id.
pub(super) enum Loaded {
    /// A delivery, and when it was due.
    Delivery(Box<Delivery>, UnixMillis),
    /// No record, or one that cannot be read, or no body: it cannot be delivered any more.
    Unreadable,
}

/// Loads what lies behind these ids, in their order.
pub(super) async fn load(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    ids: &[DeliveryId],
) -> Result<Vec<Loaded>> {
    let records = deliveries::records(link, keys, ids).await?;
    let records: Vec<Option<DeliveryRecord>> =
        records.iter().map(|bytes| readable(bytes.as_deref(), config)).collect();
    let apart: Vec<StreamId> = ids
        .iter()
        .zip(&records)
        .filter(|(_, record)| record.as_ref().is_some_and(|r| matches!(r.body, RecordBody::Apart(_))))
        .map(|(id, _)| id.event().stream_id())
        .collect();
    let bodies: HashMap<StreamId, Bytes> = deliveries::bodies(link, keys, &apart)
        .await?
        .into_iter()
        .zip(&apart)
        .filter_map(|(body, id)| Some((*id, body?)))
        .collect();
    let loaded = ids.iter().zip(records).map(|(id, record)| {
        let due = record.as_ref().map(|record| record.next_attempt_at);
        let body = bodies.get(&id.event().stream_id()).cloned();
        match record.and_then(|record| record.into_delivery(*id, body)).zip(due) {
            Some((delivery, due)) => Loaded::Delivery(Box::new(delivery), due),
            None => Loaded::Unreadable,
        }
    });
    Ok(loaded.collect())
}

fn readable(bytes: Option<&[u8]>, config: ConfigId) -> Option<DeliveryRecord> {
    match deliveries::unpack(bytes?, config) {
        Ok(record) => Some(record),
        Err(error) => {
            metrics::stored_unreadable("record");
            limited!(error, %config, %error, "a delivery's record cannot be read");
            None
        }
    }
}
