//! Bodies of chats.

use phoenix_domain::{CorrelationId, PlanId, json::Json};
use phoenix_proto::planner::PlanAndExecuteResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{budget::BudgetV1, error::ErrorBody, schemas, strategy::StrategyV1, usage::UsageV1};
use crate::members::Members;

/// Name of the event with the response of a streamed chat, a [`ChatResponseV1`].
pub(crate) const RESPONSE: &str = "response";

/// The only version of the API.
pub(crate) const API_VERSION: &str = "v1";

/// A message for an agent, or a conversation that ends with one. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequestV1 {
    /// Message for the agent: 1 to 32 768 bytes of UTF-8, not blank. Either this or `messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_message)]
    pub(crate) message: Option<String>,
    /// Messages in the shape of OpenAI's chat completions, the latest one last. An agent that knows only `message` gets the last
    /// message of the user, and the others as context.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_messages)]
    pub(crate) messages: Option<Json>,
    /// Context of the message: at most 262 144 bytes. Not with `messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    pub(crate) context: Option<String>,
    /// Model, such as `anthropic/claude-sonnet-5-5`, for agents that call one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_model)]
    pub(crate) model: Option<Json>,
    /// Options for the model, members of OpenAI's request: `temperature`, `max_tokens`, `tools`, … They reach the agent as they
    /// are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) options: Option<Json>,
    /// Limits on what the chat may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BudgetV1>)]
    pub(crate) budget: Option<Members<BudgetV1>>,
    /// Correlation id in responses, logs and traces; generated when absent. Overrides the header `X-Correlation-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    pub(crate) correlation_id: Option<String>,
    /// Version of the API: `v1`, also the default.
    #[serde(skip_serializing_if = "is_this_version")]
    #[schema(schema_with = schemas::api_version)]
    pub(crate) api_version: Option<String>,
    /// Agent that answers; the message decides when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::chat_agent)]
    pub(crate) agent: Option<String>,
    /// How the tasks of the message are found; as the server is configured when absent. `model` is not for requests with `agent`,
    /// `model` or `options`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<StrategyV1>,
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_this_version(version: &Option<String>) -> bool {
    version.as_deref().is_none_or(|version| version == API_VERSION)
}

/// Outcome of a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChatStatus {
    /// `output` has the answer.
    Success,
    /// `error` has the reason.
    Error,
}

/// The response to a chat, successful or not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatResponseV1 {
    /// Always `v1`.
    pub(crate) api_version: &'static str,
    /// Correlation id of the request, as in the header `X-Correlation-Id`.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// Outcome of the chat.
    pub(crate) status: ChatStatus,
    /// Identifier of the chat's plan; null when none was created.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    pub(crate) plan_id: Option<PlanId>,
    /// Answer of the agent; null on error.
    #[schema(required)]
    pub(crate) output: Option<String>,
    /// Why the answer is not complete: `length` when a limit cut it off, `content_filter` when the model's provider
    /// withheld the rest, or a reason that the agent chose. Absent when the answer is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("length"))]
    pub(crate) finish_reason: Option<String>,
    /// What the answer used, if its agent called a language model and says so. The plan has the sum of all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UsageV1, required = false)]
    pub(crate) usage: Option<UsageV1>,
    /// Error of the chat; null on success.
    #[schema(required)]
    pub(crate) error: Option<ErrorBody>,
}

/// The result of a plan that succeeded.
#[derive(Debug)]
pub(crate) struct FinishedPlan {
    /// Identifier of the plan.
    pub(crate) plan_id: PlanId,
    /// The output as text.
    pub(crate) output: String,
    /// Why the output is not complete; `None` when it is.
    pub(crate) finish_reason: Option<String>,
    /// What it used, as far as its agent says.
    pub(crate) usage: Option<UsageV1>,
}

impl FinishedPlan {
    /// The result in a planner's response for `plan_id`.
    pub(crate) fn of(plan_id: PlanId, response: PlanAndExecuteResponse) -> Self {
        let PlanAndExecuteResponse { output, finish_reason, metadata_json, .. } = response;
        Self { plan_id, output, finish_reason, usage: UsageV1::in_metadata(&metadata_json) }
    }
}

impl ChatResponseV1 {
    /// The response of a chat that succeeded.
    pub(crate) fn success(correlation_id: CorrelationId, finished: FinishedPlan) -> Self {
        let FinishedPlan { plan_id, output, finish_reason, usage } = finished;
        Self {
            api_version: API_VERSION,
            correlation_id,
            status: ChatStatus::Success,
            plan_id: Some(plan_id),
            output: Some(output),
            finish_reason,
            usage,
            error: None,
        }
    }
}

/// A chat of the legacy endpoint. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LegacyChatRequest {
    /// Message for the agent: 1 to 32 768 bytes of UTF-8, not blank.
    #[schema(schema_with = schemas::message)]
    pub(crate) message: String,
    /// Context of the message: at most 262 144 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    pub(crate) context: Option<String>,
}

/// The response of the legacy endpoint. On error, `output` has the message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LegacyChatResponse {
    /// Outcome of the chat.
    pub(crate) status: ChatStatus,
    /// Answer of the agent, or the message of the error.
    pub(crate) output: String,
}
