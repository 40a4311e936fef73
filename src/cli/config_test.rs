//! `postrider configs test`: an event to one config, and what came of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::config_one::OneArgs;
use super::configs::{cell, read};
use super::error::CliError;
use super::http::Method;
use super::logs::answer_of;
use super::output::{OutputFormat, printable};
use super::{Context, block_on};

/// What a server may need beside the wait for the result.
const MARGIN: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Any event type; webhook.test unless given
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// A file with the event's data, a JSON object; - is stdin; a sample unless given
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Longest wait for the result, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 35, value_parser = clap::value_parser!(u64).range(0..=60))]
    wait: u64,
}

// === impl TestArgs ===

impl TestArgs {
    /// The bytes of the data go along as they are.
    fn body(&self) -> Result<Vec<u8>, CliError> {
        let mut fields = Vec::new();
        fields.extend(self.event.as_ref().map(|event| format!("\"event\":{}", json!(event))));
        if let Some(path) = &self.data {
            let data = serde_json::from_slice::<Box<RawValue>>(&read(path)?);
            let data = data.map_err(|error| CliError::Failure(format!("{}: {error}", path.display())))?;
            fields.push(format!("\"data\":{data}"));
        }
        Ok(format!("{{{}}}", fields.join(",")).into_bytes())
    }
}

pub(super) fn run(args: &TestArgs, context: &mut Context) -> Result<(), CliError> {
    let OneArgs { id, output, server } = &args.one;
    let (path, body) = (format!("configs/{id}/test"), args.body()?);
    let query = [("wait", args.wait.to_string())];
    let patience = Duration::from_secs(args.wait) + MARGIN;
    let asked = async { Ok(server.ask(Method::POST, &path, &query, Some(body), patience).await?) };
    let answer = block_on(asked)?;
    let record = answer.value;
    match output {
        OutputFormat::Json => context.output.line(answer.text)?,
        OutputFormat::Text => {
            context.output.line(told(&record))?;
            if let Some(body) = record.get("responseBody").and_then(Value::as_str) {
                context.output.line(format_args!("it answered: {}", printable(body)))?;
            }
        }
    }
    match record.get("status").and_then(Value::as_str) {
        Some("delivered") => Ok(()),
        _ => Err(CliError::Said),
    }
}

fn told(record: &Value) -> String {
    let cell = |name| printable(&cell(record, name));
    let (status, delivery) = (cell("status"), cell("deliveryId"));
    if cell("attempts") == "0" && status != "failed" {
        return format!("{status}: no result yet; postrider logs show {delivery}");
    }
    let next = match cell("nextAttemptAt").as_str() {
        "-" => String::new(),
        at => format!("; the next attempt is at {at}"),
    };
    let answer = printable(&answer_of(record));
    format!("{status}: {answer} in {} ms ({delivery}){next}", cell("durationMs"))
}
