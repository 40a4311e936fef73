//! `postrider logs list|show|retry|curl`: the delivery log, through a running server's API. `follow` is in
//! `log_follow`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::log_follow::{self, FollowArgs};
use super::output::{OutputFormat, TextTable, printable};
use super::pages::{Listing, PageFlags};
use super::server::ServerFlags;
use super::time::moment;
use super::{Context, block_on, logging};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::log::Status;

#[derive(Debug, Subcommand)]
pub(super) enum LogsCommand {
    /// List deliveries, the latest attempt first
    List(ListArgs),
    /// Show one delivery with every attempt and its payload
    Show(OneArgs),
    /// Show attempts as they are made, until Ctrl-C
    Follow(FollowArgs),
    /// Send a delivery that is delivered or failed once more
    Retry(OneArgs),
    /// Print a shell script that repeats an attempt's request; it holds no secret
    Curl(CurlArgs),
}

/// Which deliveries.
#[derive(Args, Clone, Debug)]
pub(super) struct FilterFlags {
    /// Only this config's
    #[arg(long, value_name = "ID")]
    pub(super) config: Option<ConfigId>,
    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    pub(super) event: Option<String>,
    /// Only this status: pending, retrying, delivered or failed
    #[arg(long, value_parser = status)]
    pub(super) status: Option<Status>,
    /// Only from this time on: ISO-8601 with a zone, or a duration ago, as 15m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<UnixMillis>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: FilterFlags,
    /// Only before this time: ISO-8601 with a zone, or a duration ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<UnixMillis>,
    #[command(flatten)]
    pages: PageFlags,
    /// Deliveries to leave out first; --cursor reaches deeper, and costs less
    #[arg(long, default_value_t = 0, conflicts_with = "cursor")]
    skip: u32,
    /// Show attempts as they are made, as 'logs follow' does
    #[arg(long, conflicts_with_all = ["until", "limit", "cursor", "all", "skip"])]
    follow: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The delivery
    #[arg(value_name = "DELIVERY-ID")]
    id: DeliveryId,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct CurlArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Which attempt; the last one unless given
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

// === impl FilterFlags ===

impl FilterFlags {
    /// As the API's parameters.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let filters = [
            ("webhookConfigId", self.config.map(|id| id.to_string())),
            ("event", self.event.clone()),
            ("status", self.status.map(|status| status.as_str().to_owned())),
            ("since", self.since.map(|time| time.to_string())),
        ];
        filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub(super) fn run(command: LogsCommand, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    match command {
        LogsCommand::List(ListArgs { filter, output, server, follow: true, .. }) => {
            log_follow::run(FollowArgs { filter, success: None, output, server }, context)
        }
        LogsCommand::List(args) => list(&args, context),
        LogsCommand::Show(args) => show(&args, context),
        LogsCommand::Follow(args) => log_follow::run(args, context),
        LogsCommand::Retry(args) => retry(&args, context),
        LogsCommand::Curl(args) => curl(&args, context),
    }
}

fn list(args: &ListArgs, context: &mut Context) -> Result<(), CliError> {
    let mut query = args.filter.query();
    query.extend(args.until.map(|time| ("until", time.to_string())));
    if args.skip > 0 {
        query.push(("skip", args.skip.to_string()));
    }
    let listing = Listing {
        server: &args.server,
        path: "logs",
        query,
        headings: &["DELIVERY", "EVENT", "STATUS", "TRIES", "LAST ATTEMPT", "ANSWER", "URL"],
        row: |edge| {
            let cell = |name| cell(edge, name);
            let (tries, last) = (cell("attempts"), cell("lastAttemptAt"));
            vec![cell("deliveryId"), cell("event"), cell("status"), tries, last, answer_of(edge), cell("url")]
        },
        noun: "deliveries",
        format: args.output,
    };
    block_on(listing.show(&args.pages, &mut context.output))
}

fn show(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    let path = format!("logs/{}", args.id);
    let record = block_on(args.server.call(Method::GET, &path, &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(record.text)?);
    }
    let record = record.value;
    let fields = record.as_object().into_iter().flatten();
    let plain = |name: &str| !matches!(name, "attemptLog" | "payload" | "payloadRaw");
    for (name, _) in fields.filter(|(name, _)| plain(name)) {
        context.output.line(format_args!("{name}: {}", printable(&cell(&record, name))))?;
    }
    let attempts = record.get("attemptLog").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut table = TextTable::new(&["ATTEMPT", "AT", "SUCCESS", "ANSWER"]);
    for attempt in attempts {
        let cell = |name| cell(attempt, name);
        table.row([cell("attempt"), cell("createdAt"), cell("success"), answer_of(attempt)]);
    }
    context.output.table(&table)?;
    // The raw one is the body that was signed and sent, byte for byte.
    let payload = record.get("payloadRaw").and_then(Value::as_str).map_or("not kept".into(), printable);
    Ok(context.output.line(format_args!("payload: {payload}"))?)
}

fn retry(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    let path = format!("logs/{}/retry", args.id);
    let answer = block_on(args.server.call(Method::POST, &path, &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let [status, attempts] = ["status", "attempts"].map(|name| cell(&answer.value, name));
    let line = format!("{} will be sent once more: {status}, {attempts} attempts so far", args.id);
    Ok(context.output.line(line)?)
}

fn curl(args: &CurlArgs, context: &mut Context) -> Result<(), CliError> {
    let OneArgs { id, output, server } = &args.one;
    let query: Vec<_> = args.attempt.map(|number| ("attempt", number.to_string())).into_iter().collect();
    let answer = block_on(server.call(Method::GET, &format!("logs/{id}/curl"), &query, None))?;
    if *output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    // As it is: a shell is to read it.
    context
        .output
        .line(answer.value.get("command").and_then(Value::as_str).unwrap_or_default().trim_end())?;
    let variables = printable(&cell(&answer.value, "variables"));
    context.output.note(format_args!("it wants these variables: {variables}"));
    Ok(())
}

/// What came back: the status, else the error, whichever record it stands in.
pub(super) fn answer_of(record: &Value) -> String {
    let first = ["responseStatus", "error", "errorMessage"].map(|name| cell(record, name));
    first.into_iter().find(|text| text != "-").unwrap_or_else(|| "-".into())
}

fn status(word: &str) -> Result<Status, String> {
    Status::parse(word).ok_or_else(|| "expected pending, retrying, delivered or failed".into())
}
