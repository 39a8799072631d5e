//! The path segment that names an agent.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use phoenix_domain::{AgentName, OrchestratorError, agent::InvalidAgentName};

use crate::problem::Failure;

/// The path segment that names an agent, with an optional action: `{agent_id}` or `{agent_id}:{action}`. A name has no colon.
#[derive(Debug)]
pub(crate) struct AgentSegment(String);

impl<S: Send + Sync> FromRequestParts<S> for AgentSegment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        // A segment that is not UTF-8 names no agent.
        Ok(Self(Path::from_request_parts(parts, state).await.map(|Path(name)| name).unwrap_or_default()))
    }
}

impl AgentSegment {
    /// The action.
    pub(crate) fn action(&self) -> Option<&str> {
        self.0.rsplit_once(':').map(|(_, action)| action)
    }

    /// The agent.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn agent(&self) -> Result<AgentName, OrchestratorError> {
        let name = self.0.rsplit_once(':').map_or(self.0.as_str(), |(name, _)| name);
        name.parse().map_err(|problem: InvalidAgentName| OrchestratorError::invalid("agent_id", problem))
    }
}
