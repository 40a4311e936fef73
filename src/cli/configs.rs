//! `postrider configs`: webhook configs, through a running server's API. Here are `list` and `put`; what concerns one
//! config is in `config_one`, `config_test`, `config_stats`, `config_work` and `jobs`.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::config_one::{DeleteArgs, OneArgs, RotateArgs};
use super::config_test::TestArgs;
use super::config_work::WorkArgs;
use super::error::CliError;
use super::http::Method;
use super::jobs::JobsCommand;
use super::output::{OutputFormat, TextTable};
use super::server::{ApiAnswer, ServerFlags};
use super::{Context, block_on, config_one, config_stats, config_test, config_work, jobs, logging};
use crate::domain::job::JobKind;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigsCommand {
    /// List the organisation's configs; secrets are masked
    List(ListArgs),
    /// Show one config; its secret is masked
    Get(OneArgs),
    /// Create or change one config from flags, or what a file says
    Put(PutArgs),
    /// Delete one config; what waits for it ends as failed, its log stays until it ages out
    Delete(DeleteArgs),
    /// Send it a test event by the way that every event takes; ends with 0 when that is delivered
    Test(TestArgs),
    /// Send nothing to it; what comes meanwhile waits
    Pause(OneArgs),
    /// Send to it again, also where Postrider had disabled it
    Resume(OneArgs),
    /// Give it a new secret; the old one signs beside it for a while
    Rotate(RotateArgs),
    /// Show how its endpoint does: the last hour and day, what waits, its breaker
    Stats(OneArgs),
    /// Put its failed deliveries back into its queue
    Recover(WorkArgs),
    /// Bring events that the stream still holds to it again; needs --since
    Replay(WorkArgs),
    /// List, show and cancel what recover and replay began
    #[command(subcommand)]
    Jobs(JobsCommand),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Args)]
pub(super) struct PutArgs {
    /// A request body: one config, or a list, which replaces all configs of the organisation; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "id", "events", "secret", "inactive", "max_retries", "headers"])]
    file: Option<PathBuf>,
    /// Where deliveries go; a config with this URL, or with --id, is changed, else one is created
    #[arg(long, required_unless_present_any = ["file", "id"])]
    url: Option<String>,
    /// The config to change
    #[arg(long)]
    id: Option<String>,
    /// Event types, joined by commas
    #[arg(long, value_delimiter = ',')]
    events: Vec<String>,
    /// What signs the deliveries; made by the server where there is none yet
    #[arg(long)]
    secret: Option<String>,
    /// Pause it
    #[arg(long)]
    inactive: bool,
    /// Automatic retries after the first attempt, 0 to 10
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// A header to send along, as Name: value; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

// === impl PutArgs ===

impl PutArgs {
    fn body(&self) -> Result<Vec<u8>, CliError> {
        if let Some(path) = &self.file {
            return read(path);
        }
        let mut config = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(name.to_owned(), value);
            }
        };
        set("id", self.id.as_deref().map(Value::from));
        set("url", self.url.as_deref().map(Value::from));
        set("events", (!self.events.is_empty()).then(|| Value::from(self.events.clone())));
        set("secret", self.secret.as_deref().filter(|text| !text.is_empty()).map(Value::from));
        set("active", self.inactive.then_some(Value::Bool(false)));
        set("maxRetries", self.max_retries.map(Value::from));
        if !self.headers.is_empty() {
            let headers = self.headers.iter().map(|line| header(line)).collect::<Result<_, _>>()?;
            config.insert("headers".into(), Value::Object(headers));
        }
        Ok(Value::Object(config).to_string().into_bytes())
    }
}

impl std::fmt::Debug for PutArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutArgs").field("url", &self.url).finish_non_exhaustive()
    }
}

pub(super) fn run(command: ConfigsCommand, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    match command {
        ConfigsCommand::List(args) => {
            let answer = block_on(args.server.call(Method::GET, "configs", &[], None))?;
            show(&answer, args.output, context)
        }
        ConfigsCommand::Put(args) => {
            let body = args.body()?;
            let answer = block_on(args.server.call(Method::PUT, "configs", &[], Some(body)))?;
            show(&answer, args.output, context)
        }
        ConfigsCommand::Get(args) => config_one::get(&args, context),
        ConfigsCommand::Delete(args) => config_one::delete(&args, context),
        ConfigsCommand::Pause(args) => config_one::switch(&args, "pause", context),
        ConfigsCommand::Resume(args) => config_one::switch(&args, "resume", context),
        ConfigsCommand::Rotate(args) => config_one::rotate(&args, context),
        ConfigsCommand::Test(args) => config_test::run(&args, context),
        ConfigsCommand::Stats(args) => config_stats::run(&args, context),
        ConfigsCommand::Recover(args) => config_work::run(&args, JobKind::Recover, context),
        ConfigsCommand::Replay(args) => config_work::run(&args, JobKind::Replay, context),
        ConfigsCommand::Jobs(command) => jobs::run(command, context),
    }
}

/// One config, or a list of them in any of the shapes that a `PUT` answers.
pub(super) fn show(answer: &ApiAnswer, format: OutputFormat, context: &mut Context) -> Result<(), CliError> {
    if format == OutputFormat::Json {
        return Ok(context.output.line(&answer.text)?);
    }
    let answer = &answer.value;
    let configs = match answer {
        Value::Array(configs) => configs.as_slice(),
        Value::Object(wrapper) => match wrapper.get("configs") {
            Some(Value::Array(configs)) => configs.as_slice(),
            _ => std::slice::from_ref(answer),
        },
        _ => &[],
    };
    let mut table = TextTable::new(&["ID", "ACTIVE", "EVENTS", "RETRIES", "SECRET", "URL"]);
    for config in configs {
        let cell = |name| cell(config, name);
        let active = match cell("disabledReason").as_str() {
            "-" => cell("active"),
            reason => format!("false ({reason})"),
        };
        table.row([cell("id"), active, cell("events"), cell("maxRetries"), cell("secret"), cell("url")]);
    }
    Ok(context.output.table(&table)?)
}

/// A field of a JSON object for a table: text without quotes, a list joined by commas, `-` for nothing.
pub(super) fn cell(object: &Value, name: &str) -> String {
    match object.get(name) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) => values
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), Into::into))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

/// The bytes of a file; `-` is stdin.
pub(super) fn read(path: &PathBuf) -> Result<Vec<u8>, CliError> {
    let read = if path.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).map(|_| body)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| CliError::Failure(format!("cannot read {}: {error}", path.display())))
}

/// Reads `Name: value`.
pub(super) fn header(line: &str) -> Result<(String, Value), CliError> {
    match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), Value::from(value.trim()))),
        // The line is not repeated: values of headers are often secrets.
        None => Err(CliError::Usage("--header: expected 'Name: value'".into())),
    }
}
