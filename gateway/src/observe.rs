//! One counter, one duration and one log line per request; a panic becomes an answer.

mod refusals;

use std::panic::AssertUnwindSafe;

use axum::{
    extract::{Extension, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{propagation::mark_failed, record_counter};

use crate::{
    correlation::Scope,
    metrics::{Meters, REQUEST_SECONDS},
    problem::Failure,
};

pub(crate) use self::refusals::{Refusals, Sender};

/// What is recorded when the caller left before there was an answer; the convention of web servers.
const CALLER_LEFT: u16 = 499;

/// Counts the request, and tells how it ended.
pub(crate) async fn observe(
    State(meters): State<Meters>,
    Extension(scope): Extension<Scope>,
    request: Request,
    next: Next,
) -> Response {
    scope.let_in();
    if let Some(counter) = scope.endpoint().counter() {
        record_counter(counter, 1);
    }
    let ending = Ending(Some(scope.clone()));
    let response = match scope.check_header() {
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| panicked()),
        Err(failure) => failure.into_response(),
    };
    if let Some(agents) = scope.agent_time() {
        meters.answered(scope.elapsed(), agents);
    }
    ending.answered(&response);
    response
}

/// What a panic said may quote what the caller sent, so it is neither sent back nor logged here.
fn panicked() -> Response {
    Failure::from(broken()).into_response()
}

/// The answer to a caller after a defect of the gateway.
pub(crate) fn broken() -> OrchestratorError {
    OrchestratorError::internal("something went wrong on our side")
}

/// Tells of a request's end, also when it is dropped unanswered because its caller went away.
struct Ending(Option<Scope>);

impl Ending {
    fn answered(mut self, response: &Response) {
        let Some(scope) = self.0.take() else { return };
        let status = response.status();
        record(&scope, status.as_u16());
        let error = response.extensions().get::<Failure>().map(|failure| &failure.error);
        // Probes and the page's files come every second, and are nobody's request.
        if error.is_none() && !scope.endpoint().is_api() {
            return;
        }
        if status.is_server_error() {
            mark_failed(scope.span(), error.map_or("internal", |error| error.code.as_str()));
        }
        scope.span().in_scope(|| log(&scope, status, error));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(scope) = self.0.take() else { return };
        record(&scope, CALLER_LEFT);
        let (endpoint, elapsed_ms) = (scope.endpoint().as_str(), millis(&scope));
        scope.span().in_scope(|| tracing::info!(endpoint, elapsed_ms, "caller left before the answer"));
    }
}

/// Messages that may quote what the caller sent (of the caller's own mistakes, of agents) are not written down.
fn log(scope: &Scope, status: StatusCode, error: Option<&OrchestratorError>) {
    use OrchestratorErrorCode::{ExecutionFailed, Internal};
    let (endpoint, http_status, elapsed_ms) = (scope.endpoint().as_str(), status.as_u16(), millis(scope));
    // The request whose answer this one was given again.
    let replay_of = scope.replay_of().map(tracing::field::display);
    let Some(OrchestratorError { code, message, details, .. }) = error else {
        tracing::info!(endpoint, http_status, elapsed_ms, replay_of, "request answered");
        return;
    };
    // A failed execution, and whatever else an agent answered, has the agent's words in it.
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

fn millis(scope: &Scope) -> u64 {
    u64::try_from(scope.elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn record(scope: &Scope, status: u16) {
    metrics::histogram!(REQUEST_SECONDS.name, "endpoint" => scope.endpoint().as_str(), "status" => status.to_string())
        .record(scope.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::post};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::correlation;

    #[tokio::test]
    async fn a_panic_is_answered_in_the_shape_of_its_path_without_what_it_said() {
        async fn panics() -> StatusCode {
            panic!("it was about `secret`")
        }
        let router = Router::new()
            .route("/api/v1/chat", post(panics))
            .layer(from_fn_with_state(Meters::new(), observe))
            .layer(from_fn_with_state(
                (Duration::from_secs(1), Refusals::default(), crate::bodies::BodyBudget::new()),
                correlation::correlate,
            ));
        let request = Request::post("/api/v1/chat").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let id = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&body["correlation_id"], &body["error"]["code"]), (&id.into(), &"internal".into()));
        assert!(!body.to_string().contains("secret"));
    }
}
