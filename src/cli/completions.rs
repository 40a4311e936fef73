//! `postrider completions SHELL` and `postrider manual FOLDER`: what packages install beside the program, made from
//! the same table of commands that parses them.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

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
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let pages = write_pages(&program, &args.folder).map_err(failed)?;
    Ok(context.output.line(format_args!("{pages} pages in {}", args.folder.display()))?)
}

/// Writes the page of a command and those of its subcommands; gives their number.
fn write_pages(command: &Command, folder: &Path) -> io::Result<usize> {
    let usage = command.clone().render_usage().to_string();
    let described = command.clone().override_usage(usage.trim_start_matches("Usage:").trim().to_owned());
    let page = Man::new(described).source(format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")));
    // A date that is empty would be left out, and the version taken for it.
    page.date(" ").manual("Postrider").generate_to(folder)?;
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set());
    subcommands.map(|command| write_pages(command, folder)).try_fold(1, |sum, pages| Ok(sum + pages?))
}
