//! Lifecycle of an active plan: it queues for a permit, runs its tasks, waits again while none can run, and ends.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::propagation::mark_failed;

use crate::{
    admission::Permits,
    plan_run::{
        active::{ActivePlan, LoadedPlan, PlanResult, RunState},
        approvals::reached_if,
        ending::{cancel_tasks, fail_unread, terminal_status},
        scheduler::{RunOutcome, sleep_until},
        task_state::PlanOutput,
    },
    planning::build::graph_of_accepted,
    store::{entry::Entry, error::JournalError, takeover::OpenTask},
};

/// Pause before another read of a plan that could not be read.
const READ_RETRY_AFTER: Duration = Duration::from_secs(1);

impl ActivePlan {
    /// Runs the plan to its end.
    pub(crate) async fn run(self, mut state: RunState) -> Result<PlanResult, OrchestratorError> {
        loop {
            state = match state {
                RunState::Blocked { agents, wake_at, loaded } => {
                    self.wait_to_run(&agents, wake_at, loaded).await
                }
                // Boxed: while the plan is blocked, its task has not the size of a run.
                RunState::Runnable { loaded, permits } => Box::pin(self.run_loaded(*loaded, permits)).await,
                RunState::Finished { agent, result } => return self.finish(&agent, result),
                RunState::Abandoned(JournalError::Rejected(reason)) => {
                    match Box::pin(self.end_rejected(reason)).await {
                        Ok(state) => state,
                        Err(error) => return self.abandon(error),
                    }
                }
                RunState::Abandoned(error) => return self.abandon(error),
            };
        }
    }

    async fn run_loaded(&self, loaded: LoadedPlan, permits: Permits) -> RunState {
        let last = loaded.plan.tasks.last();
        let agent = last.map_or_else(|| self.deps.default_agent(), |task| task.spec.agent.clone());
        match self.schedule(&loaded, permits).await {
            Ok(RunOutcome::Finished(result)) => RunState::Finished { agent, result },
            Ok(RunOutcome::Extended) => match self.read().await {
                Ok(plan) => self.loaded(plan, Permits::default()).await,
                Err(error) => RunState::Abandoned(error),
            },
            Ok(RunOutcome::Blocked { agents, wake_at }) => {
                RunState::Blocked { agents, wake_at, loaded: None }
            }
            Err(error) => RunState::Abandoned(error),
        }
    }

    /// Waits for a permit of one of `agents`, for a decision about an approval, or until `wake_at`. Reads the
    /// plan if it is not loaded, or may have changed. A plan that is cancelled or past its deadline needs no permit: its run
    /// ends it.
    async fn wait_to_run(
        &self,
        agents: &[(AgentName, usize)],
        wake_at: Option<Timestamp>,
        mut loaded: Option<Box<LoadedPlan>>,
    ) -> RunState {
        let agents: Vec<_> =
            agents.iter().map(|(agent, task)| (agent.clone(), self.priority.task(*task))).collect();
        let only_waits = agents.is_empty();
        let _waiting = if only_waits { self.wait_outside() } else { None };
        loop {
            let permits = tokio::select! {
                biased;
                _ = self.cancel_handle().cancelled() => Permits::default(),
                () = sleep_until(self.context.deadline) => Permits::default(),
                () = self.deps.stopping.cancelled(), if only_waits => {
                    return RunState::Abandoned(JournalError::Closed);
                }
                () = self.cancel_handle().woken() => {
                    loaded = None;
                    Permits::default()
                }
                () = reached_if(wake_at) => {
                    loaded = None;
                    Permits::default()
                }
                permits = self.deps.admission.acquire_any(&agents), if !only_waits => match permits {
                    Ok(permits) => permits,
                    Err(_) => return RunState::Abandoned(JournalError::Closed),
                },
            };
            if let Some(loaded) = loaded {
                return RunState::Runnable { loaded, permits };
            }
            match self.deps.read_plan(self.plan_id()).await {
                Ok(plan) => return self.loaded(plan, permits).await,
                Err(JournalError::Database(_)) => {
                    // Other plans can use the permits meanwhile.
                    drop(permits);
                    if let Err(error) = self.read().await {
                        return RunState::Abandoned(error);
                    }
                }
                Err(error) => return RunState::Abandoned(error),
            }
        }
    }

