//! Checks of proposed tasks: those of a request for a plan, and the limits of the settings.

use phoenix_domain::{
    AgentCatalog, OrchestratorError,
    graph::{Graph, check_agent},
    input,
    limits::{MAX_ACTION_BYTES, MAX_PLAN_BYTES, check_bytes, check_depth, check_text},
    plan::{PLANNING_KEY, TaskSpec},
    planning::PlanningSettings,
};

/// Problems that one proposal is rejected with.
const MAX_PROBLEMS: usize = 16;

/// The problems of proposed tasks, for a plan that has `plan_size` bytes without them. Empty for a valid proposal.
pub(super) fn problems_of(
    tasks: &[TaskSpec],
    plan_size: usize,
    agents: &AgentCatalog,
    settings: &PlanningSettings,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        if let Err(error) = check(index, task, agents) {
            problems.push(described(index, task, &error));
        }
    }
    match Graph::of(tasks, agents) {
        Ok(graph) => {
            let depth = graph.order().len();
            if depth > settings.max_depth {
                let limit = settings.max_depth;
                problems.push(format!(
                    "{depth} tasks depend on each other in a row; at most {limit} are allowed"
                ));
            }
        }
        // The checks of a single task have found it already.
        Err(_) if !problems.is_empty() => {}
        Err(error) => problems.push(error.message),
    }
    let size = plan_size.saturating_add(tasks.iter().map(TaskSpec::size).sum());
    problems.extend(check_bytes("tasks", size, MAX_PLAN_BYTES).err().map(|error| error.message));
    problems.truncate(MAX_PROBLEMS);
    problems
}

fn check(index: usize, task: &TaskSpec, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    if task.key.starts_with(PLANNING_KEY) {
        let problem = format!("must not begin with `{PLANNING_KEY}`");
        return Err(OrchestratorError::invalid(&format!("tasks[{index}].key"), problem));
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
