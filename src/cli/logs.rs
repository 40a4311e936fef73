//! `postrider logs list|show`: the delivery log, through a running server's API.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable, printable};
use super::server::ServerFlags;
use super::{Context, block_on, logging};
use crate::domain::clock::{Clock, UnixMillis};
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::log::Status;
use crate::settings::text::duration;

#[derive(Debug, Subcommand)]
pub(super) enum LogsCommand {
    /// List deliveries, the latest attempt first
    List(ListArgs),
    /// Show one delivery with every attempt and its payload
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this config's
    #[arg(long, value_name = "ID")]
    config: Option<ConfigId>,
    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// Only this status: pending, retrying, delivered or failed
    #[arg(long, value_parser = status)]
    status: Option<Status>,
    /// Only from this time on: ISO-8601 with a zone, or a duration ago, as 15m
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<UnixMillis>,
    /// Only before this time: ISO-8601 with a zone, or a duration ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<UnixMillis>,
    /// Most deliveries to show
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Deliveries to leave out first
    #[arg(long, default_value_t = 0)]
    skip: u32,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The delivery
    #[arg(value_name = "DELIVERY-ID")]
    id: DeliveryId,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

// === impl ListArgs ===

impl ListArgs {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string()), ("skip", self.skip.to_string())];
        let mut add = |name, value: Option<String>| query.extend(value.map(|value| (name, value)));
        add("webhookConfigId", self.config.map(|id| id.to_string()));
        add("event", self.event.clone());
        add("status", self.status.map(|status| status.as_str().to_owned()));
        add("since", self.since.map(|time| time.to_string()));
        add("until", self.until.map(|time| time.to_string()));
        query
    }
}

pub(super) fn run(command: LogsCommand, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    match command {
        LogsCommand::List(args) => list(&args, context),
        LogsCommand::Show(args) => show(&args, context),
    }
}

fn list(args: &ListArgs, context: &mut Context) -> Result<(), CliError> {
    let answer = block_on(args.server.call(Method::GET, "logs", &args.query(), None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let answer = answer.value;
    let edges = answer.get("edges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut table =
        TextTable::new(&["DELIVERY", "EVENT", "STATUS", "TRIES", "LAST ATTEMPT", "ANSWER", "URL"]);
    for edge in edges {
        let cell = |name| cell(edge, name);
        table.row([
            cell("deliveryId"),
            cell("event"),
            cell("status"),
            cell("attempts"),
            cell("lastAttemptAt"),
            answer_of(edge),
            cell("url"),
        ]);
    }
    context.output.table(&table)?;
    let total = cell(&answer, "totalCount");
    context.output.note(format_args!("{} of {total} deliveries", edges.len()));
    Ok(())
}

fn show(args: &ShowArgs, context: &mut Context) -> Result<(), CliError> {
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

/// What came back: the status, else the error, whichever record it stands in.
fn answer_of(record: &Value) -> String {
    let first = ["responseStatus", "error", "errorMessage"].map(|name| cell(record, name));
    first.into_iter().find(|text| text != "-").unwrap_or_else(|| "-".into())
}

fn status(word: &str) -> Result<Status, String> {
    Status::parse(word).ok_or_else(|| "expected pending, retrying, delivered or failed".into())
}

fn time(text: &str) -> Result<UnixMillis, String> {
    if let Some(time) = UnixMillis::parse_iso8601(text) {
        return Ok(time);
    }
    let expected = "expected ISO-8601 with a zone, as 2026-05-01T09:00:00Z, or a duration ago, as 15m";
    let ago = duration::parse(text).map_err(|_| expected.to_owned())?;
    let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(UnixMillis(Clock::default().now().0.saturating_sub(ago_ms)))
}
