//! Google's generateContent. <https://ai.google.dev/api/generate-content>

use phoenix_domain::llm::Provider;
use serde::Deserialize;
use serde_json::json;

use super::{Call, Completion, Prompt, Unusable, parse};

pub(super) fn call(provider: Provider<'_>, prompt: &Prompt<'_>) -> Call {
    let mut body = json!({
        "contents": [{"role": "user", "parts": [{"text": prompt.message}]}],
        "generationConfig": {"maxOutputTokens": prompt.max_tokens},
    });
    if !prompt.system.is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": prompt.system}]});
    }
    let model = provider.model_name.trim_start_matches("models/");
    Call {
        url: format!("{}/models/{model}:generateContent", provider.base_url),
        // The documentation's `?key=` would put the key into every access log on the way.
        headers: provider
            .api_key
            .map(|key| ("x-goog-api-key", key.expose().to_owned()))
            .into_iter()
            .collect(),
        body,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    candidates: Vec<Candidate>,
    prompt_feedback: Option<PromptFeedback>,
    usage_metadata: Option<UsageMetadata>,
    model_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default)]
    content: Content,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
    /// The model thinking aloud, which is no part of the answer.
    #[serde(default)]
    thought: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
}

pub(super) fn completion(body: &[u8]) -> Result<Completion, Unusable> {
    let response: Response = parse(body)?;
    let Some(candidate) = response.candidates.into_iter().next() else {
        let blocked = response.prompt_feedback.and_then(|feedback| feedback.block_reason);
        return Err(blocked.map_or(Unusable::Malformed, Unusable::Blocked));
    };
    let parts = candidate.content.parts.into_iter();
    Ok(Completion {
        text: parts.filter(|part| !part.thought).filter_map(|part| part.text).collect(),
        model: response.model_version,
        finish_reason: candidate.finish_reason,
        input_tokens: response.usage_metadata.as_ref().and_then(|usage| usage.prompt_token_count),
        output_tokens: response.usage_metadata.as_ref().and_then(|usage| usage.candidates_token_count),
    })
}
