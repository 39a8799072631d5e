//! Anthropic's Messages API. <https://docs.anthropic.com/en/api/messages>

use super::types::{Prompt, ProviderRequest, Unsupported};
use phoenix_domain::llm::Provider;

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
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "user",
];

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> Result<ProviderRequest, Unsupported> {
    let mut body = conversation::body(prompt)?;
    body["model"] = provider.model_name.into();
    body["max_tokens"] = prompt.max_tokens.into();
    if prompt.is_streamed {
        body["stream"] = true.into();
    }
    let mut headers = vec![("anthropic-version", "2023-06-01".to_owned())];
    headers.extend(provider.api_key.map(|key| ("x-api-key", key.expose().to_owned())));
    Ok(ProviderRequest { url: format!("{}/messages", provider.base_url), headers, body })
}
