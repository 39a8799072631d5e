//! Error responses: every failure in the format of its endpoint.
//!
//! A handler or layer that rejects a request returns a [`Failure`]: a status and an error, no body. [`render`] adds the body,
//! where the path and the final correlation id are known: `ChatResponseV1` for chats, the legacy format for legacy chats,
//! Anthropic's shape below `/v1/messages`, OpenAI's elsewhere below `/v1`, RFC 9457 for everything else.
//!
//! The error table gives the HTTP status. Statuses outside the table belong to the HTTP layer; their code is
//! `validation_failed` unless a better one exists: 403, 405, 408 (`timeout`), 413, 414, 415, 421 and 431.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::InvalidField;

use crate::{
    header_names::X_PHOENIX_PLAN_ID,
    wire::{
        anthropic::error::AnthropicError,
        chat::{API_VERSION, ChatResponseV1, ChatStatus, LegacyChatResponse},
        error::{ErrorBody, Problem},
        mcp::{self, message::RpcError},
        openai::{
            self,
            error::{OpenAiError, X_SHOULD_RETRY},
        },
    },
};

/// The value of `Retry-After` when the error has none.
pub(crate) const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A rejected request, before its response has a body.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// The error that the body describes.
    pub(crate) error: OrchestratorError,
}

impl Failure {
    /// A failure of the HTTP layer, whose status is not in the error table.
    pub(crate) fn http(status: StatusCode, error: OrchestratorError) -> Self {
        Self { status, error }
    }

    /// A request that violates a rule of HTTP or of its endpoint, rather than of a field.
    pub(crate) fn invalid(status: StatusCode, message: impl Into<String>) -> Self {
        Self::http(status, OrchestratorError::new(OrchestratorErrorCode::ValidationFailed, message))
    }
}

impl From<OrchestratorError> for Failure {
    fn from(error: OrchestratorError) -> Self {
        // The table holds valid statuses only, as its own test checks.
        let status = StatusCode::from_u16(error.code.http_status());
        Self { status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error }
    }
}

impl From<InvalidField> for Failure {
    fn from(invalid: InvalidField) -> Self {
        OrchestratorError::from(invalid).into()
    }
}

impl IntoResponse for Failure {
    /// A response without a body; [`render`] adds the body.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The format of error bodies, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorFormat {
    /// [`ChatResponseV1`].
    Chat,
    /// [`LegacyChatResponse`].
    LegacyChat,
    /// [`OpenAiError`].
    OpenAi,
    /// [`AnthropicError`].
    Anthropic,
    /// An error of the Model Context Protocol.
    Mcp,
    /// [`Problem`].
    Problem,
}

impl ErrorFormat {
    /// The format of errors at `path`.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/api/v1/chat" => Self::Chat,
            "/api/chat" => Self::LegacyChat,
            "/mcp" => Self::Mcp,
            "/v1" => Self::OpenAi,
            "/v1/messages" => Self::Anthropic,
            path if path.starts_with("/v1/messages/") => Self::Anthropic,
            path if path.starts_with("/v1/") => Self::OpenAi,
            _ => Self::Problem,
        }
    }

    /// Media type of the bodies.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Chat | Self::LegacyChat | Self::OpenAi | Self::Anthropic | Self::Mcp => "application/json",
            Self::Problem => "application/problem+json",
        }
    }

    /// The body that describes `failure`.
    pub(crate) fn body(self, failure: &Failure, correlation_id: CorrelationId) -> String {
        let Failure { status, error } = failure.clone();
        match self {
            Self::OpenAi => {
                return serde_json::to_string(&OpenAiError::new(status, error)).unwrap_or_default();
            }
            Self::Anthropic => {
                let body = AnthropicError::new(status, error, correlation_id);
                return serde_json::to_string(&body).unwrap_or_default();
            }
            Self::Mcp => {
                return mcp::message::error(None, &RpcError::of_failure(status, error, correlation_id));
            }
            Self::Chat | Self::LegacyChat | Self::Problem => {}
        }
        let OrchestratorError { code, message, mut details, retry_after: _ } = error;
        let body = match self {
            Self::Chat => {
                let plan_id = details.get("plan_id").and_then(|id| id.parse::<PlanId>().ok());
                if plan_id.is_some() {
                    details.remove("plan_id");
                }
                serde_json::to_string(&ChatResponseV1 {
                    api_version: API_VERSION,
                    correlation_id,
                    status: ChatStatus::Error,
                    plan_id,
                    output: None,
                    finish_reason: None,
                    usage: None,
                    error: Some(ErrorBody { code, message, details }),
                })
            }
            Self::LegacyChat => {
                serde_json::to_string(&LegacyChatResponse { status: ChatStatus::Error, output: message })
            }
            Self::OpenAi | Self::Anthropic | Self::Mcp | Self::Problem => serde_json::to_string(&Problem {
                kind: "about:blank",
                title: status.canonical_reason().unwrap_or("Error"),
                status: status.as_u16(),
                detail: message,
                code,
                correlation_id,
                details,
            }),
        };
        // Strings, numbers and maps with string keys can always be written.
        body.unwrap_or_default()
    }
}

