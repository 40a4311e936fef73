//! Publishing a file of JSON lines: read on a thread of its own, checked line by line, appended in batches with
//! a progress bar. A line that cannot be published is named and left out; a refusal by Redis ends it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Context;
use super::error::CliError;
use super::output::OutputFormat;
use super::publish::{PublishArgs, Publisher, joined};
use crate::domain::event::{DATA_MAX_BYTES, EventFields, JsonScratch};
use crate::domain::ids::OrganisationId;
use crate::redis::publish::Item;

/// Most events of one batch: the publish endpoint's bound.
const BATCH_MAX: usize = 1_000;

/// Size of the lines of a batch at which it takes no further one, so that one script stays short.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest line: the largest `data` with the other fields around it.
const LINE_MAX_BYTES: usize = DATA_MAX_BYTES + 16 * 1024;

/// One line, borrowed from it; `data` stays byte for byte.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventLine<'a> {
    #[serde(default)]
    organisation_id: Option<String>,
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
    nonce: Option<String>,
    timestamp: Option<String>,
    config_id: Option<String>,
    traceparent: Option<String>,
    community_id: Option<String>,
    user_id: Option<String>,
    event_source_id: Option<String>,
}

/// What the reading thread gives.
struct Line {
    number: u64,
    /// Bytes of the file up to its end.
    position: u64,
    text: Vec<u8>,
}

/// A bad line as `--rejects` keeps it.
#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    reason: &'a str,
    text: &'a str,
}

/// What was done so far.
#[derive(Default, Serialize)]
struct Summary {
    published: u64,
    duplicates: u64,
    rejected: u64,
    lines: u64,
}

/// Where bad lines go.
struct Rejects<'a> {
    bar: &'a ProgressBar,
    context: &'a mut Context,
    file: Option<BufWriter<File>>,
}

pub(super) async fn run(
    publisher: &Publisher<'_>,
    args: &PublishArgs,
    context: &mut Context,
) -> Result<(), CliError> {
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let (input, length) = open(path)?;
    let file = args.rejects.as_deref().map(create).transpose()?;
    let bar = progress(length);
    let (lines_in, mut lines) = mpsc::channel(2 * BATCH_MAX);
    std::thread::spawn(move || read_lines(input, &lines_in));
    let mut summary = Summary::default();
    let mut rejects = Rejects { bar: &bar, context, file };
    let mut ended = publish_all(publisher, args, &mut lines, &mut summary, &mut rejects).await;
    if let Err(error) = rejects.file.as_mut().map_or(Ok(()), Write::flush) {
        ended = ended.and(Err(CliError::Failure(format!("cannot write the rejects: {error}"))));
    }
    bar.finish_and_clear();
    say(&summary, args.output, context)?;
    ended?;
    if summary.rejected > 0 { Err(CliError::Said) } else { Ok(()) }
}

async fn publish_all(
    publisher: &Publisher<'_>,
    args: &PublishArgs,
    lines: &mut mpsc::Receiver<Result<Line, std::io::Error>>,
    summary: &mut Summary,
    rejects: &mut Rejects<'_>,
) -> Result<(), CliError> {
    let mut scratch = JsonScratch::default();
    let mut next = lines.recv().await;
    while next.is_some() {
        // A batch is what is there by now: whoever writes the lines slowly waits for no full one.
        let (mut items, mut bytes, mut first, mut position) = (Vec::new(), 0, None, 0);
        while let Some(line) = next.take() {
            let failed =
                |error| CliError::Failure(format!("cannot read line {}: {error}", summary.lines + 1));
            let line = line.map_err(failed)?;
            (summary.lines, position) = (line.number, line.position);
            match item(&line.text, &args.organisation, &mut scratch) {
                Ok(Some(item)) => {
                    first.get_or_insert(line.number);
                    bytes += line.text.len();
                    items.push(item);
                }
                Ok(None) => {}
                Err(reason) => {
                    summary.rejected += 1;
                    rejects.write(&line, &reason)?;
                }
            }
            if items.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                next = lines.try_recv().ok();
            }
        }
        if let Some(first) = first {
            let events = publisher.publish(&items).await.map_err(|error| {
                CliError::Failure(format!(
                    "stopped at line {first}, {} published: {error}",
                    summary.published
                ))
            })?;
            let duplicates = events.iter().filter(|event| event.duplicate).count() as u64;
            summary.duplicates += duplicates;
            summary.published += events.len() as u64 - duplicates;
        }
        rejects.bar.set_position(position);
        rejects.bar.set_message(summary.published.to_string());
        next = lines.recv().await;
    }
    Ok(())
}

// === impl Rejects ===

impl Rejects<'_> {
    /// Names a bad line on stderr, without its content, and keeps it whole in the file.
    fn write(&mut self, line: &Line, reason: &str) -> Result<(), CliError> {
        let output = &mut self.context.output;
        self.bar.suspend(|| output.note(format_args!("line {}: {reason}", line.number)));
        let Some(file) = &mut self.file else { return Ok(()) };
        let text = String::from_utf8_lossy(&line.text);
        let reject = Reject { line: line.number, reason, text: text.trim_end() };
        let written = serde_json::to_writer(&mut *file, &reject).map_err(std::io::Error::from);
        let written = written.and_then(|()| file.write_all(b"\n"));
        written.map_err(|error| CliError::Failure(format!("cannot write the rejects: {error}")))
    }
}

