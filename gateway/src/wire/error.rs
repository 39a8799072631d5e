//! Errors in bodies: the error of a chat, a plan, a task, and the problem document of every other endpoint.

use std::collections::BTreeMap;

use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::common;
use serde::Serialize;
use utoipa::ToSchema;

use super::schemas::states;

/// The error of a request, a plan, a task or an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// Error code, one of a closed table.
    #[schema(schema_with = error_codes)]
    pub(crate) code: OrchestratorErrorCode,
    /// The error in one sentence, for people.
    #[schema(examples("`message` must not be blank"))]
    pub(crate) message: String,
    /// Facts about the error, for programs: `field`, `agent`, `attempts`, `stderr` …
    pub(crate) details: BTreeMap<String, String>,
}

impl From<OrchestratorError> for ErrorBody {
    fn from(error: OrchestratorError) -> Self {
        let OrchestratorError { code, message, details, retry_after: _ } = error;
        Self { code, message, details }
    }
}

impl From<common::Error> for ErrorBody {
    fn from(error: common::Error) -> Self {
        OrchestratorError::from(error).into()
    }
}

/// The error of an endpoint other than a chat, as RFC 9457 defines it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Problem {
    /// Always `about:blank`; `code` identifies the kind of error.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The HTTP status in words.
    pub(crate) title: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The error in one sentence, for people.
    pub(crate) detail: String,
    /// Error code, one of a closed table.
    #[schema(schema_with = error_codes)]
    pub(crate) code: OrchestratorErrorCode,
    /// Correlation id of the request.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// Facts about the error, for programs.
    pub(crate) details: BTreeMap<String, String>,
}

/// The names of the error table.
fn error_codes() -> utoipa::openapi::schema::Object {
    states("Error code, one of a closed table.", OrchestratorErrorCode::ALL.iter().map(|code| code.as_str()))
}
