//! `postrider listen`: follows an organisation's deliveries and sends each to a local server too, signed with a secret
//! of its own. The configured endpoints get theirs as always.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use clap::Args;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::configs::{cell, header};
use super::error::CliError;
use super::forward::{Form, Forwarded, LocalAnswer, LocalServer, checked};
use super::http::Method;
use super::output::{Output, OutputFormat, printable};
use super::server::{ApiFault, ServerFlags};
use super::tail::{Tail, TailEvent, interrupts};
use super::{Context, block_on, logging};
use crate::domain::ids::ConfigId;
use crate::domain::signature::Secret;

/// Deliveries that are remembered as sent.
const SEEN_MAX: usize = 10_000;

/// How long what a config says is believed.
const FORM_AGE: Duration = Duration::from_secs(10);

/// Looks at the log for a payload, and the pause between two: the row may be there a moment earlier.
const LOOKS_MAX: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(150);

#[derive(Args)]
pub(super) struct ListenArgs {
    /// The local server, as http://localhost:3000/hooks
    #[arg(long, value_name = "URL", value_parser = local_url)]
    forward: Url,
    /// Only this config's deliveries
    #[arg(long, value_name = "ID")]
    config: Option<ConfigId>,
    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// What signs for the local server; made, and shown at the start, unless given
    #[arg(long, env = "POSTRIDER_RECEIVE_SECRET", hide_env_values = true, value_parser = secret)]
    secret: Option<Secret>,
    /// A header to send along, as Name: value, for the API masks the configs' own; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Send a delivery at each of its attempts, not only the first time that it is seen
    #[arg(long)]
    every_attempt: bool,
    /// How to print; json gives a document a line
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    server: ServerFlags,
}

/// The work.
struct Listener<'a> {
    server: &'a ServerFlags,
    local: LocalServer,
    every_attempt: bool,
    seen: Seen,
    forms: HashMap<String, (Instant, Form)>,
    forwarded: u64,
}

/// What was sent already, the newest [`SEEN_MAX`] of it.
#[derive(Default)]
struct Seen {
    set: HashSet<String>,
    order: VecDeque<String>,
}

impl std::fmt::Debug for ListenArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenArgs").field("forward", &self.forward).finish_non_exhaustive()
    }
}

pub(super) fn run(args: ListenArgs, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    let filters = [("webhookConfigId", args.config.map(|id| id.to_string())), ("event", args.event.clone())];
    let query = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let headers = args.headers.iter().map(|line| split(line)).collect::<Result<_, _>>()?;
    let secret = args.secret.clone().unwrap_or_else(Secret::generate);
    let mut listener = Listener {
        server: &args.server,
        local: LocalServer { url: args.forward.clone(), secret, headers },
        every_attempt: args.every_attempt,
        seen: Seen::default(),
        forms: HashMap::new(),
        forwarded: 0,
    };
    let output = &mut context.output;
    block_on(async {
        let mut tail = Tail::open(args.server.clone(), query).await?;
        let mut interrupts = interrupts()?;
        greet(&args, &listener.local, output)?;
        loop {
            tokio::select! {
                done = listener.turn(&mut tail, args.output, output) => done?,
                _ = interrupts.recv() => break,
            }
        }
        output.note(format_args!("{} deliveries were forwarded", listener.forwarded));
        Ok(())
    })
}

/// Says where to; and the secret, if it was made here.
fn greet(args: &ListenArgs, local: &LocalServer, output: &mut Output) -> Result<(), CliError> {
    let made = args.secret.is_none().then(|| local.secret.expose());
    match args.output {
        OutputFormat::Json => {
            output.line(json!({ "forwardingTo": args.forward.as_str(), "secret": made }))?
        }
        OutputFormat::Text => {
            output.line(format_args!("forwarding to {}", args.forward))?;
            if let Some(secret) = made {
                output.line(format_args!("signing secret of this session: {secret}"))?;
            }
        }
    }
    // Scripts wait for it.
    Ok(output.flush()?)
}

// === impl Listener ===

