//! An answer as a whole.

use phoenix_domain::{
    json::{Json, Object},
    object,
};

use super::super::{
    json::{tokens, word},
    types::{Completion, Usage},
};

/// Name of the tool whose input is the answer when `response_format` has a schema.
pub(super) const ANSWER_TOOL: &str = "answer";

pub(in crate::llm::wire) fn completion(body: &Json) -> Option<Completion> {
    let mut completion = Completion {
        model: word(&body["model"]),
        finish_reason: word(&body["stop_reason"]),
        usage: usage(&body["usage"]),
        ..Completion::default()
    };
    match body.get("content")? {
        Json::Null => {}
        Json::String(text) => completion.text.clone_from(text),
        Json::Array(blocks) => blocks.iter().for_each(|block| add_block(&mut completion, block)),
        block @ Json::Object(_) => add_block(&mut completion, block),
        Json::Bool(_) | Json::Number(_) => return None,
    }
    Some(completion)
}

fn add_block(completion: &mut Completion, block: &Json) {
    match block["type"].as_str() {
        Some("tool_use") if block["name"] == ANSWER_TOOL => {
            completion.text.push_str(&block["input"].to_string());
            // The tool is a form of the answer: for the caller nothing was called.
            completion.finish_reason = Some("end_turn".into());
        }
        Some("tool_use") => {
            let function = object! {"name": block["name"].clone(), "arguments": block["input"].to_string()};
            let call = object! {"id": block["id"].clone(), "type": "function", "function": function};
            push(&mut completion.extra, "tool_calls", call.into());
        }
        Some("thinking") => {
            if let Some(thinking) = block["thinking"].as_str() {
                let before = completion.extra.get("reasoning_content").and_then(Json::as_str);
                let whole = format!("{}{thinking}", before.unwrap_or_default());
                completion.extra.set("reasoning_content", whole);
            }
            push(&mut completion.extra, "thinking_blocks", block.clone());
        }
        Some("redacted_thinking") => push(&mut completion.extra, "thinking_blocks", block.clone()),
        None | Some("text" | "output_text") => {
            completion.text.push_str(block["text"].as_str().or_else(|| block.as_str()).unwrap_or_default());
        }
        Some(_) => {}
    }
}

fn push(extra: &mut Object, name: &str, item: Json) {
    match extra.get_mut(name) {
        Some(Json::Array(items)) => items.push(item),
        _ => extra.set(name, [item]),
    }
}

/// The input does not contain what a cache holds.
pub(super) fn usage(usage: &Json) -> Usage {
    let (read, write) =
        (tokens(&usage["cache_read_input_tokens"]), tokens(&usage["cache_creation_input_tokens"]));
    let cached = read.unwrap_or(0).saturating_add(write.unwrap_or(0));
    Usage {
        input: tokens(&usage["input_tokens"]).map(|input| input.saturating_add(cached)),
        output: tokens(&usage["output_tokens"]),
        cached_input: read,
        cache_write: write,
        reasoning: None,
        cost_usd: None,
    }
}
