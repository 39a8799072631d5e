//! `POST /api/v1/plans/{plan_id}:redrive`: a new plan that continues a failed one.

use axum::{
    Json,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use phoenix_domain::PlanId;
use phoenix_proto::planner::RedrivePlanRequest;

use super::{
    encode::{encode_ended, ended_plan},
    segment::PlanSegment,
};
use crate::{
    clients::Gateway,
    delivery::{Delivery, Operation},
    extract::JsonObject,
    planner_client::PlannerClient,
    problem::Failure,
    request_scope::RequestScope,
    routes::accepted::accepted,
    wire::{
        plan::{AcceptedV1, PlanV1},
        redrive::RedriveRequestV1,
    },
};

/// Redrive a plan
///
/// Creates a new plan from one that has ended without success, and runs it: tasks that have succeeded are kept with their
/// outputs; all other tasks, and tasks that depend on them, run again as new tasks. The old plan stays as it is; its dead
/// letters become `redriven`. A plan can be redriven once, its successor again.
///
/// Responds when the new plan has ended or, with `Prefer: respond-async`, as soon as it is durable.
#[utoipa::path(
    post, path = "/api/v1/plans/{plan_id}:redrive", tag = "plans", request_body = Option<RedriveRequestV1>,
    params(("plan_id" = Uuid, Path, description = "The plan, which has ended")),
    responses(
        (status = 200, body = PlanV1, description = "The new plan, which has ended"),
        (
            status = 202, body = AcceptedV1, description = "The new plan is durable and will run",
            headers(("Location" = String, description = "Path of the new plan"), ("Preference-Applied" = String, description = "`respond-async`")),
        ),
    )
)]
pub(crate) async fn redrive_plan(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
    delivery: Delivery,
    request: Option<JsonObject<RedriveRequestV1>>,
) -> Result<Response, Failure> {
    let request = request.map(|JsonObject(request)| request).unwrap_or_default();
    let respond_async = delivery.respond_async;
    let request = into_request(request, segment.plan_id()?, delivery);
    let planner = PlannerClient::new(&gateway, &scope);
    let redriven = planner.redrive(request).await;
    if respond_async {
        return Ok(accepted(&scope, redriven?));
    }
    let plan = match redriven {
        Ok(plan_id) => planner.get(plan_id).await?,
        Err(error) => ended_plan(&planner, error).await?,
    };
    Ok(Json(encode_ended(plan)?).into_response())
}

/// The redrive as a request to the planner.
fn into_request(mut body: RedriveRequestV1, plan_id: PlanId, delivery: Delivery) -> RedrivePlanRequest {
    // An input that is null counts as absent.
    body.input.retain(|_, input| input.is_some());
    let operation = Operation { route: "POST /api/v1/plans/{plan_id}:redrive", plan_id: Some(&plan_id) };
    let key = delivery.key_of(&operation, &body);
    let Delivery { respond_async, stream: _, continue_on_disconnect, key: _ } = delivery;
    let RedriveRequestV1 { input, reason } = body;
    let inputs = input.into_iter().filter_map(|(key, input)| Some((key, input?.to_string())));
    RedrivePlanRequest {
        plan_id: plan_id.to_string(),
        inputs_json: inputs.collect(),
        reason: reason.unwrap_or_default(),
        wait: !respond_async,
        continue_on_disconnect,
        idempotency_key: key.key,
        idempotency_digest: key.digest,
    }
}
