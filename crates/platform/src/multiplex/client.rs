//! Client side of shared streams: calls, and the stream to one peer.

use std::{
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
    response_stream::ResponseStream,
    send_queue::send_queue,
    shared_stream::{OpenCalls, SharedStream, request},
};
use crate::{client::PeerChannel, http2::MAX_MESSAGE_BYTES, propagation::RequestContext};

/// Pause after a stream could not be opened, or broke.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Pause after the peer answered that it does not implement shared streams: it is an older version, and may be replaced.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(30);

/// A client that makes calls to one peer on a shared stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MultiplexClient(Arc<Peer>);

#[derive(Debug)]
struct Peer {
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
        let state = Mutex::new(ConnectionState::Closed { until: Instant::now() });
        Self(Arc::new(Peer { channel, state }))
    }

    /// Calls `M` with `request` under `context`. Must be called inside a tokio runtime.
    pub fn call<M: Method>(
        &self,
        context: &RequestContext,
        request: M::Request,
    ) -> ResponseStream<M::Response> {
        // Requested for large calls, too: the cancel reason travels on the shared stream.
        let stream = self.stream();
        if request.encoded_len() <= BATCH_BYTES
            && let Some(stream) = stream
            && let Some(responses) = ResponseStream::shared::<M>(stream, context, &request)
        {
            return responses;
        }
        let (channel, request) = (self.0.channel.clone(), context.request(request));
        ResponseStream::own(async move {
            let mut grpc = Grpc::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let (path, codec) = (PathAndQuery::from_static(M::PATH), ProstCodec::default());
            Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
        })
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

    /// Sends the peer the reason for which calls on this connection are cancelled from now on, if a stream is open.
    pub fn announce_cancel_reason(&self, reason: &str) {
        if let ConnectionState::Open(stream) = &*self.0.state.lock() {
            stream.send_cancel_reason(reason);
        }
    }

    /// The open stream. Without one, a stream is opened for later calls.
    fn stream(&self) -> Option<Arc<SharedStream>> {
        let mut state = self.0.state.lock();
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
    fn close(peer: &Weak<Self>, pause: Duration) {
        if let Some(peer) = peer.upgrade() {
            *peer.state.lock() = ConnectionState::Closed { until: Instant::now() + pause };
        }
    }
}

/// Opens a stream for `peer` and delivers its frames until it ends.
async fn keep_open(peer: Weak<Peer>, channel: PeerChannel) {
    let (queue, batches) = send_queue();
    let requests = batches.map(request);
    let mut client = MultiplexServiceClient::new(channel).max_decoding_message_size(MAX_BATCH_BYTES);
    let opened = client.exchange(requests).await;
    drop(client);
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Peer::close(&peer, UNSUPPORTED_PAUSE),
        Err(_) => return Peer::close(&peer, REOPEN_PAUSE),
    };
    let calls = Arc::new(OpenCalls::new());
    let stream = SharedStream::new(queue, Arc::clone(&calls));
    match peer.upgrade() {
        Some(peer) => *peer.state.lock() = ConnectionState::Open(Arc::new(stream)),
        None => return,
    }
    let mut is_draining = false;
    let cause = loop {
        match responses.message().await {
            Ok(Some(ExchangeResponse { frames, draining })) => {
                if draining && !mem::replace(&mut is_draining, true) {
                    Peer::close(&peer, REOPEN_PAUSE);
                }
                calls.deliver(frames);
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    if !is_draining {
        Peer::close(&peer, REOPEN_PAUSE);
    }
    calls.fail(cause.as_ref());
}
