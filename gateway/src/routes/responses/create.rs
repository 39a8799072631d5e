//! `POST /v1/responses`.

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
    routes::{
        answer::{AnswerCall, plan_header, streamed, submitted, whole},
        responses::recorded::recorded,
    },
    wire::responses::{
        request::{ResponseBody, ResponseRequest},
        response::{Head, Response as Body},
        writer::ResponseWriter,
    },
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/v1/responses";

/// Create a response
///
/// OpenAI's Responses API. `model` is as in chat completions. Unknown members reach the agent as they are; tools that only OpenAI runs are
/// left out, and `previous_response_id`, `conversation` and `prompt` are refused.
///
/// Every response is a plan, whose id is in the header `X-Phoenix-Plan-Id`. With `stream` the response is a stream of events that ends
/// with `response.completed`, `response.incomplete` or `response.failed`. When the caller disconnects, the plan is cancelled, unless
/// `background` is set: then the plan continues, and the response is read by its id, its stream included.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai", request_body = ResponseBody,
    responses(
        (
            status = 200, body = Body, description = "The response; in the background, before its end",
            headers(("X-Phoenix-Plan-Id" = String, description = "Plan of the response"))
        ),
    )
)]
pub(crate) async fn create_response(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    key: Result<KeyHeader, Failure>,
    budget: Result<BudgetHeader, Failure>,
    JsonObject(body): ConversationBody<ResponseBody>,
) -> Result<Response, Failure> {
    let budget = budget?;
    let key = key?.key_of(&Operation::new("POST /v1/responses"), &budget.with(&body));
    let ResponseRequest { request, stream, background, echo } = body.into_request(&gateway.models)?;
    let model = request.name().to_owned();
    let head = |plan_id| Head { plan_id, model, background: Some(background), echo };
    let (budget, records_output) = (budget.into_limits(), background && stream);
    let call = AnswerCall { request, key, continues: background, budget, records_output };
    if stream && background {
        let plan_id = submitted(&gateway, &scope, call).await?;
        return Ok(recorded(&gateway, &scope, head(plan_id), None).await?);
    }
    if stream {
        let writer = |plan_id| ResponseWriter::new(head(plan_id));
        return Ok(streamed(&gateway, &scope, call, writer).await?);
    }
    if background {
        let plan_id = submitted(&gateway, &scope, call).await?;
        return Ok((plan_header(plan_id), Json(head(plan_id).pending("queued"))).into_response());
    }
    let answer = whole(&gateway, &scope, call).await?;
    let plan_id = answer.plan_id;
    Ok((plan_header(plan_id), Json(head(plan_id).answered(&answer))).into_response())
}
