//! One connection, from accept to close.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use super::{
    call::{RequestBody, Tracked},
    options::Protocol,
    state::ConnectionState,
    stream::MAX_RESET_STREAMS,
};
use crate::{
    http2::{MAX_HEADER_LIST_BYTES, PREFACE},
    shutdown::DRAIN,
    tls::{ServerTls, Transport, accept},
};

/// Time limit for a new connection to send a complete request head or an HTTP/2 preface.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// Time limit for the head of a later request on an HTTP/1.1 connection, and so for an idle one.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Interval of HTTP/2 pings, and the time limit for their acknowledgement.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(10);

/// At shutdown, time limit for a request that has begun to arrive.
const ARRIVAL_GRACE: Duration = Duration::from_millis(500);

/// At shutdown, time for which a connection stays open after its last call, for its last packets.
const FLUSH_GRACE: Duration = Duration::from_millis(100);

/// After the drain limit, time limit for the error responses of calls in flight.
pub(super) const LAST_RESPONSES: Duration = Duration::from_secs(2);

/// The HTTP implementation for a listener.
pub(super) struct Http {
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
    /// Reads the first bytes to find out the version. The buffer for the request behind them is then twice as large.
    either: auto::Builder<TokioExecutor>,
    protocol: Protocol,
}

/// Version of HTTP that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
    /// It cannot be told without reading.
    Unknown,
}

impl Http {
    pub(super) fn new(protocol: Protocol) -> Self {
        let http = builder(protocol);
        Self { http1: http.clone().http1_only(), http2: http.clone().http2_only(), either: http, protocol }
    }

    const fn of(&self, version: Version) -> &auto::Builder<TokioExecutor> {
        match version {
            Version::Http1 => &self.http1,
            Version::Http2 => &self.http2,
            Version::Unknown => &self.either,
        }
    }
}

impl Version {
    /// The version of `stream`: what its TLS agreed to, else what its first bytes show, which stay unread.
    async fn of(stream: &Transport) -> Self {
        match stream {
            Transport::Tls(stream) => match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Self::Http2,
                Some(b"http/1.1") => Self::Http1,
                _ => Self::Unknown,
            },
            Transport::Plain(stream) => {
                let mut first = [0; PREFACE.len()];
                match stream.peek(&mut first).await {
                    Ok(length) if length > 0 && first[..length] != PREFACE[..length] => Self::Http1,
                    Ok(length) if length == PREFACE.len() => Self::Http2,
                    _ => Self::Unknown,
                }
            }
        }
    }
}

fn builder(protocol: Protocol) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    if protocol == Protocol::Grpc {
        // Running and queued tasks are bounded per agent.
        http.http2().max_concurrent_streams(None);
    }
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS);
    http
}

/// One connection.
pub(super) struct Connection {
    pub(super) http: Arc<Http>,
    pub(super) state: Arc<ConnectionState>,
    pub(super) shutdown: CancellationToken,
}

impl Connection {
    /// The stream of the connection, after its handshake if there is `tls`. `None` when the handshake fails, or the
    /// connection is closed before its end.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
        tls: Option<ServerTls>,
        peer: SocketAddr,
    ) -> Option<Transport> {
        let Some(tls) = tls else { return Some(Transport::Plain(stream)) };
        tokio::select! {
            secured = accept(&tls, stream, peer) => secured,
            () = self.state.closed() => None,
            () = self.shutdown.cancelled() => None,
        }
    }

    /// The version that the connection speaks, as soon as its peer says something. `None` when it is closed before.
    pub(super) async fn version(&self, stream: &Transport) -> Option<Version> {
        if self.http.protocol == Protocol::Grpc {
            return Some(Version::Http2);
        }
        tokio::select! {
            // A request that has arrived is answered, also at a shutdown.
            biased;
            version = Version::of(stream) => Some(version),
            () = self.state.closed() => None,
            () = sleep(SILENCE_LIMIT) => None,
            () = self.shutdown.cancelled() => None,
        }
    }

    /// Serves the connection, whose peer is silent since `since`, until it ends or is closed. After `shutdown`, until its calls have
    /// ended.
    pub(super) async fn run<IO, S, B>(self, stream: IO, version: Version, since: Instant, service: Tracked<S>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let state = &*self.state;
        let connection = self.http.of(version).serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // An error of a connection concerns its peer; its calls are dropped, and so cancelled.
            _ = &mut connection => return,
            () = state.closed() => return,
            () = silence(state, since) => return,
            () = self.shutdown.cancelled() => {}
        }
        if !state.has_sent() {
            return;
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = &mut connection => {}
            () = state.closed() => {}
            _ = timeout(DRAIN + LAST_RESPONSES, drained(state)) => {}
        }
    }
}

/// Ends when the peer has sent nothing within [`SILENCE_LIMIT`] from `since` on.
async fn silence(state: &ConnectionState, since: Instant) {
    sleep_until(since + SILENCE_LIMIT).await;
    if state.has_sent() {
        std::future::pending::<()>().await;
    }
}

/// Ends when no call is in flight and every response is sent.
async fn drained(state: &ConnectionState) {
    let _ = timeout(ARRIVAL_GRACE, state.until(|state| !state.has_calls())).await;
    loop {
        state.until(|state| !state.is_busy()).await;
        sleep(FLUSH_GRACE).await;
        if !state.is_busy() {
            return;
        }
    }
}
