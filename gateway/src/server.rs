//! Connections: accepting them, bounding how long a silent one is kept, and letting them end.
//!
//! HTTP/1.1 and HTTP/2 (prior knowledge) share the port. At shutdown the ladder of [`phoenix_platform::shutdown`] is
//! climbed: no new connections, no new requests on open ones, requests in flight end within [`DRAIN`].

use std::{io, net::SocketAddr, time::Duration};

use axum::extract::ConnectInfo;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use phoenix_platform::shutdown::DRAIN;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    ServeError,
    router::{App, Received},
    unrouted::Described,
};

/// How long the head of a request may take to arrive; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait before accepting again when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `shutdown`.
pub(crate) async fn run(
    listener: TcpListener,
    router: App,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let addr = listener.local_addr()?;
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    let _abandon_when_dropped = abandon.clone().drop_guard();
    tracing::info!(%addr, "HTTP server listening");
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let served = serve_connection(stream, peer, router.clone(), shutdown.clone());
                let abandon = abandon.clone();
                connections.spawn(async move { abandon.run_until_cancelled(served).await });
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if !connections.is_empty() {
        tracing::info!(%addr, connections = connections.len(), limit_secs = DRAIN.as_secs(), "draining");
    }
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(%addr, connections = connections.len(), "gave up waiting for connections to end");
    }
    Ok(())
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: App, shutdown: CancellationToken) {
    // Answers are small: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT)
        .keep_alive_timeout(Duration::from_secs(10));
    // Log lines about refused requests name their sender.
    let service = router.map_request(move |mut request: Received| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    let connection =
        http.serve_connection(TokioIo::new(Described::new(stream)), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        // A connection that breaks is its caller's affair; what it asked for is dropped, and so cancelled.
        _ = &mut connection => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
