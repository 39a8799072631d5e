//! Client side of shared streams: calls, and the stream to each peer.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use phoenix_proto::{
    Method,
    common::{ExchangeResponse, multiplex_service_client::MultiplexServiceClient},
};
use prost::Message;
use tonic::{Code, Status, client::Grpc};
use tonic_prost::ProstCodec;

use super::{
    limits::{BATCH_BYTES, MAX_BATCH_BYTES},
    response_stream::{ResponseStream, SentCall},
    send_queue::send_queue,
    shared_stream::{OpenCalls, SharedStream, request},
};
use crate::{
    client::{PeerCall, PeerChannel, PeerSet, pick},
    http2::MAX_MESSAGE_BYTES,
    propagation::RequestContext,
};

/// Pause after a stream could not be opened, or broke.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Pause after the peer answered that it does not implement shared streams: it is an older version, and may be replaced.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(30);

/// A client whose calls to a peer share a stream. Cheap to clone.
///
/// Over a channel with several instances, each has a stream of its own, and each call goes to the less loaded of two.
#[derive(Debug, Clone)]
pub struct MultiplexClient(Arc<Client>);

#[derive(Debug)]
struct Client {
    channel: PeerChannel,
    streams: Streams,
}

#[derive(Debug)]
enum Streams {
    One(Arc<PeerStream>),
    /// The instances, and their streams by the id of the instance.
    Many(Arc<PeerSet>, Mutex<HashMap<u64, Arc<PeerStream>>>),
}

/// The shared stream to one peer.
#[derive(Debug)]
struct PeerStream {
    channel: PeerChannel,
    state: Mutex<ConnectionState>,
}

/// State of the shared stream to a peer.
#[derive(Debug)]
enum ConnectionState {
    /// No stream. The next call after `until` opens one.
    Closed {
        until: Instant,
    },
    Opening,
    Open(Arc<SharedStream>),
}

impl MultiplexClient {
    /// A client over `channel`. The first call opens the shared stream.
    #[must_use]
    pub fn new(channel: PeerChannel) -> Self {
        let streams = match channel.peers() {
            None => Streams::One(PeerStream::new(channel.clone())),
            Some(peers) => Streams::Many(Arc::clone(peers), Mutex::default()),
        };
        Self(Arc::new(Client { channel, streams }))
    }

    /// Calls `M` with `request` under `context`. Must be called inside a tokio runtime.
    ///
    /// A call that a peer did not accept because it was shutting down is made again, on another stream.
    pub fn call<M: Method>(
        &self,
        context: &RequestContext,
        request: M::Request,
    ) -> ResponseStream<M::Response> {
        // Requested for large calls, too: the cancel reason travels on the shared stream.
        let (stream, peer) = self.0.streams.choose();
        if request.encoded_len() <= BATCH_BYTES
            && let Some(stream) = stream
        {
            let call = self.sent_call::<M>(context, &request);
            if let Some(responses) = ResponseStream::shared::<M>(stream, peer, call) {
                return responses;
            }
        }
        let (channel, request) = (self.0.channel.clone(), context.request(request));
        ResponseStream::own(async move {
            let mut grpc = Grpc::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            grpc.ready().await.map_err(Status::from_error)?;
            let (path, codec) = (PathAndQuery::from_static(M::PATH), ProstCodec::default());
            Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
        })
    }

    fn sent_call<M: Method>(&self, context: &RequestContext, request: &M::Request) -> SentCall<M::Response> {
        let client = self.clone();
        let again = move |context: &RequestContext, request| {
            let request = M::Request::decode(request);
            let request =
                request.map_err(|error| Status::internal(format!("unreadable request: {error}")))?;
            Ok(client.call::<M>(context, request))
        };
        SentCall { context: context.clone(), request: request.encode_to_vec().into(), again: Box::new(again) }
    }

    /// Calls `M`, whose response is one message.
    ///
    /// # Errors
    /// The status of the call, or of the connection.
    pub async fn call_once<M: Method>(
        &self,
        context: &RequestContext,
        request: M::Request,
    ) -> Result<M::Response, Status> {
        let mut responses = self.call::<M>(context, request);
        let response = responses.message().await?.ok_or_else(|| Status::internal("no answer"))?;
        // Only the status tells whether the call succeeded.
        while responses.message().await?.is_some() {}
        Ok(response)
    }

