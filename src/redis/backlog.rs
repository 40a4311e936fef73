//! How much waits in a shard's queues, from a look at a bounded number of them.

use redis::{Value, cmd, pipe};

use super::answer::{int_of, list_of, text_of};
use super::connection::{Link, Result};
use super::keys::ShardKeys;
use crate::domain::clock::UnixMillis;
use crate::domain::ids::ConfigId;

/// Queues that one look counts beside those that it is told: two commands of constant or logarithmic time each.
pub const QUEUES_MAX: usize = 1_000;

/// How much waits for one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The config.
    pub config: ConfigId,
    /// Deliveries in its queue.
    pub deliveries: u64,
    /// Those of them that are due.
    pub due: u64,
    /// Whether it was drawn; else it was told.
    pub drawn: bool,
}

/// Counts the queues of `told` and of at most [`QUEUES_MAX`] others of the shard, drawn at random: all of them where
/// there are no more. Empty queues are left out.
///
/// # Errors
/// Redis's.
pub async fn look(link: &Link, keys: &ShardKeys, told: &[ConfigId], now: UnixMillis) -> Result<Vec<Waiting>> {
    let operation = "sampling the backlog";
    let mut draw = cmd("ZRANDMEMBER");
    draw.arg(keys.due()).arg(QUEUES_MAX);
    let drawn: Value = link.query(operation, &draw).await?;
    let mut configs: Vec<(ConfigId, bool)> = told.iter().map(|config| (*config, false)).collect();
    for member in list_of(operation, drawn)? {
        // What is no id is removed by whoever looks at what is due.
        let Ok(config) = text_of(operation, member)?.parse::<ConfigId>() else { continue };
        if !told.contains(&config) {
            configs.push((config, true));
        }
    }
    let mut commands = pipe();
    for (config, _) in &configs {
        commands.cmd("ZCARD").arg(keys.queue(*config));
        commands.cmd("ZCOUNT").arg(keys.queue(*config)).arg("-inf").arg(now.0);
    }
    let mut answers = link.pipeline(operation, &commands).await?.into_iter();
    let mut next = || match answers.next() {
        Some(answer) => int_of(operation, answer?).map(|count| u64::try_from(count).unwrap_or(0)),
        None => Ok(0),
    };
    let mut found = Vec::with_capacity(configs.len());
    for (config, drawn) in configs {
        let (deliveries, due) = (next()?, next()?);
        if deliveries > 0 {
            found.push(Waiting { config, deliveries, due, drawn });
        }
    }
    Ok(found)
}
