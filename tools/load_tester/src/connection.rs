//! One keep-alive HTTP/1.1 connection.

use std::{io, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{live::Live, outcome::Outcome, target::Target};

/// A connection that is made on first use, and again when it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    target: Arc<Target>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Bytes in both directions, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connection {
    pub(crate) fn new(target: Arc<Target>) -> Self {
        Self { target, sender: None }
    }

    /// Sends the chat and reads the answer. Dropping this future before its end drops the connection, so
    /// that a late answer is never taken for the next request's. A request is never sent twice: a chat is not idempotent.
    pub(crate) async fn exchange(&mut self, live: &Live) -> Outcome {
        let mut sender = match self.sender().await {
            Ok(sender) => sender,
            Err(problem) => {
                live.note_problem(|| format!("cannot connect to {}: {problem}", self.target.url()));
                return Outcome::CONNECT_FAILED;
            }
        };
        match self.send(&mut sender).await {
            Ok(outcome) => {
                self.sender = Some(sender);
                outcome
            }
            Err(problem) => {
                live.note_problem(|| format!("lost the connection to {}: {problem}", self.target.url()));
                Outcome::CONNECTION_LOST
            }
        }
    }

    async fn send(&self, sender: &mut SendRequest<Full<Bytes>>) -> hyper::Result<Outcome> {
        let (head, body) = sender.send_request(self.target.request()).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Outcome::of(head.status, &body))
    }

    async fn sender(&mut self) -> io::Result<SendRequest<Full<Bytes>>> {
        if let Some(mut sender) = self.sender.take() {
            // Fails when the server has closed an idle connection, which is its right.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.target.address()).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match self.target.tls() {
            Some(tls) => Box::new(tls.connect(stream).await?),
            None => Box::new(stream),
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with its sender; the future of the answer returns the error.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}
