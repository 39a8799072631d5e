//! Which model of an Ollama to use, when the settings name none.

use std::time::{Duration, Instant};

use phoenix_domain::llm::Provider;

use super::{
    failure::Failure,
    http::Http,
    wire::{self, Unusable},
};
use crate::ActionError;

/// How long what listens where an Ollama usually does may take to turn out to be one, when no setting says that one is
/// there. Where nothing listens, no time is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The usual model if it is installed, else the first that is.
///
/// # Errors
/// What a chat is answered that was meant for this Ollama.
pub(super) fn usable_model(
    http: &Http,
    ollama: Provider<'_>,
    failure: Failure<'_>,
    until: Instant,
) -> Result<String, ActionError> {
    let reply = http.get(&wire::ollama::tags(ollama), until).map_err(|trouble| failure.trouble(trouble))?;
    if reply.status != 200 {
        return Err(failure.refused(&reply));
    }
    let installed = wire::ollama::installed(&reply.body);
    let installed = installed.ok_or_else(|| failure.unusable(Unusable::Malformed, &reply))?;
    let usual = ollama.model_name;
    if installed.iter().any(|name| name.split(':').next() == Some(usual)) {
        return Ok(usual.into());
    }
    installed.into_iter().next().ok_or_else(|| failure.no_model())
}