    /// The state of a plan that was read again. A plan that can no longer run ends.
    async fn loaded(&self, plan: Plan, permits: Permits) -> RunState {
        match graph_of_accepted(&plan) {
            Ok(graph) => {
                let loaded = LoadedPlan::new(Arc::new(plan), graph);
                RunState::Runnable { loaded: Box::new(loaded), permits }
            }
            Err(error) => self.end_without_run(cancel_tasks(&plan), error).await,
        }
    }

    /// Reads the plan, as soon as the journal allows it.
    pub(crate) async fn read(&self) -> Result<Plan, JournalError> {
        self.read_when_possible(|| self.deps.read_plan(self.plan_id())).await
    }

    /// Reads which tasks of the plan have not ended, as soon as the journal allows it.
    pub(crate) async fn read_open_tasks(&self) -> Result<Vec<OpenTask>, JournalError> {
        self.read_when_possible(|| self.deps.journal.open_tasks(self.plan_id())).await
    }

    async fn read_when_possible<T, F: Future<Output = Result<T, JournalError>>>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<T, JournalError> {
        let plan_id = self.plan_id();
        let mut is_logged = false;
        loop {
            match read().await {
                Err(error @ JournalError::Database(_)) => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::error!(%plan_id, %error, "unfinished plan cannot be read; retrying");
                    }
                    tokio::time::sleep(READ_RETRY_AFTER).await;
                }
                read => return read,
            }
        }
    }

    /// Ends a plan that cannot run, with the entries that end its tasks.
    pub(crate) async fn fail(
        self,
        entries: Vec<Entry>,
        error: OrchestratorError,
    ) -> Result<PlanResult, OrchestratorError> {
        let state = self.end_without_run(entries, error).await;
        self.run(state).await
    }

    async fn end_without_run(&self, mut entries: Vec<Entry>, error: OrchestratorError) -> RunState {
        entries.push(self.ended(&error));
        match self.deps.journal.append_durable(entries).await {
            Ok(()) => RunState::Finished { agent: self.deps.default_agent(), result: Err(error) },
            Err(error) => RunState::Abandoned(error),
        }
    }

    /// Ends a plan of which the database rejected an entry: tasks that were dispatched fail, the others are cancelled.
    async fn end_rejected(&self, reason: String) -> Result<RunState, JournalError> {
        let error = OrchestratorError::from(JournalError::Rejected(reason));
        let mut entries = fail_unread(self.plan_id(), &self.read_open_tasks().await?, &error);
        entries.push(self.ended(&error));
        self.deps.journal.append_end_of_rejected(entries).await?;
        Ok(RunState::Finished { agent: self.deps.default_agent(), result: Err(error) })
    }

    fn ended(&self, error: &OrchestratorError) -> Entry {
        let (plan_id, status) = (self.plan_id(), terminal_status(Some(error)));
        Entry::PlanEnded { plan_id, status, at: Timestamp::now(), result: Err(error.clone()) }
    }

    /// Leaves the plan to the next planner.
    pub(crate) fn abandon(self, error: JournalError) -> Result<PlanResult, OrchestratorError> {
        tracing::debug!(%error, "plan left to the next planner");
        Err(OrchestratorError::from(error).with_detail("plan_id", self.plan_id()))
    }

    /// Reports the plan's end, which is durable.
    fn finish(
        mut self,
        agent: &AgentName,
        result: Result<PlanOutput, OrchestratorError>,
    ) -> Result<PlanResult, OrchestratorError> {
        let (plan_id, elapsed_ms) = (self.plan_id(), self.metrics.elapsed_ms());
        let status = terminal_status(result.as_ref().err());
        self.registration.ended(status);
        match result {
            Ok(PlanOutput { text: output, finish_reason, metadata }) => {
                self.metrics.succeeded();
                tracing::info!(%agent, plan_status = status.as_str(), elapsed_ms, "plan ended");
                let (agent, agent_time) = (agent.clone(), self.metrics.agent_time());
                Ok(PlanResult {
                    plan_id,
                    output,
                    finish_reason,
                    metadata,
                    agent,
                    agent_time,
                    replay_of: None,
                })
            }
            Err(error) => {
                if status == PlanStatus::Failed {
                    mark_failed(&tracing::Span::current(), error.code.as_str());
                }
                tracing::info!(%agent, plan_status = status.as_str(), code = %error.code, elapsed_ms, "plan ended");
                Err(error.with_detail("plan_id", plan_id))
            }
        }
    }
}
