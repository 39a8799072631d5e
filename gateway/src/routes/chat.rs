//! Chats: `POST /api/v1/chat`, and `POST /api/chat` as it was before there were versions.

mod stream;

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use phoenix_domain::{CorrelationId, OrchestratorError, PlanId, chat::Chat};
use phoenix_proto::planner::PlanAndExecuteRequest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    openapi::schemas,
    plans::{AcceptedV1, request::adopt, submit},
};
use crate::{
    calls::{Finished, Plans},
    correlation::Scope,
    delivery::{Delivery, Named, Operation},
    extract::JsonObject,
    peers::Gateway,
    problem::{ErrorBody, Failure},
};

/// The event of a stream that holds the answer, a [`ChatResponseV1`].
pub(crate) const RESPONSE: &str = "response";

/// The version of the API, and the only one.
const API_VERSION: &str = "v1";

/// A message for an agent. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequestV1 {
    /// What you want: 1 to 32 768 bytes of UTF-8, not blank.
    #[schema(schema_with = schemas::message)]
    message: String,
    /// What the agent should know beside it: at most 262 144 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    context: Option<String>,
    /// The request's name in answers, logs and traces; a new one when absent. Wins over the header `X-Correlation-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// `v1`, which is also the default.
    #[serde(skip_serializing_if = "is_this_version")]
    #[schema(schema_with = schemas::api_version)]
    api_version: Option<String>,
    /// The agent to use, instead of letting the message decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::chat_agent)]
    agent: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_this_version(version: &Option<String>) -> bool {
    version.as_deref().is_none_or(|version| version == API_VERSION)
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
    /// Why the answer is not complete: `length` when a limit cut it off, `content_filter` when the model's provider
    /// withheld the rest, or the agent's own word. Absent when the answer is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("length"))]
    pub(crate) finish_reason: Option<String>,
    /// Why there is no answer; null on success.
    #[schema(required)]
    pub(crate) error: Option<ErrorBody>,
}

impl ChatResponseV1 {
    /// The answer of a chat that went well.
    fn success(correlation_id: CorrelationId, finished: Finished) -> Self {
        let Finished { plan_id, output, finish_reason } = finished;
        Self {
            api_version: API_VERSION,
            correlation_id,
            status: ChatStatus::Success,
            plan_id: Some(plan_id),
            output: Some(output),
            finish_reason,
            error: None,
        }
    }
}

/// A chat of the legacy endpoint. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LegacyChatRequest {
    /// What you want: 1 to 32 768 bytes of UTF-8, not blank.
    #[schema(schema_with = schemas::message)]
    message: String,
    /// What the agent should know beside it: at most 262 144 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
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
/// when it has ended. The plan is cancelled when the caller goes away, unless `on_disconnect` is `continue`.
///
/// With `Prefer: respond-async` the answer tells where the plan is, as soon as it is durable. With
/// `Accept: text/event-stream` it is the plan's events, as `GET /api/v1/plans/{plan_id}/events` has them, and at last the
/// event `response`, whose `data` is a `ChatResponseV1`.
#[utoipa::path(
    post, path = "/api/v1/chat", tag = "chat", request_body = ChatRequestV1,
    responses(
        (status = 200, description = "The agent's answer", content(
            (ChatResponseV1 = "application/json", example = json!({
                "api_version": "v1",
                "correlation_id": "4f9d3c1e-7a55-4d0a-9d2b-0c7f5f0c2f11",
                "status": "success",
                "plan_id": "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f",
                "output": "On branch main\nnothing to commit, working tree clean",
                "error": null
            })),
        )),
        (
            status = 202, body = AcceptedV1, description = "The plan is durable and will run",
            headers(("Location" = String, description = "Where it is"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn chat_v1(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): JsonObject<ChatRequestV1>,
) -> Result<Response, Failure> {
    let operation = Operation::new("POST /api/v1/chat");
    let named = delivery.as_ref().map(|delivery| delivery.name(&operation, &request));
    let named = named.unwrap_or_default();
    let chat = request.into_chat(&scope)?;
    let delivery = delivery?;
    let (streams, respond_async) = (delivery.stream, delivery.respond_async);
    let wish = wish(chat, delivery, named);
    if streams {
        return stream::chat(&gateway, &scope, wish).await;
    }
    let plans = Plans::new(&gateway, &scope);
    if respond_async {
        return submit(&plans, &scope, wish).await;
    }
    let finished = plans.run(wish).await?;
    Ok(Json(ChatResponseV1::success(scope.answer_id(), finished)).into_response())
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
    delivery: Result<Delivery, Failure>,
    JsonObject(request): JsonObject<LegacyChatRequest>,
) -> Result<Json<LegacyChatResponse>, Failure> {
    let operation = Operation::new("POST /api/chat");
    let named = delivery.as_ref().map(|delivery| delivery.name(&operation, &request));
    let named = named.unwrap_or_default();
    let LegacyChatRequest { message, context } = request;
    let chat = Chat::new(message, context, scope.id(), None)?;
    let wish = wish(chat, delivery?, named);
    let Finished { output, .. } = Plans::new(&gateway, &scope).run(wish).await?;
    Ok(Json(LegacyChatResponse { status: ChatStatus::Success, output }))
}

impl ChatRequestV1 {
    /// The id first: whatever else is wrong, the answer carries it.
    fn into_chat(self, scope: &Scope) -> Result<Chat, OrchestratorError> {
        let Self { message, context, correlation_id, api_version, agent } = self;
        adopt(scope, correlation_id.as_deref())?;
        if api_version.is_some_and(|version| version != API_VERSION) {
            return Err(OrchestratorError::invalid("api_version", format_args!("must be `{API_VERSION}`")));
        }
        Chat::new(message, context, scope.id(), agent.as_deref())
    }
}

/// The chat as the planner is asked for it.
fn wish(chat: Chat, delivery: Delivery, named: Named) -> PlanAndExecuteRequest {
    let Chat { message, context, correlation_id: _, agent } = chat;
    let agent = agent.map(String::from);
    let mut wish = PlanAndExecuteRequest { message, context, agent, ..Default::default() };
    delivery.apply(&mut wish, named);
    wish
}
