//! `GET /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`: responses from the journal.

use axum::{
    Json,
    extract::{Extension, Path, State, rejection::PathRejection},
    http::Uri,
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{CancelPlanRequest, GetTaskOutputRequest, Plan, PlanStatus};

use crate::{
    clients::Gateway,
    decode_error::shorten,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::{
        answer::Answer,
        responses::{
            echo::Echo,
            response::{Head, Response},
        },
    },
};

/// Action of the plan of a response.
const CHAT: &str = "chat";

/// Get a response
///
/// The state of a response, and its output when it has ended. The members that repeat the request have their defaults. A stream of an
/// earlier response is not available; `stream` is refused.
#[utoipa::path(
    get, path = "/v1/responses/{response_id}", tag = "openai",
    params(("response_id" = String, Path, description = "Id of the response")),
    responses((status = 200, body = Response, description = "The response"))
)]
pub(crate) async fn get_response(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Response>, Failure> {
    let plan_id = plan_of(id)?;
    let query = Query::of(&uri, &["stream", "starting_after", "include", "include_obfuscation"])?;
    if !matches!(query.get("stream"), None | Some("false")) || query.get("starting_after").is_some() {
        let problem =
            "is not supported: a response is streamed by its first request only; poll it without `stream`";
        return Err(OrchestratorError::invalid("stream", problem).into());
    }
    Ok(Json(stored(&PlannerClient::new(&gateway, &scope), plan_id).await?))
}

/// Cancel a response
///
/// Cancels the plan of the response. A response that has ended is returned as it is.
#[utoipa::path(
    post, path = "/v1/responses/{response_id}/cancel", tag = "openai",
    params(("response_id" = String, Path, description = "Id of the response")),
    responses((status = 200, body = Response, description = "The response"))
)]
pub(crate) async fn cancel_response(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Response>, Failure> {
    let plan_id = plan_of(id)?;
    let planner = PlannerClient::new(&gateway, &scope);
    // Other plans are none of this API's.
    stored(&planner, plan_id).await?;
    let request = CancelPlanRequest {
        plan_id: plan_id.to_string(),
        reason: "the response was cancelled".to_owned(),
        ..Default::default()
    };
    match planner.cancel(request).await {
        Err(error) if error.code != OrchestratorErrorCode::Conflict => Err(error.into()),
        // Ended meanwhile.
        _ => Ok(Json(stored(&planner, plan_id).await?)),
    }
}

fn plan_of(id: Result<Path<String>, PathRejection>) -> Result<PlanId, OrchestratorError> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    Head::plan_of(&id).ok_or_else(|| no_such_response(&id))
}

/// The error of a response that does not exist.
pub(crate) fn no_such_response(id: &str) -> OrchestratorError {
    let message = format!("there is no response `{}`", shorten(id));
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).with_detail("field", "response_id")
}

/// The response of a plan.
async fn stored(planner: &PlannerClient, plan_id: PlanId) -> Result<Response, OrchestratorError> {
    let plan = planner.get(plan_id).await.map_err(|error| match error.code {
        OrchestratorErrorCode::NotFound => no_such_response(&Head::id(plan_id)),
        _ => error,
    })?;
    let [task] = plan.tasks.as_slice() else { return Err(no_such_response(&Head::id(plan_id))) };
    if task.action != CHAT {
        return Err(no_such_response(&Head::id(plan_id)));
    }
    let head = Head { plan_id, model: task.agent.clone(), background: None, echo: Echo::default() };
    let error = |plan: &Plan| plan.error.clone().map_or_else(unexpected_response, OrchestratorError::from);
    Ok(match plan.status() {
        PlanStatus::Succeeded => {
            let (plan_id, task_key) = (plan.plan_id.clone(), task.key.clone());
            let output = planner.task_output(GetTaskOutputRequest { plan_id, task_key }).await?;
            head.answered(&Answer::of_output(head.plan_id, task.agent.clone(), output))
        }
        PlanStatus::Failed => head.failed("failed", &error(&plan), Vec::new()),
        PlanStatus::Cancelled => head.pending("cancelled"),
        _ if task.dispatched_at.is_none() => head.pending("queued"),
        _ => head.pending("in_progress"),
    })
}
