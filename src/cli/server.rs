//! The flags of commands that talk to a running server's admin API, and what its answers mean.

use std::time::Duration;

use clap::Args;
use hyper::header::{self, HeaderMap};
use serde_json::Value;
use url::Url;

use super::error::CliError;
use super::http::{self, Answer, CALL_TIMEOUT, Call, Method};
use super::output::printable;

/// Longest pause that a server can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Where the server is and who asks.
#[derive(Args, Clone)]
pub(super) struct ServerFlags {
    /// The server's admin API
    #[arg(long, value_name = "URL", env = "POSTRIDER_URL", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// An API token, as `postrider token create` makes them
    #[arg(long, env = "POSTRIDER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The organisation, for tokens of the role operator
    #[arg(long, value_name = "ID", env = "POSTRIDER_ORGANISATION")]
    organisation: Option<String>,
}

/// A success of the API.
#[derive(Debug)]
pub(super) struct ApiAnswer {
    /// For tables.
    pub(super) value: Value,
    /// For scripts: as the server wrote it, for a parsed one has lost the digits of long numbers in payloads.
    pub(super) text: String,
}

/// Why the API gave no success.
#[derive(Debug)]
pub(super) enum ApiFault {
    /// Asking again helps nothing: the command line is wrong, or the server refused.
    Final(CliError),
    /// Asking again may help, after this pause where the server named one.
    Passing(CliError, Option<Duration>),
}

// === impl ServerFlags ===

impl ServerFlags {
    /// Calls the API and gives its JSON.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with an error, whose message is then given.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<ApiAnswer, CliError> {
        Ok(self.ask(method, path, query, body, CALL_TIMEOUT).await?)
    }

    /// As [`ServerFlags::call`], waiting for `patience` at most; an error says whether asking again may help.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<ApiAnswer, ApiFault> {
        let url = self.url(path, query)?;
        let answer = http::call(self.request(method, &url, body, patience)?).await;
        judge(&answer.map_err(|error| self.unreachable(&error))?)
    }

    /// A `GET` that is repeated while the server asks for a pause: for commands that ask often.
    ///
    /// # Errors
    /// As [`ServerFlags::call`]; after five pauses also with the answer that asked for another.
    pub(super) async fn get_patiently(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<ApiAnswer, ApiFault> {
        let mut pauses = 0;
        loop {
            match self.ask(Method::GET, path, query, None, CALL_TIMEOUT).await {
                Err(ApiFault::Passing(_, Some(pause))) if pauses < 5 => {
                    pauses += 1;
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with an error.
    pub(super) async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        last_event: Option<&str>,
    ) -> Result<http::Response, ApiFault> {
        let url = self.url(path, query)?;
        let call = self.request(Method::GET, &url, None, CALL_TIMEOUT)?;
        let opened = http::open(call, "text/event-stream", last_event).await;
        let response = opened.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = tokio::time::timeout(CALL_TIMEOUT, http::whole(response)).await;
        let answer = answer.unwrap_or_else(|_| Err("the answer breaks off".into()));
        Err(refusal(&answer.map_err(|error| self.unreachable(&error))?))
    }

    fn url(&self, path: &str, query: &[(&str, String)]) -> Result<Url, CliError> {
        let mut url = Url::parse(&self.server)
            .map_err(|error| CliError::Usage(format!("--server {:?}: {error}", self.server)))?;
        if !matches!(url.scheme(), "http" | "https") {
            let problem = "expected an http or https URL, as http://127.0.0.1:8080";
            return Err(CliError::Usage(format!("--server {:?}: {problem}", self.server)));
        }
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/api/v2/admin/webhooks/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(query);
        }
        Ok(url)
    }

    fn request<'a>(
        &'a self,
        method: Method,
        url: &'a Url,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Call<'a>, CliError> {
        let missing = || {
            CliError::Usage("no token: give --token or set POSTRIDER_TOKEN (postrider token create)".into())
        };
        let token = self.token.as_deref().filter(|token| !token.is_empty()).ok_or_else(missing)?;
        let organisation = self.organisation.as_deref().filter(|text| !text.is_empty());
        Ok(Call { method, url, token, organisation, body, patience })
    }

    fn unreachable(&self, error: &http::Error) -> ApiFault {
        let message = format!(
            "cannot reach {} ({}); is 'postrider serve' running there? (--server, POSTRIDER_URL)",
            self.server,
            http::with_causes(error)
        );
        ApiFault::Passing(CliError::Failure(message), None)
    }
}

impl std::fmt::Debug for ServerFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerFlags").field("server", &self.server).finish_non_exhaustive()
    }
}

// === impl ApiFault ===

impl From<CliError> for ApiFault {
    fn from(error: CliError) -> Self {
        Self::Final(error)
    }
}

impl From<ApiFault> for CliError {
    fn from(fault: ApiFault) -> Self {
        match fault {
            ApiFault::Final(error) | ApiFault::Passing(error, _) => error,
        }
    }
}

/// The JSON of a success, or the message of the error envelope (docs/WIRE.md section 8).
fn judge(answer: &Answer) -> Result<ApiAnswer, ApiFault> {
    if !answer.status.is_success() {
        return Err(refusal(answer));
    }
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let no_json = || CliError::Failure("the server's answer is no JSON".into());
    let text = String::from_utf8(answer.body.to_vec()).map_err(|_| no_json())?;
    // 204 has nothing to say.
    let json = if text.is_empty() { Some(Value::Null) } else { json };
    Ok(ApiAnswer { value: json.ok_or_else(no_json)?, text })
}

fn refusal(answer: &Answer) -> ApiFault {
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let text = |name: &str| json.as_ref().and_then(|json| json.get(name)).and_then(Value::as_str);
    let message = match (text("message"), text("code")) {
        (Some(message), Some(code)) => format!("{} ({code})", printable(message)),
        _ => "the answer is not this API's; is --server right?".into(),
    };
    let status = answer.status.as_u16();
    let error = CliError::Failure(format!("the server answered {status}: {message}"));
    if matches!(status, 408 | 429 | 500..) {
        ApiFault::Passing(error, pause(&answer.headers))
    } else {
        ApiFault::Final(error)
    }
}

/// `Retry-After` in seconds, as the API gives it.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}
