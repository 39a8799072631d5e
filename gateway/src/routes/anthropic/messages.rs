//! `POST /v1/messages`.

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};

use crate::{
    budget_header::BudgetHeader,
    clients::Gateway,
    delivery::{KeyHeader, Operation},
    extract::{ConversationBody, JsonObject},
    problem::Failure,
    request_scope::RequestScope,
    routes::answer::{AnswerCall, plan_header, streamed, whole},
    wire::anthropic::{
        message::Message,
        request::{MessageBody, MessageRequest},
        writer::MessageWriter,
    },
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/v1/messages";

/// Create a message
///
/// The API of Anthropic's clients. `model` is as in chat completions. The token of the server is accepted as a bearer token and in
/// `x-api-key`. Unknown members reach the agent as they are; `mcp_servers`, `container` and tools that a provider runs are refused.
///
/// Every message is a plan, whose id is in the header `X-Phoenix-Plan-Id`. With `stream` the response is a stream of events that ends
/// with `message_stop`, or with `error`. When the caller disconnects, the plan is cancelled.
#[utoipa::path(
    post, path = "/v1/messages", tag = "anthropic", request_body = MessageBody,
    security(("bearer" = []), ("api_key" = [])),
    responses(
        (
            status = 200, body = Message, description = "The answer",
            headers(("X-Phoenix-Plan-Id" = String, description = "Plan of the message"))
        ),
    )
)]
pub(crate) async fn create_message(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    key: Result<KeyHeader, Failure>,
    budget: Result<BudgetHeader, Failure>,
    JsonObject(body): ConversationBody<MessageBody>,
) -> Result<Response, Failure> {
    let budget = budget?;
    let key = key?.key_of(&Operation::new("POST /v1/messages"), &budget.with(&body));
    let MessageRequest { request, stream } = body.into_request(&gateway.models)?;
    let model = request.name().to_owned();
    let budget = budget.into_limits();
    let call = AnswerCall { request, key, continues: false, budget, records_output: false };
    if stream {
        return Ok(streamed(&gateway, &scope, call, |plan| MessageWriter::new(plan, model)).await?);
    }
    let answer = whole(&gateway, &scope, call).await?;
    Ok((plan_header(answer.plan_id), Json(Message::from(answer))).into_response())
}
