//! Following a plan through the planner's restarts: every event once, in order, up to the end.

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{self, WatchPlanResponse};
use tonic::Streaming;

use crate::calls::Plans;

/// The event that nothing follows but what somebody decided about the plan later.
pub(crate) const PLAN_ENDED: &str = "plan_ended";

/// The pause before a stream that broke is asked for again; doubled from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A reader of one plan's events. A stream that breaks is asked for again from the last position.
#[derive(Debug)]
pub(crate) struct Follower {
    plans: Plans,
    plan_id: PlanId,
    /// What the reader has already.
    after: u64,
    /// What was received.
    position: u64,
    stream: Option<Streaming<WatchPlanResponse>>,
    pause: Pause,
    had_ended: bool,
    ended: bool,
}

impl Follower {
    /// Begins with the event that follows position `after`.
    ///
    /// # Errors
    /// `not_found`, or what keeps the planner from answering.
    pub(crate) async fn open(plans: Plans, plan_id: PlanId, after: u64) -> Result<Self, OrchestratorError> {
        let had_ended = has_ended(&plans.get(plan_id).await?);
        // A plan that has ended is read from its beginning: its end, which may lie before `after`, is then sure to come.
        let position = if had_ended { 0 } else { after };
        let stream = Some(plans.watch(plan_id, position).await?);
        let pause = Pause::default();
        Ok(Self { plans, plan_id, after, position, stream, pause, had_ended, ended: false })
    }

    /// Whether the plan had ended when this began.
    pub(crate) fn had_ended(&self) -> bool {
        self.had_ended
    }

    /// Whether the plan's end has been read.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// The next event; nothing after the end, or when the plan is there no more. Of a plan that had ended when this began,
    /// what has been decided about it since follows its end.
    pub(crate) async fn next(&mut self) -> Option<WatchPlanResponse> {
        while !self.ended || (self.had_ended && self.stream.is_some()) {
            let Some(stream) = &mut self.stream else {
                self.pause.wait().await;
                match self.plans.watch(self.plan_id, self.position).await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) if error.code == OrchestratorErrorCode::NotFound => return None,
                    Err(error) => tracing::debug!(code = %error.code, "a plan's events are out of reach"),
                }
                continue;
            };
            match stream.message().await {
                // Told again.
                Ok(Some(event)) if event.position <= self.position => {}
                Ok(Some(event)) => {
                    self.position = event.position;
                    self.pause = Pause::default();
                    self.ended |= event.kind == PLAN_ENDED;
                    if event.position > self.after {
                        return Some(event);
                    }
                }
                Ok(None) | Err(_) => self.stream = None,
            }
        }
        None
    }
}

/// Whether nothing more happens to a plan.
pub(crate) fn has_ended(plan: &planner::Plan) -> bool {
    let status = Option::<phoenix_domain::plan::PlanStatus>::from(plan.status());
    status.is_some_and(phoenix_domain::plan::PlanStatus::is_terminal)
}

/// How long to wait before the next try.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pause {
    /// Waits, and the next time for longer.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
