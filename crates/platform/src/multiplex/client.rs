//! The caller's side.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    marker::PhantomData,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use http::uri::PathAndQuery;
use phoenix_proto::{
    Method,
    common::{
        CallCancel, CallCredit, CallEnd, CalleeFrame, CallerFrame, ExchangeRequest, ExchangeResponse,
        callee_frame, caller_frame, multiplex_service_client::MultiplexServiceClient,
    },
};
use prost::Message;
use tonic::{Code, Status, Streaming, client::Grpc};
use tonic_prost::ProstCodec;

use super::{
    MAX_BATCH_BYTES, SHARED_BYTES,
    credit::{CALL_CREDIT, cost},
    send_queue::{Sender, send_queue},
};
use crate::{RequestContext, client::PeerChannel, server::MAX_MESSAGE_BYTES};

/// After a stream could not be opened, or broke.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

/// After the peer said that it has no such stream: it is an older one, and may be replaced by a newer one.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// MultiplexClient to one peer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MultiplexClient(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    channel: PeerChannel,
    state: Mutex<ConnectionState>,
}

#[derive(Debug)]
enum ConnectionState {
    Closed { until: Instant },
    Opening,
    Open(Arc<SharedStream>),
}

/// A stream that is open for calls. Its own side of it ends when nobody holds it any more.
#[derive(Debug)]
struct SharedStream {
    frames: Sender<ExchangeItem>,
    open: Arc<OpenCalls>,
    next_id: AtomicU64,
}

/// A frame, or why calls are left from now on.
#[derive(Debug)]
enum ExchangeItem {
    Call(CallerFrame),
    Leaving(String),
}

/// The calls on a stream that have not ended; nothing once it has broken.
#[derive(Debug)]
struct OpenCalls(Mutex<Option<HashMap<u64, Arc<CallReceiver>>>>);

/// What the peer has said to one call.
#[derive(Debug, Default)]
struct CallReceiver(Mutex<Received>);

#[derive(Debug, Default)]
struct Received {
    messages: VecDeque<Bytes>,
    end: Option<Result<(), Status>>,
    waiting: Option<Waker>,
}