    /// Sends every peer with an open stream the reason for which calls on its connection are cancelled from now on.
    pub fn announce_cancel_reason(&self, reason: &str) {
        match &self.0.streams {
            Streams::One(stream) => stream.announce_cancel_reason(reason),
            Streams::Many(_, streams) => {
                streams.lock().values().for_each(|stream| stream.announce_cancel_reason(reason));
            }
        }
    }
}

impl Streams {
    /// The stream for the next call, if one is open, and the call of the instance that it leads to, if there are several.
    fn choose(&self) -> (Option<Arc<SharedStream>>, Option<PeerCall>) {
        let (set, streams) = match self {
            Self::One(stream) => return (stream.open(), None),
            Self::Many(set, streams) => (set, streams),
        };
        let peers = set.current();
        let Some(peer) = pick(&peers, &[]) else { return (None, None) };
        let mut streams = streams.lock();
        if !streams.contains_key(&peer.id) {
            streams.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
            streams.insert(peer.id, PeerStream::new(PeerChannel::of(peer)));
        }
        let stream = streams.get(&peer.id).and_then(PeerStream::open);
        (stream, Some(PeerCall::start(peer)))
    }
}

impl PeerStream {
    fn new(channel: PeerChannel) -> Arc<Self> {
        Arc::new(Self { channel, state: Mutex::new(ConnectionState::Closed { until: Instant::now() }) })
    }

    /// The open stream. Without one, a stream is opened for later calls.
    fn open(self: &Arc<Self>) -> Option<Arc<SharedStream>> {
        let mut state = self.state.lock();
        match &*state {
            ConnectionState::Open(stream) => return Some(Arc::clone(stream)),
            ConnectionState::Opening => return None,
            ConnectionState::Closed { until } if Instant::now() < *until => return None,
            ConnectionState::Closed { .. } => {}
        }
        *state = ConnectionState::Opening;
        tokio::spawn(keep_open(Arc::downgrade(self), self.channel.clone()));
        None
    }

    fn announce_cancel_reason(&self, reason: &str) {
        if let ConnectionState::Open(stream) = &*self.state.lock() {
            stream.send_cancel_reason(reason);
        }
    }

    fn close(peer: &Weak<Self>, pause: Duration) {
        if let Some(peer) = peer.upgrade() {
            *peer.state.lock() = ConnectionState::Closed { until: Instant::now() + pause };
        }
    }
}

/// Opens a stream for `peer` and delivers its frames until it ends.
async fn keep_open(peer: Weak<PeerStream>, channel: PeerChannel) {
    let (queue, batches) = send_queue();
    let requests = batches.map(request);
    let mut client = MultiplexServiceClient::new(channel).max_decoding_message_size(MAX_BATCH_BYTES);
    let opened = client.exchange(requests).await;
    drop(client);
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => {
            return PeerStream::close(&peer, UNSUPPORTED_PAUSE);
        }
        Err(_) => return PeerStream::close(&peer, REOPEN_PAUSE),
    };
    let calls = Arc::new(OpenCalls::new());
    let stream = SharedStream::new(queue, Arc::clone(&calls));
    match peer.upgrade() {
        Some(peer) => *peer.state.lock() = ConnectionState::Open(Arc::new(stream)),
        None => return,
    }
    let (mut is_draining, mut last_accepted) = (false, None);
    let cause = loop {
        match responses.message().await {
            Ok(Some(ExchangeResponse { frames, draining, last_call_id })) => {
                last_accepted = last_accepted.or(last_call_id);
                if draining && !mem::replace(&mut is_draining, true) {
                    PeerStream::close(&peer, REOPEN_PAUSE);
                }
                calls.deliver(frames);
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    if !is_draining {
        PeerStream::close(&peer, REOPEN_PAUSE);
    }
    calls.fail(cause.as_ref(), last_accepted);
}
