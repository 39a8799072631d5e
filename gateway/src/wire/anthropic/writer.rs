//! Writes the events of an answer from its parts in OpenAI's shape.
//!
//! A message is a list of blocks, of which one at a time is open. A part that belongs to another block closes the open one.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    json::{Json, Object},
};

use super::{
    error::AnthropicError,
    event::{Ending, MessageEvent},
    message::{Message, block, stop_reason, thinking},
};
use crate::wire::{
    answer::Answer,
    answer_writer::{AnswerWriter, Frame},
};

/// Writes the events of one answer.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    plan_id: PlanId,
    /// The model of the request.
    model: String,
    has_started: bool,
    /// Index of the block that is open, or of the next one.
    index: usize,
    open: Option<Block>,
    /// Calls whose blocks have begun.
    calls: BTreeSet<String>,
    /// Members of the message that were written.
    written: BTreeSet<&'static str>,
    /// Events that are written and not returned.
    frames: Vec<Frame>,
}

/// A block that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    /// The call of a tool, by its index.
    Call(String),
}

impl MessageWriter {
    /// A writer for the answer of a plan.
    pub(crate) fn new(plan_id: PlanId, model: String) -> Self {
        Self {
            plan_id,
            model,
            has_started: false,
            index: 0,
            open: None,
            calls: BTreeSet::new(),
            written: BTreeSet::new(),
            frames: Vec::new(),
        }
    }

    fn write(&mut self, event: &MessageEvent) {
        if !self.has_started {
            self.has_started = true;
            let message = Message::empty(self.plan_id, self.model.clone());
            self.frames.push(MessageEvent::MessageStart { message }.frame());
        }
        self.frames.push(event.frame());
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.write(&MessageEvent::ContentBlockStop { index: self.index });
            self.index += 1;
        }
    }

    /// Opens `block`, which begins with `content_block`, unless it is open.
    fn open(&mut self, block: Block, content_block: impl FnOnce() -> Object) {
        if self.open.as_ref() == Some(&block) {
            return;
        }
        self.close();
        self.write(&MessageEvent::ContentBlockStart { index: self.index, content_block: content_block() });
        self.open = Some(block);
    }

    fn delta(&mut self, kind: &str, member: &str, text: &str) {
        if !text.is_empty() {
            let delta = block(kind, [(member, text.into())]);
            self.write(&MessageEvent::ContentBlockDelta { index: self.index, delta });
        }
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.written.insert("text");
        self.open(Block::Text, || block("text", [("text", "".into())]));
        self.delta("text_delta", "text", text);
    }

    fn reasoning(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.written.insert("thinking");
        self.open(Block::Thinking, || block("thinking", [("thinking", "".into()), ("signature", "".into())]));
        self.delta("thinking_delta", "thinking", text);
    }

    /// A whole block of thinking. Its text may have been written before it.
    fn thinking_block(&mut self, whole: &Object) {
        let text = |name: &str| whole.get(name).and_then(Json::as_str).unwrap_or_default();
        self.written.insert("thinking");
        if whole.get("type").is_none_or(|kind| *kind != "thinking") {
            self.close();
            self.write(&MessageEvent::ContentBlockStart { index: self.index, content_block: whole.clone() });
            self.write(&MessageEvent::ContentBlockStop { index: self.index });
            self.index += 1;
            return;
        }
        if self.open != Some(Block::Thinking) {
            self.reasoning(text("thinking"));
        }
        if self.open == Some(Block::Thinking) {
            self.delta("signature_delta", "signature", text("signature"));
            self.close();
        }
    }

    /// A part of the call of a tool.
    fn call(&mut self, call: &Json) -> Result<(), OrchestratorError> {
        let index = match (&call["index"], &self.open) {
            (Json::Null, Some(Block::Call(open))) if call["id"].is_null() => open.clone(),
            (Json::Null, _) => self.calls.len().to_string(),
            (index, _) => index.to_text(),
        };
        let function = &call["function"];
        let block_of_call = Block::Call(index.clone());
        if self.open.as_ref() != Some(&block_of_call) && !self.calls.insert(index) {
            return Err(interleaved());
        }
        self.written.insert("tool_calls");
        self.open(block_of_call, || {
            let (id, name) = (call["id"].clone(), function["name"].clone());
            block("tool_use", [("id", id), ("name", name), ("input", Object::new().into())])
        });
        self.delta("input_json_delta", "partial_json", function["arguments"].as_str().unwrap_or_default());
        Ok(())
    }

    fn take_frames(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }
}

impl AnswerWriter for MessageWriter {
    fn has_started(&self) -> bool {
        self.has_started
    }

    fn part(&mut self, text: &str, delta: Option<&str>) -> Result<Vec<Frame>, OrchestratorError> {
        let delta = delta.and_then(|delta| Object::parse(delta).ok()).unwrap_or_default();
        let member = |name: &str| delta.get(name).and_then(Json::as_str).unwrap_or_default();
        let list = |name: &str| delta.get(name).and_then(Json::as_array).unwrap_or_default();
        self.reasoning(member("reasoning_content"));
        list("thinking_blocks")
            .iter()
            .filter_map(Json::as_object)
            .for_each(|block| self.thinking_block(block));
        self.text(if delta.contains_key("content") { member("content") } else { text });
        self.text(member("refusal"));
        list("tool_calls").iter().try_for_each(|call| self.call(call))?;
        Ok(self.take_frames())
    }

    fn finish(&mut self, answer: &Answer) -> Vec<Frame> {
        if !self.written.contains("thinking") {
            thinking(answer).iter().for_each(|block| self.thinking_block(block));
        }
        if !self.written.contains("text") {
            self.text(&answer.text);
        }
        if !self.written.contains("tool_calls") {
            for (index, call) in answer.tool_calls().iter().enumerate() {
                // The calls of a whole answer have no index.
                let mut numbered = call.as_object().cloned().unwrap_or_default();
                numbered.insert("index".to_owned(), index.into());
                // Each has an index of its own, so none returns to an earlier one.
                let _ = self.call(&numbered.into());
            }
        }
        self.close();
        let delta = Ending { stop_reason: stop_reason(&answer.finish), stop_sequence: () };
        self.write(&MessageEvent::MessageDelta { delta, usage: answer.usage.as_ref().into() });
        self.write(&MessageEvent::MessageStop {});
        self.take_frames()
    }

    fn fail(&mut self, status: StatusCode, error: OrchestratorError, id: CorrelationId) -> Vec<Frame> {
        let body = AnthropicError::new(status, error, id);
        vec![Frame { name: Some("error"), data: serde_json::to_string(&body).unwrap_or_default() }]
    }
}

/// The error of an answer whose calls are not written one after the other, which this API cannot express.
fn interleaved() -> OrchestratorError {
    let message =
        "the agent returned to a tool call after it had begun another one; send the request without `stream`";
    OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
}

#[cfg(test)]
mod tests;
