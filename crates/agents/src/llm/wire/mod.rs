//! What goes over the wire to each provider, as data: the request to send and the meaning of the answer.
//!
//! Only the text of an answer has to be what the documentation describes. Everything beside it (usage, names, reasons) may
//! be absent or of any type: servers that copy an API do not copy all of it.

use phoenix_domain::{
    json::replace_lone_surrogates,
    llm::{FinishReason, Provider, ProviderKind},
};
use serde_json::Value;

use super::refusal::{Refusal, is_said};

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
    /// There is no text in it because the limit of tokens was reached before.
    CutOff,
    /// The provider or its model does not want to answer this message; with its reason.
    Declined(String),
    /// It is a refusal after all; with the status it should have had.
    Refused { status: u16, refusal: Refusal },
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
    let body = parse(body)?;
    let completion = match kind {
        ProviderKind::OpenAi | ProviderKind::Grok | ProviderKind::OpenRouter | ProviderKind::LmStudio => {
            openai::completion(&body)
        }
        ProviderKind::Anthropic => anthropic::completion(&body),
        ProviderKind::Gemini => gemini::completion(&body)?,
        ProviderKind::Ollama => ollama::completion(&body),
    };
    match completion {
        // An answer beside which an error stands is one that broke off.
        Some(answer) if !is_blank(&answer) && answer.finish_reason.as_deref() != Some("error") => Ok(answer),
        completion => Err(unusable(&body, completion)),
    }
}

fn unusable(body: &Value, completion: Option<Completion>) -> Unusable {
    let refusal =
        Refusal::of(body.pointer("/choices/0").filter(|choice| is_said(&choice["error"])).unwrap_or(body));
    let names_error = is_said(&body["error"]) || completion.is_none();
    if !refusal.sentence.is_empty() && (names_error || body.pointer("/choices/0/error").is_some_and(is_said))
    {
        return Unusable::Refused { status: refusal.status.unwrap_or(502), refusal };
    }
    let Some(completion) = completion else { return Unusable::Malformed };
    let reason = completion.finish_reason.unwrap_or_else(|| "not given".into());
    match FinishReason::of(&reason) {
        Some(FinishReason::Length) => Unusable::CutOff,
        Some(FinishReason::ContentFilter) => Unusable::Declined(reason),
        _ if reason == "error" => Unusable::Malformed,
        Some(FinishReason::Stop) | None => Unusable::Empty(reason),
    }
}

fn is_blank(answer: &Completion) -> bool {
    answer.text.trim().is_empty()
}

/// The JSON of a body. What is no text in it is replaced, and a byte-order mark before it passed over.
pub(super) fn parse(body: &[u8]) -> Result<Value, Unusable> {
    let text = String::from_utf8_lossy(body);
    let text = replace_lone_surrogates(text.trim_start_matches('\u{feff}'));
    serde_json::from_str(&text).map_err(|_| Unusable::Malformed)
}

/// A text as it is, or the text in the parts that it comes in. Parts of another kind (thoughts, tools) are no part of the
/// answer. `None` when it is neither.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(part).collect()),
        part_alone => part(part_alone),
    }
}

fn part(part: &Value) -> Option<String> {
    if let Value::String(text) = part {
        return Some(text.clone());
    }
    let is_text = matches!(part["type"].as_str(), None | Some("text" | "output_text"));
    let is_thought = part["thought"].as_bool() == Some(true);
    let text = part["text"].as_str().or_else(|| part["text"]["value"].as_str());
    text.filter(|_| is_text && !is_thought).map(str::to_owned)
}

/// A name or a reason, if it is one.
fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// A number of tokens, if it is one.
fn tokens(value: &Value) -> Option<u64> {
    value.as_u64()
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
