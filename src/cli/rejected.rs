//! `postrider rejected list|show|requeue|delete`: what could not be understood, through a running server's API with
//! an operator's token.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable, printable};
use super::server::ServerFlags;
use super::{Context, block_on, logging};
use crate::domain::rejected::RejectedId;

#[derive(Debug, Subcommand)]
pub(super) enum RejectedCommand {
    /// List entries, the newest first
    List(ListArgs),
    /// Show one entry with all its fields
    Show(OneArgs),
    /// Repair an entry and put it back among the events
    Requeue(RequeueArgs),
    /// Remove an entry for good
    Delete(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this reason: missing, malformed, tooLarge, poison or lost
    #[arg(long)]
    reason: Option<String>,
    /// Only entries in which this field was wrong
    #[arg(long)]
    field: Option<String>,
    /// Only entries that name this organisation
    #[arg(long = "of", value_name = "ORGANISATION")]
    of: Option<String>,
    /// Most entries to show
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The entry
    #[arg(value_name = "ID")]
    id: RejectedId,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Args)]
pub(super) struct RequeueArgs {
    /// The entry
    #[arg(value_name = "ID")]
    id: RejectedId,
    /// A field's new value, as event=reward.earned; repeatable
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// A field to take out; repeatable
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

// === impl RequeueArgs ===

impl RequeueArgs {
    fn body(&self) -> Result<Vec<u8>, CliError> {
        let mut fields = Map::new();
        for fix in &self.set {
            let wrong = || CliError::Usage(format!("--set {fix:?}: expected FIELD=VALUE"));
            let (name, value) = fix.split_once('=').ok_or_else(wrong)?;
            fields.insert(name.to_owned(), Value::from(value));
        }
        fields.extend(self.unset.iter().map(|name| (name.clone(), Value::Null)));
        Ok(serde_json::json!({ "fields": fields }).to_string().into_bytes())
    }
}

impl std::fmt::Debug for RequeueArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values may be payloads.
        f.debug_struct("RequeueArgs").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(super) fn run(command: RejectedCommand, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    match command {
        RejectedCommand::List(args) => list(&args, context),
        RejectedCommand::Show(args) => show(&args, context),
        RejectedCommand::Requeue(args) => requeue(&args, context),
        RejectedCommand::Delete(args) => delete(&args, context),
    }
}

fn list(args: &ListArgs, context: &mut Context) -> Result<(), CliError> {
    let mut query = vec![("limit", args.limit.to_string())];
    let filters = [
        ("reason", &args.reason),
        ("field", &args.field),
        ("organisationId", &args.of),
        ("cursor", &args.cursor),
    ];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let answer = block_on(args.server.call(Method::GET, "rejected", &query, None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let edges = answer.value.get("edges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut table =
        TextTable::new(&["ID", "REJECTED AT", "ORGANISATION", "REASON", "FIELD", "WHAT IS EXPECTED"]);
    for edge in edges {
        let names = ["id", "rejectedAt", "organisationId", "reason", "field", "expected"];
        table.row(names.map(|name| cell(edge, name)));
    }
    context.output.table(&table)?;
    if let Some(next) = answer.value.get("nextCursor").and_then(Value::as_str) {
        context.output.note(format_args!("there may be more: --cursor {}", printable(next)));
    }
    Ok(())
}

fn show(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    let answer = block_on(args.server.call(Method::GET, &format!("rejected/{}", args.id), &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let entry = answer.value;
    for name in ["id", "eventId", "rejectedAt", "reason", "field", "expected", "organisationId"] {
        context.output.line(format_args!("{name}: {}", printable(&cell(&entry, name))))?;
    }
    let fields = entry.get("fields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut table = TextTable::new(&["FIELD", "BYTES", "VALUE"]);
    fields.iter().for_each(|field| table.row(["name", "bytes", "value"].map(|name| cell(field, name))));
    Ok(context.output.table(&table)?)
}

fn requeue(args: &RequeueArgs, context: &mut Context) -> Result<(), CliError> {
    let path = format!("rejected/{}/requeue", args.id);
    let answer = block_on(args.server.call(Method::POST, &path, &[], Some(args.body()?)))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let [id, nonce] = ["id", "nonce"].map(|name| printable(&cell(&answer.value, name)));
    Ok(context.output.line(format_args!("requeued as event {id} with nonce {nonce}"))?)
}

fn delete(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    block_on(args.server.call(Method::DELETE, &format!("rejected/{}", args.id), &[], None))?;
    match args.output {
        OutputFormat::Json => {
            Ok(context.output.json(&serde_json::json!({ "deleted": args.id.to_string() }))?)
        }
        OutputFormat::Text => Ok(context.output.line(format_args!("deleted {}", args.id))?),
    }
}
