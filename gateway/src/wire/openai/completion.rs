//! `POST /v1/chat/completions`: an answer in one piece.

use phoenix_domain::json::{Json, Object};
use serde::Serialize;
use utoipa::ToSchema;

use super::chunk::completion_id;
use crate::wire::answer::{Answer, Usage, created};

/// A completion, as OpenAI's clients decode it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletion)]
pub(crate) struct Completion {
    /// `chatcmpl-` and the plan.
    id: String,
    /// Always `chat.completion`.
    object: &'static str,
    /// When the plan was accepted, in seconds since 1970.
    created: u64,
    /// `provider/model`, or the agent that answered.
    model: String,
    /// One choice.
    choices: [Choice; 1],
    /// Tokens; absent when the agent does not report them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    usage: Option<Usage>,
}

/// The answer of a completion.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChoice)]
pub(crate) struct Choice {
    /// Always 0.
    index: u32,
    /// The assistant's message: `content`, `tool_calls`, `refusal`, `reasoning_content`.
    #[schema(value_type = Object)]
    message: Object,
    /// Always null.
    #[schema(value_type = Option<Object>, required)]
    logprobs: (),
    /// `stop`, `length`, `content_filter` or `tool_calls`.
    #[schema(value_type = String)]
    finish_reason: &'static str,
    /// The agent's own word for any other reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    native_finish_reason: Option<String>,
}

impl From<Answer> for Completion {
    fn from(answer: Answer) -> Self {
        let id = completion_id(answer.plan_id);
        let Answer { plan_id, model, text, members, finish, usage } = answer;
        let content =
            if text.is_empty() && members.contains_key("tool_calls") { Json::Null } else { text.into() };
        let mut message = Object::from_iter([
            ("role".to_owned(), "assistant".into()),
            ("content".to_owned(), content),
            ("refusal".to_owned(), Json::Null),
        ]);
        message.extend(members);
        let choice = Choice {
            index: 0,
            message,
            logprobs: (),
            finish_reason: finish.reason,
            native_finish_reason: finish.native,
        };
        Self { id, object: "chat.completion", created: created(plan_id), model, choices: [choice], usage }
    }
}
