//! Client side: context and service token on outgoing calls.

use std::task::{Context, Poll};

use http::{HeaderValue, header};
use tower::{Layer, Service};

use super::{context::RequestContext, forwarded::ForwardedTo, headers::inject};
use crate::service_token::ServiceToken;

/// A layer that writes the [`RequestContext`] of a call and the service token into its metadata.
#[derive(Debug, Clone)]
pub struct SendContext(HeaderValue);

impl SendContext {
    /// A layer for calls that present `token`.
    #[must_use]
    pub fn new(token: &ServiceToken) -> Self {
        Self(token.header())
    }
}

impl<S> Layer<S> for SendContext {
    type Service = SendContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendContextService { inner, authorization: self.0.clone() }
    }
}

/// Service of [`SendContext`].
#[derive(Debug, Clone)]
pub struct SendContextService<S> {
    inner: S,
    authorization: HeaderValue,
}

impl<S, B> Service<http::Request<B>> for SendContextService<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        if let Some(context) = request.extensions_mut().remove::<RequestContext>() {
            inject(&context, request.headers_mut());
        }
        if let Some(mark) = request.extensions_mut().remove::<ForwardedTo>() {
            mark.inject(request.headers_mut());
        }
        request.headers_mut().insert(header::AUTHORIZATION, self.authorization.clone());
        self.inner.call(request)
    }
}
