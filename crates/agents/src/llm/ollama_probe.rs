//! Selection of a model of an Ollama server when the settings name none.

use std::time::{Duration, Instant};

use phoenix_domain::llm::Provider;

use super::{
    errors::ProviderErrors,
    http::Http,
    wire::{self, types::ResponseError},
};
use crate::protocol::ActionError;

/// Time in which a server on Ollama's usual address must prove to be one, when no setting names it. Without a server
/// there, no time is lost.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// The default model if it is installed, else the first that is.
///
/// # Errors
/// The error of a chat that requires this server.
pub(super) fn usable_model(
    http: &Http,
    ollama: Provider<'_>,
    errors: ProviderErrors<'_>,
    until: Instant,
) -> Result<String, ActionError> {
    let response = http.get(&wire::ollama::tags(ollama), until).map_err(|error| errors.transport(error))?;
    if response.head.status != 200 {
        return Err(errors.status(&response));
    }
    let installed = wire::ollama::installed(&response.body);
    let installed = installed.ok_or_else(|| errors.response(ResponseError::Malformed, &response.head))?;
    let default = ollama.model_name;
    if installed.iter().any(|name| name.split(':').next() == Some(default)) {
        return Ok(default.into());
    }
    installed.into_iter().next().ok_or_else(|| errors.no_model())
}
