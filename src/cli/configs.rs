//! `postrider configs list|put`: webhook configs, through a running server's API.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable};
use super::server::ServerFlags;
use super::{Context, block_on, logging};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigsCommand {
    /// List the organisation's configs; secrets are masked
    List(ListArgs),
    /// Create or change one config from flags, or what a file says
    Put(PutArgs),
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
    let (answer, output) = match command {
        ConfigsCommand::List(args) => {
            (block_on(args.server.call(Method::GET, "configs", &[], None))?, args.output)
        }
        ConfigsCommand::Put(args) => {
            let body = args.body()?;
            (block_on(args.server.call(Method::PUT, "configs", &[], Some(body)))?, args.output)
        }
    };
    if output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let answer = answer.value;
    let configs = match &answer {
        Value::Array(configs) => configs.as_slice(),
        Value::Object(wrapper) => match wrapper.get("configs") {
            Some(Value::Array(configs)) => configs.as_slice(),
            _ => std::slice::from_ref(&answer),
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

fn read(path: &PathBuf) -> Result<Vec<u8>, CliError> {
    let read = if path.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).map(|_| body)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| CliError::Failure(format!("cannot read {}: {error}", path.display())))
}

fn header(line: &str) -> Result<(String, Value), CliError> {
    match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), Value::from(value.trim()))),
        // The line is not repeated: values of headers are often secrets.
        None => Err(CliError::Usage("--header: expected 'Name: value'".into())),
    }
}
