//! `postrider serve`: runs a replica.

use clap::Args;

use super::error::CliError;
use super::flags::AllSettings;
use super::{Context, logging};
use crate::app;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: AllSettings,
}

pub(super) fn run(args: ServeArgs, context: &mut Context) -> Result<(), CliError> {
    let loaded = args.settings.0.load(&context.every)?;
    logging::start(&loaded);
    let reason = app::serve(loaded.settings).map_err(|error| CliError::Failure(error.to_string()))?;
    tracing::info!(?reason, "stopped");
    Ok(())
}
