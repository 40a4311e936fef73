//! The flags of settings, made from the table: no subcommand writes one by hand.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::error::CliError;
use crate::settings::load::{Loaded, Sources};
use crate::settings::table::{Form, Scope, Setting, TABLE};

/// What was given on the command line: the file and the flags.
#[derive(Clone, Debug, Default)]
pub struct Given {
    file: Option<PathBuf>,
    flags: BTreeMap<&'static str, String>,
}

/// Flags of all settings: for `serve` and `settings print`.
#[derive(Clone, Debug)]
pub struct AllSettings(pub Given);

/// Flags of the settings that a command needs to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisFlags(pub Given);

/// Flags of the settings that every command takes, before or after the command's name.
#[derive(Clone, Debug)]
pub struct EverySetting(pub Given);

// === impl Given ===

impl Given {
    /// Reads file, environment and these flags; `every` holds the flags that all commands share.
    ///
    /// # Errors
    /// Every mistake in any of them.
    pub fn load(self, every: &Self) -> Result<Loaded, CliError> {
        let mut flags = self.flags;
        flags.extend(every.flags.clone());
        let environment = environment();
        let variable = environment.get("POSTRIDER_SETTINGS").filter(|path| !path.is_empty());
        let file = self.file.or_else(|| variable.map(PathBuf::from));
        Ok(Sources { file, environment, flags }.load()?)
    }

    /// Reads only the settings that every command takes: for commands that know no others, which another
    /// command's mistakes are no concern of.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn load_every(&self) -> Result<Loaded, CliError> {
        let mut environment = environment();
        let every = TABLE.iter().filter(|setting| setting.scope == Scope::Every);
        let names: Vec<String> = every.map(Setting::environment).collect();
        environment.retain(|name, _| names.contains(name));
        Ok(Sources { file: None, environment, flags: self.flags.clone() }.load()?)
    }

    fn taken(matches: &ArgMatches) -> Self {
        let given = |setting: &&Setting| {
            let known = matches.try_contains_id(setting.name).unwrap_or(false);
            known && matches.value_source(setting.name) == Some(clap::parser::ValueSource::CommandLine)
        };
        let flags = TABLE.iter().filter(given).filter_map(|setting| {
            let values = matches.get_many::<String>(setting.name)?;
            Some((setting.name, values.cloned().collect::<Vec<_>>().join(",")))
        });
        let file = matches.try_get_one::<PathBuf>(SETTINGS_FLAG).ok().flatten().cloned();
        Self { flags: flags.collect(), file }
    }
}

const SETTINGS_FLAG: &str = "settings";

fn environment() -> BTreeMap<String, String> {
    let lossy = |text: &OsStr| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect()
}

/// Its default is a property of the machine, and manual pages are read on another than they were written on. What it
/// is its reason says.
const OF_THE_MACHINE: &str = "workers";

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default_text() {
        _ if setting.name == OF_THE_MACHINE => String::new(),
        text if text.is_empty() => " [default: none]".into(),
        text => format!(" [default: {text}]"),
    };
    let help = format!("{}{default} [env: {}]", setting.reason, setting.environment());
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.unit)
        .help(help)
        .help_heading(heading(setting));
    match setting.form {
        Form::Value => arg.action(ArgAction::Set),
        Form::List => arg.action(ArgAction::Append),
        Form::Switch => {
            arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

fn heading(setting: &Setting) -> &'static str {
    match setting.section {
        _ if setting.scope == Scope::Every => "Logging",
        "redis" => "Settings: redis",
        "process" => "Settings: process",
        "delivery" => "Settings: delivery",
        "limits" => "Settings: limits",
        "retention" => "Settings: retention",
        section => section,
    }
}

fn add(command: Command, scopes: &[Scope]) -> Command {
    let file = Arg::new(SETTINGS_FLAG)
        .long(SETTINGS_FLAG)
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("A TOML file of settings; flags and the environment win over it [env: POSTRIDER_SETTINGS]");
    let rows = TABLE.iter().filter(|setting| scopes.contains(&setting.scope));
    rows.fold(command.arg(file), |command, setting| command.arg(flag(setting)))
}

fn add_global(command: Command) -> Command {
    let rows = TABLE.iter().filter(|setting| setting.scope == Scope::Every);
    rows.fold(command, |command, setting| command.arg(flag(setting).global(true)))
}

macro_rules! flag_set {
    ($type:ident, $add:expr) => {
        impl clap::FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(Given::taken(matches)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = Given::taken(matches);
                Ok(())
            }
        }

        impl clap::Args for $type {
            fn augment_args(command: Command) -> Command {
                $add(command)
            }

            fn augment_args_for_update(command: Command) -> Command {
                $add(command)
            }
        }
    };
}

flag_set!(AllSettings, |command| add(command, &[Scope::Serve, Scope::Redis]));
flag_set!(RedisFlags, |command| add(command, &[Scope::Redis]));
flag_set!(EverySetting, add_global);
