//! A reader of one streamed chat completion.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::handshake,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::{
    failure::{Doing, Failure, Result},
    measure::MESSAGE,
};

/// What the events of a stream begin with.
const DATA: &[u8] = b"data: ";

/// A stream on a connection of its own.
pub(super) struct Reader {
    body: Incoming,
    bytes: Vec<u8>,
    is_done: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

impl Reader {
    /// Asks `model` for a streamed answer, which must begin. A small receive buffer makes the sender feel that nothing is read.
    pub(super) async fn open(url: &str, model: &str, receive_buffer: Option<u32>) -> Result<Self> {
        let uri: Uri = format!("{url}/v1/chat/completions").parse().doing(url)?;
        let authority = uri.authority().ok_or("no host").doing(url)?.clone();
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(authority.as_str().parse().doing(url)?).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.doing(url)?;
        // Ends with the body; reading that returns the error.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let body =
            json!({"model": model, "stream": true, "messages": [{"role": "user", "content": MESSAGE}]});
        let request = Request::post(uri.path()).header("host", authority.as_str());
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body.to_string()))).doing(url)?;
        let (head, body) = sender.send_request(request).await.doing(url)?.into_parts();
        if head.status != StatusCode::OK {
            let text = body.collect().await.doing(url)?.to_bytes();
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(Failure::new(format_args!("a stream was answered with {}: {text}", head.status)));
        }
        Ok(Self { body, bytes: Vec::new(), is_done: false })
    }

    /// The text of the next chunk, which may be empty; `None` after the end.
    ///
    /// # Errors
    /// When the stream ends with an error, or without an end.
    pub(super) async fn next(&mut self) -> Result<Option<String>> {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
                let lines = event.split(|byte| *byte == b'\n');
                let Some(data) = lines.filter_map(|line| line.strip_prefix(DATA)).next() else { continue };
                if data == b"[DONE]" {
                    self.is_done = true;
                    continue;
                }
                let chunk: Chunk = serde_json::from_slice(data).doing("an event of a stream")?;
                if let Some(error) = chunk.error {
                    return Err(Failure::new(format_args!("a stream ended with an error: {error}")));
                }
                let text = chunk.choices.into_iter().next().and_then(|choice| choice.delta.content);
                return Ok(Some(text.unwrap_or_default()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.doing("a stream broke")?;
                    self.bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                }
                None if self.is_done => return Ok(None),
                None => {
                    let rest = String::from_utf8_lossy(&self.bytes).into_owned();
                    return Err(Failure::new(format_args!("a stream just ended, after `{rest}`")));
                }
            }
        }
    }
}
