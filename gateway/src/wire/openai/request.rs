//! `POST /v1/chat/completions`: the request.
//!
//! Unknown members are accepted and reach the agent in `options`, because the members of OpenAI's request differ between
//! providers and change with every release of a client. What Phoenix would ignore silently is refused.

use phoenix_domain::{OrchestratorError, conversation::Conversation, json::Json};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema},
};

use crate::wire::{
    members_body::{AnyMembers, optional_flag},
    model_request::ModelRequest,
    schemas,
};

/// The body, with every member as it was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CompletionBody(AnyMembers);

/// A valid request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    /// Who answers, and what.
    pub(crate) request: ModelRequest,
    /// How the answer is streamed; absent for an answer in one piece.
    pub(crate) stream: Option<StreamOptions>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StreamOptions {
    /// A chunk with the usage follows the answer.
    pub(crate) include_usage: bool,
}

impl CompletionBody {
    /// Validates the request. `configured` are the models in the settings.
    ///
    /// # Errors
    /// `validation_failed` that names the member, `not_found` for a name that no model can have.
    pub(crate) fn into_request(self, configured: &[String]) -> Result<CompletionRequest, OrchestratorError> {
        let Self(mut members) = self;
        check_choices(&members.take("n"))?;
        let stream_options = members.take("stream_options");
        let stream = members.take_flag("stream")?.then(|| stream_options_of(&stream_options)).transpose()?;
        let messages = members.take_messages()?;
        let model = members.take_model()?;
        // Checked together with the other members, before it is looked up.
        let conversation = Conversation::new(messages, model.as_str().into(), members.rest().into())?;
        Ok(CompletionRequest { request: ModelRequest::new(&model, conversation, configured)?, stream })
    }
}

/// One answer per request: more of them would be left out silently.
fn check_choices(choices: &Json) -> Result<(), OrchestratorError> {
    match choices {
        Json::Null => Ok(()),
        number if number.as_f64() == Some(1.0) => Ok(()),
        _ => Err(OrchestratorError::invalid("n", "must be 1: each request has one answer")),
    }
}

fn stream_options_of(options: &Json) -> Result<StreamOptions, OrchestratorError> {
    match options {
        Json::Null => Ok(StreamOptions::default()),
        Json::Object(_) => {
            let include_usage = optional_flag("stream_options.include_usage", &options["include_usage"])?;
            Ok(StreamOptions { include_usage })
        }
        _ => Err(OrchestratorError::invalid("stream_options", "must be an object")),
    }
}

impl PartialSchema for CompletionBody {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some(
                "A request of OpenAI's chat completions. Other members, such as `temperature`, `max_completion_tokens`, `tools`, \
                 `tool_choice`, `response_format` and `stop`, reach the agent as they are.",
            ))
            .property("model", schemas::completion_model())
            .required("model")
            .property("messages", schemas::completion_messages())
            .required("messages")
            .property("stream", schemas::optional_flag("Whether the answer is sent in chunks, as server-sent events."))
            .property("n", schemas::one_choice())
            .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for CompletionBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "ChatCompletionRequest".into()
    }
}

#[cfg(test)]
mod tests {
    use phoenix_proto::planner::PlanAndExecuteRequest;

    use super::*;

    fn request(text: &str) -> Result<CompletionRequest, OrchestratorError> {
        serde_json::from_str::<CompletionBody>(text).unwrap().into_request(&[])
    }

    fn chat_of(request: CompletionRequest) -> (Option<String>, String) {
        let plan = request.request.into_plans(&PlanAndExecuteRequest::default()).first;
        (plan.agent, plan.chat_json)
    }

    fn of_model(model: &str) -> (Option<String>, String) {
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"top_p":0.10}}"#);
        chat_of(request(&body).unwrap())
    }

    #[test]
    fn model_is_routing_an_agent_or_a_model_of_a_provider() {
        let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
        let options = r#""options":{"top_p":0.10}"#;
        let plain = format!("{{{messages},{options}}}");
        assert_eq!(of_model("phoenix"), (None, plain.clone()));
        assert_eq!(of_model("git_agent"), (Some("git_agent".into()), plain));
        for model in ["openai/gpt-4o", "ollama/llama3.2:1b", "openrouter/meta-llama/llama-3:free"] {
            let named = format!(r#"{{{messages},"model":"{model}",{options}}}"#);
            assert_eq!(of_model(model), (Some("llm_router_agent".into()), named));
        }
    }

    #[test]
    fn member_that_would_be_ignored_is_refused() {
        let with = |member: &str| {
            request(&format!(
                r#"{{"model":"phoenix","messages":[{{"role":"user","content":"hi"}}],{member}}}"#
            ))
        };
        for (member, field) in [
            (r#""n":2"#, "n"),
            (r#""n":"1""#, "n"),
            (r#""stream":"yes""#, "stream"),
            (r#""stream":true,"stream_options":[]"#, "stream_options"),
            (r#""stream":true,"stream_options":{"include_usage":1}"#, "stream_options.include_usage"),
        ] {
            assert_eq!(with(member).unwrap_err().details["field"], field);
        }
        for member in [r#""n":1.0"#, r#""n":null,"stream":false"#, r#""unknown":{"x":[]}"#] {
            assert!(with(member).unwrap().stream.is_none(), "{member}");
        }
        let streamed = with(r#""stream":true,"stream_options":{"include_usage":true}"#).unwrap();
        assert_eq!(streamed.stream, Some(StreamOptions { include_usage: true }));
        let (_, chat) = chat_of(streamed);
        assert_eq!(
            chat, r#"{"messages":[{"role":"user","content":"hi"}]}"#,
            "the agent does not see how the answer is delivered"
        );
        for (body, field) in [
            (r#"{"messages":[]}"#, "model"),
            (r#"{"model":"phoenix","messages":[]}"#, "messages"),
            (r#"{"model":"phoenix"}"#, "messages"),
        ] {
            assert_eq!(request(body).unwrap_err().details["field"], field, "{body}");
        }
    }
}
