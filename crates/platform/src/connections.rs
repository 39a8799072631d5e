//! The accept loop of every listener: REST, gRPC and `/metrics`.
//!
//! ```text
//! accept ──▶ below the limit? ──no──▶ close the oldest silent connection, else the oldest without a call
//!               │ yes
//!               ▼
//!            with TLS: no handshake within 10 s ──▶ close
//!            no request head or HTTP/2 preface within 20 s ──▶ close
//!            requests ──▶ the service, each counted until its response is sent
//!            shutdown ──▶ no new connections; close those without a call; calls in flight end within DRAIN
//! ```
//!
//! A call is in flight from its request head to the last byte of its response. A drain waits for a request that is still
//! arriving for half a second only.

mod acceptor;
mod call;
mod connection;
mod options;
mod state;
mod stream;
mod table;

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Service};

use self::{
    acceptor::Acceptor,
    call::Tracked,
    connection::{Connection, Http, LAST_RESPONSES},
    table::ConnectionTable,
};
pub use self::{
    call::RequestBody,
    options::{Options, Protocol, raise_descriptor_limit},
    stream::WatchedStream,
};
use crate::shutdown::DRAIN;

/// Serves `service` to the connections of `listener` until `shutdown`, then waits for calls in flight within [`DRAIN`].
///
/// # Errors
/// When the listener's address cannot be read.
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

/// As [`serve`], over streams that `wrap` transforms.
///
/// # Errors
/// When the listener's address cannot be read.
pub async fn serve_over<IO, S, B>(
    listener: TcpListener,
    options: Options,
    wrap: impl Fn(WatchedStream) -> IO + Clone + Send + 'static,
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
    let (tasks, table) = (TaskTracker::new(), ConnectionTable::default());
    let abandon = CancellationToken::new();
    // When this future is dropped, calls in flight are still answered: their handlers end with an error.
    let stop = shutdown.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let http = Arc::new(Http::new(options.protocol));
    let mut acceptor = Acceptor { listener, limit: options.max_connections, table: table.clone(), addr };
    while let Some((stream, peer)) = shutdown.run_until_cancelled(acceptor.accept()).await {
        let entry = table.add();
        let state = Arc::clone(entry.state());
        let connection =
            Connection { http: Arc::clone(&http), state: Arc::clone(&state), shutdown: stop.clone() };
        // Responses are small: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let (service, wrap, tls) =
            (Tracked::new(service.clone(), Arc::clone(&state), peer), wrap.clone(), options.tls.clone());
        let served = async move {
            let Some(stream) = connection.secure(stream, tls, peer).await else { return };
            let since = Instant::now();
            if let Some(version) = connection.version(&stream).await {
                connection.run(wrap(WatchedStream::new(stream, state)), version, since, service).await;
            }
        };
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

async fn drain(addr: SocketAddr, tasks: &TaskTracker, table: &ConnectionTable, overdue: &CancellationToken) {
    let in_flight = table.calls();
    if in_flight > 0 {
        tracing::info!(%addr, in_flight, limit_secs = DRAIN.as_secs(), "draining");
    }
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(%addr, in_flight = table.calls(), "gave up waiting for calls in flight");
        overdue.cancel();
        let _ = timeout(LAST_RESPONSES, tasks.wait()).await;
    }
}

#[cfg(test)]
mod tests;
