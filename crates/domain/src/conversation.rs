//! Conversations: the messages before and with a chat's message, and what its model is asked for.
//!
//! Messages and options have the shape of OpenAI's chat completions. They are checked as far as Phoenix itself reads them, and
//! reach the agent as they were given. An agent that knows only `message` gets the last message of the user, and the other
//! messages as text in its context.

mod arguments;
mod message;
mod text;

pub use self::{
    arguments::{NO_OBJECT, arguments_object},
    message::ROLES,
};
use crate::{
    error::OrchestratorError,
    json::{Json, Object},
    limits::{
        MAX_CONVERSATION_BYTES, MAX_CONVERSATION_FILE_BYTES, MAX_CONVERSATION_MESSAGES, MAX_MODEL_BYTES,
        check_bytes, check_depth, check_text,
    },
};

/// Members of a chat's input that hold a conversation, beside `message`.
pub const MEMBERS: [&str; 3] = ["messages", "model", "options"];

/// A valid conversation. The default one is empty: a chat with nothing but its message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    /// Messages in their order; empty for a chat with a single message.
    messages: Vec<Json>,
    /// Model, such as `anthropic/claude-sonnet-5-5`.
    model: Option<String>,
    /// Members of OpenAI's request for the model: `temperature`, `tools`, `response_format`, …
    options: Object,
}

impl Conversation {
    /// Validates a conversation. Null counts as absent.
    ///
    /// # Errors
    /// `validation_failed` that names the field: `messages[2].role`, `model`, `options` …
    pub fn new(messages: Json, model: Json, options: Json) -> Result<Self, OrchestratorError> {
        let messages = match messages {
            Json::Null => Vec::new(),
            Json::Array(messages) if messages.is_empty() => {
                return Err(OrchestratorError::invalid("messages", "must hold at least one message"));
            }
            Json::Array(messages) => messages,
            _ => return Err(OrchestratorError::invalid("messages", "must be an array of messages")),
        };
        let options = match options {
            Json::Null => Object::new(),
            Json::Object(options) => options,
            _ => return Err(OrchestratorError::invalid("options", "must be an object")),
        };
        let conversation = Self { messages, model: checked_model(model)?, options };
        conversation.check()?;
        Ok(conversation)
    }

    /// Takes the conversation out of the members of an object: a request, or the input of a chat.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn take_from(object: &mut Object) -> Result<Self, OrchestratorError> {
        let [messages, model, options] = MEMBERS.map(|name| object.shift_remove(name).unwrap_or_default());
        Self::new(messages, model, options)
    }

    fn check(&self) -> Result<(), OrchestratorError> {
        let found = self.messages.len();
        if found > MAX_CONVERSATION_MESSAGES {
            let problem = format!("holds {found} messages; at most {MAX_CONVERSATION_MESSAGES} are allowed");
            return Err(OrchestratorError::invalid("messages", problem));
        }
        // A level each for the input of the task and for the array.
        for (index, message) in self.messages.iter().enumerate() {
            check_depth(&format!("messages[{index}]"), 2 + message.depth())?;
            message::check(index, message)?;
        }
        check_depth("options", 1 + self.options.depth())?;
        let messages: usize = self.messages.iter().map(|message| 1 + message.text_len()).sum();
        let files: usize = self.messages.iter().map(message::file_bytes).sum();
        check_bytes("messages", messages.saturating_sub(files), MAX_CONVERSATION_BYTES)?;
        if files > MAX_CONVERSATION_FILE_BYTES {
            let problem = format!(
                "has {files} bytes of files and images; at most {MAX_CONVERSATION_FILE_BYTES} are allowed"
            );
            return Err(OrchestratorError::invalid("messages", problem));
        }
        check_bytes("options", self.options.text_len(), MAX_CONVERSATION_BYTES)?;
        let (index, subject) = match self.subject() {
            None => return Ok(()),
            Some(subject) => subject,
        };
        if text::of(subject).trim().is_empty() {
            return Err(OrchestratorError::invalid(
                &format!("messages[{index}].content"),
                "must not be blank",
            ));
        }
        Ok(())
    }

    /// Whether the chat has nothing but its message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.model.is_none() && self.options.is_empty()
    }

    /// Whether the messages are given, and so the message of the chat with them.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Whether a model or options are asked for.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.model.is_some() || !self.options.is_empty()
    }

    /// The messages in their order; empty for a chat with a single message.
    #[must_use]
    pub fn messages(&self) -> &[Json] {
        &self.messages
    }

    /// The conversation for an agent that chooses the model itself.
    #[must_use]
    pub fn without_model(self) -> Self {
        Self { model: None, ..self }
    }

    /// The conversation with `model`.
    #[must_use]
    pub fn with_model(self, model: impl Into<String>) -> Self {
        Self { model: Some(model.into()), ..self }
    }

    /// The message for agents that know only one: the text of the last message of the user, else of the last message.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        self.subject().map(|(_, message)| text::of(message))
    }

    /// The other messages as text, the latest ones if not all of them fit into a context. Empty for a single message.
    #[must_use]
    pub fn context(&self) -> String {
        let subject = self.subject().map(|(index, _)| index);
        let others = self.messages.iter().enumerate().filter(|(index, _)| Some(*index) != subject);
        text::transcript(others.map(|(_, message)| message))
    }

    /// The members of an object that [`Self::take_from`] reads.
    #[must_use]
    pub fn into_members(self) -> Object {
        let Self { messages, model, options } = self;
        let messages = (!messages.is_empty()).then_some(Json::Array(messages));
        let options = (!options.is_empty()).then_some(Json::Object(options));
        let members = [messages, model.map(Json::String), options];
        MEMBERS.iter().zip(members).filter_map(|(name, member)| Some(((*name).to_owned(), member?))).collect()
    }

    /// The message that the agent answers, with its index.
    fn subject(&self) -> Option<(usize, &Json)> {
        let mut latest = self.messages.iter().enumerate().rev();
        latest
            .find(|(_, message)| message["role"] == "user")
            .or_else(|| self.messages.iter().enumerate().next_back())
    }
}

fn checked_model(model: Json) -> Result<Option<String>, OrchestratorError> {
    let model = match model {
        Json::Null => return Ok(None),
        Json::String(model) => model,
        _ => return Err(OrchestratorError::invalid("model", "must be a string")),
    };
    if model.trim().is_empty() {
        return Err(OrchestratorError::invalid("model", "must not be blank"));
    }
    check_text("model", &model, MAX_MODEL_BYTES)?;
    Ok(Some(model))
}

#[cfg(test)]
mod tests;
