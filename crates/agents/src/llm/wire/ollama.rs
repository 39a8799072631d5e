//! Ollama's own chat API. <https://docs.ollama.com/api/chat>

use phoenix_domain::llm::Provider;
use serde_json::{Value, json};

use super::{
    json::{bearer, parse, text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest},
};

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    ProviderRequest {
        url: format!("{}/api/chat", provider.base_url),
        headers: bearer(provider),
        body: json!({
            "model": provider.model_name,
            "messages": prompt.messages(),
            "stream": false,
            "options": {"num_predict": prompt.max_tokens},
        }),
    }
}

/// The request for the installed models.
pub(in crate::llm) fn tags(provider: Provider<'_>) -> ProviderRequest {
    ProviderRequest {
        url: format!("{}/api/tags", provider.base_url),
        headers: bearer(provider),
        body: Value::Null,
    }
}

/// The names of the installed models in the response.
pub(in crate::llm) fn installed(body: &[u8]) -> Option<Vec<String>> {
    let body = parse(body)?;
    let models = body["models"].as_array()?;
    Some(models.iter().filter_map(|model| word(&model["name"]).or_else(|| word(&model["model"]))).collect())
}

pub(super) fn completion(body: &Value) -> Option<Completion> {
    Some(Completion {
        text: text_of(body.get("message")?.get("content")?)?,
        model: word(&body["model"]),
        finish_reason: word(&body["done_reason"]),
        input_tokens: tokens(&body["prompt_eval_count"]),
        output_tokens: tokens(&body["eval_count"]),
    })
}
