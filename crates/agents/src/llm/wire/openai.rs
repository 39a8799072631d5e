//! OpenAI's chat completions, which Grok, OpenRouter and LM Studio speak too.
//! <https://platform.openai.com/docs/api-reference/chat/create>

use phoenix_domain::llm::{Provider, ProviderKind};
use serde_json::{Value, json};

use super::{
    json::{bearer, text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest},
};

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    // Reasoning models of OpenAI and xAI reject the older name; servers that copy the API know only the older one.
    let limit = match provider.kind {
        ProviderKind::OpenAi | ProviderKind::Grok => "max_completion_tokens",
        _ => "max_tokens",
    };
    ProviderRequest {
        url: format!("{}/chat/completions", provider.base_url),
        headers: bearer(provider),
        body: json!({"model": provider.model_name, "messages": prompt.messages(), limit: prompt.max_tokens}),
    }
}

pub(super) fn completion(body: &Value) -> Option<Completion> {
    let choices = body["choices"].as_array()?;
    let choice = choices.first().unwrap_or(&Value::Null);
    let message = &choice["message"];
    // Servers that copy the API keep the text of the older completions; a model's refusal has its own member.
    let content = message.get("content").or_else(|| choice.get("text")).unwrap_or(&Value::Null);
    let text = text_of(content).filter(|text| !text.is_empty()).or_else(|| word(&message["refusal"]));
    Some(Completion {
        text: text.unwrap_or_default(),
        model: word(&body["model"]),
        finish_reason: word(&choice["finish_reason"]),
        input_tokens: tokens(&body["usage"]["prompt_tokens"]),
        output_tokens: tokens(&body["usage"]["completion_tokens"]),
    })
}
