//! An active plan: the data of its run, and the states that the run passes through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::{
    AgentName, CorrelationId, OrchestratorError, PlanId,
    action::ActionResult,
    budget::Limits,
    graph::Graph,
    json::{Json, Object},
    plan::{Plan, PlanStatus, Task},
};
use phoenix_platform::RequestContext;

use crate::{
    admission::{Permits, fair_semaphore::Permit, priority::PlanPriority},
    deps::Deps,
    live::Recorder,
    plan_metrics::PlanMetricsGuard,
    plan_run::{
        registry::{CancelHandle, Registration},
        task_state::{PlanOutput, next_time},
    },
    planning::request::WaitMode,
    store::{entry::Entry, error::JournalError, task_ref::TaskRef},
};

/// Size up to which a blocked plan stays in memory: to read it again would cost more. In bytes, approximately.
const KEPT_BYTES: usize = 8 * 1024;

/// Approximate overhead of a task and of a JSON value.
const TASK_BYTES: usize = 512;
const VALUE_BYTES: usize = 64;

/// Result of a plan that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanResult {
    /// Identifier of the plan.
    pub plan_id: PlanId,
    /// Output of the last task as text, if it has one.
    pub output: Option<String>,
    /// Reason why the output is incomplete; none when it is complete.
    pub finish_reason: Option<String>,
    /// Metadata of that output.
    pub metadata: Object,
    /// Agent of the last task.
    pub agent: AgentName,
    /// Time during which agents worked for this request; zero for a replay.
    pub agent_time: Duration,
    /// The earlier request that received this result first.
    pub replay_of: Option<CorrelationId>,
}

impl PlanResult {
    /// The result of a plan that has ended, as the journal has it and without its agent time; `None` while the plan runs.
    pub(crate) fn stored(plan: Plan, default_agent: &AgentName) -> Option<Result<Self, OrchestratorError>> {
        let Plan { plan_id, status, output, error, tasks, .. } = plan;
        if !status.is_terminal() {
            return None;
        }
        if status != PlanStatus::Succeeded {
            return Some(Err(error.unwrap_or_else(|| OrchestratorError::internal("the plan has no result"))));
        }
        let last = tasks.into_iter().next_back();
        let agent = last.as_ref().map_or(default_agent, |task| &task.spec.agent).clone();
        let last = last.and_then(|task| task.output);
        let finish_reason = last.as_ref().and_then(ActionResult::finish_reason);
        let metadata = last.map(|output| output.metadata).unwrap_or_default();
        let agent_time = Duration::ZERO;
        Some(Ok(Self { plan_id, output, finish_reason, metadata, agent, agent_time, replay_of: None }))
    }
}

/// A plan that this planner runs.
pub(crate) struct ActivePlan {
    pub(crate) deps: Arc<Deps>,
    pub(crate) registration: Registration,
    /// Request context, bounded by the plan's deadline.
    pub(crate) context: RequestContext,
    pub(crate) wait_mode: WaitMode,
    pub(crate) priority: PlanPriority,
    /// How often the plan was taken over.
    pub(crate) takeovers: u32,
    /// What its tasks say before they end.
    pub(crate) output: Recorder,
    pub(crate) metrics: PlanMetricsGuard,
    /// Capacity for one plan in flight; none while the plan only waits.
    pub(crate) capacity: Mutex<Option<Permit>>,
}

/// A plan in memory, with its dependencies.
pub(crate) struct LoadedPlan {
    pub(crate) plan: Arc<Plan>,
    pub(crate) graph: Graph,
    /// Limits of the plan, which a decision may change while it runs.
    budget: Mutex<Limits>,
}

impl LoadedPlan {
    pub(crate) fn new(plan: Arc<Plan>, graph: Graph) -> Self {
        let budget = plan.budget.into();
        Self { plan, graph, budget }
    }

    /// Limits of the plan.
    pub(crate) fn budget(&self) -> Limits {
        *self.budget.lock()
    }

    /// Replaces the limits that `granted` names. Returns all limits.
    pub(crate) fn grant(&self, granted: Limits) -> Limits {
        let mut budget = self.budget.lock();
        *budget = granted.or(*budget);
        *budget
    }
}

