//! Counters and the access log of a request; a panic becomes a response.

use std::panic::AssertUnwindSafe;

use axum::{
    body::{Body, HttpBody},
    extract::{Extension, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use phoenix_platform::{propagation::TracedBody, record_counter, spans};

use crate::{
    access_log::AccessLog, metrics::RequestMetrics, problem::internal_error, request_scope::RequestScope,
};

/// Counts the request, and records its end.
pub(crate) async fn observe(
    State(metrics): State<RequestMetrics>,
    Extension(scope): Extension<RequestScope>,
    request: Request,
    next: Next,
) -> Response {
    scope.set_admitted();
    if let Some(counter) = scope.endpoint().counter() {
        record_counter(counter, 1);
    }
    let access_log = AccessLog::new(scope.clone());
    let response = match scope.check_header() {
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| panicked()),
        Err(failure) => failure.into_response(),
    };
    if let Some(agent_time) = scope.agent_time() {
        metrics.record_overhead(scope.elapsed(), agent_time);
    }
    access_log.record(&response);
    traced(response, &scope)
}

/// `response`, with a body that holds the span of its request if spans are exported.
fn traced(response: Response, scope: &RequestScope) -> Response {
    if !spans::is_exporting() || response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(TracedBody::new(body, scope.span().clone())))
}

/// The response after a panic. The panic's message may quote the caller, so it is neither sent nor logged here.
fn panicked() -> Response {
    internal_error().into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, body::Body, http::StatusCode, middleware::from_fn_with_state, routing::post};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::{correlation, rejections::Rejections, request_scope::RequestSettings};

    #[tokio::test]
    async fn panic_becomes_an_error_response_without_its_message() {
        async fn panics() -> StatusCode {
            panic!("it was about `secret`")
        }
        let router = Router::new()
            .route("/api/v1/chat", post(panics))
            .layer(from_fn_with_state(RequestMetrics::new(), observe))
            .layer(from_fn_with_state(
                (
                    RequestSettings { timeout: Duration::from_secs(1), is_tls: false },
                    Rejections::default(),
                    crate::bodies::BodyBudget::new(),
                ),
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
