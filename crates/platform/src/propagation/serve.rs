//! Server side: context of incoming calls.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::Sleep;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument, Span, instrument::Instrumented};

use super::{
    cancel_reason::CancelReason,
    forwarded::ForwardedTo,
    headers::{extract, timeout},
    span::{mark_status, rpc_span},
    traced_body::of_call,
};

/// Path prefix of the service whose streams carry calls with a context each.
const MULTIPLEX: &str = "/phoenix.common.v1.MultiplexService/";

/// A layer that reads the metadata of a call into a [`RequestContext`](super::RequestContext) and serves the call inside a span
/// of its own, which lasts until the end of the response.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServeContext;

impl<S> Layer<S> for ServeContext {
    type Service = ServeContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServeContextService { inner }
    }
}

/// Service of [`ServeContext`].
#[derive(Debug, Clone)]
pub struct ServeContextService<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for ServeContextService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ServeContextFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // Health checks and reflection belong to no request, and a shared stream belongs to many.
        let path = request.uri().path();
        if path.starts_with("/grpc.") || path.starts_with(MULTIPLEX) {
            let served = Some(self.inner.call(request).instrument(Span::none()));
            return ServeContextFuture { served, rejected: None, limit: None };
        }
        let mut context = match extract(request.headers()) {
            Ok(context) => context,
            Err(invalid) => {
                return ServeContextFuture { served: None, rejected: Some(invalid.into()), limit: None };
            }
        };
        if let Some(reason) = request.extensions().get::<CancelReason>() {
            context.cancel_reason = reason.clone();
        }
        let limit = timeout(request.headers()).map(tokio::time::sleep);
        let span = rpc_span(request.uri().path(), &context);
        if let Some(mark) = ForwardedTo::extract(request.headers()) {
            request.extensions_mut().insert(mark);
        }
        request.extensions_mut().insert(context);
        let _entered = span.enter();
        ServeContextFuture {
            served: Some(self.inner.call(request).instrument(span.clone())),
            rejected: None,
            limit,
        }
    }
}

pin_project_lite::pin_project! {
    /// Future of [`ServeContextService`]: the call, or the rejection of its metadata.
    pub struct ServeContextFuture<F> {
        #[pin]
        served: Option<Instrumented<F>>,
        rejected: Option<tonic::Status>,
        // Ends when the caller stops waiting for the response.
        #[pin]
        limit: Option<Sleep>,
    }
}

impl<F, E> Future for ServeContextFuture<F>
where
    F: Future<Output = Result<http::Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.served.as_pin_mut() {
            Some(mut served) => {
                let response = match served.as_mut().poll(cx) {
                    Poll::Ready(response) => response,
                    Poll::Pending => {
                        let Some(limit) = this.limit.as_pin_mut() else { return Poll::Pending };
                        ready!(limit.poll(cx));
                        let message = "the call took longer than its `grpc-timeout`";
                        Ok(tonic::Status::deadline_exceeded(message).into_http())
                    }
                };
                Poll::Ready(response.map(|response| {
                    match tonic::Status::from_header_map(response.headers()) {
                        Some(status) => {
                            mark_status(served.span(), status.code());
                            response
                        }
                        None => of_call(response, served.span()),
                    }
                }))
            }
            None => {
                let status =
                    this.rejected.take().unwrap_or_else(|| tonic::Status::internal("polled after its end"));
                Poll::Ready(Ok(status.into_http()))
            }
        }
    }
}
