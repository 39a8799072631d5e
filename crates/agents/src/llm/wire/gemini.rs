//! Google's generateContent. <https://ai.google.dev/api/generate-content>

use phoenix_domain::llm::Provider;
use serde_json::{Value, json};

use super::{
    json::{text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest, ResponseError},
};

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    let mut body = json!({
        "contents": [{"role": "user", "parts": [{"text": prompt.message}]}],
        "generationConfig": {"maxOutputTokens": prompt.max_tokens},
    });
    if !prompt.system.is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": prompt.system}]});
    }
    let model = provider.model_name.trim_start_matches("models/");
    ProviderRequest {
        url: format!("{}/models/{model}:generateContent", provider.base_url),
        // The documented `?key=` would put the key into every access log on the way.
        headers: provider
            .api_key
            .map(|key| ("x-goog-api-key", key.expose().to_owned()))
            .into_iter()
            .collect(),
        body,
    }
}

pub(super) fn completion(body: &Value) -> Result<Option<Completion>, ResponseError> {
    let candidate = &body["candidates"][0];
    if candidate.is_null()
        && let Some(reason) = word(&body["promptFeedback"]["blockReason"])
    {
        return Err(ResponseError::Declined(reason));
    }
    // A prompt that was counted was accepted, even without a result.
    let was_accepted = candidate.is_object() || body["usageMetadata"].is_object();
    Ok(was_accepted.then(|| Completion {
        text: text_of(&candidate["content"]["parts"]).unwrap_or_default(),
        model: word(&body["modelVersion"]),
        finish_reason: word(&candidate["finishReason"]),
        input_tokens: tokens(&body["usageMetadata"]["promptTokenCount"]),
        output_tokens: tokens(&body["usageMetadata"]["candidatesTokenCount"]),
    }))
}
