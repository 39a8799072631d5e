//! Pieces of an answer on their way to the caller.
//!
//! A line of the agent protocol is bounded, so long texts in a delta are cut: reasoning, and the arguments of a tool call, both of
//! which the reader joins again.

use phoenix_domain::json::Object;
use serde_json::{Map, Value, json};

use super::wire::types::Step;
use crate::protocol::Output;

/// Longest text in one delta, in bytes.
const TEXT_BYTES: usize = 8 * 1024;

/// Sends what `step` adds to the answer.
pub(super) fn send(step: Step, output: &mut Output<'_>) {
    if !output.is_wanted() {
        return;
    }
    for delta in deltas(step.delta) {
        output.delta("", Object::from(delta));
    }
    output.chunk(&step.text);
}

/// `delta` as deltas with short texts.
fn deltas(mut delta: Map<String, Value>) -> Vec<Map<String, Value>> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Value| all.push(Map::from_iter([(name.to_owned(), value)]));
    if let Some(Value::String(text)) = delta.get("reasoning_content").filter(|text| is_long(text)) {
        cut(text).for_each(|piece| add("reasoning_content", piece.into()));
        delta.remove("reasoning_content");
    }
    for call in delta.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if !is_long(&call["function"]["arguments"]) {
            continue;
        }
        let arguments = std::mem::replace(&mut call["function"]["arguments"], "".into());
        add("tool_calls", json!([call]));
        let index = call["index"].take();
        for piece in cut(arguments.as_str().unwrap_or_default()) {
            add("tool_calls", json!([{"index": index, "function": {"arguments": piece}}]));
        }
        *call = Value::Null;
    }
    if let Some(Value::Array(calls)) = delta.get_mut("tool_calls") {
        calls.retain(|call| !call.is_null());
        if calls.is_empty() {
            delta.remove("tool_calls");
        }
    }
    if !delta.is_empty() {
        all.push(delta);
    }
    all
}

fn is_long(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() > TEXT_BYTES)
}

/// `text` in pieces.
fn cut(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, later) = rest.split_at(rest.floor_char_boundary(TEXT_BYTES));
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::wire::assembly::Assembly;

    #[test]
    fn long_texts_of_a_delta_are_cut_and_join_again() {
        let long = "ä\n".repeat(20_000);
        let call = |index: u64, arguments: &str| {
            json!({"index": index, "id": format!("c{index}"), "type": "function",
                "function": {"name": "f", "arguments": arguments}})
        };
        let calls = json!([call(0, &long), call(1, "{}")]);
        let Value::Object(delta) = json!({"reasoning_content": long, "tool_calls": calls, "other": "x"})
        else {
            panic!("an object")
        };
        let mut assembly = Assembly::default();
        for piece in deltas(delta) {
            assert!(Value::Object(piece.clone()).to_string().len() < 20_000);
            assembly.add(&mut Step { delta: piece, ..Step::default() }).unwrap();
        }
        let whole = assembly.into_completion().extra;
        assert_eq!((whole["reasoning_content"].as_str(), &whole["other"]), (Some(&*long), &json!("x")));
        assert_eq!(whole["tool_calls"][0]["function"]["arguments"].as_str(), Some(&*long));
        assert_eq!(whole["tool_calls"][1]["function"], json!({"name": "f", "arguments": "{}"}));
    }

    #[test]
    fn short_delta_is_sent_as_it_is() {
        let Value::Object(delta) = json!({"reasoning_content": "hm", "tool_calls": [{"index": 0}]}) else {
            panic!("an object")
        };
        assert_eq!(deltas(delta.clone()), [delta]);
    }
}
