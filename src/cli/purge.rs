//! `postrider purge`: removes what is stored of an organisation's events, or of one delivery, straight in Redis.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::connect::Connected;
use super::error::CliError;
use super::flags::RedisFlags;
use super::output::{OutputFormat, TextTable};
use super::{Context, block_on, connect};
use crate::domain::ids::{ConfigId, DeliveryId, OrganisationId, StreamId};
use crate::redis::connection::{Link, Result as RedisResult};
use crate::redis::keys::ShardKeys;
use crate::redis::purge::{self, Swept};

/// How long events that are not delivered yet are waited for.
const UNDELIVERED_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether they are.
const UNDELIVERED_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    what: What,
    /// Only count what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Everything of this organisation: deliveries, logs, payloads, retained and rejected events, nonces, statistics.
    /// Its configs and tokens stay
    #[arg(long, value_name = "ID")]
    organisation: Option<OrganisationId>,
    /// One delivery: its record, its payloads, its retained event. Its rows in the log stay
    #[arg(long, value_name = "ID")]
    delivery: Option<DeliveryId>,
}

/// What was removed, or would be.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    dry_run: bool,
    configs: u64,
    deliveries: u64,
    log_rows: u64,
    payload_pages: u64,
    events: u64,
    rejected: u64,
    nonces: u64,
    stats: u64,
    undelivered: u64,
}

/// A purge at work.
struct Purge<'a> {
    link: Link,
    shards: &'a [ShardKeys],
    bar: ProgressBar,
    summary: Summary,
}

pub(super) fn run(args: PurgeArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let summary = block_on(purge_all(&connected, &args.what, args.dry_run))?;
    let undelivered = summary.undelivered;
    if args.output == OutputFormat::Json {
        context.output.json(&summary)?;
    } else {
        context.output.table(&summary.table())?;
    }
    if undelivered > 0 && !args.dry_run {
        return Err(CliError::Failure(format!(
            "{undelivered} events are not delivered yet and were left; run it again when they are"
        )));
    }
    Ok(())
}

async fn purge_all(connected: &Connected, what: &What, dry_run: bool) -> Result<Summary, CliError> {
    let shards = connected.shards().await?;
    let summary = Summary { dry_run, ..Summary::default() };
    let mut work = Purge { link: connected.redis.link(), shards: &shards, bar: bar(), summary };
    let done = match (&what.organisation, what.delivery) {
        (Some(organisation), _) => work.organisation(organisation).await,
        (None, Some(delivery)) => work.delivery(delivery).await,
        (None, None) => Ok(()),
    };
    work.bar.finish_and_clear();
    done.map_err(|error| connected.failed(&error))?;
    Ok(work.summary)
}

// === impl Purge ===

