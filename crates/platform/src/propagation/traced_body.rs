//! The body of a response whose span lasts until the end of the body: that of a stream, for instance.

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

/// A body that holds the span of its request.
#[derive(Debug)]
pub struct TracedBody<B: HttpBody, E: BodyEnd<B> = ()> {
    body: B,
    span: Span,
    end: E,
}

/// What the end of a body says about its span.
pub trait BodyEnd<B: HttpBody>: Unpin {
    /// A frame of the body, or its end, which comes before the span ends.
    fn frame(&mut self, span: &Span, frame: Option<&Result<Frame<B::Data>, B::Error>>);

    /// The body is dropped.
    fn dropped(&mut self, span: &Span, body: &B);
}

/// Nothing: the span was described before the body.
impl<B: HttpBody> BodyEnd<B> for () {
    fn frame(&mut self, _: &Span, _: Option<&Result<Frame<B::Data>, B::Error>>) {}

    fn dropped(&mut self, _: &Span, _: &B) {}
}

impl<B: HttpBody> TracedBody<B> {
    /// `body`, during which `span` lasts.
    #[must_use]
    pub const fn new(body: B, span: Span) -> Self {
        Self { body, span, end: () }
    }
}

impl<B: HttpBody + Unpin, E: BodyEnd<B>> HttpBody for TracedBody<B, E> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Self { body, span, end } = &mut *self;
        let frame = ready!(Pin::new(body).poll_frame(cx));
        end.frame(span, frame.as_ref());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: HttpBody, E: BodyEnd<B>> Drop for TracedBody<B, E> {
    fn drop(&mut self) {
        self.end.dropped(&self.span, &self.body);
        // The exporter takes the last exit of a span for its end.
        self.span.in_scope(|| ());
    }
}

/// Records the status of a call: that of the trailers, or `CANCELLED` if the caller leaves before.
struct CallEnd {
    is_recorded: bool,
}

/// `response`, with a body that records the status of its call if spans are exported.
pub(super) fn of_call(response: Response<Body>, span: &Span) -> Response<Body> {
    if !is_exporting() {
        return response;
    }
    let end = CallEnd { is_recorded: false };
    response.map(|body| Body::new(TracedBody { body, span: span.clone(), end }))
}

impl CallEnd {
    fn record(&mut self, span: &Span, code: Code) {
        if !std::mem::replace(&mut self.is_recorded, true) {
            mark_status(span, code);
        }
    }
}

impl BodyEnd<Body> for CallEnd {
    fn frame(&mut self, span: &Span, frame: Option<&Result<Frame<Bytes>, Status>>) {
        match frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.record(span, status.map_or(Code::Ok, |status| status.code()));
                }
            }
            Some(Err(status)) => self.record(span, status.code()),
            None => self.record(span, Code::Ok),
        }
    }

    fn dropped(&mut self, span: &Span, body: &Body) {
        self.record(span, if body.is_end_stream() { Code::Ok } else { Code::Cancelled });
    }
}
