//! Log lines: where they go, in which form, and which.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Context;
use super::error::CliError;
use crate::settings::Settings;
use crate::settings::load::{Loaded, Origin};
use crate::settings::process::LogFormat;
use crate::settings::table::Setting;

/// Starts logging to stderr, and logs what was doubtful about the settings.
pub(super) fn start(loaded: &Loaded) {
    let filter = filter(loaded);
    let terminal = std::io::stderr().is_terminal();
    let json = match loaded.settings.process.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A test that runs several commands in one process keeps the first one's.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

/// Starts logging for a command that has no other settings.
///
/// # Errors
/// When the logging flags or their variables have mistakes.
pub(super) fn start_every(context: &Context) -> Result<(), CliError> {
    start(&context.every.load_every()?);
    Ok(())
}

/// `--log-level`, else `RUST_LOG`, else the environment, the file or the default.
fn filter(loaded: &Loaded) -> EnvFilter {
    let Settings { process, .. } = &loaded.settings;
    let flag = Setting::named("log-level").is_some_and(|row| loaded.origin(row) == Origin::Flag);
    let from_environment = || EnvFilter::try_from_default_env().ok();
    let rust_log = if flag { None } else { from_environment() };
    rust_log.unwrap_or_else(|| EnvFilter::new(&process.log_level))
}
