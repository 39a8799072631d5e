//! Every failure as the body that its endpoint promises.
//!
//! A handler or layer that refuses gives back a [`Failure`]: a status and an error, no body. The body is made in one
//! place, [`render`], where the path and the final correlation id are known: `ChatResponseV1` for chats, the legacy
//! shape for legacy chats, RFC 9457 for everything else.
//!
//! The error table gives the HTTP status. Statuses beyond it are the HTTP layer's own, all with the code
//! `validation_failed` except where a better one exists: 403, 405, 408 (`timeout`), 413, 414, 415, 421 and
//! 431.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::InvalidField;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::chat::{ChatResponseV1, ChatStatus, LegacyChatResponse};

/// What callers are told to wait when nobody knows better.
pub(crate) const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal on its way to becoming an answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// What callers are told.
    pub(crate) error: OrchestratorError,
}

impl Failure {
    /// A refusal of the HTTP layer, whose status is not in the error table.
    pub(crate) fn http(status: StatusCode, error: OrchestratorError) -> Self {
        Self { status, error }
    }

    /// A request that HTTP itself, not a field, is wrong with.
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
    /// An answer without a body; [`render`] gives it one.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Which body a path promises on failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// [`ChatResponseV1`].
    Chat,
    /// [`LegacyChatResponse`].
    LegacyChat,
    /// [`Problem`].
    Problem,
}

impl Shape {
    /// The shape that `path` promises.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/api/v1/chat" => Self::Chat,
            "/api/chat" => Self::LegacyChat,
            _ => Self::Problem,
        }
    }

    /// The media type of its bodies.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Chat | Self::LegacyChat => "application/json",
            Self::Problem => "application/problem+json",
        }
    }

    /// The body that tells of `failure`.
    pub(crate) fn body(self, failure: &Failure, correlation_id: CorrelationId) -> String {
        let Failure { status, error } = failure.clone();
        let OrchestratorError { code, message, mut details, retry_after: _ } = error;
        let body = match self {
            Self::Chat => {
                let plan_id = details.get("plan_id").and_then(|id| id.parse::<PlanId>().ok());
                if plan_id.is_some() {
                    details.remove("plan_id");
                }
                serde_json::to_string(&ChatResponseV1 {
                    api_version: "v1",
                    correlation_id,
                    status: ChatStatus::Error,
                    plan_id,
                    output: None,
                    finish_reason: None,
                    error: Some(ErrorBody { code, message, details }),
                })
            }
            Self::LegacyChat => {
                serde_json::to_string(&LegacyChatResponse { status: ChatStatus::Error, output: message })
            }
            Self::Problem => serde_json::to_string(&Problem {
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

/// Why a request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The row of the error table.
    #[schema(schema_with = error_codes)]
    pub(crate) code: OrchestratorErrorCode,
    /// One sentence for the person who reads it.
    #[schema(examples("`message` must not be blank"))]
    pub(crate) message: String,
    /// Facts for programs and for the curious: `field`, `agent`, `attempts`, `stderr` …
    pub(crate) details: BTreeMap<String, String>,
}

/// A failure of an endpoint other than a chat, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Problem {
    /// Always `about:blank`: `code` tells the kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The HTTP status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// One sentence for the person who reads it.
    detail: String,
    /// The row of the error table.
    #[schema(schema_with = error_codes)]
    code: OrchestratorErrorCode,
    /// The request's name everywhere.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// Facts for programs and for the curious.
    details: BTreeMap<String, String>,
}

/// The names of the error table.
fn error_codes() -> utoipa::openapi::schema::Object {
    let names = OrchestratorErrorCode::ALL.iter().map(|code| code.as_str());
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some(names))
        .description(Some("The row of the error table."))
        .build()
}

/// Gives `response` the body and the headers that tell of `failure`.
pub(crate) fn render(
    failure: &Failure,
    shape: Shape,
    correlation_id: CorrelationId,
    response: &mut Response,
) {
    let body = shape.body(failure, correlation_id);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(shape.content_type()));
    match failure.status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE if failure.error.details.contains_key("field") => {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, retry_after(failure.error.retry_after));
        }
        // What it contradicts may be over soon, or never.
        _ if failure.error.code == OrchestratorErrorCode::Conflict && failure.error.retry_after.is_some() => {
            headers.insert(header::RETRY_AFTER, retry_after(failure.error.retry_after));
        }
        _ => {}
    }
    *response.body_mut() = Body::from(body);
}

/// Whole seconds, never too early, at least one.
pub(crate) fn retry_after(after: Option<Duration>) -> HeaderValue {
    let after = after.unwrap_or(DEFAULT_RETRY_AFTER);
    let whole = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    HeaderValue::from(whole.max(1))
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
            let body = Shape::Problem.body(&failure, CorrelationId::generate());
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["code"], &body["status"]), (&code.as_str().into(), &code.http_status().into()));
            assert_ne!(body["title"], "Error", "{code} has a status with a name");
        }
    }
}
