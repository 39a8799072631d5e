//! A connector that waits for the peer's HTTP/2 preface.
//!
//! The kernel accepts connections for a process that is stopped. A call on such a connection would wait for a ping timeout,
//! and it would be unknown whether the peer had received it. The connector therefore sends the client's connection preface
//! and waits for the server's, which is the first thing that a server sends
//! (<https://www.rfc-editor.org/rfc/rfc9113#section-3.4>), before a call is sent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::BoxError;

use crate::{
    http2::PREFACE,
    tls::{self, ServiceTls, Transport, is_tls_record, log_tls_server},
};

/// Time limit from the first packet to the server's preface.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which connections to an unresponsive peer fail at once, so that queued calls do not wait one after another.
const FAIL_FAST: Duration = Duration::from_millis(500);

/// Connector to one peer.
#[derive(Debug, Clone)]
pub(super) struct PrefaceConnector {
    host: Arc<str>,
    port: u16,
    /// Name in the peer's certificate, with TLS.
    server_name: Option<ServerName<'static>>,
    tls: Option<ServiceTls>,
    unresponsive_until: Arc<Mutex<Option<Instant>>>,
}

/// The peer sent no preface in time.
#[derive(Debug, thiserror::Error)]
#[error("the peer does not respond: it is stopped, overloaded or unreachable")]
struct PeerUnresponsive;

/// The peer is called over TLS by a service without a certificate.
#[derive(Debug, thiserror::Error)]
#[error("this service has no certificate: set TLS_CERT, TLS_KEY and TLS_CA")]
struct NoCertificate;

impl PrefaceConnector {
    /// A connector to `host`, a name or an IP address; with TLS, to the server that has `server_name` in its certificate.
    pub(super) fn new(
        host: String,
        port: u16,
        server_name: Option<ServerName<'static>>,
        tls: Option<ServiceTls>,
    ) -> Self {
        Self { host: host.into(), port, server_name, tls, unresponsive_until: Arc::default() }
    }

    /// Connects to the peer and waits for its preface.
    ///
    /// # Errors
    /// When the connection fails, or the peer sends nothing within [`CONNECT_TIMEOUT`].
    pub(super) async fn connect(self) -> Result<PrefaceStream, BoxError> {
        if self.unresponsive_until.lock().is_some_and(|until| Instant::now() < until) {
            return Err(PeerUnresponsive.into());
        }
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.exchange_prefaces()).await;
        *self.unresponsive_until.lock() = connected.is_err().then(|| Instant::now() + FAIL_FAST);
        connected.unwrap_or_else(|_| Err(PeerUnresponsive.into()))
    }

    async fn exchange_prefaces(&self) -> Result<PrefaceStream, BoxError> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        // Requests are small: waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        let Some(name) = &self.server_name else {
            let (stream, first) = exchange(Transport::Plain(stream)).await?;
            if is_tls_record(&[first]) {
                return Err(log_tls_server(None, &self.peer()).into());
            }
            return Ok(PrefaceStream::new(stream, first));
        };
        let tls = self.tls.as_ref().ok_or(NoCertificate)?;
        let secured = async { exchange(tls::connect(tls, name.clone(), stream).await?).await };
        match secured.await {
            Ok((stream, first)) => Ok(PrefaceStream::new(stream, first)),
            Err(error) => Err(log_tls_server(Some(&error), &self.peer()).into()),
        }
    }

    fn peer(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Sends the client's preface. Returns the first byte of the server's.
async fn exchange(mut stream: Transport) -> io::Result<(Transport, u8)> {
    stream.write_all(PREFACE).await?;
    stream.flush().await?;
    let first = stream.read_u8().await?;
    Ok((stream, first))
}

/// A connection on which the client's preface is sent already, and so swallowed when hyper writes it.
#[derive(Debug)]
pub(super) struct PrefaceStream {
    stream: TokioIo<Transport>,
    /// First byte of the server's preface, until hyper reads it.
    first: Option<u8>,
    /// Part of the preface that hyper has not written.
    remaining: &'static [u8],
}

impl PrefaceStream {
    fn new(stream: Transport, first: u8) -> Self {
        Self { stream: TokioIo::new(stream), first: Some(first), remaining: PREFACE }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<Transport>> {
        Pin::new(&mut self.get_mut().stream)
    }

    /// Swallows the part of the preface that `bytes` begin with. Returns its length.
    fn swallow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.remaining.len());
        let (swallowed, remaining) = self.remaining.split_at(count);
        if swallowed != &bytes[..count] {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only HTTP/2 is supported on this connection",
            ));
        }
        self.remaining = remaining;
        Ok(count)
    }
}

impl Read for PrefaceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() > 0
            && let Some(first) = self.first.take()
        {
            into.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        self.stream().poll_read(cx, into)
    }
}

impl Write for PrefaceStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.remaining.is_empty() || bytes.is_empty() {
            return self.stream().poll_write(cx, bytes);
        }
        Poll::Ready(self.swallow(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices.iter().find(|slice| !slice.is_empty()) {
            Some(first) if !self.remaining.is_empty() => Poll::Ready(self.swallow(first)),
            _ => self.stream().poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
