//! `POST /v1/responses`: the request.

use phoenix_domain::{OrchestratorError, conversation::Conversation, json::Json};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::AdditionalProperties},
};

use super::{echo::Echo, input, options};
use crate::wire::{members_body::AnyMembers, model_request::ModelRequest, schemas};

/// Members that refer to what Phoenix does not store.
const REFERENCES: [(&str, &str); 3] = [
    ("previous_response_id", "is not supported: send the whole conversation in `input`"),
    ("conversation", "is not supported: send the whole conversation in `input`"),
    ("prompt", "is not supported: send the text of the prompt in `instructions`"),
];

/// The body, with every member as it was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ResponseBody(AnyMembers);

/// A valid request.
#[derive(Debug)]
pub(crate) struct ResponseRequest {
    /// Who answers, and what.
    pub(crate) request: ModelRequest,
    /// Whether the answer is streamed.
    pub(crate) stream: bool,
    /// Whether the response outlives its caller.
    pub(crate) background: bool,
    /// What the response repeats.
    pub(crate) echo: Echo,
}

impl ResponseBody {
    /// Validates the request. `configured` are the models in the settings.
    ///
    /// # Errors
    /// `validation_failed` that names the member, `not_found` for a name that no model can have.
    pub(crate) fn into_request(self, configured: &[String]) -> Result<ResponseRequest, OrchestratorError> {
        let Self(mut members) = self;
        for (name, problem) in REFERENCES {
            if !members.take(name).is_null() {
                return Err(OrchestratorError::invalid(name, problem));
            }
        }
        let stream = members.take_flag("stream")?;
        let background = members.take_flag("background")?;
        let echo = Echo::of(&members);
        let messages = input::messages(&members.take("instructions"), members.take("input"))?;
        let model = members.take_model()?;
        let options = options::of(members)?;
        let conversation = Conversation::new(Json::Array(messages), model.as_str().into(), options.into())?;
        let request = ModelRequest::new(&model, conversation, configured)?;
        Ok(ResponseRequest { request, stream, background, echo })
    }
}

impl PartialSchema for ResponseBody {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some(
                "A request of OpenAI's Responses API. `instructions`, `max_output_tokens`, `tools`, `tool_choice`, `text` and `reasoning` \
                 reach the agent under the names of chat completions, other members, such as `temperature`, as they are.",
            ))
            .property("model", schemas::completion_model())
            .required("model")
            .property("input", schemas::response_input())
            .required("input")
            .property("stream", schemas::optional_flag("Whether the answer is sent as events."))
            .property(
                "background",
                schemas::optional_flag("Whether the response outlives its caller, and is read later."),
            )
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for ResponseBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "ResponseRequest".into()
    }
}
