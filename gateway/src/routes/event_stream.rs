//! Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt};
use phoenix_proto::{live_output::LiveOutput, planner::WatchPlanResponse};

use crate::wire::event::{LiveEventV1, PlanEventV1};

/// Interval of comments on a stream without events.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Disables buffering in proxies such as nginx.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An event of a plan; `None` when the planner violates the contract.
pub(super) fn encode(event: WatchPlanResponse) -> Option<Event> {
    let event = PlanEventV1::try_from(event);
    let event = event.inspect_err(|error| tracing::error!(%error, "the planner sent an invalid event"));
    let event = event.ok()?;
    Event::default().id(event.position.to_string()).event(event.kind.as_str()).json_data(&event).ok()
}

/// An event with what a running task says. It has no id, so a stream resumes after the last event of the journal.
pub(super) fn encode_live(output: LiveOutput) -> Option<Event> {
    let event = LiveEventV1::from(output);
    Event::default().event(event.kind).json_data(&event).ok()
}

/// A response that streams events.
pub(super) fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let unbuffered = [(X_ACCEL_BUFFERING, HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(heartbeat)).into_response()
}
