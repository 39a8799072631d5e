//! The body of a response, whose request's span lasts until the end of the body: that of a stream, for instance.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use phoenix_platform::spans;
use tracing::Span;

use crate::request_scope::RequestScope;

/// A body that holds the span of its request.
struct TracedBody {
    body: Body,
    span: Span,
}

/// `response`, with such a body if spans are exported.
pub(crate) fn of(response: Response, scope: &RequestScope) -> Response {
    if !spans::is_exporting() || response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(TracedBody { body, span: scope.span().clone() }))
}

impl HttpBody for TracedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TracedBody {
    fn drop(&mut self) {
        // The exporter takes the last exit of a span for its end.
        self.span.in_scope(|| ());
    }
}
