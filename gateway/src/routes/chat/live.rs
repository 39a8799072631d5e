//! A chat whose caller watches: its plan's events as they come, then the answer.

use std::time::Duration;

use axum::response::{Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::client::UNREACHABLE_RETRY_AFTER;
use phoenix_proto::{
    common::ActionOutput,
    planner::{self, CancelPlanRequest, PlanAndExecuteRequest},
};
use tracing::Instrument;

use super::{ChatResponseV1, RESPONSE};
use crate::{
    calls::{Finished, Plans, too_late},
    correlation::Scope,
    follow::{Follower, Pause},
    peers::Gateway,
    problem::{Failure, Shape},
    routes::plans::events::{encode, respond},
};

/// What is left of a request's time to tell how its plan ended.
const TO_TELL_THE_END: Duration = Duration::from_millis(500);

/// How often a plan is tried to be cancelled that nobody waits for any more.
const CANCEL_TRIES: u32 = 4;

/// Has the chat's plan accepted, and answers with its events: until its end, the request's, or the gateway's.
pub(super) async fn chat(
    gateway: &Gateway,
    scope: &Scope,
    mut wish: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    let continues = wish.continue_on_disconnect;
    wish.caller_waits = true;
    if !continues {
        // Watching a chat takes no longer than waiting for it, and its own end is told before the request's.
        let left = scope.deadline().saturating_duration_since(std::time::Instant::now());
        let limit = left.saturating_sub((left / 10).min(TO_TELL_THE_END));
        wish.deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    }
    let plans = Plans::new(gateway, scope);
    // In a task of its own: a caller that leaves now leaves a plan behind, whose id is needed to cancel it.
    let accepted = {
        let (gateway, scope, plans) = (gateway.clone(), scope.clone(), plans.clone());
        gateway.afterwards.clone().spawn(async move {
            let plan_id = plans.submit(wish).await?;
            // The plan of an earlier request is not this caller's to end.
            let continues = continues || scope.replay_of().is_some();
            Ok::<_, OrchestratorError>(Watched { gateway, scope, plans, plan_id, continues, end: None })
        })
    };
    let watched =
        accepted.await.map_err(|_| OrchestratorError::internal("something went wrong on our side"))??;
    let follower = Follower::open(plans, watched.plan_id, 0).await;
    let follower = follower.map_err(|error| error.with_detail("plan_id", watched.plan_id))?;
    let events = stream::unfold(Some((follower, watched)), |chat| async move {
        let (mut follower, mut watched) = chat?;
        match watched.next(&mut follower).await {
            Step::Event(event) => Some((event, Some((follower, watched)))),
            Step::Answer(answer) => Some((answer, None)),
        }
    });
    Ok(respond(events))
}

/// What is sent next.
enum Step {
    /// What happened to the plan.
    Event(Event),
    /// The answer, after which nothing comes.
    Answer(Event),
}

/// How watching a plan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The plan's own end was read.
    Plan,
    /// The request's time was up.
    Deadline,
    /// The gateway stops.
    Shutdown,
}

/// A plan that somebody watches. Dropping it before the plan has ended cancels the plan, unless it was to continue.
struct Watched {
    gateway: Gateway,
    scope: Scope,
    plans: Plans,
    plan_id: PlanId,
    continues: bool,
    /// None as long as it is watched.
    end: Option<End>,
}

impl Watched {
    /// The plan's next event, or the answer when there is none.
    async fn next(&mut self, follower: &mut Follower) -> Step {
        let step = async {
            let event = follower.next().await;
            match event.map(encode) {
                Some(Some(event)) => Some(event),
                // The end, or an event that can't be read: the answer still can.
                Some(None) | None => None,
            }
        };
        let answer = match self.within(step).await {
            Ok(Some(event)) => {
                if follower.ended() {
                    self.end = Some(End::Plan);
                }
                return Step::Event(event);
            }
            Ok(None) => {
                let answer = self.within(result(self.plans.clone(), self.plan_id)).await;
                answer.inspect(|_| self.end = Some(End::Plan)).and_then(|plan| plan)
            }
            Err(end) => Err(end),
        };
        Step::Answer(Event::default().event(RESPONSE).data(self.answer(answer)))
    }

    /// Waits for `next` as long as there is time.
    async fn within<T>(&mut self, next: impl Future<Output = T>) -> Result<T, OrchestratorError> {
        let (end, error) = tokio::select! {
            biased;
            next = next => return Ok(next),
            () = self.gateway.shutdown.cancelled() => (End::Shutdown, stops()),
            () = tokio::time::sleep_until(self.scope.deadline().into()) => {
                (End::Deadline, too_late(self.continues))
            }
        };
        // A plan that has ended is not cancelled, whatever keeps its result from being read.
        self.end.get_or_insert(end);
        Err(error)
    }

    fn answer(&self, plan: Result<planner::Plan, OrchestratorError>) -> String {
        let error = match plan {
            Ok(planner::Plan { output: Some(output), tasks, .. }) => {
                let last = tasks.last().and_then(|task| task.output.as_ref());
                let finish_reason = last.and_then(ActionOutput::finish_reason);
                let finished = Finished { plan_id: self.plan_id, output, finish_reason };
                let answer = ChatResponseV1::success(self.scope.answer_id(), finished);
                // Strings and ids can always be written.
                return serde_json::to_string(&answer).unwrap_or_default();
            }
            Ok(planner::Plan { error: Some(error), .. }) => error.into(),
            Ok(_) => crate::calls::unexpected(),
            Err(error) => error,
        };
        let failure = Failure::from(error.with_detail("plan_id", self.plan_id));
        Shape::Chat.body(&failure, self.scope.answer_id())
    }
}

/// A plan that has ended, once the journal gives it.
async fn result(plans: Plans, plan_id: PlanId) -> Result<planner::Plan, OrchestratorError> {
    let mut pause = Pause::default();
    loop {
        match plans.get(plan_id).await {
            Err(error) if error.code.is_retryable() => pause.wait().await,
            answer => return answer,
        }
    }
}

/// What a caller is told whose gateway stops.
fn stops() -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, "the gateway is stopping; try again shortly")
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

impl Drop for Watched {
    fn drop(&mut self) {
        let reason = match self.end {
            _ if self.continues => return,
            Some(End::Plan) => return,
            Some(End::Deadline) => "the request's time was up",
            Some(End::Shutdown) => "the gateway stopped",
            None => "the caller went away",
        };
        let (plans, plan_id) = (self.plans.clone(), self.plan_id);
        let cancelled = async move {
            tracing::info!(%plan_id, reason, "cancelling a plan that nobody waits for");
            if let Err(error) = cancel(&plans, plan_id, reason).await {
                tracing::warn!(%plan_id, code = %error.code, "a plan that nobody waits for could not be cancelled");
            }
        };
        self.gateway.afterwards.spawn(cancelled.instrument(self.scope.span().clone()));
    }
}

/// Cancels a plan, through a restart of the planner.
async fn cancel(plans: &Plans, plan_id: PlanId, reason: &str) -> Result<(), OrchestratorError> {
    let (plan_id, reason) = (plan_id.to_string(), reason.to_owned());
    let request = CancelPlanRequest { plan_id, reason, ..Default::default() };
    let mut pause = Pause::default();
    for _ in 1..CANCEL_TRIES {
        match plans.cancel(request.clone()).await {
            // Ended meanwhile.
            Err(error) if error.code == OrchestratorErrorCode::Conflict => return Ok(()),
            Err(error) if error.code.is_retryable() => pause.wait().await,
            answer => return answer,
        }
    }
    plans.cancel(request).await
}
