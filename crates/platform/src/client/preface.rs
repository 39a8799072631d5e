//! A connection counts as made when its peer has said its first word.
//!
//! The kernel takes connections for a process that is frozen, or dead in all but name. A call on such a connection would
//! wait until pings find out, and nobody could say afterwards whether it had arrived. So the client's connection preface
//! goes ahead, and the server's own preface, which has to be the first that it sends
//! (<https://www.rfc-editor.org/rfc/rfc9113#section-3.4>), is awaited before anything else is sent.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::{BoxError, ServiceExt};

/// How long a peer has, from the first packet to its first word.
pub const LIMIT: Duration = Duration::from_secs(1);

/// For so long, a peer that said nothing is not asked again: whoever waited behind the one who asked is told at once.
const PAUSE: Duration = Duration::from_millis(500);

/// What an HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Makes connections to one peer.
#[derive(Debug, Clone)]
pub(super) struct PrefaceConnector {
    connector: HttpConnector,
    silent_until: Arc<Mutex<Option<Instant>>>,
}

/// The peer said nothing in time.
#[derive(Debug, thiserror::Error)]
#[error("it says nothing: it is frozen, far too busy or out of reach")]
struct PeerUnresponsive;

impl PrefaceConnector {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { connector, silent_until: Arc::default() }
    }

    /// A connection to the peer at `uri`, over which it has begun to speak HTTP/2.
    ///
    /// # Errors
    /// When nothing takes the connection, or what does says nothing within [`LIMIT`].
    pub(super) async fn connect(self, uri: Uri) -> Result<PrefaceStream, BoxError> {
        if self.silent_until().is_some_and(|until| Instant::now() < until) {
            return Err(PeerUnresponsive.into());
        }
        let greeted = tokio::time::timeout(LIMIT, greet(self.connector.clone(), uri)).await;
        *self.silent_until() = greeted.is_err().then(|| Instant::now() + PAUSE);
        greeted.unwrap_or_else(|_| Err(PeerUnresponsive.into()))
    }

    fn silent_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // A whole value: what a panicking thread leaves behind is still consistent.
        self.silent_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn greet(connector: HttpConnector, uri: Uri) -> Result<PrefaceStream, BoxError> {
    let mut stream = connector.oneshot(uri).await?.into_inner();
    stream.write_all(PREFACE).await?;
    match stream.peek(&mut [0]).await? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        _ => Ok(PrefaceStream { stream: TokioIo::new(stream), remaining: PREFACE }),
    }
}

/// A connection to a peer that answers. The preface, which was sent, is not sent again.
#[derive(Debug)]
pub(super) struct PrefaceStream {
    stream: TokioIo<TcpStream>,
    /// What its owner is still to say of the preface.
    remaining: &'static [u8],
}

impl PrefaceStream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }

    /// Takes what `bytes` begin with of the preface: how much.
    fn say(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.remaining.len());
        let (said, remaining) = self.remaining.split_at(count);
        if said != &bytes[..count] {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only HTTP/2 can be spoken here"));
        }
        self.remaining = remaining;
        Ok(count)
    }
}

impl Read for PrefaceStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl Write for PrefaceStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.remaining.is_empty() || bytes.is_empty() {
            return self.stream().poll_write(cx, bytes);
        }
        Poll::Ready(self.say(bytes))
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
            Some(first) if !self.remaining.is_empty() => Poll::Ready(self.say(first)),
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
