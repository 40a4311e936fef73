//! `postrider shards list`: the stream keys that producers `XADD` to.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliError;
use super::flags::RedisFlags;
use super::output::{OutputFormat, TextTable};
use super::{Context, block_on, connect};
use crate::redis::keys::ShardKeys;

#[derive(Debug, Subcommand)]
pub(super) enum ShardsCommand {
    /// List every shard's stream key
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shard {
    shard: u16,
    events: String,
    rejected: String,
}

#[derive(Serialize)]
struct Listed {
    shards: Vec<Shard>,
}

// === impl Shard ===

impl From<&ShardKeys> for Shard {
    fn from(keys: &ShardKeys) -> Self {
        Self { shard: keys.shard.0, events: keys.events(), rejected: keys.rejected() }
    }
}

pub(super) fn run(command: ShardsCommand, context: &mut Context) -> Result<(), CliError> {
    let ShardsCommand::List(args) = command;
    let connected = connect::redis(args.redis, context)?;
    let keys = block_on(connected.shards())?;
    let shards: Vec<Shard> = keys.iter().map(Shard::from).collect();
    if args.output == OutputFormat::Json {
        return Ok(context.output.json(&Listed { shards })?);
    }
    let mut table = TextTable::new(&["SHARD", "STREAM FOR PRODUCERS", "REJECTED ENTRIES"]);
    for Shard { shard, events, rejected } in shards {
        table.row([shard.to_string(), events, rejected]);
    }
    Ok(context.output.table(&table)?)
}