/// The stream of a call broke before the call had ended.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
struct Broken(#[source] Option<Status>);

/// What a call is answered with, message after message. Dropping it before its end cancels the call.
#[must_use = "dropping it cancels the call"]
pub struct ResponseStream<A>(Source<A>);

enum Source<A> {
    Shared(SharedCall<A>),
    Beginning(BoxFuture<'static, Result<Streaming<A>, Status>>),
    Own(Streaming<A>),
    Ended,
}

struct SharedCall<A> {
    stream: Arc<SharedStream>,
    id: u64,
    receiver: Arc<CallReceiver>,
    has_ended: bool,
    /// What was read since the peer was last told.
    read: u64,
    answer: PhantomData<fn() -> A>,
}

impl MultiplexClient {
    /// MultiplexClient over `channel`. The stream they share is opened when it is first missed.
    #[must_use]
    pub fn new(channel: PeerChannel) -> Self {
        Self(Arc::new(Peer { channel, state: Mutex::new(ConnectionState::Closed { until: Instant::now() }) }))
    }

    /// MultiplexClient `M` with `request` under `context`. To be called inside a tokio runtime.
    pub fn call<M: Method>(
        &self,
        context: &RequestContext,
        request: M::Request,
    ) -> ResponseStream<M::Response> {
        // Asked for in any case: a call by itself is left for the reason that travels there.
        let stream = self.stream();
        if request.encoded_len() <= SHARED_BYTES
            && let Some(call) = stream.and_then(|stream| stream.call::<M>(context, &request))
        {
            return ResponseStream(Source::Shared(call));
        }
        let (channel, request) = (self.0.channel.clone(), context.request(request));
        ResponseStream(Source::Beginning(Box::pin(async move {
            let mut grpc = Grpc::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let (path, codec) = (PathAndQuery::from_static(M::PATH), ProstCodec::default());
            Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
        })))
    }

    /// MultiplexClient `M`, which answers once.
    ///
    /// # Errors
    /// Those of the peer, or of the way to it.
    pub async fn call_once<M: Method>(
        &self,
        context: &RequestContext,
        request: M::Request,
    ) -> Result<M::Response, Status> {
        let mut answers = self.call::<M>(context, request);
        let answer = answers.message().await?.ok_or_else(|| Status::internal("no answer"))?;
        // The call has ended well only if its status says so.
        while answers.message().await?.is_some() {}
        Ok(answer)
    }

    /// Tells the peer, where a stream is open, why calls on this connection are left from now on.
    pub fn announce_cancel_reason(&self, reason: &str) {
        if let ConnectionState::Open(stream) = &*self.0.state() {
            stream.frames.send(ExchangeItem::Leaving(reason.to_owned()), reason.len());
        }
    }

    /// The open stream. Where there is none, one is opened for those who come later.
    fn stream(&self) -> Option<Arc<SharedStream>> {
        let mut state = self.0.state();
        match &*state {
            ConnectionState::Open(stream) => return Some(Arc::clone(stream)),
            ConnectionState::Opening => return None,
            ConnectionState::Closed { until } if Instant::now() < *until => return None,
            ConnectionState::Closed { .. } => {}
        }
        *state = ConnectionState::Opening;
        tokio::spawn(keep_open(Arc::downgrade(&self.0), self.0.channel.clone()));
        None
    }
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(peer: &Weak<Self>, pause: Duration) {
        if let Some(peer) = peer.upgrade() {
            *peer.state() = ConnectionState::Closed { until: Instant::now() + pause };
        }
    }
}

/// Opens a stream for `peer` and hands on what comes over it until it ends.
async fn keep_open(peer: Weak<Peer>, channel: PeerChannel) {
    let (frames, batches) = send_queue();
    let requests = batches.map(request);
    let mut client = MultiplexServiceClient::new(channel).max_decoding_message_size(MAX_BATCH_BYTES);
    let opened = client.exchange(requests).await;
    drop(client);
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Peer::close(&peer, ASK_AGAIN_AFTER),
        Err(_) => return Peer::close(&peer, REOPEN_AFTER),
    };
    let open = Arc::new(OpenCalls(Mutex::new(Some(HashMap::new()))));
    let stream = SharedStream { frames, open: Arc::clone(&open), next_id: AtomicU64::new(1) };
    match peer.upgrade() {
        Some(peer) => *peer.state() = ConnectionState::Open(Arc::new(stream)),
        None => return,
    }
    let mut was_told = false;
    let why = loop {
        match responses.message().await {
            Ok(Some(ExchangeResponse { frames, draining })) => {
                if draining && !std::mem::replace(&mut was_told, true) {
                    Peer::close(&peer, REOPEN_AFTER);
                }
                open.deliver(frames);
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    if !was_told {
        Peer::close(&peer, REOPEN_AFTER);
    }
    open.break_off(why.as_ref());
}

fn request(batch: Vec<ExchangeItem>) -> ExchangeRequest {
    let mut request = ExchangeRequest::default();
    for item in batch {
        match item {
            ExchangeItem::Call(frame) => request.frames.push(frame),
            ExchangeItem::Leaving(reason) => request.leaving = reason,
        }
    }
    request
}

impl SharedStream {
    /// Begins a call; nothing, if the stream has just broken or its peer does not read.
    fn call<M: Method>(
        self: Arc<Self>,
        context: &RequestContext,
        request: &M::Request,
    ) -> Option<SharedCall<M::Response>> {
        if self.frames.is_full() {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let receiver = Arc::new(CallReceiver::default());
        self.open.lock().as_mut()?.insert(id, Arc::clone(&receiver));
        let mut start = context.start_call(M::PATH, request.encode_to_vec().into());
        start.credit = Some(CALL_CREDIT);
        let bytes = start.encoded_len();
        self.send(id, caller_frame::Frame::Start(start), bytes);
        Some(SharedCall { stream: self, id, receiver, has_ended: false, read: 0, answer: PhantomData })
    }

    fn send(&self, call_id: u64, frame: caller_frame::Frame, bytes: usize) {
        self.frames.send(ExchangeItem::Call(CallerFrame { call_id, frame: Some(frame) }), bytes);
    }
}

impl OpenCalls {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, Arc<CallReceiver>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, frames: Vec<CalleeFrame>) {
        let mut wakers = Vec::with_capacity(frames.len());
        if let Some(calls) = self.lock().as_mut() {
            for CalleeFrame { call_id, frame } in frames {
                // Whoever made the call may have left.
                let waker = match frame {
                    Some(callee_frame::Frame::Message(message)) => {
                        calls.get(&call_id).and_then(|receiver| receiver.message(message))
                    }
                    Some(callee_frame::Frame::End(end)) => {
                        calls.remove(&call_id).and_then(|receiver| receiver.end(result(end)))
                    }
                    None => None,
                };
                wakers.extend(waker);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends every call: the stream is gone.
    fn break_off(&self, why: Option<&Status>) {
        let calls = self.lock().take().unwrap_or_default();
        for receiver in calls.into_values() {
            let mut status = Status::unavailable("the connection broke");
            status.set_source(Arc::new(Broken(why.cloned())));
            if let Some(waker) = receiver.end(Err(status)) {
                waker.wake();
            }
        }
    }
}

fn result(CallEnd { code, message, details }: CallEnd) -> Result<(), Status> {
    match Code::from_i32(code) {
        Code::Ok => Ok(()),
        code => Err(Status::with_details(code, message, details.into())),
    }
}

impl CallReceiver {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message in. Whoever waits for it is to be woken.
    fn message(&self, message: Bytes) -> Option<Waker> {
        let mut received = self.lock();
        received.messages.push_back(message);
        received.waiting.take()
    }

    fn end(&self, result: Result<(), Status>) -> Option<Waker> {
        let mut received = self.lock();
        received.end = Some(result);
        received.waiting.take()
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let mut received = self.lock();
        if let Some(message) = received.messages.pop_front() {
            return Poll::Ready(Ok(Some(message)));
        }
        match &received.end {
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(status)) => Poll::Ready(Err(status.clone())),
            None => {
                received.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<A: Message + Default + 'static> ResponseStream<A> {
    /// The next message; nothing at the end.
    ///
    /// # Errors
    /// The status that the call ended with, or what became of the way to the peer.
    pub async fn message(&mut self) -> Result<Option<A>, Status> {
        loop {
            match &mut self.0 {
                Source::Shared(call) => return call.message().await,
                Source::Beginning(call) => {
                    let begun = call.await;
                    // It can't be asked again.
                    self.0 = Source::Ended;
                    self.0 = Source::Own(begun?);
                }
                Source::Ended => return Ok(None),
                Source::Own(answers) => return answers.message().await,
            }
        }
    }
}

impl<A: Message + Default> SharedCall<A> {
    async fn message(&mut self) -> Result<Option<A>, Status> {
        if self.has_ended {
            return Ok(None);
        }
        match poll_fn(|cx| self.receiver.poll(cx)).await {
            Ok(Some(message)) => {
                self.has_read(cost(message.len()));
                match A::decode(message) {
                    Ok(message) => Ok(Some(message)),
                    Err(error) => Err(Status::internal(format!("unreadable message: {error}"))),
                }
            }
            other => {
                self.has_ended = true;
                other.map(|_| None)
            }
        }
    }
}

impl<A> SharedCall<A> {
    /// Lets the peer send as much again, from time to time.
    fn has_read(&mut self, cost: u64) {
        self.read += cost;
        if self.read >= CALL_CREDIT / 2 {
            let bytes = std::mem::take(&mut self.read);
            self.stream.send(self.id, caller_frame::Frame::Credit(CallCredit { bytes }), size_of::<u64>());
        }
    }
}

impl<A> Drop for SharedCall<A> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let was_open = self.stream.open.lock().as_mut().is_some_and(|calls| calls.remove(&self.id).is_some());
        let is_start = |item: &ExchangeItem| match item {
            ExchangeItem::Call(CallerFrame { call_id, frame: Some(caller_frame::Frame::Start(_)) }) => {
                *call_id == self.id
            }
            ExchangeItem::Call(_) | ExchangeItem::Leaving(_) => false,
        };
        // The peer need not hear of a call that it has not been sent.
        if was_open && !self.stream.frames.retract(is_start) {
            self.stream.send(self.id, caller_frame::Frame::Cancel(CallCancel {}), 0);
        }
    }
}

impl<A> std::fmt::Debug for ResponseStream<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match &self.0 {
            Source::Shared(call) => &format!("call {} of a shared stream", call.id),
            Source::Beginning(_) | Source::Own(_) => "a call of its own",
            Source::Ended => "a call that could not begin",
        };
        f.debug_tuple("ResponseStream").field(&how).finish()
    }
}
