//! `POST /v1/chat/completions`.

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::planner::PlanAndExecuteRequest;

use super::{plan_header::plan_header, stream};
use crate::{
    clients::Gateway,
    delivery::{KeyHeader, Operation},
    extract::JsonObject,
    planner_client::PlannerClient,
    problem::Failure,
    request_scope::RequestScope,
    wire::openai::{
        answer::Answer,
        completion::Completion,
        request::{CompletionBody, CompletionRequest, PHOENIX, unknown_model},
    },
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// Create a chat completion
///
/// The API of OpenAI's clients. `model` is `phoenix` (the message decides on the agent), the name of an agent, or `provider/model`
/// (the language-model agent calls that model). Unknown members reach the agent as they are; `n` other than 1 is refused.
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
    JsonObject(body): JsonObject<CompletionBody>,
) -> Result<Response, Failure> {
    let key = key?.key_of(&Operation::new("POST /v1/chat/completions"), &body);
    let model = body.model().to_owned();
    let CompletionRequest { agent, conversation, stream } = body.into_request()?;
    let request = PlanAndExecuteRequest {
        agent: agent.map(String::from),
        chat_json: conversation.into_members().to_string(),
        idempotency_key: key.key,
        idempotency_digest: key.digest,
        ..Default::default()
    };
    let result = match stream {
        Some(options) => stream::completion(&gateway, &scope, request, &model, options).await,
        None => answer(&gateway, &scope, request).await,
    };
    result.map_err(|error| of_model(error, &model).into())
}

async fn answer(
    gateway: &Gateway,
    scope: &RequestScope,
    request: PlanAndExecuteRequest,
) -> Result<Response, OrchestratorError> {
    let (plan_id, response) = PlannerClient::new(gateway, scope).run(request).await?;
    let completion = Completion::from(Answer::of(plan_id, response));
    Ok((plan_header(plan_id), Json(completion)).into_response())
}

/// An unknown agent is a model that does not exist.
fn of_model(error: OrchestratorError, model: &str) -> OrchestratorError {
    let is_unknown_agent = error.code == OrchestratorErrorCode::PlanningFailed
        && error.details.get("field").is_some_and(|field| field == "agent");
    match error {
        error if !is_unknown_agent => error,
        // No agent calls models, or none is the default.
        error if model == PHOENIX || model.contains('/') => error.with_detail("field", "model"),
        _ => unknown_model(model),
    }
}
