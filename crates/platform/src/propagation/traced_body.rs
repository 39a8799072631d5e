//! The body of a response, whose span lasts until the end of the call.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tracing::Span;

use super::span::mark_status;
use crate::spans::is_exporting;

/// Records the status of a call in its span: that of the trailers, or `CANCELLED` if the caller leaves before.
pub(super) struct TracedBody {
    body: Body,
    span: Span,
    has_ended: bool,
}

impl TracedBody {
    /// `response`, with such a body if spans are exported.
    pub(super) fn of(response: Response<Body>, span: &Span) -> Response<Body> {
        if !is_exporting() {
            return response;
        }
        response.map(|body| Body::new(Self { body, span: span.clone(), has_ended: false }))
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.has_ended, true) {
            mark_status(&self.span, code);
        }
    }
}

impl HttpBody for TracedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.end(status.map_or(Code::Ok, |status| status.code()));
                }
            }
            Some(Err(status)) => self.end(status.code()),
            None => self.end(Code::Ok),
        }
        Poll::Ready(frame)
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
        self.end(if self.body.is_end_stream() { Code::Ok } else { Code::Cancelled });
        // The exporter takes the last exit of a span for its end.
        self.span.in_scope(|| ());
    }
}
