//! A stream that observes its bytes: whether the peer has sent a preface, whether it reads, whether it floods.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::ConnectionState;
use crate::{
    http2::PREFACE,
    log_limit::LogLimit,
    tls::{Transport, is_tls_record, log_tls_client},
};

/// Limit of the HTTP/2 streams that a peer resets within [`RESET_WINDOW`], or whose errors are the peer's. Beyond it the
/// connection is closed. Ample for a planner that cancels thousands of tasks while this process is stopped.
pub(super) const MAX_RESET_STREAMS: usize = 10_000;

/// Time window of [`MAX_RESET_STREAMS`].
const RESET_WINDOW: Duration = Duration::from_secs(10);

const RST_STREAM: u8 = 3;

/// A stream that updates the state of its connection.
#[derive(Debug)]
pub struct WatchedStream {
    stream: Transport,
    state: Arc<ConnectionState>,
    protocol: PeerProtocol,
    is_write_blocked: bool,
}

/// Protocol of the peer, by its first bytes.
#[derive(Debug)]
enum PeerProtocol {
    /// Number of bytes received, which are a prefix of the preface.
    Undecided(usize),
    Http2(Frames),
    Other,
}

/// Counts HTTP/2 frames that reset a stream (<https://www.rfc-editor.org/rfc/rfc9113#section-4.1>).
#[derive(Debug)]
struct Frames {
    header: [u8; 9],
    /// Bytes of `header` that have arrived.
    filled: usize,
    /// Bytes of the current frame that have not arrived.
    payload: usize,
    resets: usize,
    window: Instant,
}

impl WatchedStream {
    pub(super) fn new(stream: Transport, state: Arc<ConnectionState>) -> Self {
        Self { stream, state, protocol: PeerProtocol::Undecided(0), is_write_blocked: false }
    }

    fn observe_read(&mut self, mut bytes: &[u8]) {
        if let PeerProtocol::Undecided(known) = self.protocol {
            if known == 0 && is_tls_record(bytes) && matches!(self.stream, Transport::Plain(_)) {
                log_tls_client(
                    &self.stream.peer_addr().map_or_else(|_| String::new(), |addr| addr.to_string()),
                );
            }
            let count = bytes.len().min(PREFACE.len() - known);
            let (first, rest) = bytes.split_at(count);
            self.protocol = match known + count {
                _ if first != &PREFACE[known..known + count] => PeerProtocol::Other,
                known if known < PREFACE.len() => PeerProtocol::Undecided(known),
                _ => {
                    self.state.set_sent();
                    PeerProtocol::Http2(Frames::new())
                }
            };
            bytes = rest;
        }
        if let PeerProtocol::Http2(frames) = &mut self.protocol
            && frames.read(bytes) > MAX_RESET_STREAMS
            && !self.state.is_closing()
        {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(unlogged) = LIMIT.pass() {
                let peer = self.stream.peer_addr().ok().map(tracing::field::display);
                tracing::warn!(peer, unlogged, "connection closed: its peer resets streams without end");
            }
            self.state.close();
        }
    }

    fn observe_write<T>(&mut self, result: Poll<T>) -> Poll<T> {
        if self.is_write_blocked != result.is_pending() {
            self.is_write_blocked = result.is_pending();
            self.state.set_write_blocked(self.is_write_blocked);
        }
        result
    }
}

impl Frames {
    fn new() -> Self {
        Self { header: [0; 9], filled: 0, payload: 0, resets: 0, window: Instant::now() }
    }

    /// Parses further bytes. Returns the number of streams reset within the current window.
    fn read(&mut self, mut bytes: &[u8]) -> usize {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                (self.payload, bytes) = (self.payload - count, &bytes[count..]);
                continue;
            }
            let count = (self.header.len() - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            self.header[self.filled..self.filled + count].copy_from_slice(part);
            (self.filled, bytes) = (self.filled + count, rest);
            if self.filled == self.header.len() {
                self.filled = 0;
                let [high, middle, low, kind, ..] = self.header;
                self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if kind == RST_STREAM {
                    self.reset();
                }
            }
        }
        self.resets
    }

    fn reset(&mut self) {
        if self.window.elapsed() > RESET_WINDOW {
            (self.resets, self.window) = (0, Instant::now());
        }
        self.resets += 1;
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        if !matches!(self.protocol, PeerProtocol::Other) {
            self.observe_read(&into.filled()[before..]);
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.observe_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.observe_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.resize(bytes.len() + payload, 3);
        bytes
    }

    proptest! {
        #[test]
        fn stream_resets_are_counted_for_any_split_of_frames(
            frames in prop::collection::vec((0_u8..10, 0_usize..70), 0..40),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, *payload)).collect();
            let expected = frames.iter().filter(|(kind, _)| *kind == RST_STREAM).count();
            let (mut reader, mut rest, mut counted) = (Frames::new(), &bytes[..], 0);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, later) = rest.split_at((*cut).min(rest.len()));
                counted = reader.read(part);
                rest = later;
            }
            prop_assert_eq!(counted, expected);
        }
    }
}
