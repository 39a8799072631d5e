//! One call on a connection, counted from its request head to the last byte of its response.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tower::{Service, ServiceExt, util::Oneshot};

use super::state::ConnectionState;

/// A service that counts its calls, and attaches the peer's address as `ConnectInfo<SocketAddr>` to each request.
#[derive(Debug, Clone)]
pub(super) struct Tracked<S> {
    inner: S,
    state: Arc<ConnectionState>,
    peer: SocketAddr,
}

impl<S> Tracked<S> {
    pub(super) fn new(inner: S, state: Arc<ConnectionState>, peer: SocketAddr) -> Self {
        Self { inner, state, peer }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = TrackedCall<Oneshot<S, Request<RequestBody>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.state.set_sent();
        let is_arriving = !request.body().is_end_stream();
        let call = Call::start(&self.state, is_arriving);
        let arrival = is_arriving.then(|| Arc::clone(&call.arrival));
        let mut request = request.map(|body| RequestBody { body, arrival });
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.state.cancel_reason.clone());
        TrackedCall { future: self.inner.clone().oneshot(request), call: Some(call) }
    }
}

/// Guard of a call, which ends on drop.
#[derive(Debug)]
struct Call {
    arrival: Arc<Arrival>,
}

/// Arrival of the request of a call.
#[derive(Debug)]
struct Arrival {
    state: Arc<ConnectionState>,
    is_pending: AtomicBool,
}

impl Call {
    fn start(state: &Arc<ConnectionState>, is_arriving: bool) -> Self {
        state.start_call(is_arriving);
        let arrival = Arrival { state: Arc::clone(state), is_pending: AtomicBool::new(is_arriving) };
        Self { arrival: Arc::new(arrival) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.arrival.end();
        self.arrival.state.end_call();
    }
}

impl Arrival {
    fn end(&self) {
        if self.is_pending.swap(false, Ordering::AcqRel) {
            self.state.end_arrival();
        }
    }
}

/// Request body that records its arrival.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    /// Absent once the body has arrived.
    arrival: Option<Arc<Arrival>>,
}

impl RequestBody {
    fn end_arrival(&mut self) {
        if let Some(arrival) = self.arrival.take() {
            arrival.end();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.end_arrival();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.end_arrival();
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

pin_project_lite::pin_project! {
    /// A call whose response has not begun.
    pub(super) struct TrackedCall<F> {
        #[pin] future: F,
        call: Option<Call>,
    }
}

impl<F, B, E> Future for TrackedCall<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx));
        let call = this.call.take();
        if let Some(call) = &call {
            call.arrival.end();
        }
        Poll::Ready(response.map(|response| response.map(|body| ResponseBody { body, call })))
    }
}

pin_project_lite::pin_project! {
    /// Response body, with which the call ends.
    pub(super) struct ResponseBody<B> {
        #[pin] body: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
