//! `postrider logs follow`: attempts as they are made, a line each.

use clap::Args;
use serde_json::Value;

use super::configs::cell;
use super::error::CliError;
use super::logs::{FilterFlags, answer_of};
use super::output::{Output, OutputFormat, printable};
use super::server::ServerFlags;
use super::tail::{Tail, TailEvent, interrupts};
use super::{Context, block_on};

#[derive(Debug, Args)]
pub(super) struct FollowArgs {
    #[command(flatten)]
    pub(super) filter: FilterFlags,
    /// Only attempts that were answered 2xx (true), or were not (false)
    #[arg(long, value_name = "BOOL")]
    pub(super) success: Option<bool>,
    /// How to print; json gives a document a line
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: OutputFormat,
    #[command(flatten)]
    pub(super) server: ServerFlags,
}

pub(super) fn run(args: FollowArgs, context: &mut Context) -> Result<(), CliError> {
    let FollowArgs { filter, success, output: format, server } = args;
    let mut query = filter.query();
    query.extend(success.map(|success| ("success", success.to_string())));
    let output = &mut context.output;
    block_on(async {
        let mut tail = Tail::open(server, query).await?;
        let mut interrupts = interrupts()?;
        output.note("following; Ctrl-C ends it");
        loop {
            let event = tokio::select! {
                event = tail.next(output) => event?,
                _ = interrupts.recv() => return Ok(()),
            };
            show(&event, format, output)?;
        }
    })
}

fn show(event: &TailEvent, format: OutputFormat, output: &mut Output) -> Result<(), CliError> {
    match format {
        OutputFormat::Json => output.line(&event.data)?,
        OutputFormat::Text => output.line(printable(&line(event, &event.row())))?,
    }
    // Somebody waits for it.
    Ok(output.flush()?)
}

fn line(event: &TailEvent, row: &Value) -> String {
    let cell = |name| cell(row, name);
    let what = match event.name.as_str() {
        "attempt" => format!("#{} {} in {} ms", cell("attempt"), answer_of(row), cell("durationMs")),
        _ => format!("without an attempt: {}", cell("failReason")),
    };
    let (at, status, event) = (cell("at"), cell("status"), cell("event"));
    format!("{at}  {status:<9}  {what}  {event}  {}  {}", cell("deliveryId"), cell("url"))
}
