//! The correlation id of every response, and the bodies of failures.

use axum::{
    extract::{Request, State},
    http::HeaderValue,
    middleware::Next,
    response::Response,
};
use phoenix_platform::propagation::{CORRELATION_HEADER, correlation_header_value};

use crate::{
    bodies::BodyBudget,
    header_names::IDEMPOTENT_REPLAYED,
    problem::{self, ErrorFormat, Failure},
    rejections::{Rejections, Sender},
    request_scope::{RequestScope, RequestSettings},
    wire::anthropic::error::REQUEST_ID,
};

/// Adds a [`RequestScope`] to the request, and the correlation id to the response: to the header, and to the body of a failure.
/// Records requests that a layer above the access log rejects.
pub(crate) async fn correlate(
    State((settings, rejections, bodies)): State<(RequestSettings, Rejections, BodyBudget)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = RequestScope::of(&request, settings, bodies);
    let format = ErrorFormat::of(request.uri().path());
    request.extensions_mut().insert(scope.clone());
    let sender = Sender::of(&request);
    let mut response = next.run(request).await;
    if !scope.is_admitted() {
        rejections.record(&scope, &sender, &response);
    }
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        problem::render(&failure, format, scope.response_id(), &mut response);
    }
    let id = correlation_header_value(scope.response_id());
    if format == ErrorFormat::Anthropic {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response.headers_mut().insert(CORRELATION_HEADER, id);
    if scope.replay_of().is_some() {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
