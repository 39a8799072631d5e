//! Whether an Ollama runs where the settings say, and which of its models to use.

use std::time::{Duration, Instant};

use phoenix_domain::llm::Provider;
use serde::Deserialize;

use super::{http::Http, wire};

/// How long an Ollama may take to say that it is there. It is asked on this machine before every chat that no other
/// provider answers, so it must not be felt.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

/// The model to use, or `None` when no Ollama answers in time or it has no model. A model that the settings name
/// (`named`) is taken at their word; else it is the default model if it is installed, else the first that is.
pub(super) fn usable_model(http: &Http, ollama: Provider<'_>, named: bool, until: Instant) -> Option<String> {
    let reply = http.get(&wire::ollama::tags(ollama), until.min(Instant::now() + PATIENCE)).ok()?;
    let installed = serde_json::from_slice::<Tags>(&reply.body).ok().filter(|_| reply.status == 200)?.models;
    let wanted = ollama.model_name;
    let is_wanted = |tag: &Tag| tag.name.split(':').next() == Some(wanted);
    if named || installed.iter().any(is_wanted) {
        return Some(wanted.into());
    }
    installed.into_iter().next().map(|tag| tag.name)
}
