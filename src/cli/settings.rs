//! `postrider settings print`: every setting with its default, value, source, unit and reason.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use super::error::CliError;
use super::flags::AllSettings;
use super::output::OutputFormat;
use crate::settings::load::Loaded;
use crate::settings::table::{Setting, TABLE};

#[derive(Debug, Subcommand)]
pub(super) enum SettingsCommand {
    /// Print every setting
    Print(PrintArgs),
}

#[derive(Debug, Args)]
pub(super) struct PrintArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    settings: AllSettings,
}

/// One setting as `--output json` prints it.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    section: &'static str,
    flag: String,
    environment: String,
    default: String,
    value: String,
    source: String,
    unit: &'static str,
    expected: &'static str,
    reason: &'static str,
}

#[derive(Serialize)]
struct Printed {
    settings: Vec<Row>,
}

// === impl Row ===

impl Row {
    fn new(setting: &'static Setting, loaded: &Loaded) -> Self {
        Self {
            name: setting.name,
            section: setting.section,
            flag: format!("--{}", setting.name),
            environment: setting.environment(),
            default: setting.default_text(),
            value: (setting.show)(&loaded.settings),
            source: loaded.origin(setting).to_string(),
            unit: setting.unit,
            expected: setting.expected,
            reason: setting.reason,
        }
    }
}

pub(super) fn run(command: SettingsCommand, context: &mut Context) -> Result<(), CliError> {
    let SettingsCommand::Print(args) = command;
    let loaded = args.settings.0.load(&context.every)?;
    let rows: Vec<Row> = TABLE.iter().map(|setting| Row::new(setting, &loaded)).collect();
    if args.output == OutputFormat::Json {
        return Ok(context.output.json(&Printed { settings: rows })?);
    }
    let mut section = "";
    for row in &rows {
        if row.section != section {
            section = row.section;
            context.output.line(format_args!("[{section}]"))?;
        }
        let Row { name, value, source, default, unit, reason, .. } = row;
        context.output.line(format_args!("{name} = {value:?}"))?;
        context.output.line(format_args!("    {reason}"))?;
        context.output.line(format_args!("    from: {source}; default: {default:?}; unit: {unit}"))?;
    }
    for warning in &loaded.warnings {
        context.output.note(format_args!("postrider: {warning}"));
    }
    Ok(())
}
