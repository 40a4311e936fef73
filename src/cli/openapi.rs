//! `postrider openapi`: the text of docs/openapi.json.

use super::Context;
use super::error::CliError;
use crate::app::openapi_text;

pub(super) fn run(context: &mut Context) -> Result<(), CliError> {
    let text = openapi_text().map_err(|error| CliError::Failure(format!("cannot write JSON: {error}")))?;
    Ok(context.output.line(text.trim_end())?)
}
