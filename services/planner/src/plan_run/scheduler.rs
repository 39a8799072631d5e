//! Scheduler of one plan's tasks: which are ready, which run, and how the plan ends.
//!
//! Every step is in the journal before a later one depends on it, so a run can start from any journaled state: new plans,
//! plans of a dead planner and plans that were blocked take the same path. When only queued tasks and tasks that wait
//! are left, the run returns as blocked, and the plan need not stay in memory.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    input,
    json::Object,
    plan::{OnFailure, Task},
    template::{self, Referent},
    wait::WaitKind,
};

use crate::{
    admission::{
        Permits,
        fair_semaphore::{Closed, Permit},
    },
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        approvals::Gate,
        ending::{plan_ended_first, terminal_status},
        progress::TaskProgress,
        task_state::{PlanOutput, TaskState, agents_of, journaled_states, plan_output, ready_tasks},
        waits::TaskWaits,
    },
    planning::build::has_free_text,
    store::{entry::Entry, error::JournalError},
};

/// Outcome of a run. Everything that led to it is durable.
pub(crate) enum RunOutcome {
    /// The plan ended.
    Finished(Result<PlanOutput, OrchestratorError>),
    /// The plan has tasks that are not loaded.
    Extended,
    /// Every task that is ready needs a permit of one of these agents, or waits for a decision or a time.
    Blocked {
        /// With each agent goes the ordinal of its first ready task.
        agents: Vec<(AgentName, usize)>,
        /// The first time at which a task stops waiting without a decision.
        wake_at: Option<Timestamp>,
    },
}

