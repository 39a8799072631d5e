//! The channel of generated clients: one connection, or one per instance of the service.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, request::Parts};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::{ConnectError, Status, body::Body, transport::Channel};
use tower::{BoxError, Service, ServiceExt};

use super::{
    balancer::{PeerSet, pick},
    peer::{Peer, PeerCall},
    status::{is_connect_failure, is_timeout},
};
use crate::propagation::SendContextService;

/// Channel of generated clients, which sends the [`RequestContext`](crate::RequestContext) of each call. Cheap to clone.
///
/// With several instances behind it, each call goes to the less loaded of two. A call that could not be sent is tried on each
/// of the others; a call that was sent, and a stream, stay where they are.
#[derive(Debug, Clone)]
pub struct PeerChannel(Kind);

#[derive(Debug, Clone)]
enum Kind {
    One(SendContextService<Channel>),
    Many(Arc<PeerSet>),
}

/// No address of the service is known.
#[derive(Debug, thiserror::Error)]
#[error("the name of the service has no address")]
struct NoAddress;

impl PeerChannel {
    pub(super) const fn one(channel: SendContextService<Channel>) -> Self {
        Self(Kind::One(channel))
    }

    pub(super) fn many(peers: PeerSet) -> Self {
        Self(Kind::Many(Arc::new(peers)))
    }

    /// A channel to one of several instances.
    pub(crate) fn of(peer: &Peer) -> Self {
        Self::one(peer.channel.clone())
    }

    /// The instances, if the channel may have several.
    pub(crate) fn peers(&self) -> Option<&Arc<PeerSet>> {
        match &self.0 {
            Kind::One(_) => None,
            Kind::Many(peers) => Some(peers),
        }
    }

    /// A channel to each instance.
    pub(super) async fn each(&self) -> Vec<Self> {
        match &self.0 {
            Kind::One(_) => vec![self.clone()],
            Kind::Many(peers) => peers.resolved().await.iter().map(|peer| Self::of(peer)).collect(),
        }
    }
}

impl Service<Request<Body>> for PeerChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = PeerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Kind::One(channel) => channel.poll_ready(cx).map_err(Into::into),
            Kind::Many(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> PeerFuture {
        PeerFuture(match &mut self.0 {
            Kind::One(channel) => CallFuture::One(channel.call(request)),
            Kind::Many(peers) => CallFuture::Many(Box::pin(call(Arc::clone(peers), request))),
        })
    }
}

/// Future of a call on a [`PeerChannel`].
#[derive(Debug)]
pub struct PeerFuture(CallFuture);

enum CallFuture {
    One(<Channel as Service<Request<Body>>>::Future),
    Many(BoxFuture<'static, Result<Response<Body>, BoxError>>),
}

impl std::fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Many(_) => "Many",
        })
    }
}

impl Future for PeerFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            CallFuture::One(call) => Pin::new(call).poll(cx).map_err(Into::into),
            CallFuture::Many(call) => call.as_mut().poll(cx),
        }
    }
}

/// Sends a request to one of `set`, and to another one while it could not be sent.
async fn call(set: Arc<PeerSet>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let peers = set.resolved().await;
    let (parts, mut body) = request.into_parts();
    let mut tried = Vec::new();
    let mut failure: BoxError = ConnectError(NoAddress.into()).into();
    while let Some(peer) = pick(&peers, &tried) {
        let call = PeerCall::start(peer);
        let sent = send(peer, parts.clone(), body).await;
        match sent {
            Ok(response) => {
                call.answered();
                return Ok(response.map(|body| Body::new(CountedBody { body, call })));
            }
            Err((error, unsent)) => {
                let is_connected = !is_connect_failure(&*error);
                call.broke(is_connected);
                if !is_connected {
                    set.refresh();
                }
                let Some(unsent) = unsent.filter(|_| !is_timeout(&*error)) else { return Err(error) };
                (body, failure) = (unsent, error);
                tried.push(peer.id);
            }
        }
    }
    Err(failure)
}

/// Sends a request to `peer`. An error comes with the body, if no part of it was sent: the message of a call is in its body.
async fn send(peer: &Peer, parts: Parts, body: Body) -> Result<Response<Body>, (BoxError, Option<Body>)> {
    let returned = Arc::new(Mutex::new(None));
    let body = ReturnedBody { body: Some(body), is_used: false, returned: Arc::clone(&returned) };
    let request = Request::from_parts(parts, Body::new(body));
    let answer = peer.channel.clone().oneshot(request).await;
    answer.map_err(|error| (error.into(), returned.lock().take()))
}

/// The body of a request, which is returned on drop unless a part of it was read.
struct ReturnedBody {
    body: Option<Body>,
    is_used: bool,
    returned: Arc<Mutex<Option<Body>>>,
}

impl HttpBody for ReturnedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_used = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for ReturnedBody {
    fn drop(&mut self) {
        if !self.is_used {
            *self.returned.lock() = self.body.take();
        }
    }
}

/// The body of a response, whose call is in flight until its end.
struct CountedBody {
    body: Body,
    call: PeerCall,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(status))) = &polled {
            self.call.failed(status);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
