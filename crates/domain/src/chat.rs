//! A chat: one message or a conversation, which becomes a plan with one task.

use crate::{
    agent::AgentName,
    conversation::Conversation,
    error::OrchestratorError,
    ids::CorrelationId,
    limits::{MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, check_text},
};

/// A valid chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// Message, not blank: 1 to [`MAX_MESSAGE_BYTES`] bytes, or the text of the conversation's message.
    pub message: String,
    /// Context in addition to the message; may be empty.
    pub context: String,
    /// Correlation id of the request.
    pub correlation_id: CorrelationId,
    /// Agent to use instead of routing.
    pub agent: Option<AgentName>,
    /// Conversation; empty for a chat with nothing but its message.
    pub conversation: Conversation,
}

impl Chat {
    /// Validates a chat without a conversation.
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
        let agent = agent_of(agent)?;
        Ok(Self { message, context, correlation_id, agent, conversation: Conversation::default() })
    }

    /// Validates a chat with a conversation. Its messages exclude `message` and `context`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_conversation(
        message: Option<String>,
        context: Option<String>,
        correlation_id: CorrelationId,
        agent: Option<&str>,
        conversation: Conversation,
    ) -> Result<Self, OrchestratorError> {
        let Some(own) = conversation.message() else {
            let message = message
                .ok_or_else(|| OrchestratorError::invalid("message", "is missing; send it or `messages`"))?;
            return Ok(Self { conversation, ..Self::new(message, context, correlation_id, agent)? });
        };
        let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if message.is_some() {
            return Err(OrchestratorError::invalid("message", "and `messages` exclude each other"));
        }
        if is_given(&context) {
            let problem =
                "and `messages` exclude each other; send the context as a message of the role `system`";
            return Err(OrchestratorError::invalid("context", problem));
        }
        let (context, agent) = (conversation.context(), agent_of(agent)?);
        Ok(Self { message: own, context, correlation_id, agent, conversation })
    }
}

fn agent_of(name: Option<&str>) -> Result<Option<AgentName>, OrchestratorError> {
    name.map(str::parse)
        .transpose()
        .map_err(|problem: crate::agent::InvalidAgentName| OrchestratorError::invalid("agent", problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

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

    #[test]
    fn messages_exclude_message_and_context() {
        let long = "x".repeat(MAX_MESSAGE_BYTES + 1);
        let messages =
            serde_json::json!([{"role": "user", "content": "a"}, {"role": "user", "content": long}]);
        let conversation = Conversation::new(messages.into(), Json::Null, Json::Null).unwrap();
        let chat = |message: Option<&str>, context: Option<&str>, conversation: &Conversation| {
            let [message, context] = [message, context].map(|text| text.map(str::to_owned));
            Chat::with_conversation(message, context, CorrelationId::generate(), None, conversation.clone())
        };
        let whole = chat(None, Some(""), &conversation).unwrap();
        assert_eq!((whole.message, whole.context.as_str()), (long, "user: a"));
        for (message, context, conversation, field) in [
            (Some("b"), None, &conversation, "message"),
            (Some(""), None, &conversation, "message"),
            (None, Some("b"), &conversation, "context"),
            (None, Some("b"), &Conversation::default(), "message"),
        ] {
            assert_eq!(chat(message, context, conversation).unwrap_err().details["field"], field);
        }
    }
}
