//! Chats: `POST /api/v1/chat`, and `POST /api/chat` as it was before there were versions.

use axum::{
    Json,
    extract::{Extension, State},
};
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId, chat::Chat, ids::InvalidId,
};
use phoenix_platform::client::call_error;
use phoenix_proto::planner::{PlanAndExecuteRequest, PlanAndExecuteResponse};
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use utoipa::ToSchema;

use crate::{
    correlation::Scope,
    extract::JsonObject,
    peers::Gateway,
    problem::{ErrorBody, Failure},
};

/// The version of the API, and the only one.
const API_VERSION: &str = "v1";

/// A message for an agent. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequestV1 {
    /// What you want: 1 to 32 768 bytes of UTF-8, not blank.
    #[schema(min_length = 1, max_length = 32768, examples("git status"))]
    message: String,
    /// What the agent should know beside it: at most 262 144 bytes.
    #[schema(max_length = 262_144)]
    context: Option<String>,
    /// The request's name in answers, logs and traces; a new one when absent. Wins over the header `X-Correlation-Id`.
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// `v1`, which is also the default.
    #[schema(default = "v1", examples("v1"))]
    api_version: Option<String>,
    /// The agent to use, instead of letting the message decide.
    #[schema(examples("git_agent"))]
    agent: Option<String>,
}

/// How a chat ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChatStatus {
    /// `output` holds the answer.
    Success,
    /// `error` says why there is none.
    Error,
}

/// The answer to a chat, also when it failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatResponseV1 {
    /// Always `v1`.
    pub(crate) api_version: &'static str,
    /// The request's name everywhere, as in the header `X-Correlation-Id`.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// How it ended.
    pub(crate) status: ChatStatus,
    /// The plan that was made of it; null when none was.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    pub(crate) plan_id: Option<PlanId>,
    /// The agent's answer; null on error.
    #[schema(required)]
    pub(crate) output: Option<String>,
    /// Why there is no answer; null on success.
    #[schema(required)]
    pub(crate) error: Option<ErrorBody>,
}

/// A chat of the legacy endpoint. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LegacyChatRequest {
    /// What you want: 1 to 32 768 bytes of UTF-8, not blank.
    #[schema(min_length = 1, max_length = 32768, examples("git status"))]
    message: String,
    /// What the agent should know beside it: at most 262 144 bytes.
    #[schema(max_length = 262_144)]
    context: Option<String>,
}

/// The answer of the legacy endpoint. The HTTP status tells the kind of an error, `output` its message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LegacyChatResponse {
    /// How it ended.
    pub(crate) status: ChatStatus,
    /// The agent's answer, or what went wrong.
    pub(crate) output: String,
}

/// Send a chat and wait for its answer
///
/// One agent is chosen (by `agent`, else by words in the message, else the default agent) and runs; the answer comes
/// when it has ended. The plan is cancelled when the caller goes away.
#[utoipa::path(
    post, path = "/api/v1/chat", tag = "chat", request_body = ChatRequestV1,
    responses((status = 200, body = ChatResponseV1, description = "The agent's answer", example = json!({
        "api_version": "v1",
        "correlation_id": "4f9d3c1e-7a55-4d0a-9d2b-0c7f5f0c2f11",
        "status": "success",
        "plan_id": "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f",
        "output": "On branch main\nnothing to commit, working tree clean",
        "error": null
    })))
)]
pub(crate) async fn chat_v1(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    JsonObject(request): JsonObject<ChatRequestV1>,
) -> Result<Json<ChatResponseV1>, Failure> {
    let chat = request.into_chat(&scope)?;
    let (plan_id, output) = plan_and_execute(&gateway, &scope, chat).await?;
    Ok(Json(ChatResponseV1 {
        api_version: API_VERSION,
        correlation_id: scope.id(),
        status: ChatStatus::Success,
        plan_id: Some(plan_id),
        output: Some(output),
        error: None,
    }))
}

/// Send a chat, legacy form
///
/// The same as `POST /api/v1/chat` with the answer in two fields. The correlation id travels in the header
/// `X-Correlation-Id` only.
#[utoipa::path(
    post, path = "/api/chat", tag = "chat", request_body = LegacyChatRequest,
    responses((status = 200, body = LegacyChatResponse, description = "The agent's answer", example = json!({
        "status": "success", "output": "On branch main\nnothing to commit, working tree clean"
    })))
)]
pub(crate) async fn handle_chat(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    JsonObject(request): JsonObject<LegacyChatRequest>,
) -> Result<Json<LegacyChatResponse>, Failure> {
    let LegacyChatRequest { message, context } = request;
    let chat = Chat::new(message, context, scope.id(), None)?;
    let (_, output) = plan_and_execute(&gateway, &scope, chat).await?;
    Ok(Json(LegacyChatResponse { status: ChatStatus::Success, output }))
}

impl ChatRequestV1 {
    /// The id first: whatever else is wrong, the answer carries it.
    fn into_chat(self, scope: &Scope) -> Result<Chat, OrchestratorError> {
        let Self { message, context, correlation_id, api_version, agent } = self;
        if let Some(text) = correlation_id {
            let id = text.parse::<CorrelationId>();
            scope.adopt(
                id.map_err(|problem: InvalidId| OrchestratorError::invalid("correlation_id", problem))?,
            );
        }
        if api_version.is_some_and(|version| version != API_VERSION) {
            return Err(OrchestratorError::invalid("api_version", format_args!("must be `{API_VERSION}`")));
        }
        Chat::new(message, context, scope.id(), agent.as_deref())
    }
}

/// The plan's id and the agent's answer.
///
/// The planner is told how much time there is, and answers before it is up; a planner that does not is given up.
async fn plan_and_execute(
    gateway: &Gateway,
    scope: &Scope,
    chat: Chat,
) -> Result<(PlanId, String), OrchestratorError> {
    let Chat { message, context, correlation_id: _, agent } = chat;
    let message = PlanAndExecuteRequest { message, context, agent: agent.map(String::from) };
    let mut planner = gateway.planner();
    let call = planner.plan_and_execute(scope.context().request(message)).instrument(scope.span().clone());
    let answer = match tokio::time::timeout_at(scope.deadline().into(), call).await {
        Ok(answer) => answer.map_err(|status| call_error("the planner", &status))?,
        Err(_) => {
            let message = "the request did not end within its time limit";
            return Err(OrchestratorError::new(OrchestratorErrorCode::Timeout, message));
        }
    };
    let PlanAndExecuteResponse { plan_id, output, agent: _ } = answer.into_inner();
    let plan_id = phoenix_proto::id("plan_id", &plan_id)
        .map_err(|_| OrchestratorError::internal("the planner answered in an unexpected way"))?;
    Ok((plan_id, output))
}
