//! The model of the part `models`: a server with OpenAI's chat completions that answers without thinking, in a process of its own.
//!
//! A model named `paced-CHUNKS-MILLIS-BYTES` streams so many chunks, one every so many milliseconds, each with the time at which it
//! was due and so many bytes more. Its pace does not depend on its reader: what was due while the reader was slow comes at once.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Body,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use futures_util::stream;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::Instant,
};

use crate::{
    bare::end_of_input,
    failure::{Doing, Failure, Result},
};

/// The server's process.
pub(crate) struct Upstream {
    pub(crate) url: String,
    process: Child,
}

impl Upstream {
    pub(crate) async fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("upstream").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or("no standard output").doing("upstream")?;
        let mut url = String::new();
        BufReader::new(stdout).read_line(&mut url).await?;
        url.truncate(url.trim_end().len());
        if url.is_empty() {
            return Err(Failure::new("the upstream did not start"));
        }
        Ok(Self { url, process })
    }

    /// Settings of a stack whose model is this one, under the name `bench`, and `more`.
    pub(crate) fn settings(&self, more: &str) -> String {
        let url = &self.url;
        format!(
            "[llm]\ndefault_provider = \"bench\"\n[llm.providers.bench]\nbase_url = \"{url}/v1\"\nmodel_name = \"m\"\n{more}"
        )
    }

    /// Ends the process and waits for it: its standard input is closed first.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.process.wait().await?;
        Ok(())
    }
}

/// The server. Prints its URL when it listens, and ends when its standard input does.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/v1/chat/completions", post(complete));
    let listener = listener.tap_io(|stream| {
        // Slower, not wrong, where it can't be set.
        let _ = stream.set_nodelay(true);
    });
    tokio::select! {
        served = axum::serve(listener, app).into_future() => Ok(served?),
        read = end_of_input() => read,
    }
}

#[derive(Deserialize)]
struct Request {
    model: String,
    #[serde(default)]
    stream: bool,
}

/// The stream that a model's name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) chunks: u32,
    pub(crate) interval: Duration,
    /// Bytes of each chunk beside its time.
    pub(crate) padding: usize,
}

impl Pace {
    pub(crate) fn model(self) -> String {
        format!("paced-{}-{}-{}", self.chunks, self.interval.as_millis(), self.padding)
    }

    fn of(model: &str) -> Option<Self> {
        let mut numbers = model.strip_prefix("paced-")?.split('-').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (chunks, millis, padding) = (next()?, next()?, next()?);
        Some(Self {
            chunks,
            interval: Duration::from_millis(millis.into()),
            padding: usize::try_from(padding).ok()?,
        })
    }
}

async fn complete(Json(request): Json<Request>) -> Response {
    let Request { model, stream } = request;
    if !stream {
        let message = json!({"role": "assistant", "content": "hello from the upstream"});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
        let whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [choice], "usage": usage});
        return Json(whole).into_response();
    }
    let Some(pace) = Pace::of(&model) else {
        let error = json!({"error": {"message": format!("no stream of the model {model}"), "code": 404}});
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    };
    let (began, began_at) = (Instant::now(), SystemTime::now());
    let events = stream::unfold(0, move |number| async move {
        if number > pace.chunks {
            return None;
        }
        let since = pace.interval * number;
        let event = if number < pace.chunks {
            tokio::time::sleep_until(began + since).await;
            let text = format!("{} {}", micros(began_at + since), "x".repeat(pace.padding));
            chunk(&json!({"content": text}), None)
        } else {
            chunk(&json!({}), Some("stop")) + "data: [DONE]\n\n"
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), number + 1))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn chunk(delta: &serde_json::Value, finish_reason: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [choice]});
    format!("data: {chunk}\n\n")
}

/// Microseconds of the clock that the processes of a machine share.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_in_the_name_of_the_model() {
        let pace = Pace { chunks: 500, interval: Duration::from_millis(20), padding: 8000 };
        assert_eq!(pace.model(), "paced-500-20-8000");
        assert_eq!(Pace::of(&pace.model()), Some(pace));
        for other in ["gpt-6", "paced", "paced-1-2", "paced-1-2-x"] {
            assert_eq!(Pace::of(other), None, "{other}");
        }
    }
}
