//! `postrider migrate plan|apply|verify`: makes a keyspace of an older version one of this program's.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::connect::Connected;
use super::error::CliError;
use super::flags::RedisFlags;
use super::output::OutputFormat;
use super::{Context, block_on, connect};
use crate::domain::sealing::Keyring;
use crate::redis::keyspace::KEYSPACE_VERSION;
use crate::redis::migrate::{self, Counted, Run, STEPS, State};

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Say which steps are to be done, and count what each would change; changes nothing
    Plan(MigrateArgs),
    /// Do them; a run that was interrupted is gone on with
    Apply(MigrateArgs),
    /// Check that nothing of an older version is left; changes nothing
    Verify(MigrateArgs),
}

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

/// How long a run may be silent before another may go on with its work.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepReport {
    id: &'static str,
    what: &'static str,
    to: u32,
    needs_stop: bool,
    seen: u64,
    old: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The keyspace's version; none where there is no keyspace.
    version: Option<u32>,
    /// This program's.
    target: u32,
    /// The step that was begun and not finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    under_way: Option<String>,
    live_consumers: u64,
    steps: Vec<StepReport>,
}

pub(super) fn run(command: MigrateCommand, context: &mut Context) -> Result<(), CliError> {
    let (args, is_done) = match command {
        MigrateCommand::Apply(args) => return apply(args, context),
        MigrateCommand::Plan(args) => (args, false),
        MigrateCommand::Verify(args) => (args, true),
    };
    let connected = connect::redis(args.redis, context)?;
    let report = block_on(look(&connected, is_done))?;
    let is_finished =
        report.under_way.is_none() && report.version.is_none_or(|version| version == report.target);
    let left: u64 = report.steps.iter().map(|step| step.old).sum();
    if args.output == OutputFormat::Json {
        context.output.json(&report)?;
    } else {
        let output = &mut context.output;
        match report.version {
            None => output.line("the namespace has no keyspace yet: the first 'postrider serve' makes it")?,
            Some(version) => output
                .line(format_args!("keyspace version {version}, this program's is {}", report.target))?,
        }
        if let Some(step) = &report.under_way {
            output.line(format_args!(
                "step {step} was begun and not finished: 'postrider migrate apply' goes on with it"
            ))?;
        }
        for StepReport { id, what, to, needs_stop, seen, old } in &report.steps {
            let stop = if *needs_stop { "; every replica must be stopped" } else { "" };
            output.line(format_args!(
                "{id} (to version {to}): {what}; {old} of {seen} values are in the old form{stop}"
            ))?;
        }
        match (is_done, is_finished && left == 0) {
            (false, true) => output.line("nothing to do")?,
            (true, true) => output.line("verified: nothing of an older version is left")?,
            (false, false) => output.line("back up Redis, then: postrider migrate apply")?,
            (true, false) => output.line("not finished: postrider migrate apply")?,
        }
    }
    if is_done && (!is_finished || left > 0) { Err(CliError::Said) } else { Ok(()) }
}

async fn look(connected: &Connected, is_done: bool) -> Result<Report, CliError> {
    let failed = |error| connected.failed(&error);
    let state = migrate::state(&connected.redis, STEPS).await.map_err(failed)?;
    let counted = migrate::count(&connected.redis, STEPS, &state, is_done).await.map_err(failed)?;
    Ok(Report::of(state, counted))
}

fn apply(args: MigrateArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let run = Run { owner: Keyring::generate_key()[..16].to_owned(), lease: LEASE };
    let mut changed = 0;
    let version = block_on(async {
        let mut progress = |_: &dyn migrate::Step, batch: &migrate::Batch| changed += batch.changed;
        let done = migrate::apply(&connected.redis, STEPS, &run, &mut progress).await;
        done.map_err(|error| connected.failed(&error))
    })?;
    if args.output == OutputFormat::Json {
        #[derive(Serialize)]
        struct Applied {
            version: u32,
            changed: u64,
        }
        return Ok(context.output.json(&Applied { version, changed })?);
    }
    Ok(context.output.line(format_args!("keyspace version {version}; {changed} values were changed"))?)
}

// === impl Report ===

impl Report {
    fn of(state: State, counted: Vec<Counted>) -> Self {
        let step = |Counted { id, what, to, needs_stop, seen, old }| StepReport {
            id,
            what,
            to,
            needs_stop,
            seen,
            old,
        };
        Self {
            version: state.version,
            target: KEYSPACE_VERSION,
            under_way: state.under_way.map(|(step, _)| step),
            live_consumers: state.live,
            steps: counted.into_iter().map(step).collect(),
        }
    }
}
