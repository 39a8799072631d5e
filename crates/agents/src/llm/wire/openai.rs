//! OpenAI's chat completions, which Grok, OpenRouter, LM Studio and many servers speak too. Options and messages pass
//! through as they are. <https://platform.openai.com/docs/api-reference/chat/create>

use phoenix_domain::{
    json::{Json, Object},
    llm::{Provider, ProviderKind},
    object,
};

use super::{
    json::{bearer, text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest, Step, Usage},
};

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> ProviderRequest {
    // Reasoning models of OpenAI and xAI reject the older name; servers that copy the API know only the older one.
    let limit = match provider.kind {
        Some(ProviderKind::OpenAi | ProviderKind::Grok) => "max_completion_tokens",
        _ => "max_tokens",
    };
    let mut body = object! {"model": provider.model_name, "messages": prompt.messages()};
    body.set(limit, prompt.max_tokens);
    let options = prompt.options.iter().filter(|(name, _)| !is_foreign(provider, name));
    body.extend(options.map(|(name, value)| (name.clone(), value.clone())));
    if provider.kind != Some(ProviderKind::OpenRouter) {
        remove_foreign(&mut body);
    }
    if prompt.is_streamed {
        body.set("stream", true);
        body.set("stream_options", object! {"include_usage": true});
    }
    ProviderRequest {
        url: format!("{}/chat/completions", provider.base_url),
        headers: bearer(provider),
        body,
    }
}

/// Whether an option is Anthropic's own, which these providers refuse.
pub(super) fn is_foreign(provider: Provider<'_>, option: &str) -> bool {
    matches!(provider.kind, Some(ProviderKind::OpenAi | ProviderKind::Grok))
        && matches!(option, "thinking" | "top_k" | "cache_control")
}

/// Removes the members of messages and tools that are Anthropic's own; some servers refuse unknown members.
fn remove_foreign(body: &mut Object) {
    for message in items(body.get_mut("messages")) {
        let Json::Object(message) = message else { continue };
        remove(message, &["thinking_blocks", "is_error"]);
        remove_marks(message.get_mut("content"));
    }
    remove_marks(body.get_mut("tools"));
}

fn remove_marks(list: Option<&mut Json>) {
    for item in items(list) {
        if let Json::Object(item) = item {
            remove(item, &["cache_control"]);
        }
    }
}

fn remove(members: &mut Object, names: &[&str]) {
    members.retain(|name, _| !names.contains(&name.as_str()));
}

fn items(list: Option<&mut Json>) -> &mut [Json] {
    if let Some(Json::Array(items)) = list { items } else { &mut [] }
}

pub(super) fn completion(body: &Json) -> Option<Completion> {
    let choices = body["choices"].as_array()?;
    let choice = choices.first().unwrap_or(&Json::Null);
    let message = &choice["message"];
    // Servers that copy the API keep the text of the older completions; a model's refusal has its own member.
    let content = message.get("content").or_else(|| choice.get("text")).unwrap_or(&Json::Null);
    let text = text_of(content).filter(|text| !text.is_empty()).or_else(|| word(&message["refusal"]));
    Some(Completion {
        text: text.unwrap_or_default(),
        extra: extra(message),
        model: word(&body["model"]),
        finish_reason: word(&choice["finish_reason"]),
        usage: usage(&body["usage"]),
    })
}

/// The content of a message or a delta beyond its text.
fn extra(message: &Json) -> Object {
    let has_content = |value: &Json| match value {
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(members) => !members.is_empty(),
        Json::Number(_) => true,
        Json::Bool(value) => *value,
        Json::Null => false,
    };
    let members = message.as_object().into_iter().flatten();
    let members = members
        .filter(|(name, value)| !matches!(name.as_str(), "role" | "content") && has_content(value))
        .filter(|(name, value)| *name != "tool_calls" || value.as_array().is_some())
        .map(|(name, value)| (name.clone(), value.clone()));
    let mut members: Object = members.collect();
    // OpenRouter and vLLM have a name of their own for it.
    if let Some(reasoning) = members.shift_remove("reasoning")
        && reasoning.as_str().is_some()
        && !members.contains_key("reasoning_content")
    {
        members.set("reasoning_content", reasoning);
    }
    members
}

pub(super) fn usage(usage: &Json) -> Usage {
    let reasoning = tokens(&usage["completion_tokens_details"]["reasoning_tokens"]);
    let (input, output) = (tokens(&usage["prompt_tokens"]), tokens(&usage["completion_tokens"]));
    // xAI counts reasoning beside the completion, all others as a part of it. The total tells.
    let beside = |output: u64| {
        let (total, reasoning) = (tokens(&usage["total_tokens"])?, reasoning.filter(|count| *count > 0)?);
        (total == input?.checked_add(output)?.checked_add(reasoning)?).then_some(output + reasoning)
    };
    Usage {
        input,
        output: output.map(|output| beside(output).unwrap_or(output)),
        cached_input: tokens(&usage["prompt_tokens_details"]["cached_tokens"]),
        cache_write: tokens(&usage["prompt_tokens_details"]["cache_write_tokens"]),
        reasoning,
        cost_usd: usage["cost"].as_f64().filter(|cost| cost.is_finite() && *cost >= 0.0),
    }
}

/// `None` for data that is no event of this API.
pub(super) fn step(data: &Json) -> Option<Step> {
    let choices = data.get("choices").map(Json::as_array);
    let choice = match choices {
        Some(Some(choices)) => choices.first().unwrap_or(&Json::Null),
        Some(None) => &Json::Null,
        // Some servers send usage, warnings or timings in events of their own.
        None if data.is_object() => &Json::Null,
        None => return None,
    };
    // A server that ignores the request for a stream may send the message at once.
    let delta = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Json::Null);
    let content = delta.get("content").or_else(|| choice.get("text")).unwrap_or(&Json::Null);
    Some(Step {
        text: text_of(content).unwrap_or_default(),
        delta: extra(delta),
        model: word(&data["model"]),
        finish_reason: word(&choice["finish_reason"]),
        usage: usage(&data["usage"]),
        is_last: false,
    })
}
