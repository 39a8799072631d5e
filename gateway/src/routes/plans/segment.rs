//! The path segment that names a plan.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use phoenix_domain::{OrchestratorError, PlanId, ids::InvalidId};

use crate::problem::Failure;

/// The path segment that names a plan, with an optional action: `{plan_id}` or `{plan_id}:{action}`.
#[derive(Debug)]
pub(crate) struct PlanSegment(String);

impl<S: Send + Sync> FromRequestParts<S> for PlanSegment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(_) => Err(OrchestratorError::invalid("plan_id", InvalidId).into()),
        }
    }
}

impl PlanSegment {
    /// The action.
    pub(crate) fn action(&self) -> Option<&str> {
        self.0.rsplit_once(':').map(|(_, action)| action)
    }

    /// The plan.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn plan_id(&self) -> Result<PlanId, OrchestratorError> {
        parse_plan_id(self.0.rsplit_once(':').map_or(self.0.as_str(), |(plan_id, _)| plan_id))
    }
}

/// Parses the identifier of a plan.
///
/// # Errors
/// `validation_failed` that names the parameter.
pub(super) fn parse_plan_id(text: &str) -> Result<PlanId, OrchestratorError> {
    text.parse().map_err(|problem: InvalidId| OrchestratorError::invalid("plan_id", problem))
}
