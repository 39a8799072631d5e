//! Requests whose head the HTTP library cannot parse. It responds with 400, 414 or 431 and no body, before the router sees the
//! request. This module adds the error body of the endpoint, and a correlation id.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::http::StatusCode;
use phoenix_domain::CorrelationId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    headers,
    problem::{ErrorFormat, Failure},
};

/// Bytes of a request's first line that identify its endpoint.
const MAX_LINE_BYTES: usize = 64;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const NO_BODY: &str = "content-length: 0\r\n";

/// A connection that adds bodies to bare errors.
#[derive(Debug)]
pub(crate) struct ErrorBodyStream<S> {
    stream: S,
    /// Beginning of the request that is being read.
    line: Vec<u8>,
    /// Whether a response was written since: the next bytes begin another request.
    has_responded: bool,
    /// Unwritten part of an error with a body.
    unsent: Vec<u8>,
}

impl<S> ErrorBodyStream<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, line: Vec::new(), has_responded: false, unsent: Vec::new() }
    }

    fn record_line(&mut self, read: &[u8]) {
        if std::mem::take(&mut self.has_responded) {
            self.line.clear();
        }
        let missing = MAX_LINE_BYTES.saturating_sub(self.line.len()).min(read.len());
        self.line.extend_from_slice(&read[..missing]);
    }

    /// The method and the path, without its query, of the request that is being read.
    fn target(&self) -> (&str, &str) {
        let line = std::str::from_utf8(&self.line).unwrap_or_default();
        let (method, rest) = line.split_once(' ').unwrap_or_default();
        (method, rest.split(['?', ' ', '\r']).next().unwrap_or_default())
    }

    /// The replacement of `bytes`, if they end with a bare error.
    fn with_body(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (before, head, status) = bare_error(bytes)?;
        let (method, path) = self.target();
        let (format, id) = (ErrorFormat::of(path), CorrelationId::generate());
        let body = format.body(&Failure::invalid(status, describe(status)), id);
        let mut fields =
            format!("content-type: {}\r\ncontent-length: {}\r\n", format.content_type(), body.len());
        fields.push_str(&format!("x-correlation-id: {id}\r\ncache-control: no-store\r\n"));
        for (name, value) in headers::SECURITY_HEADERS {
            fields.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        let body = if method == "HEAD" { "" } else { &body };
        Some([before, head.replace(NO_BODY, &fields).as_bytes(), body.as_bytes()].concat())
    }
}

impl<S: AsyncWrite + Unpin> ErrorBodyStream<S> {
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// The error without a body at the end of `bytes`, with the bytes before it. Bodies of the gateway never contain CRLF, so a
/// match is not part of a body.
fn bare_error(bytes: &[u8]) -> Option<(&[u8], &str, StatusCode)> {
    const START: &[u8] = b"HTTP/1.1 ";
    if !bytes.ends_with(END_OF_HEAD) {
        return None;
    }
    let start = bytes.windows(START.len()).rposition(|window| window == START)?;
    let (before, head) = bytes.split_at(start);
    let head = std::str::from_utf8(head).ok()?;
    let status = StatusCode::from_bytes(head.as_bytes().get(START.len()..START.len() + 3)?).ok()?;
    let is_automatic = matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let is_bare = head.contains(NO_BODY) && !head.contains("x-correlation-id");
    (is_automatic && is_bare).then_some((before, head, status))
}

fn describe(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "the path is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request has too many header fields, or too large ones"
        }
        _ => "the request is not HTTP/1.1",
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ErrorBodyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.record_line(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ErrorBodyStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(context))?;
        self.has_responded = true;
        match self.with_body(bytes) {
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
            Some(replacement) => {
                self.unsent = replacement;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().rfind(|slice| !slice.is_empty()).is_some_and(|last| bare_error(last).is_some()) {
            return self
                .poll_write(context, &slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>());
        }
        ready!(self.poll_unsent(context))?;
        self.has_responded = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_error_has_neither_body_nor_correlation_id() {
        let bare = "HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(bare_error(bare.as_bytes()).unwrap().2, StatusCode::URI_TOO_LONG);
        let piped = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{}}{bare}");
        let (before, head, _) = bare_error(piped.as_bytes()).unwrap();
        assert_eq!((before.len(), head), (piped.len() - bare.len(), bare));
        for other in [
            bare.replace("414", "204"),
            bare.replace("414", "404"),
            bare.replace("date: x", "x-correlation-id: x"),
            bare.replace("length: 0", "length: 5") + "hello",
            "c\r\ndata: \"HTTP/1.1 414 x content-length: 0\"\n\n\r\n0\r\n\r\n".to_owned(),
        ] {
            assert!(bare_error(other.as_bytes()).is_none(), "{other}");
        }
    }
}
