//! A streamed answer.
//!
//! The response starts with the answer, so that a plan that fails before has a status of its own. A plan that takes longer than
//! [`HEADERS_AFTER`] gets its headers before, since proxies and clients drop a connection that stays silent; its failure is then an
//! event of the stream. The stream ends as its API says, or with an error, never without either.

use std::{collections::VecDeque, time::Duration};

use axum::response::{IntoResponse, Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::live_output::LiveOutput;
use serde_json::value::RawValue;

use super::{
    plan_header::plan_header,
    plans::{self, AnswerCall},
};
use crate::{
    clients::Gateway,
    plan_stream::PlanItem,
    problem::Failure,
    request_scope::RequestScope,
    routes::{event_stream::respond, followed_plan::FollowedPlan},
    wire::{
        answer::Answer,
        answer_writer::{AnswerWriter, Frame},
    },
};

/// Time after which a response starts without the first part of its answer.
const HEADERS_AFTER: Duration = Duration::from_secs(15);

/// Makes the plan of `call`, and responds with its answer as the events that a writer of `writer` writes.
///
/// # Errors
/// What prevents the plan from being accepted, and what fails it before its answer begins.
pub(crate) async fn streamed<W: AnswerWriter>(
    gateway: &Gateway,
    scope: &RequestScope,
    call: AnswerCall,
    writer: impl FnOnce(PlanId) -> W,
) -> Result<Response, OrchestratorError> {
    let plan = plans::run((gateway, scope), call, FollowedPlan::start).await?;
    let plan_id = plan.plan_id();
    let mut answer = AnswerStream { plan, writer: writer(plan_id), frames: VecDeque::new(), is_over: false };
    if let Ok(begun) = tokio::time::timeout(HEADERS_AFTER, answer.read()).await {
        begun?;
    }
    // In a box, or else the future of the next event would have room for another one.
    let events = stream::unfold(Box::new(answer), |mut answer| async move {
        let Frame { name, data } = answer.next().await?;
        let event = name.map_or_else(Event::default, |name| Event::default().event(name));
        Some((event.data(data), answer))
    });
    Ok((plan_header(plan_id), respond(events)).into_response())
}

/// The events of one answer.
struct AnswerStream<W> {
    plan: FollowedPlan,
    writer: W,
    /// Events that are written and not sent.
    frames: VecDeque<Frame>,
    is_over: bool,
}

impl<W: AnswerWriter> AnswerStream<W> {
    /// The next event; `None` after the last one.
    async fn next(&mut self) -> Option<Frame> {
        if self.frames.is_empty()
            && !self.is_over
            && let Err(error) = self.read().await
        {
            self.is_over = true;
            let Failure { status, error } = Failure::from(error);
            self.frames.extend(self.writer.fail(status, error, self.plan.scope().response_id()));
        }
        self.frames.pop_front()
    }

    /// Reads the plan up to its next events.
    async fn read(&mut self) -> Result<(), OrchestratorError> {
        let plan_id = self.plan.plan_id();
        while self.frames.is_empty() && !self.is_over {
            match self.plan.next().await {
                PlanItem::Event(_) | PlanItem::Output(LiveOutput::Progress { .. }) => {}
                PlanItem::Output(LiveOutput::Output { part, .. }) => {
                    let delta = part.delta.as_deref().map(RawValue::get);
                    let frames = self.writer.part(&part.text, delta);
                    self.frames.extend(frames.map_err(|error| error.with_detail("plan_id", plan_id))?);
                }
                PlanItem::Output(LiveOutput::Reset { attempt, .. }) => {
                    if self.writer.has_started() {
                        return Err(broken_off(attempt).with_detail("plan_id", plan_id));
                    }
                }
                PlanItem::Result(result) => {
                    let response = result.map_err(|error| error.with_detail("plan_id", plan_id))?;
                    self.is_over = true;
                    self.frames.extend(self.writer.finish(&Answer::of(plan_id, response)));
                }
            }
        }
        Ok(())
    }
}

/// The error of an answer of which a part was sent when its agent failed and was started again: a new attempt says something
/// else, which must not be glued to that part.
fn broken_off(attempt: u32) -> OrchestratorError {
    let message = format!(
        "the answer broke off: attempt {attempt} began after a part of the answer of an earlier one was sent; send the request again"
    );
    OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
}
