//! The completion that the steps of a stream add up to.

use serde_json::{Map, Value};

use super::{
    frames::MAX_EVENT_BYTES,
    types::{Completion, ResponseError, Step, Usage},
};

/// Longest answer in bytes: text, tool calls and reasoning together.
const MAX_ANSWER_BYTES: usize = MAX_EVENT_BYTES;

/// Most tool calls of one answer.
const MAX_TOOL_CALLS: usize = 128;

/// Members of a delta whose pieces form one text. Any other text replaces the previous one.
const TEXTS: &[&str] = &["reasoning_content", "refusal"];

/// Accumulates steps.
#[derive(Debug, Default)]
pub(in crate::llm) struct Assembly {
    completion: Completion,
    tool_calls: Vec<Value>,
    bytes: usize,
    /// Whether the end was announced: a finish reason, or the last event.
    pub(in crate::llm) is_finished: bool,
    /// Whether a piece of the answer arrived.
    pub(in crate::llm) has_begun: bool,
}

impl Assembly {
    /// Adds `step`, and gives every tool call in it the index that OpenAI's API requires.
    ///
    /// # Errors
    /// For an answer that is too large.
    pub(in crate::llm) fn add(&mut self, step: &mut Step) -> Result<(), ResponseError> {
        self.has_begun |= !step.text.is_empty() || !step.delta.is_empty();
        self.bytes += step.text.len();
        self.completion.text.push_str(&step.text);
        for (name, value) in &mut step.delta {
            self.bytes += size(value);
            if self.bytes > MAX_ANSWER_BYTES {
                return Err(ResponseError::TooLarge);
            }
            match (name.as_str(), &mut *value) {
                ("tool_calls", Value::Array(calls)) => self.add_calls(calls)?,
                (_, value) => merge(&mut self.completion.extra, name, value),
            }
        }
        if self.bytes > MAX_ANSWER_BYTES {
            return Err(ResponseError::TooLarge);
        }
        self.completion.usage.update(step.usage);
        if let Some(model) = step.model.take() {
            self.completion.model = Some(model);
        }
        if let Some(reason) = step.finish_reason.take() {
            self.completion.finish_reason = Some(reason);
            self.is_finished = true;
        }
        self.is_finished |= step.is_last;
        Ok(())
    }

    fn add_calls(&mut self, calls: &mut [Value]) -> Result<(), ResponseError> {
        for call in calls {
            let named = call["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let is_new = call["id"].as_str().is_some_and(|id| {
                !id.is_empty() && self.tool_calls.last().is_none_or(|last| last["id"].as_str() != Some(id))
            });
            let index = named.unwrap_or(match is_new {
                true => self.tool_calls.len(),
                false => self.tool_calls.len().saturating_sub(1),
            });
            if index >= MAX_TOOL_CALLS || !call.is_object() {
                return Err(ResponseError::Malformed);
            }
            while self.tool_calls.len() <= index {
                self.tool_calls.push(Value::Object(Map::new()));
            }
            call["index"] = index.into();
            add_call(&mut self.tool_calls[index], call);
        }
        Ok(())
    }

    /// The model so far, and what it has used.
    pub(in crate::llm) fn used(&self) -> (Option<String>, Usage) {
        (self.completion.model.clone(), self.completion.usage)
    }

    /// The whole completion.
    pub(in crate::llm) fn into_completion(self) -> Completion {
        let mut completion = self.completion;
        let calls: Vec<_> = self.tool_calls.into_iter().filter(|call| call["function"].is_object()).collect();
        if !calls.is_empty() {
            completion.extra.insert("tool_calls".into(), calls.into());
        }
        if completion.text.is_empty()
            && let Some(refusal) = completion.extra.get("refusal").and_then(Value::as_str)
        {
            completion.text = refusal.to_owned();
        }
        completion
    }
}