/// Waits until `deadline`; for ever without one.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl ActivePlan {
    /// Runs tasks until the plan ends or is blocked. `permits` are those that the plan holds already.
    ///
    /// # Errors
    /// Only when the process ends first.
    pub(crate) async fn schedule(
        &self,
        loaded: &LoadedPlan,
        permits: Permits,
    ) -> Result<RunOutcome, JournalError> {
        let progress: Vec<_> = loaded.plan.tasks.iter().map(|task| self.progress(task)).collect();
        let run = self.run_tasks(loaded, permits, &progress).await;
        // Before the plan ends: what is left then belongs to a planner that is gone.
        self.settle_abandoned(&progress).await?;
        let (mut entries, outcome) = run?;
        if let RunOutcome::Finished(result) = &outcome {
            entries.push(Entry::PlanEnded {
                plan_id: self.plan_id(),
                status: terminal_status(result.as_ref().err()),
                at: Timestamp::now(),
                result: result.as_ref().map(drop).map_err(Clone::clone),
            });
        }
        self.deps.journal.append_durable(entries).await?;
        Ok(outcome)
    }

    fn progress(&self, task: &Task) -> TaskProgress {
        TaskProgress::of(task).numbered(self.takeovers)
    }

    /// Runs tasks as they become ready and acquire permits. Returns the entries that are left to write.
    async fn run_tasks(
        &self,
        loaded: &LoadedPlan,
        mut permits: Permits,
        progress: &[TaskProgress],
    ) -> Result<(Vec<Entry>, RunOutcome), JournalError> {
        let mut states = journaled_states(&loaded.plan);
        let mut waits = TaskWaits::of(loaded);
        let mut entries = Vec::new();
        let (mut running, mut queued) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut deadline = pin!(sleep_until(self.context.deadline));
        let start = |ordinal: usize, permit: Permit, states: &[TaskState], waits: &TaskWaits| {
            let approved = waits.approved_input(ordinal);
            let payload = approved.map_or_else(|| self.payload(loaded, ordinal, states), Ok);
            // In a box, because the list of what runs has room for one more.
            Box::pin(async move {
                (ordinal, self.run_task(loaded, ordinal, payload, &progress[ordinal]).await, permit)
            })
        };
        let error = loop {
            let opened = match self.open_ready(loaded, progress, &mut states, &mut waits, &mut entries) {
                Ok(opened) => opened,
                Err(error) => break error,
            };
            for ordinal in opened {
                let agent = &loaded.plan.tasks[ordinal].spec.agent;
                match permits.take(agent).or_else(|| self.deps.admission.try_acquire(agent)) {
                    Some(permit) => running.push(start(ordinal, permit, &states, &waits)),
                    None => queued.push(self.queue(agent, ordinal)),
                }
            }
            // No task of the plan can use them now.
            permits.clear();
            if running.is_empty()
                && let Some(outcome) = self.idle(loaded, &states, &waits)
            {
                let outcome = match outcome {
                    RunOutcome::Finished(Ok(output)) => self.conclude(loaded, &states, output, &mut entries),
                    other => other,
                };
                return Ok((entries, outcome));
            }
            // A later entry is committed before any caller learns of a task's end, so this one needs no wait.
            self.append_before_starts(&mut entries).await?;
            let (ordinal, result) = tokio::select! {
                // In this order, so that nothing starts for a plan that is cancelled.
                biased;
                error = self.cancel_handle().cancelled() => break self.cancelled(error, loaded, progress, &states),
                () = &mut deadline => break timed_out(loaded, progress, &states),
                Some((ordinal, ended, permit)) = running.next() => {
                    // The next task of this plan precedes those of other plans.
                    permits.put(&loaded.plan.tasks[ordinal].spec.agent, permit);
                    (ordinal, ended?)
                }
                Some((ordinal, permit)) = queued.next() => {
                    // During shutdown no permit is given out; running tasks continue for now.
                    running.extend(permit.ok().map(|permit| start(ordinal, permit, &states, &waits)));
                    continue;
                }
                () = waits.changed(self.cancel_handle()) => {
                    for ordinal in self.look_at_waits(loaded, &mut waits).await? {
                        states[ordinal] = TaskState::Waiting;
                    }
                    continue;
                }
            };
            if self.wait_for_budget(
                loaded,
                ordinal,
                &result,
                &progress[ordinal],
                &mut waits.pauses,
                &mut entries,
            ) {
                states[ordinal] = TaskState::Awaiting(WaitKind::Budget);
                continue;
            }
            if self.wait_for_answers(loaded, ordinal, &result, &states, &mut waits.approvals, &mut entries) {
                states[ordinal] = TaskState::Awaiting(WaitKind::Approval);
                continue;
            }
            entries.extend(progress[ordinal].end(self.task_ref(ordinal), &result));
            let on_failure = loaded.plan.tasks[ordinal].spec.on_failure;
            if let Some(error) = end_task(&mut states[ordinal], result, on_failure) {
                break error;
            }
        };
        // Cancels the running tasks.
        drop(running);
        entries.extend(self.end_unfinished(&states, progress, &error));
        Ok((entries, RunOutcome::Finished(Err(error))))
    }

    /// Opens the tasks whose dependencies have ended: those that may start, those that wait for an approval, and those that their
    /// approval ends. Returns those that may start.
    ///
    /// # Errors
    /// The plan's error if a task that ends fails the plan.
    fn open_ready(
        &self,
        loaded: &LoadedPlan,
        progress: &[TaskProgress],
        states: &mut [TaskState],
        waits: &mut TaskWaits,
        entries: &mut Vec<Entry>,
    ) -> Result<Vec<usize>, OrchestratorError> {
        let mut opened = Vec::new();
        loop {
            let ready = ready_tasks(&loaded.graph, states);
            // The end of a task may make others ready.
            let mut has_ended = false;
            for ordinal in ready {
                match self.gate(loaded, ordinal, states, waits, entries) {
                    Gate::Open => {
                        states[ordinal] = TaskState::Ready;
                        let ready_at = self.ready_since(loaded, ordinal);
                        let decided_at = waits.approvals.decided_at(ordinal).unwrap_or(ready_at);
                        let start = loaded.plan.tasks[ordinal].spec.start.not_before.unwrap_or(ready_at);
                        progress[ordinal].became_ready(ready_at.max(decided_at).max(start));
                        opened.push(ordinal);
                    }
                    Gate::Waits(kind) => states[ordinal] = TaskState::Awaiting(kind),
                    Gate::Refused(error) => {
                        let result = Err(error);
                        entries.extend(progress[ordinal].end(self.task_ref(ordinal), &result));
                        let on_failure = loaded.plan.tasks[ordinal].spec.on_failure;
                        if let Some(error) = end_task(&mut states[ordinal], result, on_failure) {
                            return Err(error);
                        }
                        has_ended = true;
                    }
                }
            }
            if !has_ended {
                return Ok(opened);
            }
        }
    }

    /// Queues a task for a permit, at once; the future resolves to the permit.
    fn queue(
        &self,
        agent: &AgentName,
        ordinal: usize,
    ) -> impl Future<Output = (usize, Result<Permit, Closed>)> + use<> {
        let permit = self.deps.admission.acquire(agent, self.priority.task(ordinal));
        async move { (ordinal, permit.await) }
    }

    /// Appends entries before the tasks that were opened are polled, and so dispatched. The end of a wait is durable then: a
    /// planner that was taken over while its plan waited cannot commit it, and starts nothing.
    async fn append_before_starts(&self, entries: &mut Vec<Entry>) -> Result<(), JournalError> {
        if entries.iter().any(|entry| matches!(entry, Entry::TaskResumed { .. })) {
            return self.deps.journal.append_durable(std::mem::take(entries)).await;
        }
        for entry in entries.drain(..) {
            self.append(entry).await?;
        }
        Ok(())
    }

    /// Outcome of a run in which no task runs; none when the plan is about to be cancelled or to time out, or a wait ends.
    fn idle(&self, loaded: &LoadedPlan, states: &[TaskState], waits: &TaskWaits) -> Option<RunOutcome> {
        let is_queued = |ordinal: &usize| matches!(states[*ordinal], TaskState::Ready);
        let agents = agents_of(&loaded.plan, (0..states.len()).filter(is_queued));
        match waits.next_time() {
            // Every task has ended: a cancel comes too late.
            None if agents.is_empty() => Some(RunOutcome::Finished(Ok(plan_output(states)))),
            wake_at if !self.must_end() && !waits.is_due() => Some(RunOutcome::Blocked { agents, wake_at }),
            _ => None,
        }
    }

    /// When a task that is ready now became ready: at the plan's acceptance, or at the end of its last dependency.
    pub(super) fn ready_since(&self, loaded: &LoadedPlan, ordinal: usize) -> Timestamp {
        let dependencies = loaded.graph.dependencies(ordinal);
        // The plan has the times of tasks that ended before this run; a task of this run ended just now.
        let ended = dependencies.iter().map(|dependency| loaded.plan.tasks[*dependency].ended_at);
        let ended = ended.map(|ended_at| ended_at.unwrap_or_else(Timestamp::now));
        ended.max().unwrap_or_else(|| self.metrics.accepted_at())
    }

    /// Input of a task, with its references resolved.
    pub(super) fn payload(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        states: &[TaskState],
    ) -> Result<Object, OrchestratorError> {
        let plan = &loaded.plan;
        let task = &plan.tasks[ordinal];
        let agents = self.deps.agents_of_task(&task.spec.agent)?;
        if has_free_text(plan, ordinal) {
            return Ok(task.spec.payload.clone());
        }
        let output = |key: &str| {
            let ordinal = plan.tasks.iter().position(|task| task.spec.key == key);
            match ordinal.map(|ordinal| &states[ordinal]) {
                Some(TaskState::Succeeded(output, _)) => Referent::Answer(output),
                Some(TaskState::Failed | TaskState::Waiting | TaskState::Awaiting(_) | TaskState::Ready)
                | None => Referent::Failed,
            }
        };
        let payload = template::render(&task.spec.payload, &output).map_err(|error| {
            OrchestratorError::invalid(&format!("tasks[{ordinal}].input"), error)
                .with_detail("key", &task.spec.key)
        })?;
        input::check_rendered(ordinal, &task.spec, &payload, &agents)?;
        Ok(payload)
    }

    /// Ends the tasks that run or wait when the plan ends with `error`.
    fn end_unfinished(
        &self,
        states: &[TaskState],
        progress: &[TaskProgress],
        error: &OrchestratorError,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (ordinal, state) in states.iter().enumerate() {
            let result = match state {
                TaskState::Succeeded(..) | TaskState::Failed => continue,
                // The timeout of a plan is a failure of the tasks that ran or were ready.
                TaskState::Ready | TaskState::Awaiting(_) if error.code == OrchestratorErrorCode::Timeout => {
                    Err(error.clone())
                }
                TaskState::Ready | TaskState::Awaiting(_) | TaskState::Waiting => Err(plan_ended_first()),
            };
            entries.extend(progress[ordinal].end(self.task_ref(ordinal), &result));
        }
        entries
    }

    /// Error of a cancelled plan. A caller that disconnects at its deadline has timed out.
    fn cancelled(
        &self,
        error: OrchestratorError,
        loaded: &LoadedPlan,
        progress: &[TaskProgress],
        states: &[TaskState],
    ) -> OrchestratorError {
        if self.is_past_deadline() { timed_out(loaded, progress, states) } else { error }
    }

    /// Whether the plan ends before its tasks do.
    fn must_end(&self) -> bool {
        self.cancel_handle().is_cancelled() || self.is_past_deadline()
    }

    fn is_past_deadline(&self) -> bool {
        self.context.remaining() == Some(Duration::ZERO)
    }
}

