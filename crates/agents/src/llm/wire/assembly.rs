//! The completion that the steps of a stream add up to.

use phoenix_domain::json::{Json, Object};

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
    tool_calls: Vec<ToolCall>,
    bytes: usize,
    /// Whether the end was announced: a finish reason, or the last event.
    pub(in crate::llm) is_finished: bool,
    /// Whether a piece of the answer arrived.
    pub(in crate::llm) has_begun: bool,
}

/// The forms of a tool call: the member that describes it, and the text in it that comes in parts.
pub(in crate::llm) const FORMS: [(&str, &str); 2] = [("function", "arguments"), ("custom", "input")];

/// A tool call that grows.
#[derive(Debug, Default)]
struct ToolCall {
    members: Object,
    /// The form, as soon as it is known.
    form: Option<(&'static str, &'static str)>,
    /// The members of the description beyond its text.
    description: Object,
    text: String,
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
        for (name, value) in step.delta.iter_mut() {
            self.bytes += size(value);
            if self.bytes > MAX_ANSWER_BYTES {
                return Err(ResponseError::TooLarge);
            }
            match (name.as_str(), &mut *value) {
                ("tool_calls", Json::Array(calls)) => self.add_calls(calls)?,
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

    fn add_calls(&mut self, calls: &mut [Json]) -> Result<(), ResponseError> {
        for call in calls {
            let Json::Object(call) = call else { return Err(ResponseError::Malformed) };
            let text = |name: &str| call.get(name).and_then(Json::as_str);
            let named =
                call.get("index").and_then(Json::as_u64).and_then(|index| usize::try_from(index).ok());
            let is_new = text("id").is_some_and(|id| {
                !id.is_empty() && self.tool_calls.last().is_none_or(|last| last.id() != Some(id))
            });
            let index = named.unwrap_or(match is_new {
                true => self.tool_calls.len(),
                false => self.tool_calls.len().saturating_sub(1),
            });
            if index >= MAX_TOOL_CALLS {
                return Err(ResponseError::Malformed);
            }
            while self.tool_calls.len() <= index {
                self.tool_calls.push(ToolCall::default());
            }
            call.set("index", index);
            self.tool_calls[index].add(call);
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
        let calls: Vec<_> = self.tool_calls.into_iter().filter_map(ToolCall::into_whole).collect();
        if !calls.is_empty() {
            completion.extra.set("tool_calls", calls);
        }
        if completion.text.is_empty()
            && let Some(refusal) = completion.extra.get("refusal").and_then(Json::as_str)
        {
            completion.text = refusal.to_owned();
        }
        completion
    }
}

impl ToolCall {
    fn id(&self) -> Option<&str> {
        self.members.get("id").and_then(Json::as_str)
    }

    /// Adds a piece: the text comes in parts, everything else at once.
    fn add(&mut self, piece: &Object) {
        for (name, value) in piece {
            if name == "index" || is_nothing(value) {
                continue;
            }
            match FORMS.into_iter().find(|(member, _)| member == name) {
                Some(form) if self.form.is_none_or(|known| known == form) => self.describe(form, value),
                _ => self.members.set(name, value.clone()),
            }
        }
    }

    fn describe(&mut self, form: (&'static str, &'static str), piece: &Json) {
        self.form = Some(form);
        for (name, value) in piece.as_object().into_iter().flatten() {
            match value {
                Json::String(more) if name == form.1 => self.text.push_str(more),
                value if is_nothing(value) => {}
                // Some servers send the arguments as they are, at once.
                whole if name == form.1 => self.text.push_str(&whole.to_string()),
                value => self.description.set(name, value.clone()),
            }
        }
    }

    /// The call in OpenAI's shape; `None` for one without a description.
    fn into_whole(self) -> Option<Object> {
        let Self { members: mut call, form, mut description, text } = self;
        let (member, text_member) = form?;
        description.set(text_member, text);
        if !call.contains_key("type") {
            call.set("type", member);
        }
        call.set(member, description);
        Some(call)
    }
}

/// Whether a member of a piece says nothing.
fn is_nothing(value: &Json) -> bool {
    value.is_null() || *value == ""
}

fn merge(extra: &mut Object, name: &str, value: &Json) {
    match (extra.get_mut(name), value) {
        (Some(Json::String(whole)), Json::String(piece)) if TEXTS.contains(&name) => whole.push_str(piece),
        (Some(Json::Array(whole)), Json::Array(piece)) => whole.extend(piece.iter().cloned()),
        _ => extra.set(name, value.clone()),
    }
}

/// Bytes of the texts and numbers in a value, and a few for every value.
fn size(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 8,
        Json::Number(number) => 8 + number.as_str().len(),
        Json::String(text) => text.len(),
        Json::Array(items) => 8 + items.iter().map(size).sum::<usize>(),
        Json::Object(members) => {
            8 + members.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn step(delta: Value) -> Step {
        Step { delta: Object::try_from(Json::from(delta)).unwrap(), ..Step::default() }
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
            Json::Object(whole.extra),
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
