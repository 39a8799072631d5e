//! Anthropic's Messages API. <https://docs.anthropic.com/en/api/messages>

use phoenix_domain::llm::Provider;
use serde::Deserialize;
use serde_json::json;

use super::{Call, Completion, Prompt, Unusable, parse};

pub(super) fn call(provider: Provider<'_>, prompt: &Prompt<'_>) -> Call {
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
    Call { url: format!("{}/messages", provider.base_url), headers, body }
}

#[derive(Deserialize)]
struct Response {
    content: Vec<Block>,
    model: Option<String>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
}

/// Blocks without `text` (thinking, tools) are no part of the answer.
#[derive(Deserialize)]
struct Block {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

pub(super) fn completion(body: &[u8]) -> Result<Completion, Unusable> {
    let response: Response = parse(body)?;
    Ok(Completion {
        text: response.content.into_iter().filter_map(|block| block.text).collect(),
        model: response.model,
        finish_reason: response.stop_reason,
        input_tokens: response.usage.as_ref().and_then(|usage| usage.input_tokens),
        output_tokens: response.usage.as_ref().and_then(|usage| usage.output_tokens),
    })
}
