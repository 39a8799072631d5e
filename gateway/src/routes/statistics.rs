//! Statistics: `GET /api/v1/stats`.

use axum::{
    Json,
    extract::{Extension, State},
    http::Uri,
};
use phoenix_domain::OrchestratorError;
use phoenix_proto::planner::GetStatisticsRequest;

use crate::{
    clients::Gateway,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::{statistics::StatisticsV1, window::WINDOWS},
};

/// The window when the request names none.
const DEFAULT_WINDOW: &str = "1h";

/// Get statistics
///
/// Plans, their latency, their wait for the first attempt, and what their calls of language models used: for the whole window and
/// for each of its equal parts. From the journal, for plans of all planners. Planners store what they count every few seconds; one
/// that is killed loses what it counted since.
#[utoipa::path(
    get, path = "/api/v1/stats", tag = "meta",
    responses((status = 200, body = StatisticsV1, description = "The statistics"))
)]
pub(crate) async fn get_statistics(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    uri: Uri,
) -> Result<Json<StatisticsV1>, Failure> {
    let query = Query::of(&uri, &["window", "buckets"])?;
    let name = query.get("window").unwrap_or(DEFAULT_WINDOW);
    let Some((window, window_secs)) = WINDOWS.into_iter().find(|(known, _)| *known == name) else {
        let known = WINDOWS.map(|(name, _)| format!("`{name}`")).join(", ");
        return Err(OrchestratorError::invalid("window", format_args!("must be one of {known}")).into());
    };
    let with_buckets = match query.get("buckets") {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(OrchestratorError::invalid("buckets", "must be `true` or `false`").into()),
    };
    let mut answer =
        PlannerClient::new(&gateway, &scope).statistics(GetStatisticsRequest { window_secs }).await?;
    if !with_buckets {
        answer.buckets.clear();
    }
    Ok(Json(StatisticsV1::of(window, answer).map_err(|_| unexpected_response())?))
}
