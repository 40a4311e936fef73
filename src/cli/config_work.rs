//! `postrider configs recover|replay`: long work for one config, begun through a running server's API, and watched.

use clap::Args;
use serde_json::{Map, Value};

use super::config_one::OneArgs;
use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, printable};
use super::time::moment;
use super::{Context, block_on, jobs};
use crate::domain::clock::UnixMillis;
use crate::domain::job::{JobKind, RATE_DEFAULT, RATE_MAX};

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Only from this time on: ISO-8601 with a zone, or a duration ago, as 15m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<UnixMillis>,
    /// Only before this time: ISO-8601 with a zone, or a duration ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<UnixMillis>,
    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// At most so many a second
    #[arg(long, value_name = "N", default_value_t = RATE_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
    /// Only count
    #[arg(long, conflicts_with_all = ["wait", "rate"])]
    dry_run: bool,
    /// Wait for the end, with a bar where stderr is a terminal; Ctrl-C leaves the job running
    #[arg(long)]
    wait: bool,
}

// === impl WorkArgs ===

impl WorkArgs {
    fn body(&self) -> Vec<u8> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("since", self.since.map(|time| time.to_string().into()));
        set("until", self.until.map(|time| time.to_string().into()));
        set("event", self.event.clone().map(Value::from));
        set("ratePerSecond", Some(self.rate.into()));
        set("dryRun", self.dry_run.then_some(true.into()));
        Value::Object(fields).to_string().into_bytes()
    }
}

pub(super) fn run(args: &WorkArgs, kind: JobKind, context: &mut Context) -> Result<(), CliError> {
    let (verb, noun) = match kind {
        JobKind::Recover => ("recover", "failed deliveries"),
        JobKind::Replay => ("replay", "events"),
    };
    if kind == JobKind::Replay && args.since.is_none() {
        return Err(CliError::Usage("replay needs --since: from when on events are to come again".into()));
    }
    let OneArgs { id, output, server } = &args.one;
    let answer =
        block_on(server.call(Method::POST, &format!("configs/{id}/{verb}"), &[], Some(args.body())))?;
    if args.wait {
        return jobs::wait(server, answer, *output, context);
    }
    if *output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    if args.dry_run {
        let floor = answer.value.get("countIsFloor") == Some(&Value::Bool(true));
        let at_least = if floor { "at least " } else { "" };
        return Ok(context.output.line(format_args!("{at_least}{} {noun}", cell(&answer.value, "count")))?);
    }
    jobs::show(&answer, *output, context)?;
    let job = printable(&cell(&answer.value, "id"));
    context.output.note(format_args!("postrider configs jobs show {id} {job} --wait shows how far it is"));
    Ok(())
}
