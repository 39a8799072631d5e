//! Counting and timing of the gRPC calls that a server handles.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::metrics::Metric;

/// Time until a gRPC call's response began, by method and status.
pub const RPC_SECONDS: Metric = Metric::histogram(
    "phoenix_rpc_duration_seconds",
    "Time until a gRPC call's response began in seconds, by method and status code.",
)
.labelled();

/// A layer that counts and times calls.
#[derive(Debug, Clone, Default)]
pub struct RpcMetrics;

impl RpcMetrics {
    /// Starts timing a call of `method`, which is the request path.
    pub(crate) fn start(&self, method: &str) -> RpcCall {
        RpcCall { method: method.to_owned(), started: Instant::now() }
    }
}

/// A call without a response so far.
#[derive(Debug)]
pub(crate) struct RpcCall {
    method: String,
    started: Instant,
}

impl RpcCall {
    /// Records the call with the status `code`.
    pub(crate) fn record(self, code: Code) {
        // The path is the caller's choice; only paths of existing methods become labels. A caller without a token does not
        // learn which methods exist.
        let is_unknown = matches!(code, Code::Unimplemented | Code::Unauthenticated);
        let method = if is_unknown { "unknown".into() } else { self.method };
        metrics::histogram!(RPC_SECONDS.name, "method" => method, "code" => code_name(code))
            .record(self.started.elapsed().as_secs_f64());
    }
}

impl<S> Layer<S> for RpcMetrics {
    type Service = RpcMetricsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RpcMetricsService { inner, metrics: self.clone() }
    }
}

/// Service of [`RpcMetrics`].
#[derive(Debug, Clone)]
pub struct RpcMetricsService<S> {
    inner: S,
    metrics: RpcMetrics,
}

impl<S, B> Service<http::Request<B>> for RpcMetricsService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RpcFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = self.metrics.start(request.uri().path());
        RpcFuture { future: self.inner.call(request), call: Some(call) }
    }
}

pin_project_lite::pin_project! {
    /// Future of [`RpcMetricsService`].
    pub struct RpcFuture<F> {
        #[pin] future: F,
        call: Option<RpcCall>,
    }
}

impl<F, E> Future for RpcFuture<F>
where
    F: Future<Output = Result<http::Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx));
        let code = match &response {
            Ok(response) => {
                Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
            }
            Err(_) => Code::Unknown,
        };
        if let Some(call) = this.call.take() {
            call.record(code);
        }
        Poll::Ready(response)
    }
}

/// Name of a status code in labels and spans.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
