//! A response with messages: JSON when its answer comes soon and nothing has to be said before, else a stream of events with comments
//! that keep the connection open, and the answer as the last event. The stream has no time limit.

use std::time::Duration;

use axum::{
    http::StatusCode,
    response::{Response, sse::Event},
};
use futures_util::{Stream, StreamExt, stream};

use super::response::json;
use crate::routes::event_stream::respond;

/// Time after which a response is a stream, although nothing has to be said: proxies drop a connection that stays silent.
const STREAM_AFTER: Duration = Duration::from_secs(10);

/// A message to the client.
pub(super) enum Sent {
    Notification(String),
    /// The last one.
    Answer(String),
}

/// The response with these messages. Closing it drops them.
pub(super) async fn deliver(messages: impl Stream<Item = Sent> + Send + 'static) -> Response {
    let mut messages = Box::pin(messages);
    let first = match tokio::time::timeout(STREAM_AFTER, messages.next()).await {
        Ok(Some(Sent::Answer(body))) => return json(StatusCode::OK, body),
        Ok(notification) => notification,
        Err(_) => None,
    };
    let events = stream::iter(first).chain(messages).map(|sent| {
        let (Sent::Notification(body) | Sent::Answer(body)) = sent;
        Event::default().event("message").data(body)
    });
    respond(events)
}
