//! A plan's events as a stream of server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
//!
//! An event's id is its journal position, so a reader that names the last one it has goes on without loss or repeat,
//! through whatever was restarted meanwhile.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Extension, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::{InvalidField, action::raw_json, planner::WatchPlanResponse, required_timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Segment;
use crate::{
    calls::Plans,
    correlation::Scope,
    headers::LAST_EVENT_ID,
    peers::Gateway,
    plan_stream::{PlanItem, PlanStream},
    problem::{Failure, Problem},
    query::Query,
};

/// How often a stream on which nothing happens shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Tells a proxy such as nginx to pass a stream on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Digits of an event's id: more than any journal has.
const POSITION_DIGITS: usize = 18;

/// What happens to a plan. A planner of a later version may know more.
pub(crate) const KINDS: [&str; 8] = [
    "plan_accepted",
    "task_dispatched",
    "attempt_started",
    "attempt_ended",
    "task_ended",
    "plan_ended",
    "plan_redriven",
    "dead_letter_discarded",
];

const LAST_EVENT_ID_PARAMETER: &str = "last_event_id";

/// What happened to a plan: the `data` of a server-sent event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanEventV1 {
    /// Its place in the journal, as in `id`.
    position: u64,
    /// What it is, as in `event`: `plan_accepted`, `task_dispatched`, `attempt_started`, `attempt_ended`, `task_ended`,
    /// `plan_ended`, and what was decided about a plan that had ended: `plan_redriven`, `dead_letter_discarded`. Others may
    /// be added.
    #[schema(examples("attempt_started"))]
    kind: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The task; null for events of the plan itself.
    #[schema(required)]
    task_key: Option<String>,
    /// Facts.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

impl TryFrom<WatchPlanResponse> for PlanEventV1 {
    type Error = InvalidField;

    fn try_from(wire: WatchPlanResponse) -> Result<Self, InvalidField> {
        let WatchPlanResponse { position, kind, at, task_key, data_json } = wire;
        // What is no word would end the line that names it.
        if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidField::new("kind", "must be a word"));
        }
        Ok(Self {
            position,
            kind,
            at: required_timestamp("at", at)?,
            task_key: Some(task_key).filter(|key| !key.is_empty()),
            data: raw_json("data_json", data_json)?,
        })
    }
}

/// Watch a plan
///
/// What happened so far, then what happens, as server-sent events (`id` is the journal position, `event` the kind, `data`
/// a `PlanEventV1`), until `plan_ended` and what had been decided about the plan since. A reader that was cut off goes on after the last event it has by naming it in the
/// header `Last-Event-ID` or in `last_event_id`.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/events", tag = "plans",
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses(
        (status = 504, body = Problem, content_type = "application/problem+json", description = "`timeout`"),
        (status = 204, description = "The plan has ended and you have seen all of it; `EventSource` asks no more"),
    )
)]
pub(crate) async fn plan_events(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    segment: Segment,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let after = last_event_id(&headers, &uri)?;
    let plans = Plans::new(&gateway, &scope);
    let mut plan = PlanStream::watch(plans, segment.plan_id()?, after).await?;
    let mut first = None;
    if plan.had_ended() {
        let next = tokio::time::timeout_at(scope.deadline().into(), next_event(&mut plan)).await;
        first = next.map_err(|_| {
            let message = "the plan's events could not be read within the request's time limit";
            OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
        })?;
        if first.is_none() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let shutdown = gateway.shutdown.clone();
    let rest = stream::unfold((plan, shutdown), |(mut plan, shutdown)| async move {
        let event = shutdown.run_until_cancelled(next_event(&mut plan)).await??;
        Some((event, (plan, shutdown)))
    });
    // One that can't be read ends the stream: going on without it would hide that it is missing.
    let events = stream::iter(first).chain(rest).map(encode);
    Ok(respond(events.take_while(|event| std::future::ready(event.is_some())).filter_map(std::future::ready)))
}

/// The next event of a watched plan.
async fn next_event(plan: &mut PlanStream) -> Option<WatchPlanResponse> {
    match plan.next().await {
        Some(PlanItem::Event(event)) => Some(event),
        Some(PlanItem::Result(_)) | None => None,
    }
}

/// After which event a reader goes on: the header wins, and the parameter must be right all the same.
fn last_event_id(headers: &HeaderMap, uri: &Uri) -> Result<u64, OrchestratorError> {
    let query = Query::of(uri, &[LAST_EVENT_ID_PARAMETER])?;
    let text = query.get(LAST_EVENT_ID_PARAMETER).unwrap_or_default();
    let parameter = position(LAST_EVENT_ID_PARAMETER, text)?;
    match headers.get(LAST_EVENT_ID) {
        Some(value) => position("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => Ok(parameter),
    }
}

/// The position that `text` stands for; the beginning when it is empty.
fn position(name: &str, text: &str) -> Result<u64, OrchestratorError> {
    if text.is_empty() {
        return Ok(0);
    }
    let is_position = text.len() <= POSITION_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let position = is_position.then(|| text.parse().ok()).flatten();
    position.ok_or_else(|| OrchestratorError::invalid(name, "must be the id of an event: a whole number"))
}

/// One event of a plan, unless the planner broke the contract.
pub(crate) fn encode(event: WatchPlanResponse) -> Option<Event> {
    let event = PlanEventV1::try_from(event);
    let event = event.inspect_err(|error| tracing::error!(%error, "the planner sent an unreadable event"));
    let event = event.ok()?;
    Event::default().id(event.position.to_string()).event(event.kind.as_str()).json_data(&event).ok()
}

/// The answer that is a stream of events.
pub(crate) fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let unbuffered = [(X_ACCEL_BUFFERING, HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(heartbeat)).into_response()
}
