//! `GET /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`: responses from the journal.

use axum::{
    Json,
    extract::{Extension, Path, State, rejection::PathRejection},
    http::Uri,
    response::{IntoResponse, Response as HttpResponse},
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{CancelPlanRequest, Plan, PlanStatus};

use super::{
    ending::{Ending, ending, no_such_response},
    recorded::recorded,
};
use crate::{
    clients::Gateway,
    planner_client::PlannerClient,
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::responses::{
        echo::Echo,
        response::{Head, Response},
    },
};

/// Parameter with the number after which a stream continues.
const STARTING_AFTER: &str = "starting_after";

/// Action of the plan of a response.
const CHAT: &str = "chat";

/// Get a response
///
/// The state of a response, and its output when it has ended. The members that repeat the request have their defaults. With `stream`, the
/// events of a response that was created with `background` and `stream`, from the first one or after the number `starting_after`:
/// the same ones, with the same numbers, for every reader.
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
) -> Result<HttpResponse, Failure> {
    let (plan_id, stream) = (plan_of(id)?, streamed_part(&uri)?);
    let planner = PlannerClient::new(&gateway, &scope);
    let plan = plan(&planner, plan_id).await?;
    let head = head(plan_id, &plan)?;
    let Some(after) = stream else {
        return Ok(Json(state(&planner, &head, &plan).await?).into_response());
    };
    if !plan.records_output {
        let problem = "is not available: the response was not created with `background` and `stream`; read it without `stream`";
        return Err(OrchestratorError::invalid("stream", problem).into());
    }
    Ok(recorded(&gateway, &scope, head, after).await?)
}

/// Whether events are read, and the number after which.
fn streamed_part(uri: &Uri) -> Result<Option<Option<u64>>, OrchestratorError> {
    let query = Query::of(uri, &["stream", STARTING_AFTER, "include", "include_obfuscation"])?;
    let is_streamed = match query.get("stream") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(OrchestratorError::invalid("stream", "must be `true` or `false`")),
    };
    let after = query.get(STARTING_AFTER).map(|text| {
        let number = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let problem = "must be the `sequence_number` of an event: a whole number";
        number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| OrchestratorError::invalid(STARTING_AFTER, problem))
    });
    match (is_streamed, after.transpose()?) {
        (false, Some(_)) => Err(OrchestratorError::invalid(STARTING_AFTER, "needs `stream=true`")),
        (false, None) => Ok(None),
        (true, after) => Ok(Some(after)),
    }
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

/// The plan of a response.
async fn plan(planner: &PlannerClient, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
    planner.get(plan_id).await.map_err(|error| match error.code {
        OrchestratorErrorCode::NotFound => no_such_response(&Head::id(plan_id)),
        _ => error,
    })
}

/// What the states of a response have in common, if the plan is one of a chat.
fn head(plan_id: PlanId, plan: &Plan) -> Result<Head, OrchestratorError> {
    match plan.tasks.as_slice() {
        [task] if task.action == CHAT => {
            let background = plan.records_output.then_some(true);
            Ok(Head { plan_id, model: task.agent.clone(), background, echo: Echo::default() })
        }
        _ => Err(no_such_response(&Head::id(plan_id))),
    }
}

/// The response in its present state.
async fn state(planner: &PlannerClient, head: &Head, plan: &Plan) -> Result<Response, OrchestratorError> {
    Ok(match ending(planner, head.plan_id, plan).await? {
        Some(Ending::Answer(answer)) => head.answered(&answer),
        Some(Ending::Failure(_)) if plan.status() == PlanStatus::Cancelled => head.pending("cancelled"),
        Some(Ending::Failure(error)) => head.failed("failed", &error, Vec::new()),
        None if plan.tasks.iter().all(|task| task.dispatched_at.is_none()) => head.pending("queued"),
        None => head.pending("in_progress"),
    })
}

/// The response of a plan.
async fn stored(planner: &PlannerClient, plan_id: PlanId) -> Result<Response, OrchestratorError> {
    let plan = plan(planner, plan_id).await?;
    state(planner, &head(plan_id, &plan)?, &plan).await
}
