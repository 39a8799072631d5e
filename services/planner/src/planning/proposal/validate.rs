//! Checks of proposed tasks: those of a request for a plan, and the limits of the settings.

use phoenix_domain::{
    AgentCatalog, OrchestratorError,
    graph::{Graph, check_agent},
    input,
    limits::{MAX_ACTION_BYTES, MAX_PLAN_BYTES, check_bytes, check_depth, check_text},
    plan::{PLANNING_KEY, Plan, TaskSpec},
};

use super::{
    limits::RoundLimits,
    rounds::{depth_of, proposed_before},
};

/// Problems that one proposal is rejected with.
const MAX_PROBLEMS: usize = 16;

/// The problems of tasks that are proposed in a round of a plan. Empty for a valid proposal.
pub(super) fn problems_of(
    tasks: &[TaskSpec],
    plan: &Plan,
    round: usize,
    limits: &RoundLimits,
    agents: &AgentCatalog,
) -> Vec<String> {
    let (earlier, mut rounds) = proposed_before(plan, round);
    let mut problems = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        if let Err(error) = check(index, task, &earlier, agents) {
            problems.push(described(index, task, &error));
        }
    }
    // In this order, so that a problem names the task by its index in the proposal.
    let all: Vec<_> = tasks.iter().cloned().chain(earlier).collect();
    rounds.splice(0..0, tasks.iter().map(|_| round));
    match Graph::of_accepted(&all) {
        Ok(graph) => {
            let (depth, limit) = (depth_of(&graph, &rounds, round), limits.depth);
            if depth > limit {
                problems.push(format!(
                    "{depth} tasks depend on each other in a row; at most {limit} are allowed"
                ));
            }
        }
        // The checks of a single task have found it already.
        Err(_) if !problems.is_empty() => {}
        Err(error) => problems.push(error.message),
    }
    let size = plan.size().saturating_add(tasks.iter().map(TaskSpec::size).sum());
    problems.extend(check_bytes("tasks", size, MAX_PLAN_BYTES).err().map(|error| error.message));
    problems.truncate(MAX_PROBLEMS);
    problems
}

fn check(
    index: usize,
    task: &TaskSpec,
    earlier: &[TaskSpec],
    agents: &AgentCatalog,
) -> Result<(), OrchestratorError> {
    let key = |problem: String| Err(OrchestratorError::invalid(&format!("tasks[{index}].key"), problem));
    if task.key.starts_with(PLANNING_KEY) {
        return key(format!("must not begin with `{PLANNING_KEY}`"));
    }
    if earlier.iter().any(|known| known.key == task.key) {
        return key("is that of a task that has run; choose another one".into());
    }
    check_text(&format!("tasks[{index}].action"), &task.action, MAX_ACTION_BYTES)?;
    check_depth(&format!("tasks[{index}].input"), task.payload.depth())?;
    check_agent(index, task, agents)?;
    input::check_task(index, task, agents)
}

/// The message of an error, with the place if it does not name it.
fn described(index: usize, task: &TaskSpec, error: &OrchestratorError) -> String {
    let place = format!("tasks[{index}]");
    if error.message.contains(&place) {
        return error.message.clone();
    }
    let key: String = task.key.chars().take(64).collect();
    format!("{place} (`{key}`): {}", error.message)
}
