//! Plans: `/api/v1/plans` and below.

pub(crate) mod events;
pub(crate) mod redrive;
pub(crate) mod request;
mod timeline;
pub(crate) mod view;
pub(crate) mod whole;

use axum::{
    Json,
    extract::{Extension, FromRequestParts, Path, State},
    http::{StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use phoenix_domain::{AgentName, CorrelationId, OrchestratorError, PlanId, ids::InvalidId, plan::PlanStatus};
use phoenix_proto::{
    planner::{self, CancelPlanRequest, ListPlansRequest, ListPlansResponse, PlanAndExecuteRequest},
    to_timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    calls::{Plans, unexpected},
    correlation::Scope,
    delivery::{Delivery, Key, Operation, PREFERENCE_APPLIED, RESPOND_ASYNC},
    extract::JsonObject,
    peers::Gateway,
    plan_stream::has_ended,
    problem::Failure,
    query::Query,
};
use request::PlanRequestV1;
use view::{PlanSummaryV1, PlanV1};

/// Where a plan is found that was accepted just now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedV1 {
    /// The plan; `GET /api/v1/plans/{plan_id}` tells how it goes.
    #[schema(value_type = String, format = Uuid)]
    plan_id: PlanId,
    /// The request's name everywhere.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// Always `pending`: it is durable, and will run.
    #[schema(schema_with = view::plan_states)]
    #[serde(serialize_with = "view::as_text")]
    status: PlanStatus,
}

/// In which order tasks would run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DryRunV1 {
    /// Keys of tasks. Those of one wave run at the same time, after the waves before.
    waves: Vec<Vec<String>>,
}

/// One page of plans.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanPageV1 {
    /// Newest first, without their tasks.
    plans: Vec<PlanSummaryV1>,
    /// `page_token` of the next page; null on the last.
    #[schema(required)]
    next_page_token: Option<String>,
}

/// Why a plan is cancelled. Unknown fields are refused.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelRequestV1 {
    /// One sentence for those who read the plan later: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// Run a plan
///
/// Answers when the plan has ended, whichever way: `status` tells. With `Prefer: respond-async` it answers as soon as the
/// plan is durable. The plan is cancelled when a caller that waits goes away, unless `on_disconnect` is `continue`.
#[utoipa::path(
    post, path = "/api/v1/plans", tag = "plans", request_body = PlanRequestV1,
    responses(
        (status = 200, body = PlanV1, description = "The plan, which has ended"),
        (
            status = 202, body = AcceptedV1, description = "The plan is durable and will run",
            headers(("Location" = String, description = "Where it is"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn create_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    delivery: Result<Delivery, Failure>,
    JsonObject(request): JsonObject<PlanRequestV1>,
) -> Result<Response, Failure> {
    request.adopt_id(&scope)?;
    let delivery = delivery?;
    let named = delivery.name(&Operation::new("POST /api/v1/plans"), &request);
    let (respond_async, plans) = (delivery.respond_async, Plans::new(&gateway, &scope));
    let mut wish = request.into_wish()?;
    delivery.apply(&mut wish, named);
    if respond_async {
        return submit(&plans, &scope, wish).await;
    }
    let plan = match plans.run(wish).await {
        Ok(finished) => plans.get(finished.plan_id).await?,
        Err(error) => ended_plan(&plans, error).await?,
    };
    Ok(Json(encode_end(plan)?).into_response())
}

/// The plan that `error` is about, if it has ended: how is then in the plan itself.
async fn ended_plan(plans: &Plans, error: OrchestratorError) -> Result<planner::Plan, OrchestratorError> {
    let Some(plan_id) = error.details.get("plan_id").and_then(|id| id.parse().ok()) else {
        return Err(error);
    };
    match plans.get(plan_id).await {
        Ok(plan) if has_ended(&plan) => Ok(plan),
        _ => Err(error),
    }
}

/// Has a plan accepted, and tells where it is.
pub(crate) async fn submit(
    plans: &Plans,
    scope: &Scope,
    wish: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    Ok(accepted(scope, plans.submit(wish).await?))
}

/// Tells where a plan is that was accepted.
fn accepted(scope: &Scope, plan_id: PlanId) -> Response {
    let headers = [
        (header::LOCATION, format!("/api/v1/plans/{plan_id}")),
        (PREFERENCE_APPLIED, RESPOND_ASYNC.to_owned()),
    ];
    let body = AcceptedV1 { plan_id, correlation_id: scope.answer_id(), status: PlanStatus::Pending };
    (StatusCode::ACCEPTED, headers, Json(body)).into_response()
}

/// See in which order tasks would run
///
/// The plan is checked as if it were to run; nothing runs, and nothing is kept.
#[utoipa::path(
    post, path = "/api/v1/plans:dryRun", tag = "plans", request_body = PlanRequestV1,
    responses((status = 200, body = DryRunV1, description = "The order", example = json!({"waves": [["a", "b"], ["c"]]})))
)]
pub(crate) async fn dry_run_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    JsonObject(request): JsonObject<PlanRequestV1>,
) -> Result<Json<DryRunV1>, Failure> {
    request.adopt_id(&scope)?;
    let waves = Plans::new(&gateway, &scope).dry_run(request.into_wish()?).await?;
    Ok(Json(DryRunV1 { waves }))
}

