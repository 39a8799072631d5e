//! The response of a call, on the client side.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use phoenix_proto::Method;
use prost::Message;
use tonic::{Status, Streaming};

use super::{
    call_receiver::CallReceiver,
    credit::{CALL_CREDIT, cost},
    shared_stream::{SharedStream, was_not_accepted},
};
use crate::{client::PeerCall, propagation::RequestContext};

/// The messages of a call's response. Dropping it before its end cancels the call.
#[must_use = "dropping it cancels the call"]
pub struct ResponseStream<M>(Source<M>);

enum Source<M> {
    Shared(SharedCall<M>),
    Starting(BoxFuture<'static, Result<Streaming<M>, Status>>),
    Own(Streaming<M>),
    Ended,
}

/// What a call consists of, for as long as it may have to be made again.
pub(super) struct SentCall<M> {
    pub(super) context: RequestContext,
    /// The encoded message.
    pub(super) request: Bytes,
    /// Makes the call again.
    pub(super) again: Box<MakeAgain<M>>,
}

type MakeAgain<M> = dyn Fn(&RequestContext, Bytes) -> Result<ResponseStream<M>, Status> + Send + Sync;

/// A call on a shared stream.
struct SharedCall<M> {
    call: SentCall<M>,
    stream: Arc<SharedStream>,
    id: u64,
    receiver: Arc<CallReceiver>,
    /// The call in the load of its peer, among several.
    peer: Option<PeerCall>,
    has_ended: bool,
    /// Credit that was used since the last grant.
    used: u64,
}

impl<M: Message + Default + 'static> ResponseStream<M> {
    /// Starts a call of `C` on `stream`, which leads to `peer`; `None` when the stream has broken or its peer does not read.
    pub(super) fn shared<C: Method<Response = M>>(
        stream: Arc<SharedStream>,
        peer: Option<PeerCall>,
        call: SentCall<M>,
    ) -> Option<Self> {
        let mut start = call.context.start_call(C::PATH, call.request.clone());
        start.credit = Some(CALL_CREDIT);
        let (id, receiver) = stream.start(start)?;
        Some(Self(Source::Shared(SharedCall { call, stream, id, receiver, peer, has_ended: false, used: 0 })))
    }

    /// The response of a call on a stream of its own.
    pub(super) fn own(call: impl Future<Output = Result<Streaming<M>, Status>> + Send + 'static) -> Self {
        Self(Source::Starting(Box::pin(call)))
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The status of the call, or of the connection.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            match &mut self.0 {
                Source::Shared(call) => match call.message().await {
                    Err(status) if was_not_accepted(&status) => {
                        let SentCall { context, request, again } = &call.call;
                        let again = again(context, request.clone())?;
                        *self = again;
                    }
                    answer => return answer,
                },
                Source::Starting(call) => {
                    let started = call.await;
                    // The future must not be polled again.
                    self.0 = Source::Ended;
                    self.0 = Source::Own(started?);
                }
                Source::Ended => return Ok(None),
                Source::Own(messages) => return messages.message().await,
            }
        }
    }
}

impl<M: Message + Default> SharedCall<M> {
    async fn message(&mut self) -> Result<Option<M>, Status> {
        if self.has_ended {
            return Ok(None);
        }
        match poll_fn(|cx| self.receiver.poll(cx)).await {
            Ok(Some(message)) => {
                self.release(cost(message.len()));
                match M::decode(message) {
                    Ok(message) => Ok(Some(message)),
                    Err(error) => Err(Status::internal(format!("unreadable message: {error}"))),
                }
            }
            end => {
                self.has_ended = true;
                match (self.peer.take(), &end) {
                    // Says nothing about the peer that its drain does not.
                    (Some(_), Err(status)) if was_not_accepted(status) => {}
                    (Some(peer), Err(status)) => peer.failed(status),
                    (Some(peer), Ok(_)) => peer.answered(),
                    (None, _) => {}
                }
                end.map(|_| None)
            }
        }
    }
}

impl<M> SharedCall<M> {
    /// Records the cost of a read message, and grants the peer new credit when half of it is used.
    fn release(&mut self, cost: u64) {
        self.used += cost;
        if self.used >= CALL_CREDIT / 2 {
            self.stream.grant(self.id, std::mem::take(&mut self.used));
        }
    }
}

impl<M> Drop for SharedCall<M> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.stream.cancel(self.id);
        }
    }
}

impl<M> std::fmt::Debug for ResponseStream<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match &self.0 {
            Source::Shared(call) => &format!("call {} of a shared stream", call.id),
            Source::Starting(_) | Source::Own(_) => "a call on its own stream",
            Source::Ended => "a call that did not start",
        };
        f.debug_tuple("ResponseStream").field(&how).finish()
    }
}
