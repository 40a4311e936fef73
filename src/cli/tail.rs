//! The live tail of a running server (docs/WIRE.md section 12): server-sent events (WHATWG HTML, section 9.2), and a
//! connection that is made anew after the last event that was read, so that nothing is missed that the log keeps.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;
use super::output::Output;
use super::server::{ApiFault, ServerFlags};
use crate::domain::clock::UnixMillis;

/// Longest silence of a connection that lives: three of the server's comments.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Pauses between two connections: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Longest line that is read; an attempt's is a few KiB.
const LINE_MAX: usize = 1024 * 1024;

/// A live tail that outlives its connections.
pub(super) struct Tail {
    server: ServerFlags,
    query: Vec<(&'static str, String)>,
    /// When the first connection was made, by the server's clock: where the next one begins while nothing was read.
    began: Option<UnixMillis>,
    /// The id of the event that was read last.
    last: Option<String>,
    body: Option<Incoming>,
    parser: Parser,
    read: VecDeque<TailEvent>,
    pause: Duration,
}

/// One row of the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TailEvent {
    /// `attempt` or `fate`.
    pub(super) name: String,
    /// JSON on one line.
    pub(super) data: String,
    id: String,
}

/// Takes bytes as they come, gives events.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    event: TailEvent,
}

// === impl Tail ===

impl Tail {
    /// Connects. A server that is not there, or refuses, is an error now and a reason to wait later.
    ///
    /// # Errors
    /// As [`ServerFlags::call`].
    pub(super) async fn open(
        server: ServerFlags,
        query: Vec<(&'static str, String)>,
    ) -> Result<Self, CliError> {
        let mut tail = Self {
            server,
            query,
            began: None,
            last: None,
            body: None,
            parser: Parser::default(),
            read: VecDeque::new(),
            pause: PAUSE_MIN,
        };
        tail.connect().await?;
        Ok(tail)
    }

    /// The next event. Connections that are lost are noted on stderr and made anew.
    ///
    /// # Errors
    /// When the server refuses to go on: the token was revoked, the config is gone.
    pub(super) async fn next(&mut self, output: &mut Output) -> Result<TailEvent, CliError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.last = Some(event.id.clone());
                return Ok(event);
            }
            match self.read_some().await {
                Ok(()) => self.pause = PAUSE_MIN,
                Err(why) => {
                    output.note(format_args!("the tail was cut ({why}); connecting again"));
                    self.connect_again().await?;
                }
            }
        }
    }

    async fn read_some(&mut self) -> Result<(), String> {
        let Some(body) = self.body.as_mut() else { return Err("not connected".into()) };
        match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
            Err(_) => Err(format!("nothing came for {} s", SILENCE_MAX.as_secs())),
            Ok(None) => Err("the server ended it".into()),
            Ok(Some(Err(error))) => Err(error.to_string()),
            Ok(Some(Ok(frame))) => {
                let bytes = frame.into_data().unwrap_or_default();
                self.parser.take(&bytes, &mut self.read)
            }
        }
    }

    async fn connect_again(&mut self) -> Result<(), CliError> {
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(ApiFault::Final(error)) => return Err(error),
                Err(ApiFault::Passing(_, pause)) => self.pause = self.pause.max(pause.unwrap_or_default()),
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ApiFault> {
        self.body = None;
        self.parser = Parser::default();
        let mut query = self.query.clone();
        if self.last.is_none() && !query.iter().any(|(name, _)| *name == "since") {
            query.extend(self.began.map(|at| ("since", at.to_string())));
        }
        let response = self.server.stream("logs/stream", &query, self.last.as_deref()).await?;
        self.began = self.began.or_else(|| date(&response));
        self.body = Some(response.into_body());
        Ok(())
    }
}

/// Ctrl-C from now on, also one that comes while nobody waits for it.
///
/// # Errors
/// When the operating system refuses.
pub(super) fn interrupts() -> Result<Signal, CliError> {
    signal(SignalKind::interrupt())
        .map_err(|error| CliError::Failure(format!("cannot listen for signals: {error}")))
}

/// When the server answered.
fn date(response: &hyper::Response<Incoming>) -> Option<UnixMillis> {
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    let since_epoch = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since_epoch.as_millis()).ok().map(UnixMillis)
}

// === impl TailEvent ===

impl TailEvent {
    /// The row, parsed.
    pub(super) fn row(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

// === impl Parser ===

impl Parser {
    fn take(&mut self, bytes: &[u8], events: &mut VecDeque<TailEvent>) -> Result<(), String> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let line = String::from_utf8_lossy(&line);
                    events.extend(self.end_line(line.trim_end_matches('\r')));
                }
                _ if self.line.len() == LINE_MAX => return Err("a line is too long".into()),
                byte => self.line.push(*byte),
            }
        }
        Ok(())
    }

    /// An empty line ends an event; one without data is none.
    fn end_line(&mut self, line: &str) -> Option<TailEvent> {
        if line.is_empty() {
            return Some(std::mem::take(&mut self.event)).filter(|event| !event.data.is_empty());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => value.clone_into(&mut self.event.id),
            "data" => self.event.data.push_str(value),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = ": connected\nretry: 2000\n\nevent: attempt\r\nid: 7-0\ndata: {\"a\":\"\u{fc}\"}\n\n: heartbeat\n\nid: 8-0\ndata:{}\n\ndata: cut";
        for size in 1..text.len() {
            let (mut parser, mut events) = (Parser::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.take(chunk, &mut events).unwrap();
            }
            let wanted = [("attempt", "{\"a\":\"\u{fc}\"}", "7-0"), ("", "{}", "8-0")];
            let wanted = wanted.map(|(name, data, id)| TailEvent {
                name: name.into(),
                data: data.into(),
                id: id.into(),
            });
            assert_eq!(events, wanted, "in pieces of {size}");
        }
        let endless = vec![b'x'; LINE_MAX + 1];
        assert!(Parser::default().take(&endless, &mut VecDeque::new()).is_err());
    }
}
