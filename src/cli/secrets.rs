//! `postrider secrets generate-key|status|reseal`: how the secrets of configs lie in Redis.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::connect::Connected;
use super::error::CliError;
use super::flags::RedisFlags;
use super::output::OutputFormat;
use super::{Context, block_on, connect};
use crate::domain::sealing::Keyring;
use crate::redis::stored_config::{self, Resealed, Seals};

#[derive(Debug, Subcommand)]
pub(super) enum SecretsCommand {
    /// Print a new key of 32 random bytes, for POSTRIDER_SECRET_KEY or a file
    GenerateKey,
    /// Show how many configs are sealed, and under which keys
    Status(SecretsArgs),
    /// Seal every config under the first key: after a key was set, or put before the old ones
    Reseal(SecretsArgs),
}

#[derive(Debug, Args)]
pub(super) struct SecretsArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// The key that this command would seal with.
    first_key: Option<String>,
    configs: u64,
    plain: u64,
    sealed_with: Vec<String>,
    /// Keys that sealed something and that this command was not given.
    missing: Vec<String>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    sealed: u64,
    as_it_was: u64,
    unreadable: u64,
}

pub(super) fn run(command: SecretsCommand, context: &mut Context) -> Result<(), CliError> {
    match command {
        SecretsCommand::GenerateKey => Ok(context.output.line(Keyring::generate_key())?),
        SecretsCommand::Status(args) => status(args, context),
        SecretsCommand::Reseal(args) => reseal(args, context),
    }
}

fn status(args: SecretsArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let seals = block_on(async {
        stored_config::read_seals(&connected.redis).await.map_err(|error| connected.failed(&error))
    })?;
    let status = Status::of(&seals, &connected.settings.redis.keyring());
    if args.output == OutputFormat::Json {
        return Ok(context.output.json(&status)?);
    }
    let list = |ids: &[String]| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
    let Status { configs, plain, sealed_with, missing, first_key } = &status;
    let output = &mut context.output;
    output.line(format_args!("{configs} configs with secrets, {plain} of them in plain text"))?;
    output.line(format_args!("sealed with: {}", list(sealed_with)))?;
    output.line(format_args!("this process seals with: {}", first_key.as_deref().unwrap_or("nothing")))?;
    Ok(output.line(format_args!("keys that are missing here: {}", list(missing)))?)
}

fn reseal(args: SecretsArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    if !connected.redis.seals_secrets() {
        let message = "no key to seal with; set POSTRIDER_SECRET_KEY or --secret-key-file \
                       ('postrider secrets generate-key' makes one)";
        return Err(CliError::Failure(message.into()));
    }
    let done = block_on(reseal_all(&connected))?;
    let Done { sealed, as_it_was, unreadable } = done;
    if args.output == OutputFormat::Json {
        context.output.json(&done)?;
    } else {
        context.output.line(format_args!("{sealed} configs sealed, {as_it_was} left as they were"))?;
    }
    if unreadable == 0 {
        return Ok(());
    }
    let message = format!(
        "{unreadable} configs could not be opened: the key that sealed them is missing here \
         ('postrider secrets status' names it); they were left as they are"
    );
    Err(CliError::Failure(message))
}

async fn reseal_all(connected: &Connected) -> Result<Done, CliError> {
    let failed = |error| connected.failed(&error);
    let ids = stored_config::config_ids(&connected.redis).await.map_err(failed)?;
    let bar = ProgressBar::new(ids.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("sealing {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut done = Done::default();
    for id in &ids {
        match stored_config::reseal(&connected.redis, id).await.map_err(failed)? {
            Resealed::Sealed => done.sealed += 1,
            Resealed::AsItWas => done.as_it_was += 1,
            Resealed::Unreadable => done.unreadable += 1,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(done)
}

// === impl Status ===

impl Status {
    fn of(seals: &Seals, keyring: &Keyring) -> Self {
        let ids = |only_missing: bool| {
            let keys = seals.keys.iter().filter(|id| !only_missing || !keyring.has(id));
            keys.map(ToString::to_string).collect()
        };
        Self {
            first_key: keyring.first().map(ToString::to_string),
            configs: seals.configs,
            plain: seals.plain,
            sealed_with: ids(false),
            missing: ids(true),
        }
    }
}
