//! An answer as a whole.

use serde_json::{Map, Value, json};

use super::super::{
    json::{tokens, word},
    types::{Completion, Usage},
};

/// Name of the tool whose input is the answer when `response_format` has a schema.
pub(super) const ANSWER_TOOL: &str = "answer";

pub(in crate::llm::wire) fn completion(body: &Value) -> Option<Completion> {
    let mut completion = Completion {
        model: word(&body["model"]),
        finish_reason: word(&body["stop_reason"]),
        usage: usage(&body["usage"]),
        ..Completion::default()
    };
    match body.get("content")? {
        Value::Null => {}
        Value::String(text) => completion.text.clone_from(text),
        Value::Array(blocks) => blocks.iter().for_each(|block| add_block(&mut completion, block)),
        block @ Value::Object(_) => add_block(&mut completion, block),
        Value::Bool(_) | Value::Number(_) => return None,
    }
    Some(completion)
}

fn add_block(completion: &mut Completion, block: &Value) {
    match block["type"].as_str() {
        Some("tool_use") if block["name"] == ANSWER_TOOL => {
            completion.text.push_str(&block["input"].to_string());
            // The tool is a form of the answer: for the caller nothing was called.
            completion.finish_reason = Some("end_turn".into());
        }
        Some("tool_use") => {
            let function = json!({"name": block["name"], "arguments": block["input"].to_string()});
            let call = json!({"id": block["id"], "type": "function", "function": function});
            push(&mut completion.extra, "tool_calls", call);
        }
        Some("thinking") => {
            if let Some(thinking) = block["thinking"].as_str() {
                let before = completion.extra.get("reasoning_content").and_then(Value::as_str);
                let whole = format!("{}{thinking}", before.unwrap_or_default());
                completion.extra.insert("reasoning_content".into(), whole.into());
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

fn push(extra: &mut Map<String, Value>, name: &str, item: Value) {
    match extra.entry(name).or_insert_with(|| json!([])) {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// The input does not contain what a cache holds.
pub(super) fn usage(usage: &Value) -> Usage {
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
