//! The protocols of the providers, as data: the request to send and the interpretation of the response.
//!
//! Only the text of a response has to match the documentation. Everything beside it (usage, names, reasons) may be absent
//! or of any type: servers that copy an API do not copy all of it.

use phoenix_domain::llm::{FinishReason, Provider, ProviderKind};
use serde_json::Value;

use self::types::{Completion, Prompt, ProviderRequest, ResponseError};
use super::error_body::{ErrorBody, has_content};

mod anthropic;
mod gemini;
pub(super) mod json;
pub(super) mod ollama;
mod openai;
pub(super) mod types;

/// The request to `provider`.
pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    match provider.kind {
        ProviderKind::OpenAi | ProviderKind::Grok | ProviderKind::OpenRouter | ProviderKind::LmStudio => {
            openai::request(provider, prompt)
        }
        ProviderKind::Anthropic => anthropic::request(provider, prompt),
        ProviderKind::Gemini => gemini::request(provider, prompt),
        ProviderKind::Ollama => ollama::request(provider, prompt),
    }
}

/// The completion in a 2xx response.
pub(super) fn completion(kind: ProviderKind, body: &[u8]) -> Result<Completion, ResponseError> {
    let body = json::parse(body).ok_or(ResponseError::Malformed)?;
    let completion = match kind {
        ProviderKind::OpenAi | ProviderKind::Grok | ProviderKind::OpenRouter | ProviderKind::LmStudio => {
            openai::completion(&body)
        }
        ProviderKind::Anthropic => anthropic::completion(&body),
        ProviderKind::Gemini => gemini::completion(&body)?,
        ProviderKind::Ollama => ollama::completion(&body),
    };
    match completion {
        // A completion with an error beside it was interrupted.
        Some(completion)
            if !completion.text.trim().is_empty() && completion.finish_reason.as_deref() != Some("error") =>
        {
            Ok(completion)
        }
        completion => Err(response_error(&body, completion)),
    }
}

fn response_error(body: &Value, completion: Option<Completion>) -> ResponseError {
    let choice = body.pointer("/choices/0").filter(|choice| has_content(&choice["error"]));
    let error = ErrorBody::of(choice.unwrap_or(body));
    let names_error = has_content(&body["error"]) || completion.is_none() || choice.is_some();
    if !error.message.is_empty() && names_error {
        return ResponseError::Error { status: error.status.unwrap_or(502), body: error };
    }
    let Some(completion) = completion else { return ResponseError::Malformed };
    let reason = completion.finish_reason.unwrap_or_else(|| "not given".into());
    match FinishReason::of(&reason) {
        Some(FinishReason::Length) => ResponseError::CutOff,
        Some(FinishReason::ContentFilter) => ResponseError::Declined(reason),
        _ if reason == "error" => ResponseError::Malformed,
        Some(FinishReason::Stop) | None => ResponseError::Empty(reason),
    }
}
