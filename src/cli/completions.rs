//! `postrider completions SHELL` and `postrider manual FOLDER`: what packages install beside the program, made from
//! the same table of commands that parses them.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::error::CliError;
use super::{Cli, Context};

const PROGRAM: &str = "postrider";

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManualArgs {
    /// The folder to write into, a page for each command
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn completions(args: CompletionsArgs, context: &mut Context) -> Result<(), CliError> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    Ok(context.output.line(String::from_utf8_lossy(&script).trim_end())?)
}

pub(super) fn manual(args: ManualArgs, context: &mut Context) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failure(format!("{}: {error}", args.folder.display()));
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(failed)?;
    let pages = std::fs::read_dir(&args.folder).map_err(failed)?.count();
    Ok(context.output.line(format_args!("{pages} pages in {}", args.folder.display()))?)
}
