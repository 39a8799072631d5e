//! Texts that a view of a plan shows a part of, as a whole.

use axum::{
    extract::{Extension, Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, PlanId, ids::InvalidId};
use phoenix_proto::{
    common::ActionOutput,
    planner::{GetStderrRequest, GetTaskOutputRequest},
};

use crate::{
    calls::{Plans, unexpected},
    correlation::Scope,
    peers::Gateway,
    problem::Failure,
};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Read a whole output
///
/// What the agent answered: an answer that is a string as plain text, anything else as JSON. A view of the plan shows at most
/// 64 KiB of it.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/tasks/{key}/output", tag = "plans",
    params(
        ("plan_id" = Uuid, Path, description = "The plan"),
        ("key" = String, Path, description = "The task's name inside the plan"),
    ),
    responses(
        (status = 200, description = "The answer", content(
            (String = "text/plain"), (serde_json::Value = "application/json")
        )),
    )
)]
pub(crate) async fn task_output(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    Path((plan_id, task_key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let plan_id = parse(&plan_id)?.to_string();
    let plans = Plans::new(&gateway, &scope);
    let ActionOutput { output_type: _, data_json, metadata_json: _ } =
        plans.task_output(GetTaskOutputRequest { plan_id, task_key }).await?;
    if !data_json.starts_with('"') {
        return Ok(([(header::CONTENT_TYPE, JSON)], data_json).into_response());
    }
    let text: String = serde_json::from_str(&data_json).map_err(|_| unexpected())?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

/// Read a whole stderr tail
///
/// The last of what the process of a failed attempt wrote to stderr, at most 64 KiB; empty when it wrote nothing.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/tasks/{key}/attempts/{number}/stderr", tag = "plans",
    params(
        ("plan_id" = Uuid, Path, description = "The plan"),
        ("key" = String, Path, description = "The task's name inside the plan"),
        ("number" = u32, Path, minimum = 1, description = "The attempt's number"),
    ),
    responses((status = 200, body = String, content_type = "text/plain", description = "The tail"))
)]
pub(crate) async fn attempt_stderr(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    Path((plan_id, task_key, number)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let plan_id = parse(&plan_id)?.to_string();
    let attempt = number.parse().ok().filter(|number| *number > 0_u32);
    let attempt = attempt
        .ok_or_else(|| OrchestratorError::invalid("number", "must be a whole number of at least 1"))?;
    let plans = Plans::new(&gateway, &scope);
    let tail = plans.stderr(GetStderrRequest { plan_id, task_key, attempt }).await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], tail).into_response())
}

fn parse(plan_id: &str) -> Result<PlanId, OrchestratorError> {
    plan_id.parse().map_err(|problem: InvalidId| OrchestratorError::invalid("plan_id", problem))
}
