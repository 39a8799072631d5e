//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: the request.

use phoenix_domain::{OrchestratorError, conversation::Conversation, json::Json};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::AdditionalProperties},
};

use super::{content, options};
use crate::wire::{members_body::AnyMembers, model_request::ModelRequest, schemas};

/// The body, with every member as it was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MessageBody(AnyMembers);

/// The body of a request for the number of tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TokenCountBody(AnyMembers);

/// A valid request.
#[derive(Debug)]
pub(crate) struct MessageRequest {
    /// Who answers, and what.
    pub(crate) request: ModelRequest,
    /// Whether the answer is streamed.
    pub(crate) stream: bool,
}

impl MessageBody {
    /// Validates the request. `configured` are the models in the settings.
    ///
    /// # Errors
    /// `validation_failed` that names the member, `not_found` for a name that no model can have.
    pub(crate) fn into_request(self, configured: &[String]) -> Result<MessageRequest, OrchestratorError> {
        let Self(mut members) = self;
        options::check_max_tokens(members.get("max_tokens"))?;
        let stream = members.take_flag("stream")?;
        let (model, conversation) = conversation(members)?;
        Ok(MessageRequest { request: ModelRequest::new(&model, conversation, configured)?, stream })
    }
}

impl TokenCountBody {
    /// Validates the request, and returns its conversation. `configured` are the models in the settings.
    ///
    /// # Errors
    /// As [`MessageBody::into_request`].
    pub(crate) fn into_conversation(self, configured: &[String]) -> Result<Conversation, OrchestratorError> {
        let (model, conversation) = conversation(self.0)?;
        ModelRequest::new(&model, conversation.clone(), configured)?;
        Ok(conversation)
    }
}

/// The name of the model and the conversation.
fn conversation(mut members: AnyMembers) -> Result<(String, Conversation), OrchestratorError> {
    let system = content::system(members.take("system"))?;
    let mut messages: Vec<Json> = system.into_iter().collect();
    match members.take_messages()? {
        Json::Array(sent) if sent.is_empty() => {
            return Err(OrchestratorError::invalid("messages", "must hold at least one message"));
        }
        Json::Array(sent) => {
            for (index, message) in sent.into_iter().enumerate() {
                content::add(index, message, &mut messages)?;
            }
        }
        _ => return Err(OrchestratorError::invalid("messages", "must be an array of messages")),
    }
    let model = members.take_model()?;
    let options = options::of(members)?;
    let conversation = Conversation::new(Json::Array(messages), model.as_str().into(), options.into())?;
    Ok((model, conversation))
}

fn schema(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some(description))
        .property("model", schemas::completion_model())
        .required("model")
        .property("messages", schemas::anthropic_messages())
        .required("messages")
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
}

impl PartialSchema for MessageBody {
    fn schema() -> RefOr<Schema> {
        schema(
            "A request of Anthropic's Messages API. `system`, `stop_sequences`, `tools`, `tool_choice`, `metadata.user_id` and \
             `output_config` reach the agent under the names of OpenAI's API, other members, such as `temperature`, `top_k` and \
             `thinking`, as they are.",
        )
        .property("max_tokens", schemas::max_tokens())
        .required("max_tokens")
        .property("stream", schemas::optional_flag("Whether the answer is sent as events."))
        .into()
    }
}

impl ToSchema for MessageBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "MessageRequest".into()
    }
}

impl PartialSchema for TokenCountBody {
    fn schema() -> RefOr<Schema> {
        schema("A request of Anthropic's Messages API whose tokens are counted.").into()
    }
}

impl ToSchema for TokenCountBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "TokenCountRequest".into()
    }
}

#[cfg(test)]
mod tests {
    use phoenix_proto::planner::PlanAndExecuteRequest;

    use super::*;

    fn chat(text: &str) -> Result<String, OrchestratorError> {
        let request = serde_json::from_str::<MessageBody>(text).unwrap().into_request(&[])?.request;
        Ok(request.into_plans(&PlanAndExecuteRequest::default()).first.chat_json)
    }

    #[test]
    fn request_is_a_conversation_with_its_instructions_first() {
        let sent = r#"{"model":"anthropic/claude","max_tokens":16,"stream":true,"top_k":2,
            "system":[{"type":"text","text":"be brief"}],"messages":[{"role":"user","content":"hi"}]}"#;
        assert_eq!(
            chat(sent).unwrap(),
            concat!(
                r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}],"#,
                r#""model":"anthropic/claude","options":{"max_tokens":16,"top_k":2}}"#
            )
        );
    }

    #[test]
    fn missing_or_wrong_member_is_named() {
        let hi = r#""messages":[{"role":"user","content":"hi"}]"#;
        for (sent, field) in [
            (format!(r#"{{"model":"phoenix",{hi}}}"#), "max_tokens"),
            (format!(r#"{{"max_tokens":1,{hi}}}"#), "model"),
            (format!(r#"{{"model":"phoenix","max_tokens":1,"stream":1,{hi}}}"#), "stream"),
            (
                format!(r#"{{"model":"phoenix","max_tokens":1,"system":[{{"type":"image"}}],{hi}}}"#),
                "system[0].type",
            ),
            (r#"{"model":"phoenix","max_tokens":1}"#.to_owned(), "messages"),
            (r#"{"model":"phoenix","max_tokens":1,"messages":[]}"#.to_owned(), "messages"),
            (r#"{"model":"phoenix","max_tokens":1,"messages":"hi"}"#.to_owned(), "messages"),
        ] {
            assert_eq!(chat(&sent).unwrap_err().details["field"], field, "{sent}");
        }
    }
}
