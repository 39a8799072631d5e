//! `POST /api/v1/plans/{plan_id}:redrive`: a plan that failed, once more from there.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use phoenix_domain::json::Object;
use phoenix_domain::{OrchestratorError, PlanId};
use phoenix_proto::planner::RedrivePlanRequest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AcceptedV1, Segment, accepted, encode_end, ended_plan, view::PlanV1};
use crate::{
    calls::Plans,
    correlation::Scope,
    delivery::{Delivery, Operation},
    extract::JsonObject,
    members::or_absent,
    peers::Gateway,
    problem::Failure,
    routes::openapi::schemas,
};

/// What is to be different this time. Unknown fields are refused.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveRequestV1 {
    /// By a task's key: its new input, in place of the old one as a whole. Only of tasks that run again; those that have
    /// succeeded are kept as they are.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = schemas::inputs)]
    input: BTreeMap<String, Option<Object>>,
    /// One sentence for those who read the journal later: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// Redrive a plan
///
/// Makes a new plan of one that has ended without success, and runs it: tasks that had succeeded are kept with their outputs,
/// all others, and what depends on them, run again as new tasks. The old plan stays as it is; its dead letters are then
/// `redriven`. A plan can be redriven once, its successor again.
///
/// Answers when the new plan has ended, whichever way, or with `Prefer: respond-async` as soon as it is durable.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:redrive", tag = "plans", request_body = Option<RedriveRequestV1>,
    params(("plan_id" = Uuid, Path, description = "The plan, which has ended")),
    responses(
        (status = 200, body = PlanV1, description = "The new plan, which has ended"),
        (
            status = 202, body = AcceptedV1, description = "The new plan is durable and will run",
            headers(("Location" = String, description = "Where it is"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn redrive_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    segment: Segment,
    delivery: Delivery,
    request: Option<JsonObject<RedriveRequestV1>>,
) -> Result<Response, Failure> {
    let request = request.map(|JsonObject(request)| request).unwrap_or_default();
    let respond_async = delivery.respond_async;
    let request = request.into_wish(segment.plan_id()?, delivery);
    let plans = Plans::new(&gateway, &scope);
    let redriven = plans.redrive(request).await;
    if respond_async {
        return Ok(accepted(&scope, redriven?));
    }
    let plan = match redriven {
        Ok(plan_id) => plans.get(plan_id).await?,
        Err(error) => ended_plan(&plans, error).await?,
    };
    Ok::<_, OrchestratorError>(Json(encode_end(plan)?).into_response()).map_err(Failure::from)
}

impl RedriveRequestV1 {
    /// The redrive as the planner is asked for it.
    fn into_wish(mut self, plan_id: PlanId, delivery: Delivery) -> RedrivePlanRequest {
        // An input that is null is none.
        self.input.retain(|_, input| input.is_some());
        let operation = Operation { route: "POST /api/v1/plans/{plan_id}:redrive", plan_id: Some(&plan_id) };
        let named = delivery.name(&operation, &self);
        let Delivery { respond_async, stream: _, continues, key: _ } = delivery;
        let Self { input, reason } = self;
        RedrivePlanRequest {
            plan_id: plan_id.to_string(),
            inputs_json: input
                .into_iter()
                .filter_map(|(key, input)| Some((key, input?.to_string())))
                .collect(),
            reason: reason.unwrap_or_default(),
            wait: !respond_async,
            continue_on_disconnect: continues,
            idempotency_key: named.key,
            idempotency_digest: named.digest,
        }
    }
}
