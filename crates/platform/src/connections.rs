//! The accept loop of every listener: REST, gRPC and `/metrics`.
//!
//! ```text
//! accept ──▶ below the limit? ──no──▶ the oldest silent connection is closed, else the oldest without a call
//!               │ yes
//!               ▼
//!            no request head or HTTP/2 preface within SILENCE_LIMIT ──▶ closed
//!            requests ──▶ the service, each counted until its answer has been sent
//!            shutdown ──▶ no new connections; those without a call are closed at once; calls in flight end within DRAIN
//! ```
//!
//! A call is in flight from its request head to the last byte of its answer. A request that stops arriving is none: a drain
//! waits for [`ARRIVAL_GRACE`] and no longer.

mod call;
mod state;
mod stream;
mod table;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Service};

pub use self::call::RequestBody;
pub use self::stream::WatchedStream;
use self::{call::Tracked, state::State, table::Table};
use crate::{log_limit::LogLimit, server::MAX_HEADER_LIST_BYTES, shutdown::DRAIN};

/// How long a connection may take to show a complete request head or an HTTP/2 preface.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// How long the head of a later request on an HTTP/1.1 connection may take; also how long such a connection is kept idle.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How often an HTTP/2 connection is asked whether its peer still lives, and how long the peer has to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(10);

/// Streams of HTTP/2 that a peer has reset before they were taken up, or that were reset for an error of the peer. Beyond it the
/// connection is closed. Ample: a planner that cancels thousands of tasks while this process stands still is no attacker.
const MAX_RESET_STREAMS: usize = 10_000;

/// How long to wait before accepting again when the system refuses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// At the limit, how often connections without a call are looked for.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// At shutdown, how long a request that has begun to arrive may take to arrive as a whole.
const ARRIVAL_GRACE: Duration = Duration::from_millis(500);

/// At shutdown, how long a connection is kept after its last call, for its last packets.
const FLUSH_GRACE: Duration = Duration::from_millis(100);

/// After the drain limit, how long calls that are answered for want of time may take.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The most connections of one listener, whatever the system allows.
const MOST_CONNECTIONS: usize = 16_384;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Http,
    /// HTTP/2 only, as many calls at once on a connection as the peer wants.
    Grpc,
}

/// How the connections of a listener are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is spoken.
    pub protocol: Protocol,
    /// Open connections at once.
    pub max_connections: usize,
    /// Cancelled when the drain limit has passed: what is in flight then has [`LAST_ANSWERS`] to be answered.
    pub overdue: CancellationToken,
}

impl Options {
    /// The options of a service's main listener.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, max_connections: main_limit(), overdue: CancellationToken::new() }
    }

    /// The options of a listener for `/metrics`, which few peers call.
    #[must_use]
    pub fn metrics() -> Self {
        Self { max_connections: (main_limit() / 4).clamp(8, 64), ..Self::new(Protocol::Http) }
    }
}

/// Half of the descriptors that the process may open; the rest is for databases, peers and pipes.
fn main_limit() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 2).unwrap_or(MOST_CONNECTIONS).clamp(16, MOST_CONNECTIONS)
}

/// Raises the soft limit of open descriptors to the hard one. The soft limit is for programs that use `select`.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused, the process works with what it has.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Serves `service` to the connections of `listener` until `shutdown`, then lets the calls in flight end within [`DRAIN`].
///
/// # Errors
/// When the listener is of no use.
pub async fn serve<S, B>(
    listener: TcpListener,
    options: Options,
    service: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    serve_over(listener, options, std::convert::identity, service, shutdown).await
}

