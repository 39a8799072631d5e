//! `POST /v1/chat/completions`.

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
    wire::openai::{
        chunk::ChunkWriter,
        completion::Completion,
        request::{CompletionBody, CompletionRequest},
    },
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// Create a chat completion
///
/// The API of OpenAI's clients. `model` is `phoenix` (the message decides on the agent), the name of an agent, `provider/model`
/// (the language-model agent calls that model), or the name of a model of a configured provider. Unknown members reach the agent as they are; `n` other than 1 is refused.
///
/// Every completion is a plan, whose id is in the header `X-Phoenix-Plan-Id`. With `stream` the response is a stream of chunks that
/// ends with `[DONE]`, or with an object with `error`. When the caller disconnects, the plan is cancelled.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai", request_body = CompletionBody,
    responses(
        (
            status = 200, body = Completion, description = "The answer",
            headers(("X-Phoenix-Plan-Id" = String, description = "Plan of the completion"))
        ),
    )
)]
pub(crate) async fn create_completion(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    key: Result<KeyHeader, Failure>,
    budget: Result<BudgetHeader, Failure>,
    JsonObject(body): ConversationBody<CompletionBody>,
) -> Result<Response, Failure> {
    let budget = budget?;
    let key = key?.key_of(&Operation::new("POST /v1/chat/completions"), &budget.with(&body));
    let CompletionRequest { request, stream } = body.into_request(&gateway.models)?;
    let model = request.name().to_owned();
    let budget = budget.into_limits();
    let call = AnswerCall { request, key, continues: false, budget, records_output: false };
    if let Some(options) = stream {
        let writer = |plan_id| ChunkWriter::new(plan_id, model, options.include_usage);
        return Ok(streamed(&gateway, &scope, call, writer).await?);
    }
    let answer = whole(&gateway, &scope, call).await?;
    Ok((plan_header(answer.plan_id), Json(Completion::from(answer))).into_response())
}
