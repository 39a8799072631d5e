//! Plans: `/api/v1/plans` and below.

mod encode;
pub(crate) mod events;
pub(crate) mod outputs;
pub(crate) mod propose;
pub(crate) mod redrive;
pub(crate) mod segment;

use axum::{
    Json,
    extract::{Extension, State},
    http::Uri,
    response::{IntoResponse, Response},
};
use phoenix_domain::{
    AgentName, CorrelationId, OrchestratorError,
    limits::{MAX_SEARCH_CHARS, check_chars},
    plan::PlanStatus,
};
use phoenix_proto::{
    planner::{self, CancelPlanRequest, ListPlansRequest, ListPlansResponse, PlanAndExecuteResponse},
    to_timestamp,
};

use self::{
    encode::{encode, encode_ended, ended_plan},
    segment::PlanSegment,
};
use super::accepted::submit;
use crate::{
    clients::Gateway,
    delivery::{Delivery, KeyHeader, Operation},
    extract::JsonObject,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::{
        plan::{AcceptedV1, CancelRequestV1, DryRunV1, PlanPageV1, PlanSummaryV1, PlanV1},
        plan_request::PlanRequestV1,
    },
};

/// Run a plan
///
/// Responds when the plan has ended; `status` has the outcome. With `Prefer: respond-async` it responds as soon as the plan is
/// durable. When a waiting caller disconnects, the plan is cancelled, unless `on_disconnect` is `continue`.
#[utoipa::path(
    post, path = "/api/v1/plans", tag = "plans", request_body = PlanRequestV1,
    responses(
        (status = 200, body = PlanV1, description = "The plan, which has ended"),
        (
            status = 202, body = AcceptedV1, description = "The plan is durable and will run",
            headers(("Location" = String, description = "Path of the plan"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn create_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): JsonObject<PlanRequestV1>,
) -> Result<Response, Failure> {
    scope.set_id_of_body(request.correlation_id())?;
    let delivery = delivery?;
    let key = delivery.key_of(&Operation::new("POST /api/v1/plans"), &request);
    let (respond_async, planner) = (delivery.respond_async, PlannerClient::new(&gateway, &scope));
    let mut request = request.into_request()?;
    delivery.apply(&mut request, key);
    if respond_async {
        return submit(&planner, &scope, request).await;
    }
    request.with_plan = true;
    let plan = match planner.run(request).await {
        Ok((_, PlanAndExecuteResponse { plan: Some(plan), .. })) => *plan,
        Ok((plan_id, _)) => planner.get(plan_id).await?,
        Err(error) => ended_plan(&planner, error).await?,
    };
    Ok(Json(encode_ended(plan)?).into_response())
}

/// Validate a plan without running it
///
/// The response has the order in which the tasks would run. Nothing runs, and nothing is stored.
#[utoipa::path(
    post, path = "/api/v1/plans:dryRun", tag = "plans", request_body = PlanRequestV1,
    responses((status = 200, body = DryRunV1, description = "Order of the tasks", example = json!({"waves": [["a", "b"], ["c"]]})))
)]
pub(crate) async fn dry_run_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    JsonObject(request): JsonObject<PlanRequestV1>,
) -> Result<Json<DryRunV1>, Failure> {
    scope.set_id_of_body(request.correlation_id())?;
    let waves = PlannerClient::new(&gateway, &scope).dry_run(request.into_request()?).await?;
    Ok(Json(DryRunV1 { waves }))
}

/// Get a plan
///
/// With its tasks, each with its attempts and its time by phase.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}", tag = "plans",
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = PlanV1, description = "Current state of the plan"))
)]
pub(crate) async fn get_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
) -> Result<Json<PlanV1>, Failure> {
    let plan = PlannerClient::new(&gateway, &scope).get(segment.plan_id()?).await?;
    Ok(Json(encode(plan)?))
}

/// List plans
///
/// Newest first, or, with `order=oldest`, oldest first. With `error`, a page examines at most 10 000 plans: it may have fewer plans
/// than its size, or none, and a `next_page_token` all the same.
#[utoipa::path(
    get, path = "/api/v1/plans", tag = "plans",
    responses((status = 200, body = PlanPageV1, description = "One page of plans"))
)]
pub(crate) async fn list_plans(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    uri: Uri,
) -> Result<Json<PlanPageV1>, Failure> {
    let ListPlansResponse { plans, next_page_token } =
        PlannerClient::new(&gateway, &scope).list(filter(&uri)?).await?;
    let plans = plans.into_iter().map(PlanSummaryV1::try_from).collect::<Result<_, _>>();
    Ok(Json(PlanPageV1 {
        plans: plans.map_err(|_| unexpected_response())?,
        next_page_token: Some(next_page_token).filter(|token| !token.is_empty()),
    }))
}

/// Value of `status` for plans that have not ended.
const UNFINISHED: &str = "unfinished";

fn filter(uri: &Uri) -> Result<ListPlansRequest, OrchestratorError> {
    let known = ["status", "agent", "correlation_id", "since", "error", "order", "page_size", "page_token"];
    let query = Query::of(uri, &known)?;
    let unfinished = query.get("status") == Some(UNFINISHED);
    let status = query.get("status").filter(|_| !unfinished).map(|name| {
        PlanStatus::from_name(name).ok_or_else(|| {
            let known =
                PlanStatus::ALL.iter().map(|state| format!("`{state}`")).collect::<Vec<_>>().join(", ");
            OrchestratorError::invalid("status", format_args!("must be one of {known}, `{UNFINISHED}`"))
        })
    });
    let oldest_first = match query.get("order") {
        None | Some("newest") => false,
        Some("oldest") => true,
        Some(_) => return Err(OrchestratorError::invalid("order", "must be `newest` or `oldest`")),
    };
    let error_text = query.get("error").unwrap_or_default().to_owned();
    check_chars("error", &error_text, MAX_SEARCH_CHARS)?;
    Ok(ListPlansRequest {
        unfinished,
        oldest_first,
        error_text,
        correlation_id: query.parse::<CorrelationId>("correlation_id")?.map(|id| id.to_string()),
        status: status.transpose()?.map_or(planner::PlanStatus::Unspecified, Into::into).into(),
        page_size: query.page_size()?,
        page_token: query.get("page_token").unwrap_or_default().to_owned(),
        agent: query.parse::<AgentName>("agent")?.map(String::from).unwrap_or_default(),
        since: query.time("since")?.map(to_timestamp),
    })
}

/// Cancel a plan
///
/// Queued tasks never start, running agents are killed. Responds when the end of the plan is durable.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:cancel", tag = "plans", request_body = Option<CancelRequestV1>,
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = PlanV1, description = "The cancelled plan"))
)]
pub(crate) async fn cancel_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
    key: KeyHeader,
    request: Option<JsonObject<CancelRequestV1>>,
) -> Result<Response, Failure> {
    let plan_id = segment.plan_id()?;
    let request = request.map(|JsonObject(request)| request).unwrap_or_default();
    let operation = Operation { route: "POST /api/v1/plans/{plan_id}:cancel", plan_id: Some(&plan_id) };
    let key = key.key_of(&operation, &request);
    let planner = PlannerClient::new(&gateway, &scope);
    planner
        .cancel(CancelPlanRequest {
            plan_id: plan_id.to_string(),
            reason: request.reason.unwrap_or_default(),
            idempotency_key: key.key,
            idempotency_digest: key.digest,
        })
        .await?;
    Ok(Json(encode_ended(planner.get(plan_id).await?)?).into_response())
}
