//! The events of a plan as server-sent events.
//!
//! The id of an event is its journal position, so a reader that sends the last id continues without loss or repetition, also
//! after restarts. What running tasks say has no id; a stream begins with what was said so far.

use axum::{
    extract::{Extension, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response, sse::Event},
};
use futures_util::{StreamExt, stream};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};

use super::segment::PlanSegment;
use crate::{
    clients::Gateway,
    header_names::LAST_EVENT_ID,
    plan_stream::{PlanItem, PlanStream},
    planner_client::{PlannerClient, WatchedOutput},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    routes::event_stream::{encode, encode_live, respond},
    wire::error::Problem,
};

/// Largest number of digits of an event's id.
const MAX_POSITION_DIGITS: usize = 18;

const LAST_EVENT_ID_PARAMETER: &str = "last_event_id";

/// Watch a plan
///
/// Past and future events of the plan as server-sent events (`id` is the journal position, `event` the kind, `data` a
/// `PlanEventV1`), and what its running tasks say before they end (`output`, `output_reset`, `progress`, without `id`; `data` is a
/// `LiveEventV1`). A stream begins with what was said so far. The stream ends with `plan_ended` or, for a plan that had ended before, with later decisions about the plan. To resume a stream, send the id of
/// the last event in the header `Last-Event-ID` or in `last_event_id`.
#[utoipa::path(
    get, path = "/api/v1/plans/{plan_id}/events", tag = "plans",
    params(("plan_id" = Uuid, Path, description = "The plan")),
    responses(
        (status = 504, body = Problem, content_type = "application/problem+json", description = "`timeout`"),
        (status = 204, description = "The plan has ended and has no further events; `EventSource` does not reconnect"),
    )
)]
pub(crate) async fn plan_events(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: PlanSegment,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let after = last_event_id(&headers, &uri)?;
    let planner = PlannerClient::new(&gateway, &scope);
    let mut plan = PlanStream::watch(planner, segment.plan_id()?, after, WatchedOutput::Live).await?;
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
        let event = Box::pin(shutdown.run_until_cancelled(next_event(&mut plan))).await??;
        Some((event, (plan, shutdown)))
    });
    // An invalid event ends the stream: a stream that continues would hide the gap.
    let events = stream::iter(first).chain(rest);
    Ok(respond(events.take_while(|event| std::future::ready(event.is_some())).filter_map(std::future::ready)))
}

/// The next event of a watched plan, encoded unless it is invalid; `None` at the end.
async fn next_event(plan: &mut PlanStream) -> Option<Option<Event>> {
    match plan.next().await? {
        PlanItem::Event(event) => Some(encode(event)),
        PlanItem::Output(output) => Some(encode_live(output)),
        PlanItem::Result(_) => None,
    }
}

/// The position after which the stream starts. The header overrides the parameter; both must be valid.
fn last_event_id(headers: &HeaderMap, uri: &Uri) -> Result<u64, OrchestratorError> {
    let query = Query::of(uri, &[LAST_EVENT_ID_PARAMETER])?;
    let text = query.get(LAST_EVENT_ID_PARAMETER).unwrap_or_default();
    let parameter = position(LAST_EVENT_ID_PARAMETER, text)?;
    match headers.get(LAST_EVENT_ID) {
        Some(value) => position("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => Ok(parameter),
    }
}

/// Parses a position; the beginning when `text` is empty.
fn position(name: &str, text: &str) -> Result<u64, OrchestratorError> {
    if text.is_empty() {
        return Ok(0);
    }
    let is_position = text.len() <= MAX_POSITION_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let position = is_position.then(|| text.parse().ok()).flatten();
    position.ok_or_else(|| OrchestratorError::invalid(name, "must be the id of an event: a whole number"))
}
