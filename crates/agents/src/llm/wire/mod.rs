//! What goes over the wire to each provider, as data: the request to send and the meaning of the answer.

use phoenix_domain::llm::{Provider, ProviderKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

mod anthropic;
mod gemini;
pub(super) mod ollama;
mod openai;

/// What is asked, in no provider's words.
pub(super) struct Prompt<'a> {
    /// Instructions and background; empty when there are none.
    pub(super) system: &'a str,
    pub(super) message: &'a str,
    pub(super) max_tokens: u32,
}

/// A request, ready to send. Its headers hold the key, so it has no `Debug`.
pub(super) struct Call {
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Value,
}

/// An answer, in no provider's words.
#[derive(Debug, Default)]
pub(super) struct Completion {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
}

/// Why a 2xx answer is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Not what the provider's documentation describes.
    Malformed,
    /// There is no text in it; with the reason it ended.
    Empty(String),
    /// The provider does not want to answer this message; with its reason.
    Blocked(String),
    /// It is a refusal after all; with the status it should have had and its body.
    Refused { status: u16, message: String },
}

/// The request that asks `provider`.
pub(super) fn call(provider: Provider<'_>, prompt: &Prompt<'_>) -> Call {
    match provider.kind {
        ProviderKind::OpenAi | ProviderKind::Grok | ProviderKind::OpenRouter | ProviderKind::LmStudio => {
            openai::call(provider, prompt)
        }
        ProviderKind::Anthropic => anthropic::call(provider, prompt),
        ProviderKind::Gemini => gemini::call(provider, prompt),
        ProviderKind::Ollama => ollama::call(provider, prompt),
    }
}

/// The meaning of a 2xx answer.
pub(super) fn completion(kind: ProviderKind, body: &[u8]) -> Result<Completion, Unusable> {
    let completion = match kind {
        ProviderKind::OpenAi | ProviderKind::Grok | ProviderKind::OpenRouter | ProviderKind::LmStudio => {
            openai::completion(body)
        }
        ProviderKind::Anthropic => anthropic::completion(body),
        ProviderKind::Gemini => gemini::completion(body),
        ProviderKind::Ollama => ollama::completion(body),
    }?;
    if completion.text.trim().is_empty() {
        return Err(Unusable::Empty(completion.finish_reason.unwrap_or_else(|| "not given".into())));
    }
    Ok(completion)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unusable> {
    serde_json::from_slice(body).map_err(|_| Unusable::Malformed)
}

/// `Authorization: Bearer …`, when there is a key.
fn bearer(provider: Provider<'_>) -> Vec<(&'static str, String)> {
    provider.api_key.map(|key| ("authorization", format!("Bearer {}", key.expose()))).into_iter().collect()
}

/// The messages of the APIs that take the system text as one of them.
fn messages(prompt: &Prompt<'_>) -> Vec<Value> {
    let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let system = (!prompt.system.is_empty()).then(|| message("system", prompt.system));
    system.into_iter().chain([message("user", prompt.message)]).collect()
}