/// Sets the state of a task that ended. Returns the plan's error if the task fails the plan.
fn end_task(
    state: &mut TaskState,
    result: Result<ActionResult, OrchestratorError>,
    on_failure: OnFailure,
) -> Option<OrchestratorError> {
    match result {
        Ok(output) => {
            *state = TaskState::Succeeded(output.data, output.metadata);
            None
        }
        Err(error) => {
            *state = TaskState::Failed;
            (on_failure == OnFailure::Fail).then_some(error)
        }
    }
}

fn timed_out(loaded: &LoadedPlan, progress: &[TaskProgress], states: &[TaskState]) -> OrchestratorError {
    let awaiting = states.iter().enumerate().find_map(|(ordinal, state)| match state {
        TaskState::Awaiting(kind) => Some((&loaded.plan.tasks[ordinal], *kind)),
        _ => None,
    });
    let message = match (&loaded.plan.tasks[..], progress) {
        _ if let Some((task, kind)) = awaiting => match kind {
            WaitKind::Approval => format!(
                "task `{}` was neither approved nor rejected before the deadline of the plan",
                task.spec.key
            ),
            WaitKind::Timer | WaitKind::Budget | WaitKind::Capacity => {
                format!("task `{}` waited for its {kind} until the deadline of the plan", task.spec.key)
            }
        },
        ([only], [progress]) if progress.is_dispatched() => {
            format!("agent `{}` did not finish before the deadline", only.spec.agent)
        }
        ([only], _) => {
            format!("agent `{}` was at capacity until the deadline; the task did not start", only.spec.agent)
        }
        _ => "the plan did not end before its deadline".into(),
    };
    OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
}
