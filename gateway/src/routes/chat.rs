//! Chats: `POST /api/v1/chat`, and the legacy `POST /api/chat`.

mod stream;

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, chat::Chat, conversation::Conversation};
use phoenix_proto::{common::Budget, planner::PlanAndExecuteRequest};

use super::accepted::submit;
use crate::{
    clients::Gateway,
    delivery::{Delivery, IdempotencyKey, Operation},
    extract::{ConversationBody, JsonObject},
    members::Members,
    planner_client::PlannerClient,
    problem::Failure,
    request_scope::RequestScope,
    wire::{
        chat::{
            API_VERSION, ChatRequestV1, ChatResponseV1, ChatStatus, FinishedPlan, LegacyChatRequest,
            LegacyChatResponse,
        },
        plan::AcceptedV1,
        strategy::{StrategyV1, wire_strategy},
    },
};

/// Send a chat
///
/// Runs one agent (`agent`, else the agent whose words are in the message, else the default agent) and responds when it has
/// ended. With the `strategy` `model`, or `auto` where no words match, a language model proposes tasks, which then run; the output
/// is that of the last one. `messages` sends a conversation instead of one `message`. When the caller disconnects, the plan is cancelled, unless `on_disconnect` is `continue`.
///
/// With `Prefer: respond-async` the response has the path of the plan, as soon as the plan is durable. With
/// `Accept: text/event-stream` it is a stream of the plan's events, as in `GET /api/v1/plans/{plan_id}/events`. The last event
/// of the stream is `response`, whose `data` is a `ChatResponseV1`.
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
            headers(("Location" = String, description = "Path of the plan"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn chat_v1(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): ConversationBody<ChatRequestV1>,
) -> Result<Response, Failure> {
    let operation = Operation::new("POST /api/v1/chat");
    let key = delivery.as_ref().map(|delivery| delivery.key_of(&operation, &request));
    let key = key.unwrap_or_default();
    let ChatParts { chat, budget, strategy } = into_chat(request, &scope)?;
    let delivery = delivery?;
    let (streams, respond_async) = (delivery.stream, delivery.respond_async);
    let strategy = wire_strategy(strategy);
    let request = PlanAndExecuteRequest { budget, strategy, ..into_request(chat, delivery, key) };
    if streams {
        return stream::chat(&gateway, &scope, request).await;
    }
    let planner = PlannerClient::new(&gateway, &scope);
    if respond_async {
        return submit(&planner, &scope, request).await;
    }
    let (plan_id, response) = planner.run(request).await?;
    let finished = FinishedPlan::of(plan_id, response);
    Ok(Json(ChatResponseV1::success(scope.response_id(), finished)).into_response())
}

/// Send a chat, legacy form
///
/// Like `POST /api/v1/chat`, with the answer in two fields. The correlation id is in the header `X-Correlation-Id` only.
#[utoipa::path(
    post, path = "/api/chat", tag = "chat", request_body = LegacyChatRequest,
    responses((status = 200, body = LegacyChatResponse, description = "The agent's answer", example = json!({
        "status": "success", "output": "On branch main\nnothing to commit, working tree clean"
    })))
)]
pub(crate) async fn handle_chat(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): JsonObject<LegacyChatRequest>,
) -> Result<Json<LegacyChatResponse>, Failure> {
    let operation = Operation::new("POST /api/chat");
    let key = delivery.as_ref().map(|delivery| delivery.key_of(&operation, &request));
    let key = key.unwrap_or_default();
    let LegacyChatRequest { message, context } = request;
    let chat = Chat::new(message, context, scope.id(), None)?;
    let request =
        PlanAndExecuteRequest { strategy: wire_strategy(None), ..into_request(chat, delivery?, key) };
    let (_, response) = PlannerClient::new(&gateway, &scope).run(request).await?;
    Ok(Json(LegacyChatResponse { status: ChatStatus::Success, output: response.output }))
}

/// A chat, and what its request says about its plan.
pub(super) struct ChatParts {
    pub(super) chat: Chat,
    pub(super) budget: Option<Budget>,
    pub(super) strategy: Option<StrategyV1>,
}

/// The parts of a request for a chat. Sets the correlation id first, so that every later error carries it.
pub(super) fn into_chat(
    request: ChatRequestV1,
    scope: &RequestScope,
) -> Result<ChatParts, OrchestratorError> {
    let ChatRequestV1 {
        message,
        messages,
        context,
        model,
        options,
        budget,
        correlation_id,
        api_version,
        agent,
        strategy,
    } = request;
    scope.set_id_of_body(correlation_id.as_deref())?;
    if api_version.is_some_and(|version| version != API_VERSION) {
        return Err(OrchestratorError::invalid("api_version", format_args!("must be `{API_VERSION}`")));
    }
    let [messages, model, options] = [messages, model, options].map(Option::unwrap_or_default);
    let conversation = Conversation::new(messages, model, options)?;
    let chat = Chat::with_conversation(message, context, scope.id(), agent.as_deref(), conversation)?;
    Ok(ChatParts { chat, budget: budget.map(|Members(budget)| budget.into()), strategy })
}

/// The chat as a request to the planner.
pub(super) fn into_request(chat: Chat, delivery: Delivery, key: IdempotencyKey) -> PlanAndExecuteRequest {
    let Chat { message, context, correlation_id: _, agent, conversation } = chat;
    let agent = agent.map(String::from);
    let mut request = PlanAndExecuteRequest { agent, ..Default::default() };
    // The planner derives message and context from messages.
    if !conversation.has_messages() {
        (request.message, request.context) = (message, context);
    }
    if !conversation.is_empty() {
        request.chat_json = conversation.into_members().to_string();
    }
    delivery.apply(&mut request, key);
    request
}
