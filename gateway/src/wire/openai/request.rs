//! `POST /v1/chat/completions`: the request.
//!
//! Unknown members are accepted and reach the agent in `options`, because the members of OpenAI's request differ between
//! providers and change with every release of a client. What Phoenix would ignore silently is refused.

use std::fmt;

use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode,
    builtin::llm_router,
    conversation::Conversation,
    json::{Json, Object},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema},
};

use crate::wire::schemas;

/// Name of the model that leaves the choice of the agent to routing.
pub(crate) const PHOENIX: &str = "phoenix";

/// The body, with every member as it was sent.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct CompletionBody(Object);

/// A valid request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    /// Agent that answers; routing chooses one when absent.
    pub(crate) agent: Option<AgentName>,
    /// Messages, model and options.
    pub(crate) conversation: Conversation,
    /// How the answer is streamed; absent for an answer in one piece.
    pub(crate) stream: Option<StreamOptions>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StreamOptions {
    /// A chunk with the usage follows the answer.
    pub(crate) include_usage: bool,
}

impl<'de> Deserialize<'de> for CompletionBody {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = CompletionBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CompletionBody, A::Error> {
                let mut members = Object::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    members.insert(name, value);
                }
                Ok(CompletionBody(members))
            }
        }

        from.deserialize_map(Members)
    }
}

impl CompletionBody {
    /// The model as it is named in the request; empty without one.
    pub(crate) fn model(&self) -> &str {
        self.0.get("model").and_then(Json::as_str).unwrap_or_default()
    }

    /// Validates the request.
    ///
    /// # Errors
    /// `validation_failed` that names the member, `not_found` for a name that no model can have.
    pub(crate) fn into_request(self) -> Result<CompletionRequest, OrchestratorError> {
        let Self(mut members) = self;
        let mut take = |name: &str| members.shift_remove(name).unwrap_or_default();
        let messages = take("messages");
        let model = take("model");
        let (stream, stream_options, choices) = (take("stream"), take("stream_options"), take("n"));
        check_choices(&choices)?;
        let stream = optional_flag("stream", &stream)?.then(|| stream_options_of(&stream_options));
        let stream = stream.transpose()?;
        if messages.is_null() {
            return Err(OrchestratorError::invalid("messages", "is missing"));
        }
        let model = match model {
            Json::String(model) => model,
            Json::Null => return Err(OrchestratorError::invalid("model", "is missing")),
            _ => return Err(OrchestratorError::invalid("model", "must be a string")),
        };
        // Checked together with the other members, before it is looked up.
        let conversation = Conversation::new(messages, model.as_str().into(), Json::Object(members))?;
        let (agent, conversation) = match Target::of(&model)? {
            Target::Routed => (None, conversation.without_model()),
            Target::Agent(agent) => (Some(agent), conversation.without_model()),
            Target::Model => (Some(llm_router()), conversation),
        };
        Ok(CompletionRequest { agent, conversation, stream })
    }
}

/// What a model's name stands for.
enum Target {
    /// The agent that routing chooses.
    Routed,
    /// An agent.
    Agent(AgentName),
    /// A model of a provider, called by the language-model agent.
    Model,
}

impl Target {
    fn of(model: &str) -> Result<Self, OrchestratorError> {
        if model == PHOENIX {
            return Ok(Self::Routed);
        }
        match model.split_once('/') {
            Some((provider, name)) if !provider.is_empty() && !name.is_empty() => Ok(Self::Model),
            _ => model.parse().map(Self::Agent).map_err(|_| unknown_model(model)),
        }
    }
}

/// The error of a model that does not exist.
pub(crate) fn unknown_model(model: &str) -> OrchestratorError {
    let message = format!(
        "the model `{model}` does not exist; send `{PHOENIX}`, the name of an agent, or `provider/model`; GET /v1/models lists them"
    );
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).with_detail("field", "model")
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

fn optional_flag(field: &str, value: &Json) -> Result<bool, OrchestratorError> {
    match value {
        Json::Null => Ok(false),
        value => value.as_bool().ok_or_else(|| OrchestratorError::invalid(field, "must be a boolean")),
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
    use super::*;

    fn request(text: &str) -> Result<CompletionRequest, OrchestratorError> {
        serde_json::from_str::<CompletionBody>(text).unwrap().into_request()
    }

    fn of_model(model: &str) -> Result<(Option<String>, String), OrchestratorError> {
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"top_p":0.10}}"#);
        let CompletionRequest { agent, conversation, .. } = request(&body)?;
        Ok((agent.map(String::from), conversation.into_members().to_string()))
    }

    #[test]
    fn model_is_routing_an_agent_or_a_model_of_a_provider() {
        let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
        let options = r#""options":{"top_p":0.10}"#;
        let plain = format!("{{{messages},{options}}}");
        assert_eq!(of_model("phoenix"), Ok((None, plain.clone())));
        assert_eq!(of_model("git_agent"), Ok((Some("git_agent".into()), plain)));
        for model in ["openai/gpt-4o", "ollama/llama3.2:1b", "openrouter/meta-llama/llama-3:free"] {
            let named = format!(r#"{{{messages},"model":"{model}",{options}}}"#);
            assert_eq!(of_model(model), Ok((Some("llm_router_agent".into()), named)));
        }
        for unknown in ["llama3:8b", "/x", "openai/", "a b"] {
            let error = of_model(unknown).unwrap_err();
            assert_eq!(
                (error.code, &*error.details["field"]),
                (OrchestratorErrorCode::NotFound, "model"),
                "{unknown}"
            );
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
        assert_eq!(
            streamed.conversation.into_members().len(),
            1,
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
