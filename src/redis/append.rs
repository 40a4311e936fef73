//! Appending events as a producer does: plain `XADD`s, many to a pipeline (docs/WIRE.md section 2).

use redis::{cmd, pipe};

use super::connection::{Link, Result};
use super::keys::ShardKeys;

/// The fields of one entry.
pub type EntryFields = Vec<(&'static str, Vec<u8>)>;

/// Appends entries in their order. Nothing is checked here; intake rejects what it cannot understand.
///
/// # Errors
/// The first entry's error, or the connection's: then some may have been appended.
pub async fn append(link: &Link, shard: &ShardKeys, entries: &[EntryFields]) -> Result<()> {
    let key = shard.events();
    let mut pipeline = pipe();
    for entry in entries {
        let mut command = cmd("XADD");
        command.arg(&key).arg("*");
        for (name, value) in entry {
            command.arg(name).arg(value.as_slice());
        }
        pipeline.add_command(command);
    }
    for answer in link.pipeline("appending events", &pipeline).await? {
        answer?;
    }
    Ok(())
}
