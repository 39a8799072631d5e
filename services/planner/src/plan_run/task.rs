//! One task that holds a permit: dispatched, and dispatched again when the executor disconnects or is at capacity.

use std::time::{Duration, Instant};

use phoenix_domain::{OrchestratorError, action::ActionResult, json::Object, plan::AttemptOutcome};
use phoenix_platform::metrics::record_counter;

use crate::{
    metrics::REDISPATCHED,
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        dispatch::{Dispatch, DispatchOutcome, dispatch},
        progress::TaskProgress,
        redispatch::{Outage, RedispatchPolicy},
    },
    store::error::JournalError,
};

impl ActivePlan {
    /// Waits for `pause`, or until the agents of the executors change.
    async fn pause(&self, pause: Duration) {
        let mut changes = self.deps.agents.subscribe();
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }

    /// Runs one task to its end.
    ///
    /// - After the loss of an executor it is dispatched again, as [`RedispatchPolicy`] allows.
    /// - A task whose agent no executor offers any more waits until the agent is forgotten, and fails.
    /// - An executor that other planners have filled is asked again until it accepts the task. The task keeps its permit, so
    ///   that later ones do not overtake it; a journaled plan never fails with `overloaded`.
    pub(crate) async fn run_task(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        payload: Result<Object, OrchestratorError>,
        progress: &TaskProgress,
    ) -> Result<Result<ActionResult, OrchestratorError>, JournalError> {
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => return Ok(Err(error)),
        };
        let task = &loaded.plan.tasks[ordinal];
        let task_ref = self.task_ref(ordinal);
        let mut policy = RedispatchPolicy::new(self.wait_mode, progress.possible_starts());
        loop {
            // The agent may have left the catalogs while the task waited.
            if let Err(error) = self.deps.agents_of_task(&task.spec.agent) {
                return Ok(Err(error));
            }
            progress.reserve(self.deps.max_attempts(&task.spec.agent).unwrap_or_default());
            let permit = match self.deps.health.permit(&task.spec.agent, &self.context).await {
                Ok(permit) => permit,
                Err(error) => return Ok(Err(error)),
            };
            let (plan, payload, context) = (&self.metrics, &payload, loaded.plan.context.as_str());
            let request = Dispatch { plan, task, task_ref, payload, context };
            let dispatched_at = Instant::now();
            let pause = match dispatch(&self.deps, request, progress, permit, &self.context).await? {
                DispatchOutcome::Ended(result) => return Ok(result),
                DispatchOutcome::AtCapacity => policy.after_rejection(),
                DispatchOutcome::Interrupted { error, heard_at } => {
                    if let Some(entry) = progress.close_attempt(task_ref, AttemptOutcome::Cancelled, true) {
                        self.append(entry).await?;
                    }
                    let possible_starts = progress.possible_starts();
                    let outage = Outage { dispatched_at, heard_at, possible_starts };
                    match policy.after_interruption(&outage, Instant::now()) {
                        Some(pause) => pause,
                        None => return Ok(Err(error)),
                    }
                }
            };
            self.pause(pause).await;
            record_counter(&REDISPATCHED, 1);
        }
    }
}
