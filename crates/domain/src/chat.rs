//! A chat: one message, which becomes a plan with one task.

use crate::{
    agent::AgentName,
    error::OrchestratorError,
    ids::CorrelationId,
    limits::{MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, check_text},
};

/// A valid chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// Message: 1 to [`MAX_MESSAGE_BYTES`] bytes, not blank.
    pub message: String,
    /// Context in addition to the message; may be empty.
    pub context: String,
    /// Correlation id of the request.
    pub correlation_id: CorrelationId,
    /// Agent to use instead of routing.
    pub agent: Option<AgentName>,
}

impl Chat {
    /// Validates a chat.
    ///
    /// # Errors
    /// `validation_failed` that names `message`, `context` or `agent`.
    pub fn new(
        message: String,
        context: Option<String>,
        correlation_id: CorrelationId,
        agent: Option<&str>,
    ) -> Result<Self, OrchestratorError> {
        if message.trim().is_empty() {
            return Err(OrchestratorError::invalid("message", "must not be blank"));
        }
        check_text("message", &message, MAX_MESSAGE_BYTES)?;
        let context = context.unwrap_or_default();
        check_text("context", &context, MAX_CONTEXT_BYTES)?;
        let agent =
            agent.map(str::parse).transpose().map_err(|problem: crate::agent::InvalidAgentName| {
                OrchestratorError::invalid("agent", problem)
            })?;
        Ok(Self { message, context, correlation_id, agent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(message: &str, agent: Option<&str>) -> Result<Chat, OrchestratorError> {
        Chat::new(message.into(), None, CorrelationId::generate(), agent)
    }

    #[test]
    fn invalid_field_is_named() {
        for (message, agent, field) in [
            ("", None, "message"),
            (" \n\t", None, "message"),
            (&*"ä".repeat(MAX_MESSAGE_BYTES / 2 + 1), None, "message"),
            ("hi", Some("../sh"), "agent"),
        ] {
            let error = chat(message, agent).unwrap_err();
            assert_eq!(error.details["field"], field, "{error}");
        }
        assert!(chat(&"x".repeat(MAX_MESSAGE_BYTES), Some("git_agent")).is_ok());
    }
}
