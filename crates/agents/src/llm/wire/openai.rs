//! OpenAI's chat completions, which Grok, OpenRouter and LM Studio speak too.
//! <https://platform.openai.com/docs/api-reference/chat/create>

use phoenix_domain::llm::{Provider, ProviderKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, Completion, Prompt, Unusable, bearer, messages, parse};

pub(super) fn call(provider: Provider<'_>, prompt: &Prompt<'_>) -> Call {
    // OpenAI's and xAI's reasoning models refuse the older name; servers that copy the API know only the older one.
    let limit = match provider.kind {
        ProviderKind::OpenAi | ProviderKind::Grok => "max_completion_tokens",
        _ => "max_tokens",
    };
    Call {
        url: format!("{}/chat/completions", provider.base_url),
        headers: bearer(provider),
        body: json!({"model": provider.model_name, "messages": messages(prompt), limit: prompt.max_tokens}),
    }
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    choices: Vec<Choice>,
    model: Option<String>,
    usage: Option<Usage>,
    /// OpenRouter reports a failure of the provider behind it under status 200.
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

pub(super) fn completion(body: &[u8]) -> Result<Completion, Unusable> {
    let response: Response = parse(body)?;
    let Some(choice) = response.choices.into_iter().next() else {
        let error = response.error.ok_or(Unusable::Malformed)?;
        let status = error["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        return Err(Unusable::Refused {
            status: status.filter(|status| (400..600).contains(status)).unwrap_or(502),
            message: json!({"error": error}).to_string(),
        });
    };
    let message = choice.message;
    let text = message.content.filter(|text| !text.is_empty()).or(message.refusal).unwrap_or_default();
    Ok(Completion {
        text,
        model: response.model,
        finish_reason: choice.finish_reason,
        input_tokens: response.usage.as_ref().and_then(|usage| usage.prompt_tokens),
        output_tokens: response.usage.as_ref().and_then(|usage| usage.completion_tokens),
    })
}
