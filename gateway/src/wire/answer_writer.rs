//! What the streams of all APIs of models have in common.

use axum::http::StatusCode;
use phoenix_domain::{CorrelationId, OrchestratorError};

use super::answer::Answer;

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Name of the event, in APIs whose events have one.
    pub(crate) name: Option<&'static str>,
    /// Data of the event.
    pub(crate) data: String,
}

/// Writes an answer as the events of one API.
pub(crate) trait AnswerWriter: Send + 'static {
    /// Whether a part of the answer was written.
    fn has_started(&self) -> bool;

    /// The events of a part of the answer: its text, or the same in the shape of OpenAI's `choices[].delta`.
    ///
    /// # Errors
    /// When the API cannot express the part after those before it.
    fn part(&mut self, text: &str, delta: Option<&str>) -> Result<Vec<Frame>, OrchestratorError>;

    /// The events of what was not written of the answer, and of its end.
    fn finish(&mut self, answer: &Answer) -> Vec<Frame>;

    /// The events of an answer that fails with `error`, whose status would be `status`.
    fn fail(&mut self, status: StatusCode, error: OrchestratorError, id: CorrelationId) -> Vec<Frame>;
}

impl Frame {
    /// An event without a name.
    pub(crate) const fn plain(data: String) -> Self {
        Self { name: None, data }
    }
}