/// The same over connections that `wrap` changes.
///
/// # Errors
/// When the listener is of no use.
pub async fn serve_over<IO, S, B>(
    listener: TcpListener,
    options: Options,
    wrap: impl Fn(WatchedStream) -> IO,
    service: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let addr = listener.local_addr()?;
    let (tasks, table) = (TaskTracker::new(), Table::default());
    let abandon = CancellationToken::new();
    // A service that gives up, and drops this, still has its calls answered: their handlers end with an error.
    let stop = shutdown.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let http = Arc::new(http(options.protocol));
    let mut acceptor = Acceptor { listener, limit: options.max_connections, table: table.clone(), addr };
    while let Some((stream, peer)) = shutdown.run_until_cancelled(acceptor.next()).await {
        let entry = table.add();
        let state = Arc::clone(entry.state());
        let connection =
            Connection { http: Arc::clone(&http), state: Arc::clone(&state), shutdown: stop.clone() };
        // Answers are small: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let stream = wrap(WatchedStream::new(stream, Arc::clone(&state)));
        let served = connection.run(stream, Tracked::new(service.clone(), state, peer));
        let abandon = abandon.clone();
        tasks.spawn(async move {
            abandon.run_until_cancelled(served).await;
            drop(entry);
        });
    }
    drop(acceptor);
    tasks.close();
    drain(addr, &tasks, &table, &options.overdue).await;
    abandon.cancel();
    Ok(())
}

async fn drain(addr: SocketAddr, tasks: &TaskTracker, table: &Table, overdue: &CancellationToken) {
    let in_flight = table.calls();
    if in_flight > 0 {
        tracing::info!(%addr, in_flight, limit_secs = DRAIN.as_secs(), "draining");
    }
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(%addr, in_flight = table.calls(), "gave up waiting for calls in flight");
        overdue.cancel();
        let _ = timeout(LAST_ANSWERS, tasks.wait()).await;
    }
}

fn http(protocol: Protocol) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    if protocol == Protocol::Grpc {
        http = http.http2_only();
        // What runs and what waits is bounded behind it, agent by agent.
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

/// Takes connections, one when there is room for it.
struct Acceptor {
    listener: TcpListener,
    limit: usize,
    table: Table,
    addr: SocketAddr,
}

static REFUSED: LogLimit = LogLimit::new();
static FULL: LogLimit = LogLimit::new();

impl Acceptor {
    async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.make_room().await;
                    return accepted;
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    if let Some(unlogged) = REFUSED.pass() {
                        tracing::warn!(addr = %self.addr, %error, unlogged, "cannot accept connections at the moment");
                    }
                    self.table.close_one();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until fewer connections are open than may be, and closes what stands in the way.
    async fn make_room(&self) {
        while self.table.len() >= self.limit {
            let ended = self.table.ended();
            if self.table.close_one() {
                let _ = timeout(ROOM_PAUSE, ended).await;
                continue;
            }
            if let Some(unlogged) = FULL.pass() {
                let limit = self.limit;
                tracing::warn!(addr = %self.addr, limit, unlogged, "connection limit reached; new connections wait");
            }
            let _ = timeout(ROOM_PAUSE, ended).await;
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection, from its acceptance to its end.
struct Connection {
    http: Arc<auto::Builder<TokioExecutor>>,
    state: Arc<State>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run<IO, S, B>(self, stream: IO, service: Tracked<S>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let state = &*self.state;
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A connection that breaks is its peer's affair; what was asked for on it is dropped, and so cancelled.
            _ = &mut connection => return,
            () = state.closed() => return,
            () = silence(state) => return,
            () = self.shutdown.cancelled() => {}
        }
        if !state.has_spoken() {
            return;
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = &mut connection => {}
            () = state.closed() => {}
            _ = timeout(DRAIN + LAST_ANSWERS, quiet(state)) => {}
        }
    }
}

/// Ends when the connection has said nothing for too long.
async fn silence(state: &State) {
    sleep(SILENCE_LIMIT).await;
    if state.has_spoken() {
        std::future::pending::<()>().await;
    }
}

/// Ends when no call is in flight and everything has been sent.
async fn quiet(state: &State) {
    let _ = timeout(ARRIVAL_GRACE, state.until(|state| !state.has_calls())).await;
    loop {
        state.until(|state| !state.is_busy()).await;
        sleep(FLUSH_GRACE).await;
        if !state.is_busy() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
