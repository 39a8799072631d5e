//! Ollama's own chat API. <https://docs.ollama.com/api/chat>

use phoenix_domain::llm::Provider;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, Completion, Prompt, Unusable, bearer, messages, parse};

pub(super) fn call(provider: Provider<'_>, prompt: &Prompt<'_>) -> Call {
    Call {
        url: format!("{}/api/chat", provider.base_url),
        headers: bearer(provider),
        body: json!({
            "model": provider.model_name,
            "messages": messages(prompt),
            "stream": false,
            "options": {"num_predict": prompt.max_tokens},
        }),
    }
}

/// The question which models are installed.
pub(in crate::llm) fn tags(provider: Provider<'_>) -> Call {
    Call { url: format!("{}/api/tags", provider.base_url), headers: bearer(provider), body: Value::Null }
}

#[derive(Deserialize)]
struct Response {
    message: Message,
    model: Option<String>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

pub(super) fn completion(body: &[u8]) -> Result<Completion, Unusable> {
    let response: Response = parse(body)?;
    Ok(Completion {
        text: response.message.content,
        model: response.model,
        finish_reason: response.done_reason,
        input_tokens: response.prompt_eval_count,
        output_tokens: response.eval_count,
    })
}
