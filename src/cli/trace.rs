//! `postrider trace`: where is my event? Asks a running server's API.

use clap::Args;
use serde_json::Value;

use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable, printable};
use super::server::ServerFlags;
use super::{Context, block_on, logging};

#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// The event's nonce; with --id, a stream id or a delivery id
    #[arg(value_name = "NONCE")]
    event: String,
    /// It is a stream id, as 1777626000000-0, or a delivery id
    #[arg(long)]
    id: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

pub(super) fn run(args: TraceArgs, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    // A delivery id is no nonce that anybody would choose.
    let name = if args.id || args.event.starts_with("dlv_") { "id" } else { "nonce" };
    let answer = block_on(args.server.call(Method::GET, "trace", &[(name, args.event.clone())], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let answer = answer.value;
    let line = format!("{}: {}", cell(&answer, "state"), printable(&cell(&answer, "explanation")));
    context.output.line(line)?;
    if let Some(event) = answer.get("event").filter(|event| !event.is_null()) {
        let part = |name: &str| printable(&cell(event, name));
        let line = format!("event {} ({}) of {}", part("id"), part("event"), part("createdAt"));
        context.output.line(line)?;
    }
    let list = |name: &str| answer.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut table = TextTable::new(&["CONFIG", "DELIVERY", "STATUS", "TRIES", "LAST ATTEMPT", "NEXT", "WHY"]);
    for delivery in list("deliveries") {
        let cell = |name: &str| cell(delivery, name);
        let why = ["failReason", "error", "responseStatus"].map(cell);
        let why = why.into_iter().find(|text| text != "-").unwrap_or_else(|| "-".into());
        table.row([
            cell("webhookConfigId"),
            cell("deliveryId"),
            cell("status"),
            cell("attempts"),
            cell("lastAttemptAt"),
            cell("nextAttemptAt"),
            why,
        ]);
    }
    for config in list("withoutDelivery") {
        let none = || "-".to_owned();
        table.row([
            cell(config, "webhookConfigId"),
            none(),
            none(),
            none(),
            none(),
            none(),
            cell(config, "reason"),
        ]);
    }
    context.output.table(&table)?;
    for (name, words) in [("searched", "searched"), ("notSearched", "not searched")] {
        for place in list(name).iter().filter_map(Value::as_str) {
            context.output.note(format_args!("{words}: {}", printable(place)));
        }
    }
    Ok(())
}
