//! The header with the plan of an answer.

use axum::http::HeaderName;
use phoenix_domain::PlanId;

use crate::header_names::X_PHOENIX_PLAN_ID;

/// The header that names `plan_id`.
pub(crate) fn plan_header(plan_id: PlanId) -> [(HeaderName, String); 1] {
    [(X_PHOENIX_PLAN_ID, plan_id.to_string())]
}
