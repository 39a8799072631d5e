//! Writes the events of an answer from its parts in OpenAI's shape.
//!
//! A message is a list of blocks, of which one at a time is open. A part that belongs to another block closes the open one.

use axum::http::StatusCode;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    json::{Json, Object},
};

use super::{
    error::AnthropicError,
    event::{Ending, MessageEvent},
    message::{Message, block, stop_reason},
};
use crate::wire::{
    answer::Answer,
    answer_writer::{AnswerWriter, Frame},
    pieces::{Piece, Pieces},
};

/// Writes the events of one answer.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    plan_id: PlanId,
    /// The model of the request.
    model: String,
    has_started: bool,
    pieces: Pieces,
    /// Index of the block that is open, or of the next one.
    index: usize,
    open: Option<Block>,
    /// Events that are written and not returned.
    frames: Vec<Frame>,
}

/// A block that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Call,
}

impl MessageWriter {
    /// A writer for the answer of a plan.
    pub(crate) fn new(plan_id: PlanId, model: String) -> Self {
        let (pieces, frames) = (Pieces::default(), Vec::new());
        Self { plan_id, model, has_started: false, pieces, index: 0, open: None, frames }
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

    /// Opens `block`, which begins with `content_block`.
    fn open(&mut self, block: Block, content_block: Object) {
        self.close();
        self.write(&MessageEvent::ContentBlockStart { index: self.index, content_block });
        self.open = Some(block);
    }

    fn delta(&mut self, kind: &str, member: &str, text: &str) {
        if !text.is_empty() {
            let delta = block(kind, [(member, text.into())]);
            self.write(&MessageEvent::ContentBlockDelta { index: self.index, delta });
        }
    }

    fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => {
                if self.open != Some(Block::Text) {
                    self.open(Block::Text, block("text", [("text", "".into())]));
                }
                self.delta("text_delta", "text", &text);
            }
            Piece::Reasoning(text) => self.reasoning(&text),
            Piece::Thinking(whole) => self.thinking_block(whole),
            Piece::Call { id, name } => {
                let members = [("id", id.into()), ("name", name.into()), ("input", Object::new().into())];
                self.open(Block::Call, block("tool_use", members));
            }
            Piece::Arguments(text) => self.delta("input_json_delta", "partial_json", &text),
        }
    }

    fn reasoning(&mut self, text: &str) {
        if self.open != Some(Block::Thinking) {
            let empty = block("thinking", [("thinking", "".into()), ("signature", "".into())]);
            self.open(Block::Thinking, empty);
        }
        self.delta("thinking_delta", "thinking", text);
    }

    /// A whole block of thinking. Its text may have been written before it.
    fn thinking_block(&mut self, whole: Object) {
        if whole.get("type").is_none_or(|kind| *kind != "thinking") {
            self.open(Block::Thinking, whole);
            return self.close();
        }
        let text = |name: &str| whole.get(name).and_then(Json::as_str).unwrap_or_default();
        if self.open != Some(Block::Thinking) {
            self.reasoning(text("thinking"));
        }
        self.delta("signature_delta", "signature", text("signature"));
        self.close();
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
        for piece in self.pieces.of_part(text, delta)? {
            self.piece(piece);
        }
        Ok(self.take_frames())
    }

    fn finish(&mut self, answer: &Answer) -> Vec<Frame> {
        for piece in self.pieces.of_rest(answer) {
            self.piece(piece);
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

#[cfg(test)]
mod tests;
