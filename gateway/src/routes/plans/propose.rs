//! `POST /api/v1/plans:propose`: the tasks of a message, which do not run.

use axum::{
    Json,
    extract::{Extension, State},
};
use phoenix_proto::planner::PlanAndExecuteRequest;

use crate::{
    clients::Gateway,
    delivery::{Delivery, Operation},
    extract::{ConversationBody, JsonObject},
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    request_scope::RequestScope,
    routes::chat::{ChatParts, into_chat, into_request},
    wire::{chat::ChatRequestV1, proposal::ProposalV1, strategy::wire_strategy},
};

/// Propose a plan without running it
///
/// The body is that of a chat. With the strategy `rules` the proposal is the task that the chat would be. With `model` a language
/// model proposes the tasks: it gets the agents with their actions and input schemas, and its answer passes the checks of
/// `POST /api/v1/plans`. An answer with problems goes back to the model; after the last round the response is `planning_failed`,
/// with the answers in its details. The questions to the model are a plan of their own, `plan_id`. No proposed task runs: send
/// `plan` to `POST /api/v1/plans` for that.
#[utoipa::path(
    post, path = "/api/v1/plans:propose", tag = "plans", request_body = ChatRequestV1,
    responses((status = 200, body = ProposalV1, description = "The proposed plan"))
)]
pub(crate) async fn propose_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): ConversationBody<ChatRequestV1>,
) -> Result<Json<ProposalV1>, Failure> {
    let operation = Operation::new("POST /api/v1/plans:propose");
    let key = delivery.as_ref().map(|delivery| delivery.key_of(&operation, &request));
    let key = key.unwrap_or_default();
    let ChatParts { chat, budget, strategy } = into_chat(request, &scope)?;
    let context = if chat.conversation.has_messages() { String::new() } else { chat.context.clone() };
    let request = into_request(chat, delivery?, key);
    let request = PlanAndExecuteRequest { budget, strategy: wire_strategy(strategy), ..request };
    let proposal = PlannerClient::new(&gateway, &scope).propose(request).await?;
    Ok(Json(ProposalV1::of(context, proposal).map_err(|_| unexpected_response())?))
}
