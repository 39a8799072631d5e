//! One task that holds a permit: dispatched to an executor that offers its agent, and dispatched again, preferably to another one,
//! when the executor disconnects or is at capacity.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError,
    action::ActionResult,
    json::Object,
    plan::AttemptOutcome,
    rejections::{REPLACED_RETRY_AFTER, is_of_replaced_call},
};
use phoenix_platform::{
    catalogs::{Choice, ExecutorPeer},
    metrics::record_counter,
    spans::{WaitSpan, record_wait},
};

use crate::{
    metrics::REDISPATCHED,
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        dispatch::{Dispatch, DispatchOutcome},
        progress::TaskProgress,
        redispatch::{Outage, RedispatchPolicy},
    },
    store::error::JournalError,
};

/// Reason of attempts that ran when their executor was lost.
const EXECUTOR_LOST: &str = "its executor was lost while it ran: it ended, or the connection to it broke";

impl ActivePlan {
    /// The agents, and the executor for a task of `agent`.
    ///
    /// # Errors
    /// `agent_unavailable` when the agent is not known any more.
    fn choose(
        &self,
        agent: &AgentName,
        avoid: Option<&Arc<ExecutorPeer>>,
    ) -> Result<(AgentCatalog, Choice), OrchestratorError> {
        let agents = self.deps.agents_of_task(agent)?;
        // Every known agent has an executor; it may be forgotten at this moment.
        let choice = self.deps.agents.choose(agent, avoid).ok_or_else(|| self.deps.forgotten(agent))?;
        Ok((agents, choice))
    }

    /// Waits for `pause`, or until the agents of the executors change.
    async fn pause(&self, pause: Duration) {
        let mut changes = self.deps.agents.subscribe();
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }

    /// Runs one task to its end.
    ///
    /// - After the loss of an executor it is dispatched again, as [`RedispatchPolicy`] allows.
    /// - A task whose agent no executor offers any more waits until the agent is forgotten, and fails.
    /// - When other planners have filled an executor, the executors are asked again until one accepts the task. The task keeps its permit, so
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
        let (task_ref, agent) = (self.task_ref(ordinal), &task.spec.agent);
        if let Some(ready_at) = progress.waited_since() {
            record_wait(WaitSpan::Place, ready_at, Some(&task.spec.key), None);
        }
        // The executor that failed last.
        let mut avoid = None;
        let mut policy = RedispatchPolicy::new(self.wait_mode, progress.possible_starts());
        loop {
            // The agent may have been forgotten while the task waited.
            let (agents, Choice { executor, max_attempts }) = match self.choose(agent, avoid.as_ref()) {
                Ok(choice) => choice,
                Err(error) => return Ok(Err(error)),
            };
            let (plan, payload, context) = (&self.metrics, &payload, loaded.plan.context.as_str());
            let request = Dispatch {
                executor: &executor,
                plan,
                output: &self.output,
                records_output: loaded.plan.kind.records_output(),
                task,
                task_ref,
                payload,
                context,
                retry: None,
            };
            let dispatched_at = Instant::now();
            let outcome = self.dispatch(loaded, agents.get(agent), max_attempts, request, progress).await?;
            let mut kind = WaitSpan::Executor;
            let pause = match outcome {
                DispatchOutcome::Ended(result) => return Ok(result),
                DispatchOutcome::Retry(pause) => {
                    let failed_at = Timestamp::now();
                    tokio::time::sleep(pause).await;
                    record_wait(WaitSpan::Backoff, failed_at, Some(&task.spec.key), None);
                    continue;
                }
                DispatchOutcome::AtCapacity => {
                    kind = WaitSpan::Place;
                    policy.after_rejection()
                }
                DispatchOutcome::Interrupted { error, heard_at } => {
                    let lost = AttemptOutcome::Cancelled { reason: EXECUTOR_LOST.to_owned() };
                    if let Some(entry) = progress.close_attempt(task_ref, lost, true) {
                        let (executor, error) = (executor.address(), &error.message);
                        tracing::warn!(%agent, executor, %error, "executor lost while an attempt ran");
                        self.append(entry).await?;
                    }
                    let possible_starts = progress.possible_starts();
                    let has_alternative = self.deps.agents.is_offered_elsewhere(agent, &executor);
                    let outage = Outage { dispatched_at, heard_at, possible_starts, has_alternative };
                    match policy.after_interruption(&outage, Instant::now()) {
                        // The other caller would be replaced in turn, again and again.
                        Some(pause) if is_of_replaced_call(&error) => pause.max(REPLACED_RETRY_AFTER),
                        Some(pause) => pause,
                        None => return Ok(Err(error)),
                    }
                }
            };
            avoid = Some(executor);
            let since = Timestamp::now();
            self.pause(pause).await;
            record_wait(kind, since, Some(&task.spec.key), None);
            record_counter(&REDISPATCHED, 1);
        }
    }
}
