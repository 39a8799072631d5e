//! Anthropic's Messages API. <https://docs.anthropic.com/en/api/messages>

use phoenix_domain::llm::Provider;
use serde_json::{Value, json};

use super::{
    json::{text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest},
};

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    let mut body = json!({
        "model": provider.model_name,
        "max_tokens": prompt.max_tokens,
        "messages": [{"role": "user", "content": prompt.message}],
    });
    if !prompt.system.is_empty() {
        body["system"] = prompt.system.into();
    }
    let mut headers = vec![("anthropic-version", "2023-06-01".to_owned())];
    headers.extend(provider.api_key.map(|key| ("x-api-key", key.expose().to_owned())));
    ProviderRequest { url: format!("{}/messages", provider.base_url), headers, body }
}

/// Blocks of other kinds than text (thinking, tools) do not belong to the answer.
pub(super) fn completion(body: &Value) -> Option<Completion> {
    Some(Completion {
        text: text_of(body.get("content")?)?,
        model: word(&body["model"]),
        finish_reason: word(&body["stop_reason"]),
        input_tokens: tokens(&body["usage"]["input_tokens"]),
        output_tokens: tokens(&body["usage"]["output_tokens"]),
    })
}