/// Checks one line; `None` for an empty one.
fn item(
    text: &[u8],
    organisation: &OrganisationId,
    scratch: &mut JsonScratch,
) -> Result<Option<Item>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    if text.len() > LINE_MAX_BYTES {
        return Err(format!("longer than {LINE_MAX_BYTES} bytes"));
    }
    let line: EventLine<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if line.organisation_id.is_some_and(|other| other != organisation.as_str()) {
        return Err(format!("organisationId: expected {organisation}, as --organisation says"));
    }
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let fields = EventFields {
        event: Some(line.event.into_bytes()),
        data: Some(line.data.get().as_bytes().to_vec()),
        nonce: bytes(line.nonce),
        timestamp: bytes(line.timestamp),
        config_id: bytes(line.config_id),
        traceparent: bytes(line.traceparent),
        community_id: bytes(line.community_id),
        user_id: bytes(line.user_id),
        event_source_id: bytes(line.event_source_id),
        ..EventFields::default()
    };
    Item::new(organisation, fields, scratch).map(Some).map_err(|rejections| joined(&rejections))
}

fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), CliError> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let failed = |error| CliError::Failure(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((Box::new(BufReader::new(file)), Some(length)))
}

fn create(path: &Path) -> Result<BufWriter<File>, CliError> {
    let file = File::create(path);
    file.map(BufWriter::new)
        .map_err(|error| CliError::Failure(format!("cannot write {}: {error}", path.display())))
}

/// A bar on stderr; nothing where that is no terminal.
fn progress(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {percent}% {msg} events, {elapsed}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} events, {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Sends every line until the end, an error, or until nobody listens. Keeps at most one byte more of a line
/// than is allowed: the rest is read and dropped.
fn read_lines(mut input: Box<dyn BufRead + Send>, lines: &mpsc::Sender<Result<Line, std::io::Error>>) {
    let (mut number, mut position) = (0, 0);
    loop {
        let line = read_line(&mut input).transpose().map(|read| {
            read.map(|(text, length)| {
                number += 1;
                position += length;
                Line { number, position, text }
            })
        });
        let Some(line) = line else { return };
        let failed = line.is_err();
        if lines.blocking_send(line).is_err() || failed {
            return;
        }
    }
}

/// One line and how many bytes it took; `None` at the end.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<(Vec<u8>, u64)>> {
    let mut text = Vec::new();
    let mut length = input.by_ref().take(LINE_MAX_BYTES as u64 + 1).read_until(b'\n', &mut text)? as u64;
    if length == 0 {
        return Ok(None);
    }
    if text.len() > LINE_MAX_BYTES && !text.ends_with(b"\n") {
        length += input.skip_until(b'\n')? as u64;
    }
    Ok(Some((text, length)))
}

fn say(summary: &Summary, output: OutputFormat, context: &mut Context) -> Result<(), CliError> {
    if output == OutputFormat::Json {
        return Ok(context.output.json(summary)?);
    }
    let Summary { published, duplicates, rejected, lines } = summary;
    Ok(context.output.line(format_args!(
        "{lines} lines: {published} published, {duplicates} published before, {rejected} rejected"
    ))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_is_whole() {
        let text = [vec![b'x'; 2 * LINE_MAX_BYTES], b"\nnext\nlast".to_vec()].concat();
        let mut input = text.as_slice();
        let (long, length) = read_line(&mut input).unwrap().unwrap();
        assert_eq!((long.len(), length), (LINE_MAX_BYTES + 1, 2 * LINE_MAX_BYTES as u64 + 1));
        assert_eq!(read_line(&mut input).unwrap().unwrap().0, b"next\n");
        assert_eq!(read_line(&mut input).unwrap().unwrap(), (b"last".to_vec(), 4));
        assert!(read_line(&mut input).unwrap().is_none());
    }

    #[test]
    fn bad_lines_say_why() {
        let organisation = OrganisationId::new("org_1").unwrap();
        let check = |text: &str| item(text.as_bytes(), &organisation, &mut JsonScratch::default());
        assert!(check(r#"{"event":"a.b","data":{"n":1e400}}"#).unwrap().is_some());
        assert!(check("  \n").unwrap().is_none());
        for (text, reason) in [
            ("{", "EOF"),
            (r#"{"data":{}}"#, "missing field `event`"),
            (r#"{"event":"a.b","data":[]}"#, "data: expected a JSON object"),
            (r#"{"event":"A","data":{}}"#, "event: expected lower-case"),
            (r#"{"event":"a.b","data":{},"nonse":"x"}"#, "unknown field `nonse`"),
            (r#"{"event":"a.b","data":{},"organisationId":"org_2"}"#, "organisationId: expected org_1"),
            (r#"{"event":"a.b","data":{},"timestamp":"now"}"#, "timestamp: expected ISO-8601"),
        ] {
            let answer = check(text).map(|item| item.is_some()).unwrap_err();
            assert!(answer.contains(reason), "{text}: {answer}");
        }
    }
}
