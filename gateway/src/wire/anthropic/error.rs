//! Errors in Anthropic's shape.

use axum::http::{HeaderName, StatusCode};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode};
use serde::Serialize;
use utoipa::ToSchema;

/// Header with the id of a request, which Anthropic's clients show in errors.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AnthropicError)]
pub(crate) struct AnthropicError {
    /// Always `error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    error: ErrorMembers,
    /// The correlation id.
    #[schema(value_type = String, format = Uuid)]
    request_id: CorrelationId,
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AnthropicErrorMembers)]
pub(crate) struct ErrorMembers {
    /// `invalid_request_error`, `authentication_error`, `permission_error`, `not_found_error`, `request_too_large`,
    /// `rate_limit_error`, `api_error`, `timeout_error` or `overloaded_error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// The error in one sentence, for people.
    message: String,
    /// A code of the error table.
    #[schema(value_type = String)]
    code: OrchestratorErrorCode,
}

impl AnthropicError {
    /// The body of an error with `status`.
    pub(crate) fn new(status: StatusCode, error: OrchestratorError, request_id: CorrelationId) -> Self {
        let OrchestratorError { code, message, details: _, retry_after: _ } = error;
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        Self { kind: "error", error: ErrorMembers { kind, message, code }, request_id }
    }
}
