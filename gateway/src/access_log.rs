//! The access log: one duration and one log line per request.

use axum::{http::StatusCode, response::Response};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{
    propagation::mark_failed,
    semconv,
    spans::{self, Attribute},
};

use crate::{metrics::REQUEST_SECONDS, problem::Failure, request_scope::RequestScope};

/// Status of a request whose caller left before the response, by the convention of web servers.
const CALLER_LEFT: u16 = 499;

/// Records the end of a request, also when the request is dropped because its caller left.
pub(crate) struct AccessLog(Option<RequestScope>);

impl AccessLog {
    /// The access log of one request.
    pub(crate) const fn new(scope: RequestScope) -> Self {
        Self(Some(scope))
    }

    /// Records that `response` ends the request.
    pub(crate) fn record(mut self, response: &Response) {
        let Some(scope) = self.0.take() else { return };
        let status = response.status();
        record_duration(&scope, status.as_u16());
        let error = response.extensions().get::<Failure>().map(|failure| &failure.error);
        // Probes and the files of the page arrive every second.
        if error.is_none() && !scope.endpoint().is_api() {
            return;
        }
        record_status(&scope, status.as_u16());
        if status.is_server_error() {
            mark_failed(scope.span(), error.map_or("internal", |error| error.code.as_str()));
        }
        scope.span().in_scope(|| log(&scope, status, error));
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let Some(scope) = self.0.take() else { return };
        record_duration(&scope, CALLER_LEFT);
        record_status(&scope, CALLER_LEFT);
        let (endpoint, elapsed_ms) = (scope.endpoint().as_str(), elapsed_ms(&scope));
        scope.span().in_scope(|| tracing::info!(endpoint, elapsed_ms, "caller left before the answer"));
    }
}

/// Logs a response. Messages that may quote the caller (validation errors, agents) are left out.
fn log(scope: &RequestScope, status: StatusCode, error: Option<&OrchestratorError>) {
    use OrchestratorErrorCode::{ExecutionFailed, Internal};
    let (endpoint, http_status, elapsed_ms) = (scope.endpoint().as_str(), status.as_u16(), elapsed_ms(scope));
    let replay_of = scope.replay_of().map(tracing::field::display);
    let Some(OrchestratorError { code, message, details, .. }) = error else {
        tracing::info!(endpoint, http_status, elapsed_ms, replay_of, "request answered");
        return;
    };
    // The message of a failed execution, and of any other answer of an agent, quotes the agent.
    let quotes_agent = *code == ExecutionFailed || details.contains_key("response_code");
    let error = (!quotes_agent).then_some(message.as_str());
    if *code == Internal {
        tracing::error!(endpoint, http_status, %code, elapsed_ms, error, replay_of, "request failed");
    } else if status.is_server_error() {
        tracing::warn!(endpoint, http_status, %code, elapsed_ms, error, replay_of, "request failed");
    } else {
        let field = details.get("field").map(String::as_str);
        tracing::info!(endpoint, http_status, %code, field, elapsed_ms, replay_of, "request refused");
    }
}

fn record_status(scope: &RequestScope, status: u16) {
    spans::describe(scope.span(), || [Attribute::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status))]);
}

/// Time since the request arrived, in whole milliseconds.
pub(crate) fn elapsed_ms(scope: &RequestScope) -> u64 {
    u64::try_from(scope.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Records the duration of a request that ends with `status`.
pub(crate) fn record_duration(scope: &RequestScope, status: u16) {
    metrics::histogram!(REQUEST_SECONDS.name, "endpoint" => scope.endpoint().as_str(), "status" => status.to_string())
        .record(scope.elapsed().as_secs_f64());
}
