//! `202 Accepted`: the response for a plan that runs without its caller.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use phoenix_domain::{PlanId, plan::PlanStatus};
use phoenix_proto::planner::PlanAndExecuteRequest;

use crate::{
    delivery::RESPOND_ASYNC, header_names::PREFERENCE_APPLIED, planner_client::PlannerClient,
    problem::Failure, request_scope::RequestScope, wire::plan::AcceptedV1,
};

/// Submits a plan, and responds with its path.
pub(super) async fn submit(
    planner: &PlannerClient,
    scope: &RequestScope,
    request: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    Ok(accepted(scope, planner.submit(request).await?))
}

/// The response with the path of a plan that was accepted.
pub(super) fn accepted(scope: &RequestScope, plan_id: PlanId) -> Response {
    let headers = [
        (header::LOCATION, format!("/api/v1/plans/{plan_id}")),
        (PREFERENCE_APPLIED, RESPOND_ASYNC.to_owned()),
    ];
    let body = AcceptedV1 { plan_id, correlation_id: scope.response_id(), status: PlanStatus::Pending };
    (StatusCode::ACCEPTED, headers, Json(body)).into_response()
}
