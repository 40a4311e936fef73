//! `postrider publish`: one event from flags, or many from a file of JSON lines.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::connect::{self, Connected};
use super::error::CliError;
use super::flags::RedisFlags;
use super::output::OutputFormat;
use super::{Context, block_on, publish_file};
use crate::domain::event::{EventFields, JsonScratch, Rejection};
use crate::domain::ids::OrganisationId;
use crate::redis::keys::ShardKeys;
use crate::redis::publish::{Item, MemoryWatch, Published, publish};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["event", "file"])))]
pub(super) struct PublishArgs {
    /// Whose events they are
    #[arg(long, value_name = "ID")]
    pub(super) organisation: OrganisationId,
    /// The event's type
    #[arg(long, value_name = "TYPE", requires = "data")]
    event: Option<String>,
    /// The event's data: a JSON object, delivered byte for byte
    #[arg(long, value_name = "JSON", requires = "event")]
    data: Option<String>,
    /// The event's nonce: a second event with it within 24 hours is not published
    #[arg(long, requires = "event")]
    nonce: Option<String>,
    /// The event's time, ISO-8601 with a zone; the time of publishing without it
    #[arg(long, value_name = "TIME", requires = "event")]
    timestamp: Option<String>,
    /// Deliver to this config only
    #[arg(long, value_name = "ID", requires = "event")]
    config_id: Option<String>,
    /// Events as JSON lines {event, data, nonce?, timestamp?, configId?}; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Write the lines of --file that cannot be published here, each with its number and reason
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(super) rejects: Option<PathBuf>,
    /// Ask that many replicas of Redis to acknowledge each write
    #[arg(long, value_name = "N")]
    wait: Option<u32>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

/// Publishes batches of one organisation's events.
pub(super) struct Publisher<'a> {
    connected: &'a Connected,
    shards: Vec<ShardKeys>,
    organisation: &'a OrganisationId,
    memory: MemoryWatch,
    wait: Option<u32>,
}

/// One event as `--output json` prints it.
#[derive(Serialize)]
struct Printed {
    nonce: String,
    id: String,
    shard: u16,
    duplicate: bool,
}

#[derive(Serialize)]
struct Receipt {
    events: Vec<Printed>,
}

// === impl Publisher ===

impl<'a> Publisher<'a> {
    async fn new(connected: &'a Connected, args: &'a PublishArgs) -> Result<Self, CliError> {
        let shards = connected.shards().await?;
        let memory = MemoryWatch::default();
        Ok(Self { connected, shards, organisation: &args.organisation, memory, wait: args.wait })
    }

    /// Appends all of `items` or none.
    ///
    /// # Errors
    /// When Redis is too full or refuses, or too few of its replicas acknowledged: then the items are appended.
    pub(super) async fn publish(&self, items: &[Item]) -> Result<Vec<Published>, CliError> {
        let redis = &self.connected.redis;
        let failed = |error| self.connected.failed(&error);
        if self.memory.is_full(redis).await.map_err(failed)? {
            let why = "Redis uses over 85 % of its maxmemory, and publishing stops there so that delivering goes on";
            return Err(CliError::Failure(why.into()));
        }
        let published = publish(redis, &self.shards, self.organisation, items, self.wait).await;
        let receipt = published.map_err(failed)?;
        match (self.wait, receipt.acknowledged) {
            (Some(wanted), Some(reached)) if reached < wanted => Err(CliError::Failure(format!(
                "appended, but only {reached} of {wanted} replicas of Redis acknowledged within a second"
            ))),
            _ => Ok(receipt.events),
        }
    }
}

pub(super) fn run(args: PublishArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis.clone(), context)?;
    block_on(async {
        // Checked before anything is asked of Redis: a typing error is told at once.
        let item = if args.file.is_none() { Some(item(&args)?) } else { None };
        let publisher = Publisher::new(&connected, &args).await?;
        match item {
            Some(item) => one(&publisher, item, args.output, context).await,
            None => publish_file::run(&publisher, &args, context).await,
        }
    })
}

fn item(args: &PublishArgs) -> Result<Item, CliError> {
    let bytes = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
    let fields = EventFields {
        event: bytes(&args.event),
        data: bytes(&args.data),
        nonce: bytes(&args.nonce),
        timestamp: bytes(&args.timestamp),
        config_id: bytes(&args.config_id),
        ..EventFields::default()
    };
    Item::new(&args.organisation, fields, &mut JsonScratch::default())
        .map_err(|rejections| CliError::Failure(format!("not published: {}", joined(&rejections))))
}

/// Every mistake in a line.
pub(super) fn joined(rejections: &[Rejection]) -> String {
    let texts: Vec<String> = rejections.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

async fn one(
    publisher: &Publisher<'_>,
    item: Item,
    output: OutputFormat,
    context: &mut Context,
) -> Result<(), CliError> {
    let events = publisher.publish(&[item]).await?;
    let printed = events.into_iter().map(|Published { id, nonce, duplicate }| Printed {
        nonce,
        id: id.stream_id().to_string(),
        shard: id.shard().0,
        duplicate,
    });
    let receipt = Receipt { events: printed.collect() };
    if output == OutputFormat::Json {
        return Ok(context.output.json(&receipt)?);
    }
    for Printed { nonce, id, shard, duplicate } in receipt.events {
        let what = if duplicate { "was published before" } else { "published" };
        context.output.line(format_args!("{what}: nonce {nonce}, stream id {id} in shard {shard}"))?;
    }
    Ok(())
}
