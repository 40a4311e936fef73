//! Events of the catalogue, published as a producer does: pipelined `XADD`s.

use super::progress::Progress;
use crate::domain::catalogue;
use crate::domain::clock::Clock;
use crate::domain::ids::OrganisationId;
use crate::redis::append::{EntryFields, append};
use crate::redis::connection::{Link, Result};
use crate::redis::keys::ShardKeys;

/// Entries of one pipeline.
const BATCH: u32 = 250;

/// Publishes `count` events, the catalogue's types in turn, over all shards.
pub(super) async fn publish(
    link: &Link,
    shards: &[ShardKeys],
    organisation: &OrganisationId,
    count: u32,
    progress: &Progress,
) -> Result<()> {
    let clock = Clock::default();
    let kinds = catalogue::of_producers().count();
    let batches = (0..count).step_by(BATCH as usize);
    for (first, shard) in batches.zip(shards.iter().cycle()) {
        let timestamp = clock.now().to_string();
        let entries: Vec<EntryFields> = (first..count.min(first + BATCH))
            .zip(catalogue::of_producers().cycle().skip(first as usize % kinds))
            .map(|(number, event)| {
                vec![
                    ("organisationId", organisation.as_str().into()),
                    ("event", event.name.into()),
                    ("data", event.sample.into()),
                    ("nonce", format!("demo-{number}").into()),
                    ("timestamp", timestamp.clone().into()),
                ]
            })
            .collect();
        append(link, shard, &entries).await?;
        progress.published(entries.len() as u64);
    }
    Ok(())
}
