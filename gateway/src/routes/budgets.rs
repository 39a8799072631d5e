//! Budgets: `GET /api/v1/budgets`.

use axum::{
    Json,
    extract::{Extension, State},
    http::Uri,
};
use phoenix_domain::PlanId;
use phoenix_proto::{optional, planner::ListBudgetsRequest};

use crate::{
    clients::Gateway,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::budget::BudgetsV1,
};

/// List budgets
///
/// The budgets of agents and of providers of language models for today, and with `plan_id` that of a plan: their limits, what is
/// used and reserved of them, and when they begin anew. Agents, providers and plans without a budget are not listed.
#[utoipa::path(
    get, path = "/api/v1/budgets", tag = "budgets",
    responses((status = 200, body = BudgetsV1, description = "The budgets"))
)]
pub(crate) async fn list_budgets(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    uri: Uri,
) -> Result<Json<BudgetsV1>, Failure> {
    let query = Query::of(&uri, &["plan_id"])?;
    let plan_id = query.get("plan_id").unwrap_or_default();
    let plan_id = optional::<PlanId>("plan_id", plan_id)?.map(|id| id.to_string()).unwrap_or_default();
    let budgets = PlannerClient::new(&gateway, &scope).budgets(ListBudgetsRequest { plan_id }).await?;
    Ok(Json(budgets.try_into().map_err(|_| unexpected_response())?))
}
