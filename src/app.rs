//! What builds, starts and stops the rooms: the life of the process.

use crate::settings::Settings;

/// Why the process ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to stop.
    Signal,
}

/// Why the process could not start or go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AppError(String);

/// Runs a replica until it is asked to stop.
///
/// # Errors
/// When it cannot start.
pub fn serve(_settings: Settings) -> Result<ExitReason, AppError> {
    Err(AppError("serve is not built yet".into()))
}
