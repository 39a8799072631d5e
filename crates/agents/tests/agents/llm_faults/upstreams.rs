//! Scripted upstreams, and what the APIs of the providers look like on the wire.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use phoenix_domain::llm::ProviderKind::{self, Anthropic, Gemini, Ollama};
use serde_json::{Value, json};

use super::table::Case;
use crate::provider::{Provider, Reply};

/// Head of a response whose body ends with the connection.
pub(super) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// One provider of each API.
pub(super) const KINDS: [ProviderKind; 4] = [ProviderKind::OpenAi, Anthropic, Gemini, Ollama];

/// A case for each API, of what `make` returns for it.
pub(super) fn each(make: impl Fn(ProviderKind) -> Vec<Case>) -> Vec<Case> {
    KINDS.into_iter().flat_map(make).collect()
}

/// A provider that gives every chat this reply.
pub(super) fn replies(kind: ProviderKind, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Case {
    let provider = Provider::with(move |_| Some(reply()));
    Case::with(kind, provider.url("/v1"), provider)
}

/// A provider that gives every chat this status and body.
pub(super) fn answers(kind: ProviderKind, status: u16, body: impl Into<String>) -> Case {
    let provider = Provider::answering(status, body);
    Case::with(kind, provider.url("/v1"), provider)
}

/// These statuses, with an error in the body, from each API, for streamed chats and others.
pub(super) fn statuses(statuses: &[u16]) -> Vec<Case> {
    let case = |kind, status| answers(kind, status, r#"{"error":{"message":"M"}}"#);
    each(|kind| {
        statuses.iter().flat_map(|status| [case(kind, *status), case(kind, *status).streamed()]).collect()
    })
}

/// The address of a server that runs `script` for each connection, in a thread of its own, for as long as the tests run.
pub(super) fn server(script: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let script = script.clone();
            thread::spawn(move || script(connection));
        }
    });
    address.to_string()
}

/// Whether the client takes this text. One that has given up does not.
pub(super) fn send(mut connection: &TcpStream, text: &str) -> bool {
    connection.write_all(text.as_bytes()).and_then(|()| connection.flush()).is_ok()
}

/// The events as the API sends them.
pub(super) fn frames(kind: ProviderKind, events: &[Value]) -> String {
    let frame = |event: &Value| match kind {
        Ollama => format!("{event}\n"),
        _ => format!("data: {event}\n\n"),
    };
    events.iter().map(frame).collect()
}

/// What keeps a connection open and is no piece of an answer.
pub(super) fn ping(kind: ProviderKind) -> String {
    match kind {
        Ollama => "\n".into(),
        Anthropic => frames(kind, &[json!({"type": "ping"})]),
        _ => ": ping\n\n".into(),
    }
}

/// A piece of a streamed answer.
pub(super) fn piece(kind: ProviderKind, text: &str) -> Value {
    match kind {
        Anthropic => {
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
        }
        Gemini => json!({"candidates": [{"content": {"parts": [{"text": text}]}}]}),
        Ollama => json!({"message": {"content": text}, "done": false}),
        _ => json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}),
    }
}

/// A whole answer without text, which ended for `reason`.
pub(super) fn empty(kind: ProviderKind, reason: &str) -> Value {
    match kind {
        Anthropic => json!({"type": "message", "content": [], "stop_reason": reason}),
        Gemini => json!({"candidates": [{"finishReason": reason}]}),
        Ollama => json!({"message": {"content": ""}, "done": true, "done_reason": reason}),
        _ => json!({"choices": [{"message": {"content": null}, "finish_reason": reason}]}),
    }
}

/// The same as a stream.
pub(super) fn empty_stream(kind: ProviderKind, reason: &str) -> String {
    let events = match kind {
        Anthropic => vec![
            json!({"type": "message_start", "message": {"model": "m"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": reason}}),
            json!({"type": "message_stop"}),
        ],
        Gemini | Ollama => vec![empty(kind, reason)],
        _ => vec![json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})],
    };
    frames(kind, &events)
}

/// An error as the API reports it: with a status, and the word that stands for it where the API has one.
pub(super) fn error(kind: ProviderKind, status: u16) -> Value {
    let word = match status {
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    match kind {
        Anthropic => json!({"type": "error", "error": {"type": word, "message": "M"}}),
        Ollama => json!({"error": "M"}),
        _ => json!({"error": {"message": "M", "code": status}}),
    }
}
