//! Pieces of an answer on their way to the caller.
//!
//! A line of the agent protocol is bounded, so long texts in a delta are cut: reasoning, and the arguments of a tool call, both of
//! which the reader joins again.

use phoenix_domain::{
    json::{Json, Object},
    object,
};

use super::wire::{assembly::FORMS, types::Step};
use crate::protocol::Output;

/// Longest text in one delta, in bytes.
const TEXT_BYTES: usize = 8 * 1024;

/// Sends what `step` adds to the answer.
pub(super) fn send(step: Step, output: &mut Output<'_>) {
    if !output.is_wanted() {
        return;
    }
    for delta in deltas(step.delta) {
        output.delta("", delta);
    }
    output.chunk(&step.text);
}

/// `delta` as deltas with short texts.
fn deltas(mut delta: Object) -> Vec<Object> {
    let mut all = Vec::new();
    if delta.get("reasoning_content").is_some_and(is_long)
        && let Some(Json::String(text)) = delta.shift_remove("reasoning_content")
    {
        all.extend(cut(&text).map(|piece| object! {"reasoning_content": piece}));
    }
    if let Some(Json::Array(calls)) = delta.get_mut("tool_calls") {
        calls.retain_mut(|call| match cut_call(call) {
            Some(pieces) => {
                all.extend(pieces);
                false
            }
            None => true,
        });
        if calls.is_empty() {
            delta.shift_remove("tool_calls");
        }
    }
    if !delta.is_empty() {
        all.push(delta);
    }
    all
}

/// A tool call in pieces, if its text is long: first all but the text.
fn cut_call(call: &mut Json) -> Option<Vec<Object>> {
    let Json::Object(call) = call else { return None };
    let long = |(member, text): &(&str, &str)| call.get(*member).is_some_and(|form| is_long(&form[*text]));
    let (member, text_member) = FORMS.into_iter().find(long)?;
    let Some(Json::Object(form)) = call.get_mut(member) else { return None };
    let text = form.insert(text_member.to_owned(), "".into()).unwrap_or_default();
    let index = call.get("index").cloned().unwrap_or_default();
    let pieces = cut(text.as_str().unwrap_or_default()).map(|piece| {
        let form = Object::from_iter([(text_member.to_owned(), piece.into())]);
        Object::from_iter([("index".to_owned(), index.clone()), (member.to_owned(), form.into())])
    });
    let pieces: Vec<_> = pieces.collect();
    let whole = [std::mem::take(call)].into_iter().chain(pieces);
    Some(whole.map(|call| object! {"tool_calls": [call]}).collect())
}

fn is_long(value: &Json) -> bool {
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
    use serde_json::json;

    use super::*;
    use crate::llm::wire::assembly::Assembly;

    fn object(value: serde_json::Value) -> Object {
        Object::try_from(Json::from(value)).unwrap()
    }

    #[test]
    fn long_texts_of_a_delta_are_cut_and_join_again() {
        let long = "ä\n".repeat(20_000);
        let call = |index: u64, arguments: &str| {
            json!({"index": index, "id": format!("c{index}"), "type": "function",
                "function": {"name": "f", "arguments": arguments}})
        };
        let calls = json!([call(0, &long), call(1, "{}")]);
        let delta = object(json!({"reasoning_content": long, "tool_calls": calls, "other": "x"}));
        let mut assembly = Assembly::default();
        for piece in deltas(delta) {
            assert!(piece.text_len() < 20_000);
            assembly.add(&mut Step { delta: piece, ..Step::default() }).unwrap();
        }
        let whole = assembly.into_completion().extra;
        assert_eq!((whole["reasoning_content"].as_str(), &whole["other"]), (Some(&*long), &"x".into()));
        assert_eq!(whole["tool_calls"][0]["function"]["arguments"].as_str(), Some(&*long));
        assert_eq!(whole["tool_calls"][1]["function"], json!({"name": "f", "arguments": "{}"}));
    }

    #[test]
    fn short_delta_is_sent_as_it_is() {
        let delta = object(json!({"reasoning_content": "hm", "tool_calls": [{"index": 0}]}));
        assert_eq!(deltas(delta.clone()), [delta]);
    }
}
