//! States of a plan's tasks during its run, and what follows from them: which tasks are ready, and the plan's output.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    action::finish_reason,
    budget_pause,
    graph::Graph,
    json::{Json, Object},
    plan::{Plan, Task, TaskStatus},
    wait::WaitKind,
};

/// State of a task as far as its dependents are concerned.
pub(crate) enum TaskState {
    /// Waits for its dependencies.
    Waiting,
    /// Waits for something else than its dependencies and capacity.
    Awaiting(WaitKind),
    /// Dispatched, or queued for a permit.
    Ready,
    /// Succeeded, with this output and its metadata.
    Succeeded(Json, Object),
    /// Ended without output.
    Failed,
}

/// Result of a plan for its caller.
#[derive(Default)]
pub(crate) struct PlanOutput {
    /// Output of the last task as text, if it has one.
    pub(crate) text: Option<String>,
    /// Reason why the output is incomplete; none when it is complete.
    pub(crate) finish_reason: Option<String>,
    /// Metadata of the output.
    pub(crate) metadata: Object,
}

impl TaskState {
    /// Whether the task has ended.
    const fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded(..) | Self::Failed)
    }
}

/// The states that the journal knows.
pub(crate) fn journaled_states(plan: &Plan) -> Vec<TaskState> {
    let state = |task: &Task| match &task.output {
        Some(output) => TaskState::Succeeded(output.data.clone(), output.metadata.clone()),
        None if task.status.is_terminal() => TaskState::Failed,
        None => TaskState::Waiting,
    };
    plan.tasks.iter().map(state).collect()
}

/// Waiting tasks whose dependencies have all ended.
pub(crate) fn ready_tasks(graph: &Graph, states: &[TaskState]) -> Vec<usize> {
    let has_ended = |ordinal: &usize| states[*ordinal].is_terminal();
    let waiting = states.iter().enumerate().filter(|(_, state)| matches!(state, TaskState::Waiting));
    waiting
        .map(|(ordinal, _)| ordinal)
        .filter(|ordinal| graph.dependencies(*ordinal).iter().all(has_ended))
        .collect()
}

/// Agents that the plan can start or continue with, each with the ordinal of its first ready task. Tasks that `wait` need no
/// agent yet.
pub(crate) fn ready_agents(
    plan: &Plan,
    graph: &Graph,
    wait: impl Fn(&Task) -> bool,
) -> Vec<(AgentName, usize)> {
    let ready = ready_tasks(graph, &journaled_states(plan)).into_iter();
    agents_of(plan, ready.filter(|ordinal| !wait(&plan.tasks[*ordinal])))
}

/// The agents of some tasks, each with the ordinal of its first task.
pub(crate) fn agents_of(plan: &Plan, ordinals: impl IntoIterator<Item = usize>) -> Vec<(AgentName, usize)> {
    let mut agents: Vec<(AgentName, usize)> = Vec::new();
    for ordinal in ordinals {
        let agent = &plan.tasks[ordinal].spec.agent;
        if agents.iter().all(|(known, _)| known != agent) {
            agents.push((agent.clone(), ordinal));
        }
    }
    agents
}

/// The first time at which a task of a plan stops waiting without a decision: when its approval expires, or when it may start.
pub(crate) fn next_time(plan: &Plan) -> Option<Timestamp> {
    let open = || plan.tasks.iter().filter(|task| !task.status.is_terminal());
    let asked = open().filter(|task| task.status == TaskStatus::AwaitingApproval);
    let expiries = asked.filter_map(|task| Some(task.approval.as_ref()?.expires_at));
    let paused = open().filter(|task| task.status == TaskStatus::AwaitingBudget);
    let pauses = paused.filter_map(|task| Some(budget_pause::until(task.pause.as_ref()?)));
    let now = Timestamp::now();
    let starts = open().filter_map(|task| task.spec.start.not_before).filter(|start| *start > now);
    expiries.chain(pauses).chain(starts).min()
}

/// The plan's output: that of its last task, if it has one.
pub(crate) fn plan_output(states: &[TaskState]) -> PlanOutput {
    match states.last() {
        Some(TaskState::Succeeded(output, metadata)) => {
            let (text, finish_reason) = (Some(output.to_text()), finish_reason(metadata));
            PlanOutput { text, finish_reason, metadata: metadata.clone() }
        }
        Some(TaskState::Failed | TaskState::Waiting | TaskState::Awaiting(_) | TaskState::Ready) | None => {
            PlanOutput::default()
        }
    }
}
