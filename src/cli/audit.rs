//! `postrider audit list`: who changed what, through a running server's API.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::configs::cell;
use super::error::CliError;
use super::output::OutputFormat;
use super::pages::{Listing, PageFlags};
use super::server::ServerFlags;
use super::time::moment;
use super::{Context, block_on, logging};
use crate::domain::clock::UnixMillis;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List changes, the newest first; secrets are masked
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only from this time on: ISO-8601 with a zone, or a duration ago, as 15m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<UnixMillis>,
    /// Only before this time: ISO-8601 with a zone, or a duration ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<UnixMillis>,
    /// Only this action, as updateWebhookConfigs
    #[arg(long, value_name = "PROCEDURE")]
    action: Option<String>,
    /// Only changes of this config, delivery or token
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    #[command(flatten)]
    pages: PageFlags,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

pub(super) fn run(command: AuditCommand, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    let AuditCommand::List(args) = command;
    let filters = [
        ("since", args.since.map(|time| time.to_string())),
        ("until", args.until.map(|time| time.to_string())),
        ("action", args.action),
        ("target", args.target),
    ];
    let listing = Listing {
        server: &args.server,
        path: "audit",
        query: filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        headings: &["AT", "BY", "ACTION", "TARGET", "WHAT", "BEFORE", "AFTER"],
        row,
        noun: "changes",
        format: args.output,
    };
    block_on(listing.show(&args.pages, &mut context.output))
}

fn row(entry: &Value) -> Vec<String> {
    let cell = |name| cell(entry, name);
    vec![cell("at"), who(entry), cell("action"), cell("target"), cell("what"), cell("before"), cell("after")]
}

/// The token's name and id, else the kind.
fn who(entry: &Value) -> String {
    let Some(by) = entry.get("by") else { return "-".into() };
    match by.get("tokenId").and_then(Value::as_str) {
        Some(id) => format!("{} ({id})", self::cell(by, "tokenName")),
        None => self::cell(by, "kind"),
    }
}
