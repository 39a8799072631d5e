//! Polls the gateway until the stack is ready.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use phoenix_platform::tls::PublicTls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Interval between polls. Short, because users wait for the ready line.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Timeout of one poll.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits until every service is ready.
pub(crate) async fn wait(gateway: SocketAddr, tls: Option<&PublicTls>) {
    loop {
        if let Ok(Some(answer)) = tokio::time::timeout(RESPONSE_TIMEOUT, poll(gateway, tls)).await
            && answer.contains("\"status\":\"ready\"")
        {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The gateway's list of what is not ready.
pub(crate) async fn missing(gateway: SocketAddr, tls: Option<&PublicTls>) -> String {
    match tokio::time::timeout(RESPONSE_TIMEOUT, poll(gateway, tls)).await {
        Ok(Some(answer)) => answer,
        Ok(None) | Err(_) => "the gateway does not answer".into(),
    }
}

async fn poll(gateway: SocketAddr, tls: Option<&PublicTls>) -> Option<String> {
    // A gateway on 0.0.0.0 is reachable on loopback.
    let addr = if gateway.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], gateway.port()))
    } else {
        gateway
    };
    let stream = TcpStream::connect(addr).await.ok()?;
    match tls {
        Some(tls) => readyz(tls.connect(stream).await.ok()?, addr).await,
        None => readyz(stream, addr).await,
    }
}

async fn readyz(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    addr: SocketAddr,
) -> Option<String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header(HOST, addr.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    String::from_utf8(body.to_vec()).ok()
}
