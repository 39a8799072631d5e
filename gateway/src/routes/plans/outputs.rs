//! Whole outputs and stderr tails, which the body of a plan may truncate.

use axum::{
    extract::{Extension, Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use phoenix_domain::OrchestratorError;
use phoenix_proto::{
    common::ActionOutput,
    planner::{GetStderrRequest, GetTaskOutputRequest},
};

use super::segment::parse_plan_id;
use crate::{
    clients::Gateway,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    request_scope::RequestScope,
};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Get the whole output of a task
///
/// A string as plain text, any other output as JSON. The plan itself shows at most 64 KiB of it.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/tasks/{key}/output", tag = "plans",
    params(
        ("plan_id" = Uuid, Path, description = "The plan"),
        ("key" = String, Path, description = "Key of the task"),
    ),
    responses(
        (status = 200, description = "The output", content(
            (String = "text/plain"), (serde_json::Value = "application/json")
        )),
    )
)]
pub(crate) async fn task_output(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    Path((plan_id, task_key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let plan_id = parse_plan_id(&plan_id)?.to_string();
    let planner = PlannerClient::new(&gateway, &scope);
    let ActionOutput { output_type: _, data_json, metadata_json: _ } =
        planner.task_output(GetTaskOutputRequest { plan_id, task_key }).await?;
    if !data_json.starts_with('"') {
        return Ok(([(header::CONTENT_TYPE, JSON)], data_json).into_response());
    }
    let text: String = serde_json::from_str(&data_json).map_err(|_| unexpected_response())?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

/// Get the whole stderr tail of an attempt
///
/// The last part of what the process of a failed attempt wrote to stderr, at most 64 KiB; empty when it wrote nothing.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/tasks/{key}/attempts/{number}/stderr", tag = "plans",
    params(
        ("plan_id" = Uuid, Path, description = "The plan"),
        ("key" = String, Path, description = "Key of the task"),
        ("number" = u32, Path, minimum = 1, description = "Number of the attempt"),
    ),
    responses((status = 200, body = String, content_type = "text/plain", description = "The tail"))
)]
pub(crate) async fn attempt_stderr(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    Path((plan_id, task_key, number)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let plan_id = parse_plan_id(&plan_id)?.to_string();
    let attempt = number.parse().ok().filter(|number| *number > 0_u32);
    let attempt = attempt
        .ok_or_else(|| OrchestratorError::invalid("number", "must be a whole number of at least 1"))?;
    let planner = PlannerClient::new(&gateway, &scope);
    let tail = planner.stderr(GetStderrRequest { plan_id, task_key, attempt }).await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], tail).into_response())
}