/// One plan
///
/// With its tasks, each with its attempts and where its time went.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}", tag = "plans",
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = PlanV1, description = "The plan as it is now"))
)]
pub(crate) async fn get_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    segment: Segment,
) -> Result<Json<PlanV1>, Failure> {
    let plan = Plans::new(&gateway, &scope).get(segment.plan_id()?).await?;
    Ok(Json(encode(plan)?))
}

/// Plans, newest first
#[utoipa::path(
    get, path = "/api/v1/plans", tag = "plans",
    responses((status = 200, body = PlanPageV1, description = "One page of plans"))
)]
pub(crate) async fn list_plans(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    uri: Uri,
) -> Result<Json<PlanPageV1>, Failure> {
    let ListPlansResponse { plans, next_page_token } =
        Plans::new(&gateway, &scope).list(filter(&uri)?).await?;
    let plans = plans.into_iter().map(PlanSummaryV1::try_from).collect::<Result<_, _>>();
    Ok(Json(PlanPageV1 {
        plans: plans.map_err(|_| unexpected())?,
        next_page_token: Some(next_page_token).filter(|token| !token.is_empty()),
    }))
}

fn filter(uri: &Uri) -> Result<ListPlansRequest, OrchestratorError> {
    let known = ["status", "agent", "correlation_id", "since", "page_size", "page_token"];
    let query = Query::of(uri, &known)?;
    let status = query.get("status").map(|name| {
        PlanStatus::from_name(name).ok_or_else(|| {
            let known =
                PlanStatus::ALL.iter().map(|state| format!("`{state}`")).collect::<Vec<_>>().join(", ");
            OrchestratorError::invalid("status", format_args!("must be one of {known}"))
        })
    });
    Ok(ListPlansRequest {
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
/// Tasks that wait never start, agents that run are killed. Answers when the plan's end is durable.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:cancel", tag = "plans", request_body = Option<CancelRequestV1>,
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = PlanV1, description = "The plan, which is cancelled"))
)]
pub(crate) async fn cancel_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    segment: Segment,
    key: Key,
    request: Option<JsonObject<CancelRequestV1>>,
) -> Result<Response, Failure> {
    let plan_id = segment.plan_id()?;
    let request = request.map(|JsonObject(request)| request).unwrap_or_default();
    let operation = Operation { route: "POST /api/v1/plans/{plan_id}:cancel", plan_id: Some(&plan_id) };
    let named = key.name(&operation, &request);
    let plans = Plans::new(&gateway, &scope);
    plans
        .cancel(CancelPlanRequest {
            plan_id: plan_id.to_string(),
            reason: request.reason.unwrap_or_default(),
            idempotency_key: named.key,
            idempotency_digest: named.digest,
        })
        .await?;
    Ok(Json(encode_end(plans.get(plan_id).await?)?).into_response())
}

/// The part of a path that names a plan, with what is to be done with it: `{plan_id}` or `{plan_id}:{action}`.
#[derive(Debug)]
pub(crate) struct Segment(String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(_) => Err(OrchestratorError::invalid("plan_id", InvalidId).into()),
        }
    }
}

impl Segment {
    /// What is to be done with the plan.
    pub(crate) fn action(&self) -> Option<&str> {
        self.0.rsplit_once(':').map(|(_, action)| action)
    }

    /// The plan.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn plan_id(&self) -> Result<PlanId, OrchestratorError> {
        let plan_id = self.0.rsplit_once(':').map_or(self.0.as_str(), |(plan_id, _)| plan_id);
        plan_id.parse().map_err(|problem: InvalidId| OrchestratorError::invalid("plan_id", problem))
    }
}

/// A plan as it was when it ended: the answer is the same when it is given again after the plan was redriven.
fn encode_end(plan: planner::Plan) -> Result<PlanV1, OrchestratorError> {
    encode(planner::Plan { redriven_as: None, ..plan })
}

fn encode(plan: planner::Plan) -> Result<PlanV1, OrchestratorError> {
    PlanV1::at(Timestamp::now(), plan).map_err(|_| unexpected())
}
