//! The flags of commands that talk to a running server's admin API, and what its answers mean.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::http::{self, Answer, Call};
use super::output::printable;

/// Where the server is and who asks.
#[derive(Args)]
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
pub(super) struct ApiAnswer {
    /// For tables.
    pub(super) value: Value,
    /// For scripts: as the server wrote it, for a parsed one has lost the digits of long numbers in payloads.
    pub(super) text: String,
}

// === impl ServerFlags ===

impl ServerFlags {
    /// Calls the API and gives its JSON.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with an error, whose message is then given.
    pub(super) async fn call(
        &self,
        method: http::Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<ApiAnswer, CliError> {
        let missing = || {
            CliError::Usage("no token: give --token or set POSTRIDER_TOKEN (postrider token create)".into())
        };
        let token = self.token.as_deref().filter(|token| !token.is_empty()).ok_or_else(missing)?;
        let organisation = self.organisation.as_deref().filter(|text| !text.is_empty());
        let mut url = url::Url::parse(&self.server)
            .map_err(|error| CliError::Usage(format!("--server {:?}: {error}", self.server)))?;
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/api/v2/admin/webhooks/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(query);
        }
        let answer = http::call(Call { method, url: &url, token, organisation, body }).await;
        let answer = answer.map_err(|error| {
            CliError::Failure(format!(
                "cannot reach {} ({}); is 'postrider serve' running there? (--server, POSTRIDER_URL)",
                self.server,
                http::with_causes(&error)
            ))
        })?;
        judge(&answer)
    }
}

impl std::fmt::Debug for ServerFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerFlags").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The JSON of a success, or the message of the error envelope (docs/WIRE.md section 8).
fn judge(answer: &Answer) -> Result<ApiAnswer, CliError> {
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let text = |name: &str| json.as_ref().and_then(|json| json.get(name)).and_then(Value::as_str);
    if answer.status.is_success() {
        let no_json = || CliError::Failure("the server's answer is no JSON".into());
        let text = String::from_utf8(answer.body.to_vec()).map_err(|_| no_json())?;
        // 204 has nothing to say.
        let json = if text.is_empty() { Some(Value::Null) } else { json };
        return Ok(ApiAnswer { value: json.ok_or_else(no_json)?, text });
    }
    let message = match (text("message"), text("code")) {
        (Some(message), Some(code)) => format!("{} ({code})", printable(message)),
        _ => "the answer is not this API's; is --server right?".into(),
    };
    Err(CliError::Failure(format!("the server answered {}: {message}", answer.status.as_u16())))
}
