//! Google's generateContent. <https://ai.google.dev/api/generate-content>

use phoenix_domain::{
    json::{Json, Object},
    llm::Provider,
    object,
};

use super::{
    json::{tokens, word},
    types::{Completion, Prompt, ProviderRequest, ResponseError, Step, Unsupported, Usage},
};

mod conversation;

/// Options that have an equivalent; see `conversation.rs`.
pub(super) const OPTIONS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "tools",
    "tool_choice",
    "response_format",
];

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> Result<ProviderRequest, Unsupported> {
    let model = provider.model_name.trim_start_matches("models/");
    let method = if prompt.is_streamed { "streamGenerateContent?alt=sse" } else { "generateContent" };
    Ok(ProviderRequest {
        url: format!("{}/models/{model}:{method}", provider.base_url),
        // The documented `?key=` would put the key into every access log on the way.
        headers: provider
            .api_key
            .map(|key| ("x-goog-api-key", key.expose().to_owned()))
            .into_iter()
            .collect(),
        body: conversation::body(prompt)?,
    })
}

pub(super) fn completion(body: &Json) -> Result<Option<Completion>, ResponseError> {
    let candidate = &body["candidates"][0];
    if candidate.is_null()
        && let Some(reason) = word(&body["promptFeedback"]["blockReason"])
    {
        return Err(ResponseError::Declined(reason));
    }
    // A prompt that was counted was accepted, even without a result.
    let was_accepted = candidate.is_object() || body["usageMetadata"].is_object();
    Ok(was_accepted.then(|| {
        let content = Content::of(&candidate["content"]["parts"], 0);
        let mut extra = Object::new();
        if !content.thoughts.is_empty() {
            extra.set("reasoning_content", content.thoughts);
        }
        if !content.calls.is_empty() {
            extra.set("tool_calls", content.calls);
        }
        Completion {
            text: content.text,
            extra,
            model: word(&body["modelVersion"]),
            finish_reason: word(&candidate["finishReason"]),
            usage: usage(&body["usageMetadata"]),
        }
    }))
}

/// Content of a candidate.
#[derive(Default)]
struct Content {
    text: String,
    thoughts: String,
    /// Tool calls in OpenAI's shape.
    calls: Vec<Object>,
}

impl Content {
    /// Reads the parts of an answer that has `calls` tool calls already.
    fn of(parts: &Json, calls: usize) -> Self {
        let mut content = Self::default();
        for part in parts.as_array().into_iter().flatten() {
            let text = part["text"].as_str().unwrap_or_default();
            if part["functionCall"].is_object() {
                content.calls.push(call(part, calls + content.calls.len()));
            } else if part["thought"].as_bool() == Some(true) {
                content.thoughts.push_str(text);
            } else {
                content.text.push_str(text);
            }
        }
        content
    }
}

/// A tool call in OpenAI's shape. The signature of the thought behind it must come back with it, so it travels in the member
/// that Google's own translation uses.
fn call(part: &Json, index: usize) -> Object {
    let called = &part["functionCall"];
    let arguments = called.get("args").map_or_else(|| "{}".to_owned(), Json::to_string);
    let id = word(&called["id"]).unwrap_or_else(|| format!("call_{}", uuid::Uuid::new_v4().simple()));
    let function = object! {"name": called["name"].clone(), "arguments": arguments};
    let mut call = object! {"id": id, "type": "function", "function": function, "index": index};
    if let Some(signature) = part["thoughtSignature"].as_str() {
        call.set("extra_content", object! {"google": object! {"thought_signature": signature}});
    }
    call
}

/// Thoughts are not counted as a part of the candidate.
fn usage(usage: &Json) -> Usage {
    let thoughts = tokens(&usage["thoughtsTokenCount"]);
    let sum = |name: &str, more: Option<u64>| match (tokens(&usage[name]), more) {
        (None, None) => None,
        (count, more) => Some(count.unwrap_or(0).saturating_add(more.unwrap_or(0))),
    };
    Usage {
        input: sum("promptTokenCount", tokens(&usage["toolUsePromptTokenCount"])),
        output: sum("candidatesTokenCount", thoughts),
        cached_input: tokens(&usage["cachedContentTokenCount"]),
        cache_write: None,
        reasoning: thoughts,
        cost_usd: None,
    }
}

/// Reader of a streamed answer, each of whose events has the shape of a whole one.
#[derive(Debug, Default)]
pub(in crate::llm) struct Stream {
    calls: usize,
}

impl Stream {
    /// `None` for data that is no event of this API.
    pub(super) fn step(&mut self, data: &Json) -> Result<Option<Step>, ResponseError> {
        if !data.is_object() {
            return Ok(None);
        }
        let candidate = &data["candidates"][0];
        if candidate.is_null()
            && let Some(reason) = word(&data["promptFeedback"]["blockReason"])
        {
            return Err(ResponseError::Declined(reason));
        }
        let content = Content::of(&candidate["content"]["parts"], self.calls);
        self.calls += content.calls.len();
        let mut delta = Object::new();
        if !content.thoughts.is_empty() {
            delta.set("reasoning_content", content.thoughts);
        }
        if !content.calls.is_empty() {
            delta.set("tool_calls", content.calls);
        }
        Ok(Some(Step {
            text: content.text,
            delta,
            model: word(&data["modelVersion"]),
            finish_reason: word(&candidate["finishReason"]),
            usage: usage(&data["usageMetadata"]),
            is_last: false,
        }))
    }
}
