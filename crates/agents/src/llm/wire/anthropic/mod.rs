//! Anthropic's Messages API. <https://docs.anthropic.com/en/api/messages>

use phoenix_domain::{
    json::{Json, Object},
    llm::Provider,
    object,
};

use super::types::{Prompt, ProviderRequest, Unsupported};

mod answer;
mod conversation;
mod stream;

pub(super) use self::answer::completion;
pub(in crate::llm) use self::stream::Stream;

/// Options that have an equivalent; see `conversation.rs`.
pub(super) const OPTIONS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "thinking",
    "cache_control",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "user",
];

/// Least budget of thinking.
const MIN_THINKING_TOKENS: u32 = 1024;

/// Lowers the budget of thinking where the limit of the answer was lowered below it: it must leave room for an answer.
fn fit_thinking(body: &mut Object, max_tokens: u32) {
    let Some(Json::Object(thinking)) = body.get_mut("thinking") else { return };
    let budget = thinking.get("budget_tokens").and_then(Json::as_f64);
    if budget.is_some_and(|budget| budget >= f64::from(max_tokens)) {
        match max_tokens / 2 {
            fitting @ MIN_THINKING_TOKENS.. => thinking.set("budget_tokens", fitting),
            _ => *thinking = object! {"type": "disabled"},
        }
    }
}

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> Result<ProviderRequest, Unsupported> {
    let mut body = conversation::body(prompt)?;
    body.set("model", provider.model_name);
    body.set("max_tokens", prompt.max_tokens);
    fit_thinking(&mut body, prompt.max_tokens);
    if prompt.is_streamed {
        body.set("stream", true);
    }
    let mut headers = vec![("anthropic-version", "2023-06-01".to_owned())];
    headers.extend(provider.api_key.map(|key| ("x-api-key", key.expose().to_owned())));
    Ok(ProviderRequest { url: format!("{}/messages", provider.base_url), headers, body })
}
