//! A chat whose caller watches: its plan's events as they come, then the answer.

use axum::response::{Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{self, CancelPlanRequest, PlanAndExecuteRequest};
use tracing::Instrument;

use super::ChatResponseV1;
use crate::{
    calls::Plans,
    correlation::Scope,
    follow::{Follower, Pause},
    peers::Gateway,
    problem::{Failure, Shape},
    routes::plans::events::{encode, respond},
};

/// The event that holds the answer, a [`ChatResponseV1`].
const RESPONSE: &str = "response";

/// How often a plan is tried to be cancelled that nobody waits for any more.
const CANCEL_TRIES: u32 = 4;

/// Has the chat's plan accepted, and answers with its events.
pub(super) async fn chat(
    gateway: &Gateway,
    scope: &Scope,
    mut wish: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    let continues = wish.continue_on_disconnect;
    wish.caller_waits = true;
    if !continues {
        // Watching a chat takes no longer than waiting for it.
        let left = scope.deadline().saturating_duration_since(std::time::Instant::now());
        wish.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    }
    let plans = Plans::new(gateway, scope);
    // In a task of its own: a caller that leaves now leaves a plan behind, whose id is needed to cancel it.
    let accepted = {
        let (gateway, scope, plans) = (gateway.clone(), scope.clone(), plans.clone());
        gateway.afterwards.clone().spawn(async move {
            let plan_id = plans.submit(wish).await?;
            Ok::<_, OrchestratorError>(Watched { gateway, scope, plans, plan_id, is_settled: continues })
        })
    };
    let watched =
        accepted.await.map_err(|_| OrchestratorError::internal("something went wrong on our side"))??;
    let follower = Follower::open(plans, watched.plan_id, 0).await;
    let follower = follower.map_err(|error| error.with_detail("plan_id", watched.plan_id))?;
    let events = stream::unfold(Some((follower, watched)), |chat| async move {
        let (mut follower, mut watched) = chat?;
        let event = follower.next().await;
        watched.is_settled |= follower.ended();
        match event.map(encode) {
            Some(Some(event)) => Some((event, Some((follower, watched)))),
            // The end, or an event that can't be read: the answer still can.
            Some(None) | None => Some((watched.response().await, None)),
        }
    });
    Ok(respond(events))
}

/// A plan that somebody watches. Dropping it before the plan has ended cancels the plan, unless it was to continue.
struct Watched {
    gateway: Gateway,
    scope: Scope,
    plans: Plans,
    plan_id: PlanId,
    /// Ended, or to be left alone.
    is_settled: bool,
}

impl Watched {
    /// The answer, once the journal gives it.
    async fn response(&mut self) -> Event {
        let mut pause = Pause::default();
        let plan = loop {
            match self.plans.get(self.plan_id).await {
                Err(error) if error.code.is_retryable() => pause.wait().await,
                answer => break answer,
            }
        };
        self.is_settled = true;
        Event::default().event(RESPONSE).data(self.answer(plan))
    }

    fn answer(&self, plan: Result<planner::Plan, OrchestratorError>) -> String {
        let error = match plan {
            Ok(planner::Plan { output: Some(output), .. }) => {
                let answer = ChatResponseV1::success(self.scope.id(), self.plan_id, output);
                // Strings and ids can always be written.
                return serde_json::to_string(&answer).unwrap_or_default();
            }
            Ok(planner::Plan { error: Some(error), .. }) => error.into(),
            Ok(_) => crate::calls::unexpected(),
            Err(error) => error,
        };
        let failure = Failure::from(error.with_detail("plan_id", self.plan_id));
        Shape::Chat.body(&failure, self.scope.id())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let (plans, plan_id) = (self.plans.clone(), self.plan_id);
        let cancelled = async move {
            tracing::info!(%plan_id, "caller left: cancelling its plan");
            if let Err(error) = cancel(&plans, plan_id).await {
                tracing::warn!(%plan_id, code = %error.code, "a plan that nobody waits for could not be cancelled");
            }
        };
        self.gateway.afterwards.spawn(cancelled.instrument(self.scope.span().clone()));
    }
}

/// Cancels a plan, through a restart of the planner.
async fn cancel(plans: &Plans, plan_id: PlanId) -> Result<(), OrchestratorError> {
    let (plan_id, reason) = (plan_id.to_string(), "the caller went away".to_owned());
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
