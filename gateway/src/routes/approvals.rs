//! Approvals: what waits, and decisions about it.

use axum::{
    Json,
    extract::{Extension, State},
    http::Uri,
};
use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_proto::planner::{DecideApprovalRequest, ListApprovalsRequest};

use super::plans::segment::PlanSegment;
use crate::{
    clients::Gateway,
    delivery::{KeyHeader, Operation},
    extract::JsonObject,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::{
        approval::{ApprovalPageV1, DecidedV1},
        approval_request::{ApproveRequestV1, RejectRequestV1},
    },
};

/// List what waits for an approval, oldest first
///
/// Tasks of all plans that wait for a decision.
#[utoipa::path(
    get, path = "/api/v1/approvals", tag = "approvals",
    responses((status = 200, body = ApprovalPageV1, description = "One page of approvals"))
)]
pub(crate) async fn list_approvals(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    uri: Uri,
) -> Result<Json<ApprovalPageV1>, Failure> {
    let query = Query::of(&uri, &["page_size", "page_token"])?;
    let request = ListApprovalsRequest {
        page_size: query.page_size()?,
        page_token: query.get("page_token").unwrap_or_default().to_owned(),
    };
    let page = PlannerClient::new(&gateway, &scope).approvals(request).await?;
    Ok(Json(ApprovalPageV1::at(Timestamp::now(), page).map_err(|_| unexpected_response())?))
}

/// Approve a task that waits
///
/// Responds when the decision is durable; the task runs then, once. The first decision counts: a repetition of it gets the same
/// response, another decision is 409, and so is one about another input or after the expiry.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:approve", tag = "approvals", request_body = ApproveRequestV1,
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = DecidedV1, description = "The approval with its decision"))
)]
pub(crate) async fn approve_task(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
    key: KeyHeader,
    JsonObject(request): JsonObject<ApproveRequestV1>,
) -> Result<Json<DecidedV1>, Failure> {
    let plan_id = segment.plan_id()?;
    let operation = Operation { route: "POST /api/v1/plans/{plan_id}:approve", plan_id: Some(&plan_id) };
    let key = key.key_of(&operation, &request);
    decide(&PlannerClient::new(&gateway, &scope), plan_id, request.into_request(plan_id, key)?).await
}

/// Reject a task that waits
///
/// The task is cancelled without having run, and with it its plan, unless the task's `on_failure` is `continue`. Responds as an
/// approval does.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:reject", tag = "approvals", request_body = RejectRequestV1,
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = DecidedV1, description = "The approval with its decision"))
)]
pub(crate) async fn reject_task(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
    key: KeyHeader,
    JsonObject(request): JsonObject<RejectRequestV1>,
) -> Result<Json<DecidedV1>, Failure> {
    let plan_id = segment.plan_id()?;
    let operation = Operation { route: "POST /api/v1/plans/{plan_id}:reject", plan_id: Some(&plan_id) };
    let key = key.key_of(&operation, &request);
    decide(&PlannerClient::new(&gateway, &scope), plan_id, request.into_request(plan_id, key)?).await
}

async fn decide(
    planner: &PlannerClient,
    plan_id: PlanId,
    request: DecideApprovalRequest,
) -> Result<Json<DecidedV1>, Failure> {
    let decided = planner.decide_approval(request).await?;
    Ok(Json(DecidedV1::of(plan_id, decided).map_err(|_| unexpected_response())?))
}
