//! `postrider events`: the catalogue of event types, which this program carries along. `markdown` writes
//! docs/EVENTS.md.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::error::CliError;
use super::output::{OutputFormat, TextTable};
use crate::domain::catalogue::{ALIASES, ALL, KnownEvent, Standing, find};

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// List the known event types
    List(ListArgs),
    /// Show one: JSON Schema of its `data`, and a sample
    Show(ShowArgs),
    /// Write docs/EVENTS.md
    #[command(hide = true)]
    Markdown,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The event type, or a hyphenated name of it
    event: String,
}

#[derive(Serialize)]
struct Listed {
    events: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    event: &'static str,
    category: &'static str,
    status: &'static str,
    description: &'static str,
    aliases: Vec<&'static str>,
}

/// One event type, whole.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: Row,
    schema: Value,
    sample: Value,
}

pub(super) fn run(command: EventsCommand, context: &mut Context) -> Result<(), CliError> {
    match command {
        EventsCommand::List(args) => list(args.output, context),
        EventsCommand::Show(args) => {
            let named = ALIASES.iter().find(|(alias, _)| *alias == args.event);
            let known = find(named.map_or(args.event.as_str(), |(_, name)| name)).ok_or_else(|| {
                CliError::Failure(format!("'{}' is not in the catalogue; see: events list", args.event))
            })?;
            Ok(context.output.json(&Shown {
                row: Row::of(known),
                schema: json(known.schema()),
                sample: json(known.sample),
            })?)
        }
        EventsCommand::Markdown => Ok(context.output.line(markdown().trim_end())?),
    }
}

fn list(format: OutputFormat, context: &mut Context) -> Result<(), CliError> {
    if format == OutputFormat::Json {
        return Ok(context.output.json(&Listed { events: ALL.iter().map(Row::of).collect() })?);
    }
    let mut table = TextTable::new(&["EVENT", "CATEGORY", "ALSO KNOWN AS", "WHEN"]);
    for row in ALL.iter().map(Row::of) {
        let Row { event, category, aliases, description, .. } = row;
        table.row([event.into(), category.into(), aliases.join(", "), description.into()]);
    }
    Ok(context.output.table(&table)?)
}

/// The catalogue's texts are JSON, as its tests show.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

const HEAD: &str = "\
# The events

Written by `make events` from the catalogue in `src/domain/catalogue.rs`; `postrider events list` and
`GET /webhooks/event-types` say the same.

This list is for people. It limits nothing: every type that has the right shape (docs/WIRE.md section 2) can be
published and subscribed to, and any JSON object can be its `data`. A config names the types that it wants in
`events`. `*` there stands for all of them, and `reward.*` for all that begin with `reward.`; no other form of
wildcard is understood.

`data` is what stands under that name in the body of a delivery (docs/WIRE.md section 3). Each schema is a floor and no
wall: a producer may send more fields. A field that is not required may be missing.

";

/// The text of docs/EVENTS.md.
fn markdown() -> String {
    let mut text = String::from(HEAD);
    // Writing to a string cannot fail.
    let _ =
        writeln!(text, "Status says who chose the name and the fields:\n\n| status | meaning |\n|---|---|");
    for standing in Standing::ALL {
        let _ = writeln!(text, "| {} | {} |", standing.as_str(), standing.meaning());
    }
    let mut category = "";
    for known in ALL {
        if known.category.as_str() != category {
            category = known.category.as_str();
            let _ = writeln!(text, "\n## {category}");
        }
        section(&mut text, known);
    }
    text
}

fn section(text: &mut String, known: &KnownEvent) {
    let _ =
        write!(text, "\n### {}\n\nWhen {}. Status: {}.", known.name, known.when, known.standing().as_str());
    let aliases: Vec<String> = known.aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(text, " Also known as {}.", aliases.join(", "));
    }
    text.push_str("\n\n| field of `data` | type | required | what it is |\n|---|---|---|---|\n");
    fields(text, "", &json(known.schema()));
    let _ = writeln!(text, "\n```json\n{:#}\n```", json(known.sample));
}

/// A row for each property of an object's schema, and for theirs.
fn fields(text: &mut String, prefix: &str, schema: &Value) {
    let required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let of = |key: &str| property[key].as_str().unwrap_or_default();
        let kind = match of("format") {
            "date-time" => "time",
            _ => of("type"),
        };
        let must = if required(name) { "yes" } else { "no" };
        let _ = writeln!(text, "| `{prefix}{name}` | {kind} | {must} | {} |", of("description"));
        fields(text, &format!("{prefix}{name}."), property);
        fields(text, &format!("{prefix}{name}[]."), &property["items"]);
    }
}

// === impl Row ===

impl Row {
    fn of(known: &'static KnownEvent) -> Self {
        Self {
            event: known.name,
            category: known.category.as_str(),
            status: known.standing().as_str(),
            description: known.when,
            aliases: known.aliases().collect(),
        }
    }
}