/// States of a plan's run.
pub(crate) enum RunState {
    /// Queued until one of these agents has a permit, a decision about an approval is made, or `wake_at` has come. With each agent goes the
    /// ordinal of its first ready task. Only small plans stay loaded, so that tens of thousands can queue.
    Blocked { agents: Vec<(AgentName, usize)>, wake_at: Option<Timestamp>, loaded: Option<Box<LoadedPlan>> },
    /// Has permits for tasks that are ready.
    Runnable { loaded: Box<LoadedPlan>, permits: Permits },
    /// Ended, durably. The agent is that of the last task.
    Finished { agent: AgentName, result: Result<PlanOutput, OrchestratorError> },
    /// Left to the next planner: the plan cannot be read, or this planner shuts down.
    Abandoned(JournalError),
}

impl RunState {
    /// Initial state of a plan that starts with `agents`.
    pub(crate) fn new(loaded: LoadedPlan, agents: Vec<(AgentName, usize)>, permits: Option<Permits>) -> Self {
        match permits {
            Some(permits) => Self::Runnable { loaded: Box::new(loaded), permits },
            None => {
                let is_small = approximate_size(&loaded.plan) <= KEPT_BYTES;
                let wake_at = next_time(&loaded.plan);
                Self::Blocked { agents, wake_at, loaded: is_small.then(|| Box::new(loaded)) }
            }
        }
    }
}

impl ActivePlan {
    pub(crate) const fn plan_id(&self) -> PlanId {
        self.registration.plan_id()
    }

    pub(crate) const fn cancel_handle(&self) -> &CancelHandle {
        self.registration.cancel_handle()
    }

    pub(crate) fn task_ref(&self, ordinal: usize) -> TaskRef {
        TaskRef { plan_id: self.plan_id(), ordinal }
    }

    /// Appends an entry to the journal without waiting for its commit.
    pub(crate) async fn append(&self, entry: Entry) -> Result<(), JournalError> {
        self.deps.journal.append(entry).await
    }

    /// Records in the metrics that the plan is durable, with this status.
    pub(crate) fn accepted(&self, status: PlanStatus) {
        self.metrics.accepted();
        if status == PlanStatus::Running {
            self.metrics.dispatched();
        }
    }
}

/// A plan that only waits, until it is dropped.
pub(crate) struct WaitingPlan<'p> {
    plan: &'p ActivePlan,
    _place: Permit,
}

impl ActivePlan {
    /// Gives the plan's capacity to others while it only waits, as far as there is a place for it.
    pub(crate) fn wait_outside(&self) -> Option<WaitingPlan<'_>> {
        let place = self.deps.admission.try_acquire_waiting()?;
        drop(self.capacity.lock().take());
        Some(WaitingPlan { plan: self, _place: place })
    }
}

impl Drop for WaitingPlan<'_> {
    fn drop(&mut self) {
        *self.plan.capacity.lock() = Some(self.plan.deps.admission.acquire_plan_over_limit());
    }
}

/// Memory that a plan takes, in bytes, approximately.
fn approximate_size(plan: &Plan) -> usize {
    fn of(value: &Json) -> usize {
        VALUE_BYTES
            + match value {
                Json::Null | Json::Bool(_) => 0,
                Json::Number(number) => number.as_str().len(),
                Json::String(text) => text.len(),
                Json::Array(items) => items.iter().map(of).sum(),
                Json::Object(members) => members.iter().map(|(name, value)| name.len() + of(value)).sum(),
            }
    }
    let task = |task: &Task| {
        let input: usize = task.spec.payload.iter().map(|(name, value)| name.len() + of(value)).sum();
        TASK_BYTES + input + task.output.as_ref().map_or(0, |output| of(&output.data))
    };
    plan.context.len() + plan.tasks.iter().map(task).sum::<usize>()
}

/// A request's context, bounded by the deadline of its plan.
pub(crate) fn within_deadline(
    context: RequestContext,
    created_at: Timestamp,
    deadline_at: Option<Timestamp>,
) -> RequestContext {
    let Some(at) = deadline_at else { return context };
    // The clock may have been set back since: the remaining time never exceeds the original limit.
    let since = Timestamp::now().max(created_at);
    let left = Duration::try_from(at.duration_since(since)).unwrap_or_default();
    let own = Instant::now() + left;
    let deadline = context.deadline.map_or(own, |callers| callers.min(own));
    context.with_deadline(deadline)
}