impl Purge<'_> {
    /// Deliveries go before logs, for a delivery that is still under way writes a row; events last, so that those
    /// which are being delivered have time.
    async fn organisation(&mut self, organisation: &OrganisationId) -> RedisResult<()> {
        let configs = purge::configs(&self.link, |_, owner| owner == organisation).await?;
        self.summary.configs = configs.len() as u64;
        let shards = self.shards;
        self.bar.set_length((shards.len() * (2 * configs.len() + 3)) as u64);
        for keys in shards {
            for config in &configs {
                self.deliveries(keys, *config).await?;
            }
        }
        for keys in shards {
            self.events(keys, organisation).await?;
            self.rejected(keys, organisation).await?;
        }
        for keys in shards {
            for config in &configs {
                self.say("logs");
                let (rows, pages) = purge::log(&self.link, keys, *config, self.summary.dry_run).await?;
                self.summary.log_rows += rows;
                self.summary.payload_pages += pages;
                self.bar.inc(1);
            }
            self.keys(keys, organisation, &configs).await?;
        }
        Ok(())
    }

    async fn delivery(&mut self, id: DeliveryId) -> RedisResult<()> {
        let configs = purge::configs(&self.link, |config, _| config.sequence() == id.config()).await?;
        let dry = self.summary.dry_run;
        let shard = usize::from(id.event().shard().0);
        let Some(keys) = self.shards.get(shard) else { return Ok(()) };
        for config in &configs {
            self.say("record");
            self.summary.deliveries += if dry {
                u64::from(purge::has_record(&self.link, keys, *config, id).await?)
            } else {
                purge::deliveries(&self.link, keys, *config, &[id]).await?
            };
            self.say("payloads");
            let mut after = None;
            loop {
                let swept = purge::payloads(&self.link, keys, *config, id, after, dry).await?;
                self.summary.payload_pages += swept.removed;
                after = swept.next;
                if after.is_none() {
                    break;
                }
            }
        }
        self.summary.configs = configs.len() as u64;
        let swept = purge::event(&self.link, keys, id.event().stream_id(), dry).await?;
        self.summary.events += swept.removed;
        self.summary.undelivered += swept.undelivered;
        Ok(())
    }

    async fn deliveries(&mut self, keys: &ShardKeys, config: ConfigId) -> RedisResult<()> {
        self.say("deliveries");
        if self.summary.dry_run {
            self.summary.deliveries += purge::deliveries_count(&self.link, keys, config).await?;
        } else {
            loop {
                let removed = purge::next_deliveries(&self.link, keys, config).await?;
                self.summary.deliveries += removed;
                if removed == 0 {
                    break;
                }
                self.say("deliveries");
            }
        }
        self.bar.inc(1);
        Ok(())
    }

    /// Again and again while some are not delivered yet, and a while at most.
    async fn events(&mut self, keys: &ShardKeys, organisation: &OrganisationId) -> RedisResult<()> {
        let dry = self.summary.dry_run;
        let deadline = tokio::time::Instant::now() + UNDELIVERED_MAX;
        loop {
            let (mut after, mut undelivered): (Option<StreamId>, u64) = (None, 0);
            loop {
                let swept: Swept = purge::events(&self.link, keys, organisation, after, dry).await?;
                self.summary.events += swept.removed;
                undelivered += swept.undelivered;
                after = swept.next;
                self.say("events");
                if after.is_none() {
                    break;
                }
            }
            if undelivered == 0 || dry || tokio::time::Instant::now() >= deadline {
                self.summary.undelivered += undelivered;
                self.bar.inc(1);
                return Ok(());
            }
            tokio::time::sleep(UNDELIVERED_EVERY).await;
        }
    }

    async fn rejected(&mut self, keys: &ShardKeys, organisation: &OrganisationId) -> RedisResult<()> {
        let mut after = None;
        loop {
            let dry = self.summary.dry_run;
            let swept = purge::rejected(&self.link, keys, organisation, after, dry).await?;
            self.summary.rejected += swept.removed;
            after = swept.next;
            self.say("rejected events");
            if after.is_none() {
                self.bar.inc(1);
                return Ok(());
            }
        }
    }

    async fn keys(
        &mut self,
        keys: &ShardKeys,
        organisation: &OrganisationId,
        configs: &[ConfigId],
    ) -> RedisResult<()> {
        let dry = self.summary.dry_run;
        let mut cursor = 0;
        loop {
            let scanned = purge::nonces(&self.link, keys, organisation, cursor, dry).await?;
            self.summary.nonces += scanned.removed;
            self.say("nonces");
            cursor = scanned.cursor;
            if cursor == 0 {
                break;
            }
        }
        loop {
            let scanned = purge::stats(&self.link, keys, configs, cursor, dry).await?;
            self.summary.stats += scanned.removed;
            self.say("statistics");
            cursor = scanned.cursor;
            if cursor == 0 {
                break;
            }
        }
        self.bar.inc(1);
        Ok(())
    }

    fn say(&self, what: &str) {
        let sum = &self.summary;
        let removed = sum.deliveries + sum.log_rows + sum.events + sum.rejected + sum.nonces + sum.stats;
        self.bar.set_message(format!("{what}, {removed} so far"));
    }
}

// === impl Summary ===

impl Summary {
    fn table(&self) -> TextTable {
        let heading = if self.dry_run { "WOULD BE REMOVED" } else { "REMOVED" };
        let mut table = TextTable::new(&["WHAT", heading]);
        for (what, count) in [
            ("deliveries", self.deliveries),
            ("log rows", self.log_rows),
            ("payload pages", self.payload_pages),
            ("retained events", self.events),
            ("rejected events", self.rejected),
            ("nonces", self.nonces),
            ("statistics", self.stats),
        ] {
            table.row([what.to_owned(), count.to_string()]);
        }
        table
    }
}

/// Drawn on stderr, and only where that is a terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} steps, {msg}");
    let bar = ProgressBar::new(1);
    style.map(|style| bar.with_style(style)).unwrap_or_else(|_| ProgressBar::new(1))
}
