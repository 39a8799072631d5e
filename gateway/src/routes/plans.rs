//! Plans: `/api/v1/plans` and below.

pub(crate) mod events;
pub(crate) mod redrive;
pub(crate) mod request;
mod timeline;
pub(crate) mod view;

use axum::{
    Json,
    extract::{Extension, FromRequestParts, Path, Request, State},
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
    delivery::{Delivery, Key, PREFERENCE_APPLIED, RESPOND_ASYNC},
    extract::{JsonObject, parts_and_body},
    follow::has_ended,
    peers::Gateway,
    problem::Failure,
    query::Query,
    router,
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
    /// One sentence for those who read the plan later.
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
    let fingerprint = delivery.fingerprint(&request);
    let (respond_async, plans) = (delivery.respond_async, Plans::new(&gateway, &scope));
    let mut wish = request.into_wish()?;
    delivery.apply(&mut wish, fingerprint);
    if respond_async {
        return submit(&plans, &scope, wish).await;
    }
    let plan = match plans.run(wish).await {
        Ok((plan_id, _)) => plans.get(plan_id).await?,
        Err(error) => ended_plan(&plans, error).await?,
    };
    Ok(Json(encode(plan)?).into_response())
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
    let body = AcceptedV1 { plan_id, correlation_id: scope.id(), status: PlanStatus::Pending };
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
    params(
        ("status" = inline(Option<String>), Query, description = "Only plans in this state: `pending`, `running`, `succeeded`, `failed` or `cancelled`"),
        ("agent" = inline(Option<String>), Query, description = "Only plans with a task for this agent"),
        ("correlation_id" = inline(Option<String>), Query, description = "Only plans of this request"),
        ("since" = inline(Option<String>), Query, description = "Only plans accepted at this time (RFC 3339) or later"),
        ("page_size" = inline(Option<u32>), Query, description = "How many at once: 1 to 500, 50 when absent"),
        ("page_token" = inline(Option<String>), Query, description = "`next_page_token` of the page before"),
    ),
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
    let since = query.get("since").map(|text| {
        let time: Result<Timestamp, _> = text.parse();
        time.map_err(|_| OrchestratorError::invalid("since", "must be a time such as 2026-01-31T12:00:00Z"))
    });
    Ok(ListPlansRequest {
        correlation_id: query.parse::<CorrelationId>("correlation_id")?.map(|id| id.to_string()),
        status: status.transpose()?.map_or(planner::PlanStatus::Unspecified, Into::into).into(),
        page_size: query.page_size()?,
        page_token: query.get("page_token").unwrap_or_default().to_owned(),
        agent: query.parse::<AgentName>("agent")?.map(String::from).unwrap_or_default(),
        since: since.transpose()?.map(to_timestamp),
    })
}

/// What is done with a plan: `{plan_id}:cancel` or `{plan_id}:redrive`.
pub(crate) async fn act_on_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    segment: Segment,
    request: Request,
) -> Result<Response, Failure> {
    match segment.0.rsplit_once(':') {
        Some((plan_id, "cancel")) => cancel_plan(&gateway, &scope, read_id(plan_id)?, request).await,
        Some((plan_id, "redrive")) => {
            redrive::redrive_plan(&gateway, &scope, read_id(plan_id)?, request).await
        }
        _ => Err(router::unknown_path().await),
    }
}

/// Cancel a plan
///
/// Tasks that wait never start, agents that run are killed. Answers when the plan's end is durable.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:cancel", tag = "plans", request_body = Option<CancelRequestV1>,
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses((status = 200, body = PlanV1, description = "The plan, which is cancelled"))
)]
async fn cancel_plan(
    gateway: &Gateway,
    scope: &Scope,
    plan_id: PlanId,
    request: Request,
) -> Result<Response, Failure> {
    let (key, request): (Key, CancelRequestV1) = parts_and_body(request).await?;
    let (idempotency_key, idempotency_digest) = key.of(&request);
    let (name, reason) = (plan_id.to_string(), request.reason.unwrap_or_default());
    let plans = Plans::new(gateway, scope);
    plans.cancel(CancelPlanRequest { plan_id: name, reason, idempotency_key, idempotency_digest }).await?;
    Ok(Json(encode(plans.get(plan_id).await?)?).into_response())
}

/// The part of a path that names a plan, with what is to be done with it.
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
    fn plan_id(&self) -> Result<PlanId, OrchestratorError> {
        read_id(&self.0)
    }
}

fn read_id(text: &str) -> Result<PlanId, OrchestratorError> {
    text.parse().map_err(|problem: InvalidId| OrchestratorError::invalid("plan_id", problem))
}

fn encode(plan: planner::Plan) -> Result<PlanV1, OrchestratorError> {
    PlanV1::at(Timestamp::now(), plan).map_err(|_| unexpected())
}