/// Adds to `response` the body and the headers that describe `failure`.
pub(crate) fn render(
    failure: &Failure,
    format: ErrorFormat,
    correlation_id: CorrelationId,
    response: &mut Response,
) {
    let body = format.body(failure, correlation_id);
    let headers = response.headers_mut();
    // A 429 that waiting does not end looks like one that it ends.
    let is_budget = failure.error.code == OrchestratorErrorCode::BudgetExhausted;
    let is_for_clients = matches!(format, ErrorFormat::OpenAi | ErrorFormat::Anthropic);
    if is_budget || (is_for_clients && openai::error::is_final(&failure.error)) {
        headers.insert(X_SHOULD_RETRY, openai::error::NO);
    }
    if is_for_clients {
        let plan = failure.error.details.get("plan_id").and_then(|plan| HeaderValue::from_str(plan).ok());
        headers.extend(plan.map(|plan| (X_PHOENIX_PLAN_ID, plan)));
    }
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    match failure.status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE if failure.error.details.contains_key("field") => {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if !is_budget => {
            headers.insert(header::RETRY_AFTER, retry_after(failure.error.retry_after));
        }
        // The conflict may end soon, or never.
        _ if failure.error.code == OrchestratorErrorCode::Conflict && failure.error.retry_after.is_some() => {
            headers.insert(header::RETRY_AFTER, retry_after(failure.error.retry_after));
        }
        _ => {}
    }
    *response.body_mut() = Body::from(body);
}

/// The value of `Retry-After`: whole seconds, rounded up, at least one.
pub(crate) fn retry_after(after: Option<Duration>) -> HeaderValue {
    let after = after.unwrap_or(DEFAULT_RETRY_AFTER);
    let whole = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    HeaderValue::from(whole.max(1))
}

/// The failure of a request after a defect of the gateway.
pub(crate) fn internal_error() -> Failure {
    OrchestratorError::internal("the gateway failed to handle the request").into()
}

/// The failure of a request to a path that no route has.
pub(crate) async fn unknown_path(uri: Uri) -> Failure {
    let message = match uri.path() {
        "/v1/messages/batches" => "batches are not available; use POST /v1/messages",
        _ => "no endpoint has this path; GET /api/v1/openapi.json lists the endpoints",
    };
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).into()
}

/// The failure of a request with a method that its path does not have.
pub(crate) async fn wrong_method() -> Failure {
    let message = "this path does not have this method; the header `Allow` lists its methods";
    Failure::invalid(StatusCode::METHOD_NOT_ALLOWED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            assert_eq!(retry_after(Some(Duration::from_millis(millis))), seconds, "{millis} ms");
        }
        assert_eq!(retry_after(None), "1");
    }

    #[test]
    fn every_row_of_the_error_table_has_its_status() {
        for &code in OrchestratorErrorCode::ALL {
            let failure = Failure::from(OrchestratorError::new(code, "why"));
            assert_eq!(failure.status.as_u16(), code.http_status());
            let body = ErrorFormat::Problem.body(&failure, CorrelationId::generate());
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["code"], &body["status"]), (&code.as_str().into(), &code.http_status().into()));
            assert_ne!(body["title"], "Error", "{code} has a status with a name");
        }
    }
}
