//! `postrider configs jobs list|show|cancel`, and the bar that shows how far a job is.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable, printable};
use super::server::{ApiAnswer, ApiFault, ServerFlags};
use super::{Context, block_on};
use crate::domain::ids::ConfigId;
use crate::domain::job::JobId;

/// How often a job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a server that does not answer is waited for.
const AWAY_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List a config's jobs, the newest first
    List(ListArgs),
    /// Show how far a job is
    Show(JobArgs),
    /// Cancel a running job; what it moved stays moved
    Cancel(JobArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The config
    #[arg(value_name = "CONFIG-ID")]
    config: ConfigId,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// The config
    #[arg(value_name = "CONFIG-ID")]
    config: ConfigId,
    /// The job
    #[arg(value_name = "JOB-ID")]
    job: JobId,
    /// Wait for its end, with a bar where stderr is a terminal; Ctrl-C leaves it running
    #[arg(long)]
    wait: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

pub(super) fn run(command: JobsCommand, context: &mut Context) -> Result<(), CliError> {
    match command {
        JobsCommand::List(args) => list(&args, context),
        JobsCommand::Show(args) => {
            let JobArgs { config, job, .. } = args;
            let path = format!("configs/{config}/jobs/{job}");
            let answer = block_on(args.server.call(Method::GET, &path, &[], None))?;
            if args.wait {
                return wait(&args.server, answer, args.output, context);
            }
            show(&answer, args.output, context)
        }
        JobsCommand::Cancel(args) => {
            let path = format!("configs/{}/jobs/{}/cancel", args.config, args.job);
            let answer = block_on(args.server.call(Method::POST, &path, &[], None))?;
            show(&answer, args.output, context)
        }
    }
}

fn list(args: &ListArgs, context: &mut Context) -> Result<(), CliError> {
    let path = format!("configs/{}/jobs", args.config);
    let answer = block_on(args.server.call(Method::GET, &path, &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let mut table = TextTable::new(&["JOB", "KIND", "STATE", "TOTAL", "MOVED", "SKIPPED", "STARTED", "WHO"]);
    let names = ["id", "kind", "state", "total", "moved", "skipped", "startedAt", "who"];
    let jobs = answer.value.get("jobs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    jobs.iter().for_each(|job| table.row(names.map(|name| cell(job, name))));
    Ok(context.output.table(&table)?)
}

/// Shows a job as it is.
pub(super) fn show(answer: &ApiAnswer, format: OutputFormat, context: &mut Context) -> Result<(), CliError> {
    if format == OutputFormat::Json {
        return Ok(context.output.line(&answer.text)?);
    }
    let cell = |name| printable(&cell(&answer.value, name));
    let reason = match cell("reason").as_str() {
        "-" => String::new(),
        reason => format!(" ({reason})"),
    };
    let (id, kind, state) = (cell("id"), cell("kind"), cell("state"));
    let line = format!("{kind} {id}: {state}{reason}, {} of {}", cell("moved"), cell("total"));
    Ok(context.output.line(format_args!("{line} moved, {} skipped", cell("skipped")))?)
}

/// Looks at a job until it has ended, and shows it. Ctrl-C ends the looking and not the job.
///
/// # Errors
/// When it ended otherwise than done, when it was left, and when the server stays away for 5 minutes.
pub(super) fn wait(
    server: &ServerFlags,
    job: ApiAnswer,
    format: OutputFormat,
    context: &mut Context,
) -> Result<(), CliError> {
    let [config, id] = ["webhookConfigId", "id"].map(|name| printable(&cell(&job.value, name)));
    let bar = bar();
    let ended = block_on(async {
        tokio::select! {
            ended = watched(server, job, &bar) => ended.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    bar.finish_and_clear();
    let goes_on = format!(
        "the job goes on: postrider configs jobs show {config} {id} --wait, or configs jobs cancel {config} {id}"
    );
    match ended {
        Ok(Some(ended)) => {
            show(&ended, format, context)?;
            let done = ended.value.get("state").and_then(Value::as_str) == Some("done");
            if done { Ok(()) } else { Err(CliError::Said) }
        }
        Ok(None) => {
            context.output.note(goes_on);
            Err(CliError::Said)
        }
        Err(error) => {
            context.output.note(goes_on);
            Err(error)
        }
    }
}

async fn watched(server: &ServerFlags, mut job: ApiAnswer, bar: &ProgressBar) -> Result<ApiAnswer, CliError> {
    let [config, id] = ["webhookConfigId", "id"].map(|name| cell(&job.value, name));
    let path = format!("configs/{config}/jobs/{id}");
    let mut answered = Instant::now();
    loop {
        draw(&job.value, bar);
        if job.value.get("state").and_then(Value::as_str) != Some("running") {
            return Ok(job);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match server.get_patiently(&path, &[]).await {
            Ok(answer) => {
                job = answer;
                answered = Instant::now();
            }
            Err(ApiFault::Passing(..)) if answered.elapsed() < AWAY_MAX => {
                bar.set_message("the server does not answer; trying again");
            }
            Err(fault) => return Err(fault.into()),
        }
    }
}

fn draw(job: &Value, bar: &ProgressBar) {
    let number = |name: &str| job.get(name).and_then(Value::as_u64).unwrap_or_default();
    let looked_at = number("moved") + number("skipped");
    // A total that is a floor can be overtaken.
    bar.set_length(number("total").max(looked_at));
    bar.set_position(looked_at);
    bar.set_message(format!("{}, {} skipped", printable(&cell(job, "reached")), number("skipped")));
}

/// Drawn on stderr, and only where that is a terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len}, {eta} left, at {msg}");
    let bar = ProgressBar::new(0);
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}