impl Listener<'_> {
    async fn turn(
        &mut self,
        tail: &mut Tail,
        format: OutputFormat,
        output: &mut Output,
    ) -> Result<(), CliError> {
        let event = tail.next(output).await?;
        let row = event.row();
        if !self.wants(&event, &row) {
            return Ok(());
        }
        let answer = match self.fetch(&row).await {
            Ok(forwarded) => self.local.send(&forwarded).await,
            Err(ApiFault::Passing(error, _)) => Err(error.to_string()),
            Err(ApiFault::Final(error)) => Err(error.to_string()),
        };
        self.forwarded += u64::from(answer.is_ok());
        match format {
            OutputFormat::Json => output.line(document(&row, &answer))?,
            OutputFormat::Text => output.line(line(&row, &answer))?,
        }
        Ok(output.flush()?)
    }

    /// Each delivery once, or each attempt once; also what is parked, for its attempt may be days away.
    fn wants(&mut self, event: &TailEvent, row: &Value) -> bool {
        let parked = cell(row, "status") == "pending";
        if event.name != "attempt" && !parked {
            return false;
        }
        let delivery = cell(row, "deliveryId");
        let name = if self.every_attempt { format!("{delivery} {}", cell(row, "attempt")) } else { delivery };
        self.seen.is_new(name)
    }

    /// The bytes that were sent, and how.
    async fn fetch(&mut self, row: &Value) -> Result<Forwarded, ApiFault> {
        let form = self.form(&cell(row, "webhookConfigId")).await?;
        let delivery = cell(row, "deliveryId");
        let path = format!("logs/{delivery}");
        let mut looks = 0;
        loop {
            looks += 1;
            let found = self.server.get_patiently(&path, &[]).await;
            let body = found.as_ref().ok().and_then(|record| record.value.get("payloadRaw")?.as_str());
            if let Some(body) = body {
                let body = body.as_bytes().to_vec().into();
                return Ok(Forwarded { delivery, event: cell(row, "event"), body, form });
            }
            if looks == LOOKS_MAX {
                found?;
                let message =
                    "its payload is not kept (logPayloads, or more than 16 KiB), so it cannot be sent";
                return Err(CliError::Failure(message.into()).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The method and the signatures of a config's deliveries; those of most where it is gone.
    async fn form(&mut self, config: &str) -> Result<Form, ApiFault> {
        if let Some((at, form)) = self.forms.get(config)
            && at.elapsed() < FORM_AGE
        {
            return Ok(form.clone());
        }
        let form = match self.server.get_patiently(&format!("configs/{config}"), &[]).await {
            Ok(answer) => Form {
                method: if cell(&answer.value, "httpMethod") == "PUT" { Method::PUT } else { Method::POST },
                standard_webhooks: answer.value.get("standardWebhooks") == Some(&Value::Bool(true)),
            },
            Err(ApiFault::Final(_)) => Form { method: Method::POST, standard_webhooks: false },
            Err(passing) => return Err(passing),
        };
        self.forms.insert(config.to_owned(), (Instant::now(), form.clone()));
        Ok(form)
    }
}

// === impl Seen ===

impl Seen {
    fn is_new(&mut self, name: String) -> bool {
        if !self.set.insert(name.clone()) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

fn line(row: &Value, answer: &Result<LocalAnswer, String>) -> String {
    let [event, delivery] = ["event", "deliveryId"].map(|name| printable(&cell(row, name)));
    match answer {
        Ok(LocalAnswer { status, took_ms }) => format!("{event}  {delivery}  -> {status} in {took_ms} ms"),
        Err(error) => format!("{event}  {delivery}  -> {}", printable(error)),
    }
}

fn document(row: &Value, answer: &Result<LocalAnswer, String>) -> Value {
    let (status, took, error) = match answer {
        Ok(answer) => (json!(answer.status), json!(answer.took_ms), Value::Null),
        Err(error) => (Value::Null, Value::Null, json!(error)),
    };
    json!({
        "deliveryId": row.get("deliveryId"), "webhookConfigId": row.get("webhookConfigId"),
        "event": row.get("event"), "attempt": row.get("attempt"),
        "localStatus": status, "durationMs": took, "error": error,
    })
}

fn split(line: &str) -> Result<(HeaderName, HeaderValue), CliError> {
    let (name, value) = header(line)?;
    checked(&name, value.as_str().unwrap_or_default())
}

fn local_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
    if fits { Ok(url) } else { Err("expected an http or https URL".into()) }
}

fn secret(text: &str) -> Result<Secret, String> {
    Secret::new(text).ok_or_else(|| "expected 1 to 256 bytes without control characters".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_remembered_within_its_bound() {
        let mut seen = Seen::default();
        assert!((0..=SEEN_MAX).all(|number| seen.is_new(number.to_string())));
        assert_eq!((seen.set.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
        assert!(!seen.is_new(SEEN_MAX.to_string()) && seen.is_new("0".into()));
    }
}
