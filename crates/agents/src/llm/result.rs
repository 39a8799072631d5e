//! The result of a chat: the model's text as it is, with metadata.

use std::time::Duration;

use phoenix_domain::{
    action::ActionResult,
    json::{Json, Object},
    llm::{FinishReason, Provider},
    object,
    usage::ModelCall,
};

use super::{
    cost,
    wire::{
        self,
        types::{Completion, Usage},
    },
};
use crate::protocol::{ActionError, failed_calls};

/// The result of `completion`, for which the provider took `took`. `failed` are the models that were asked before.
pub(super) fn of(
    provider: Provider<'_>,
    completion: Completion,
    options: &Object,
    failed: &[(Provider<'_>, ActionError)],
    took: Duration,
) -> ActionResult {
    let calls_tools = completion.calls_tools();
    let Completion { text, extra, model, finish_reason, usage } = completion;
    let cost = cost::of(provider, model.as_deref().unwrap_or(provider.model_name), usage)
        .or_else(|| cost::of(provider, provider.model_name, usage));
    let mut metadata = Object::new();
    let mut add = |name: &str, value: Json| metadata.set(name, value);
    add("provider", provider.name.into());
    if model.as_deref().is_some_and(|model| model != provider.model_name) {
        add("requested_model", provider.model_name.into());
    }
    add("model", model.unwrap_or_else(|| provider.model_name.into()).into());
    add("call_ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into());
    if let Some(reason) = finish_reason {
        // Each API has a name of its own for it, or none.
        let is_call = calls_tools && matches!(FinishReason::of(&reason), None | Some(FinishReason::Stop));
        add("finish_reason", if is_call { "tool_calls".into() } else { reason.into() });
    }
    if let Some(usage) = usage_of(usage) {
        add("usage", usage.into());
    }
    if let Some(cost) = cost {
        add("cost_usd", cost.into());
    }
    if !extra.is_empty() {
        add("message", message(&text, extra).into());
    }
    if !failed.is_empty() {
        let targets: Vec<String> = failed.iter().map(|(target, _)| target.target()).collect();
        add("fallback_from", targets.into());
        let calls: Vec<ModelCall> =
            failed.iter().flat_map(|(_, error)| error.model_calls.iter().cloned()).collect();
        if let Some((name, calls)) = failed_calls(&calls) {
            add(&name, calls);
        }
    }
    let ignored = wire::ignored_options(provider, options);
    if !ignored.is_empty() {
        add("ignored_options", ignored.into());
    }
    ActionResult { output_type: "markdown".into(), data: Json::String(text), metadata }
}

fn usage_of(usage: Usage) -> Option<Object> {
    let Usage { input, output, cached_input, cache_write: _, reasoning, cost_usd: _ } = usage;
    input.or(output)?;
    let of = |count: Option<u64>| count.map_or(Json::Null, Json::from);
    let mut members = object! {"input_tokens": of(input), "output_tokens": of(output)};
    for (name, count) in [("cached_input_tokens", cached_input), ("reasoning_tokens", reasoning)] {
        if let Some(count) = count {
            members.set(name, count);
        }
    }
    Some(members)
}

/// The assistant's message in OpenAI's shape.
fn message(text: &str, mut extra: Object) -> Object {
    if let Some(Json::Array(calls)) = extra.get_mut("tool_calls") {
        for call in calls {
            if let Json::Object(call) = call {
                call.shift_remove("index");
            }
        }
    }
    let is_refusal = extra.get("refusal").and_then(Json::as_str) == Some(text);
    let content = if text.is_empty() || is_refusal { Json::Null } else { text.into() };
    let mut message = object! {"role": "assistant", "content": content};
    message.extend(extra);
    message
}
