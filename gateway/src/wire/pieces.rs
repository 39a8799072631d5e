//! The pieces of an answer in their order, for APIs whose answers are lists of items: reasoning, text, the calls of tools.
//!
//! Agents send parts in the shape of OpenAI's `choices[].delta`, and the whole answer after them. A piece that was sent is not sent
//! again with the rest of the answer.

use std::collections::BTreeSet;

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    json::{Json, Object},
};

use super::answer::Answer;

/// A piece of an answer. Texts are never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Reasoning.
    Reasoning(String),
    /// A whole block of Anthropic's reasoning, signed or redacted. Its text may have been a piece before it.
    Thinking(Object),
    /// Text, or a refusal.
    Text(String),
    /// The beginning of the call of a tool.
    Call {
        /// Identifier of the call.
        id: String,
        /// Name of the tool.
        name: String,
    },
    /// A part of the arguments of the last call.
    Arguments(String),
}

/// What was said of an answer.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Calls that have begun, by their index.
    calls: BTreeSet<String>,
    /// Index of the call that is being written.
    call: Option<String>,
    has_reasoning: bool,
    has_text: bool,
}

impl Pieces {
    /// The pieces of a part: its text, or the same in the shape of OpenAI's `choices[].delta`.
    ///
    /// # Errors
    /// When it returns to a call after another one has begun.
    pub(crate) fn of_part(
        &mut self,
        text: &str,
        delta: Option<&str>,
    ) -> Result<Vec<Piece>, OrchestratorError> {
        let delta = delta.and_then(|delta| Object::parse(delta).ok()).unwrap_or_default();
        let member = |name: &str| delta.get(name).and_then(Json::as_str).unwrap_or_default();
        let list = |name: &str| delta.get(name).and_then(Json::as_array).unwrap_or_default();
        let mut pieces = Vec::new();
        self.reasoning(member("reasoning_content"), list("thinking_blocks"), &mut pieces);
        let text = if delta.contains_key("content") { member("content") } else { text };
        for text in [text, member("refusal")] {
            self.text(text, &mut pieces);
        }
        for call in list("tool_calls") {
            self.call(call, &mut pieces)?;
        }
        Ok(pieces)
    }

    /// The pieces of what was not said of `answer`.
    pub(crate) fn of_rest(&mut self, answer: &Answer) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if !self.has_reasoning {
            let blocks = answer.member("thinking_blocks").and_then(Json::as_array).unwrap_or_default();
            // The blocks contain the text.
            let text =
                answer.member("reasoning_content").and_then(Json::as_str).filter(|_| blocks.is_empty());
            self.reasoning(text.unwrap_or_default(), blocks, &mut pieces);
        }
        if !self.has_text {
            self.text(&answer.text, &mut pieces);
        }
        if self.calls.is_empty() {
            for (index, call) in answer.tool_calls().iter().enumerate() {
                // The calls of a whole answer have no index.
                let mut numbered = call.as_object().cloned().unwrap_or_default();
                numbered.insert("index".to_owned(), index.into());
                // Each has an index of its own, so none returns to an earlier one.
                let _ = self.call(&numbered.into(), &mut pieces);
            }
        }
        pieces
    }

    fn reasoning(&mut self, text: &str, blocks: &[Json], pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            pieces.push(Piece::Reasoning(text.to_owned()));
        }
        pieces.extend(blocks.iter().filter_map(Json::as_object).cloned().map(Piece::Thinking));
        if !text.is_empty() || !blocks.is_empty() {
            self.has_reasoning = true;
            self.call = None;
        }
    }

    fn text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            self.has_text = true;
            self.call = None;
            pieces.push(Piece::Text(text.to_owned()));
        }
    }

    fn call(&mut self, call: &Json, pieces: &mut Vec<Piece>) -> Result<(), OrchestratorError> {
        let index = match (&call["index"], &self.call) {
            (Json::Null, current) if call["id"].is_null() => current.clone().ok_or_else(interleaved)?,
            (Json::Null, _) => self.calls.len().to_string(),
            (index, _) => index.to_text(),
        };
        let function = &call["function"];
        if self.call.as_ref() != Some(&index) {
            if !self.calls.insert(index.clone()) {
                return Err(interleaved());
            }
            self.call = Some(index);
            let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
            pieces.push(Piece::Call { id: text(&call["id"]), name: text(&function["name"]) });
        }
        let arguments = function["arguments"].as_str().filter(|arguments| !arguments.is_empty());
        pieces.extend(arguments.map(|arguments| Piece::Arguments(arguments.to_owned())));
        Ok(())
    }
}

/// The error of an answer whose calls are not written one after the other, which items in a list cannot express.
fn interleaved() -> OrchestratorError {
    let message =
        "the agent returned to a tool call after another one had begun; send the request without `stream`";
    OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
}
