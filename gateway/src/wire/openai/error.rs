//! Errors in OpenAI's shape.

use axum::http::{HeaderName, HeaderValue, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use serde::Serialize;
use utoipa::ToSchema;

/// Header by which OpenAI's clients decide whether they send a request again.
pub(crate) const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Value of [`X_SHOULD_RETRY`] for a request that fails again.
pub(crate) const NO: HeaderValue = HeaderValue::from_static("false");

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub(crate) struct OpenAiError {
    error: ErrorMembers,
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiErrorMembers)]
pub(crate) struct ErrorMembers {
    /// The error in one sentence, for people.
    message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota` or `server_error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// Member of the request that the error is about.
    #[schema(required)]
    param: Option<String>,
    /// `invalid_api_key`, `model_not_found`, or a code of the error table.
    #[schema(value_type = String)]
    code: &'static str,
}

impl OpenAiError {
    /// The body of an error with `status`.
    pub(crate) fn new(status: StatusCode, error: OrchestratorError) -> Self {
        let OrchestratorError { code, message, mut details, retry_after: _ } = error;
        let param = details.remove("field");
        let kind = match status.as_u16() {
            429 if code == OrchestratorErrorCode::BudgetExhausted => "insufficient_quota",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let code = match code {
            OrchestratorErrorCode::Unauthenticated => "invalid_api_key",
            OrchestratorErrorCode::NotFound if param.as_deref() == Some("model") => "model_not_found",
            other => other.as_str(),
        };
        Self { error: ErrorMembers { message, kind, param, code } }
    }
}

/// Whether a client that sends the request again gets the same error. OpenAI's clients repeat requests with the statuses 408,
/// 409, 429 and 5xx unless they are told not to.
pub(crate) fn is_final(error: &OrchestratorError) -> bool {
    let may_end_soon = error.code == OrchestratorErrorCode::Conflict && error.retry_after.is_some();
    !error.code.is_retryable() && !may_end_soon
}
