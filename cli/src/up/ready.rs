//! Asks the gateway whether the stack is ready.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Often: the time to the ready line is what a person waits.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// An answer that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Waits until every service is ready.
pub(crate) async fn wait(gateway: SocketAddr) {
    loop {
        if let Ok(Some(answer)) = tokio::time::timeout(ANSWER_LIMIT, ask(gateway)).await
            && answer.contains("\"status\":\"ready\"")
        {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What the gateway says is missing.
pub(crate) async fn what_is_missing(gateway: SocketAddr) -> String {
    match tokio::time::timeout(ANSWER_LIMIT, ask(gateway)).await {
        Ok(Some(answer)) => answer,
        Ok(None) | Err(_) => "the gateway does not answer".into(),
    }
}

async fn ask(gateway: SocketAddr) -> Option<String> {
    // A gateway on 0.0.0.0 is reached on loopback.
    let addr = if gateway.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], gateway.port()))
    } else {
        gateway
    };
    let stream = TcpStream::connect(addr).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header(HOST, addr.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    String::from_utf8(body.to_vec()).ok()
}
