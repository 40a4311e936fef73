//! How a command fails: what is said on stderr, and the exit code.

use std::io;
use std::process::ExitCode;

use super::output::Output;
use crate::settings::load::Mistakes;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Flags that do not fit together; what clap cannot see.
    #[error("{0}")]
    Usage(String),
    /// The settings have mistakes.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// It was tried and failed.
    #[error("{0}")]
    Failure(String),
    /// It failed, and everything has been said.
    #[error("failed")]
    Said,
    /// Stdout cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

// === impl CliError ===

impl CliError {
    /// The process's exit code. A reader that closed the pipe has what it wanted: `postrider ... | head`.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Settings(_) => ExitCode::from(64),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Failure(_) | Self::Said | Self::Output(_) => ExitCode::FAILURE,
        }
    }

    /// Says it on stderr.
    pub fn report(&self, output: &mut Output) {
        match self {
            Self::Said => {}
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => output.complain(other),
        }
    }
}
