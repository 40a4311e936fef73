//! `postrider doctor`: checks Redis and says what to change.

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::findings::{Finding, Level, judge};
use super::flags::RedisFlags;
use super::output::OutputFormat;
use super::{Context, block_on, connect};
use crate::redis::doctor::examine;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Serialize)]
struct Report<'a> {
    redis: &'a str,
    findings: &'a [Finding],
    errors: usize,
    warnings: usize,
}

pub(super) fn run(args: DoctorArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let facts = block_on(async {
        let facts = examine(&connected.redis, connected.settings.redis.shards).await;
        facts.map_err(|error| connected.failed(&error))
    })?;
    let findings = judge(&facts);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warn));
    let output = &mut context.output;
    if args.output == OutputFormat::Json {
        output.json(&Report { redis: &connected.shown, findings: &findings, errors, warnings })?;
    } else {
        output.line(format_args!("Redis at {}", connected.shown))?;
        for Finding { level, check, what, change } in &findings {
            output.line(format_args!("{:<5}  {check}: {what}", level.as_str()))?;
            if let Some(change) = change {
                output.line(format_args!("       -> {change}"))?;
            }
        }
        output.line(format_args!("errors: {errors}, warnings: {warnings}"))?;
    }
    if errors > 0 { Err(CliError::Said) } else { Ok(()) }
}
