//! `postrider configs get|delete|pause|resume|rotate`: one config, through a running server's API.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::configs::{cell, show};
use super::error::CliError;
use super::http::Method;
use super::output::{Output, OutputFormat, printable};
use super::server::ServerFlags;
use super::{Context, block_on};
use crate::domain::ids::ConfigId;
use crate::settings::text::duration;

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The config
    #[arg(value_name = "CONFIG-ID")]
    pub(super) id: ConfigId,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: OutputFormat,
    #[command(flatten)]
    pub(super) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Do not ask first; where stdin is no terminal, nobody is asked
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The new secret; made by the server unless given
    #[arg(long)]
    secret: Option<String>,
    /// How long the old one signs too, as 24h; 0s for one that has leaked; 24h unless given
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    overlap: Option<Duration>,
}

impl std::fmt::Debug for RotateArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RotateArgs").field("one", &self.one).finish_non_exhaustive()
    }
}

pub(super) fn get(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    let answer = block_on(args.server.call(Method::GET, &format!("configs/{}", args.id), &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    for (name, _) in answer.value.as_object().into_iter().flatten() {
        context.output.line(format_args!("{name}: {}", printable(&cell(&answer.value, name))))?;
    }
    Ok(())
}

pub(super) fn delete(args: &DeleteArgs, context: &mut Context) -> Result<(), CliError> {
    let OneArgs { id, output, server } = &args.one;
    let path = format!("configs/{id}");
    if !args.yes && std::io::stdin().is_terminal() {
        let config = block_on(server.call(Method::GET, &path, &[], None))?.value;
        let url = printable(&cell(&config, "url"));
        let question = format!("Delete {id} ({url})? What waits for it ends as failed. [y/N]");
        if !agreed(&question, &mut std::io::stdin().lock(), &mut context.output)? {
            return Err(CliError::Failure("nothing was deleted".into()));
        }
    }
    block_on(server.call(Method::DELETE, &path, &[], None))?;
    match output {
        OutputFormat::Json => Ok(context.output.json(&json!({ "deleted": id.to_string() }))?),
        OutputFormat::Text => Ok(context.output.line(format_args!("deleted {id}"))?),
    }
}

/// `pause` or `resume`.
pub(super) fn switch(args: &OneArgs, verb: &str, context: &mut Context) -> Result<(), CliError> {
    let path = format!("configs/{}/{verb}", args.id);
    let answer = block_on(args.server.call(Method::POST, &path, &[], None))?;
    show(&answer, args.output, context)
}

pub(super) fn rotate(args: &RotateArgs, context: &mut Context) -> Result<(), CliError> {
    let OneArgs { id, output, server } = &args.one;
    let mut body = serde_json::Map::new();
    body.extend(args.secret.as_ref().map(|text| ("secret".to_owned(), text.as_str().into())));
    if let Some(overlap) = args.overlap {
        if overlap.subsec_nanos() != 0 {
            return Err(CliError::Usage("--overlap: expected whole seconds".into()));
        }
        body.insert("overlapSeconds".into(), overlap.as_secs().into());
    }
    let body = serde_json::Value::Object(body).to_string().into_bytes();
    let path = format!("configs/{id}/rotate-secret");
    let answer = block_on(server.call(Method::POST, &path, &[], Some(body)))?;
    if *output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    match args.secret {
        // Who gave it knows it.
        Some(_) => context.output.line("the new secret signs from now on")?,
        None => context.output.line(format_args!("secret: {}", printable(&cell(&answer.value, "secret"))))?,
    }
    let until = answer.value.get("previousSecret").map_or_else(|| "-".into(), |old| cell(old, "until"));
    match until.as_str() {
        "-" => context.output.note("the old secret signs no more"),
        until => context.output.note(format_args!("the old secret signs too until {}", printable(until))),
    }
    Ok(())
}

/// Asks, and takes `y` or `yes` for agreement.
fn agreed(question: &str, answers: &mut impl BufRead, output: &mut Output) -> Result<bool, CliError> {
    output.note(question);
    let mut answer = String::new();
    let read = answers.read_line(&mut answer);
    read.map_err(|error| CliError::Failure(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_agreement() {
        let asked = |text: &str| agreed("Delete?", &mut text.as_bytes(), &mut Output::new()).unwrap();
        assert!(["y\n", "yes\n", "Y", " YES \n"].into_iter().all(asked));
        assert!(!["", "\n", "n\n", "no\n", "yesterday\n"].into_iter().any(asked));
    }
}