/// Adds the pieces of a tool call: its arguments come in parts, everything else at once.
fn add_call(whole: &mut Value, piece: &Value) {
    for (name, value) in piece.as_object().into_iter().flatten() {
        match name.as_str() {
            "index" => {}
            "function" => {
                if let Some(function) = value["name"].as_str().filter(|name| !name.is_empty()) {
                    whole["function"]["name"] = function.into();
                }
                let more = value["arguments"].as_str().unwrap_or_default();
                match &mut whole["function"]["arguments"] {
                    Value::String(arguments) => arguments.push_str(more),
                    arguments => *arguments = more.into(),
                }
            }
            _ if value.as_str() == Some("") || value.is_null() => {}
            _ => whole[name] = value.clone(),
        }
    }
    if whole["type"].is_null() {
        whole["type"] = "function".into();
    }
}

fn merge(extra: &mut Map<String, Value>, name: &str, value: &Value) {
    match (extra.get_mut(name), value) {
        (Some(Value::String(whole)), Value::String(piece)) if TEXTS.contains(&name) => whole.push_str(piece),
        (Some(Value::Array(whole)), Value::Array(piece)) => whole.extend(piece.iter().cloned()),
        _ => {
            extra.insert(name.to_owned(), value.clone());
        }
    }
}

/// Bytes of the texts in a value, and a few for every value.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => 8 + items.iter().map(size).sum::<usize>(),
        Value::Object(members) => {
            8 + members.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(delta: Value) -> Step {
        let Value::Object(delta) = delta else { panic!("a delta is an object") };
        Step { delta, ..Step::default() }
    }

    fn completion(deltas: &[Value]) -> Completion {
        let mut assembly = Assembly::default();
        for delta in deltas {
            assembly.add(&mut step(delta.clone())).unwrap();
        }
        assembly.into_completion()
    }

    #[test]
    fn tool_call_pieces_are_joined_by_index() {
        let function = |text: &str| json!({"arguments": text});
        let whole = completion(&[
            json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            json!({"tool_calls": [{"index": 0, "function": function("{\"x\"")}]}),
            json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]}),
            json!({"tool_calls": [{"index": 0, "id": "", "function": function(":1}")}]}),
        ]);
        let expected = json!([
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]);
        assert_eq!(whole.extra["tool_calls"], expected);
    }

    #[test]
    fn tool_calls_without_an_index_get_one() {
        let mut assembly = Assembly::default();
        for (call, index) in [
            (json!({"id": "a", "function": {"name": "f", "arguments": "1"}}), 0),
            (json!({"function": {"arguments": "2"}}), 0),
            (json!({"id": "b", "function": {"name": "g", "arguments": "3"}}), 1),
        ] {
            let mut step = step(json!({ "tool_calls": [call] }));
            assembly.add(&mut step).unwrap();
            assert_eq!(step.delta["tool_calls"][0]["index"], index);
        }
        let whole = assembly.into_completion();
        assert_eq!(whole.extra["tool_calls"][0]["function"]["arguments"], "12");
        assert!(whole.has_content());
    }

    #[test]
    fn texts_of_a_delta_are_joined_and_lists_extended() {
        let whole = completion(&[
            json!({"reasoning_content": "a", "reasoning_details": [1], "refusal": "n"}),
            json!({"reasoning_content": "b", "reasoning_details": [2], "refusal": "o"}),
        ]);
        assert_eq!(
            Value::Object(whole.extra),
            json!({"reasoning_content": "ab", "reasoning_details": [1, 2], "refusal": "no"})
        );
        assert_eq!(whole.text, "no");
    }

    #[test]
    fn unbounded_answers_are_errors() {
        let mut assembly = Assembly::default();
        let text = "x".repeat(1024 * 1024);
        let error =
            (0..50).find_map(|_| assembly.add(&mut Step { text: text.clone(), ..Step::default() }).err());
        assert_eq!(error, Some(ResponseError::TooLarge));
        let mut call = step(json!({"tool_calls": [{"index": 4_000_000_000_u64, "id": "a"}]}));
        assert_eq!(Assembly::default().add(&mut call), Err(ResponseError::Malformed));
        let mut assembly = Assembly::default();
        let error = (0..20).find_map(|_| assembly.add(&mut step(json!({"reasoning_content": text}))).err());
        assert_eq!(error, Some(ResponseError::TooLarge));
    }
}
