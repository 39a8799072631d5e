//! Redrive planning: which tasks of a terminal plan run again, and the plan that runs them.
//!
//! A terminal state never changes, so a redrive creates a new plan (`docs/adr/0006-a-redrive-is-a-new-plan.md`): succeeded
//! tasks start as succeeded and keep their outputs; all other tasks, and every task that depends on one of them, run as new
//! tasks with new ids.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phoenix_domain::{
    AgentCatalog, CorrelationId, OrchestratorError, OrchestratorErrorCode,
    chat::Chat,
    conversation::Conversation,
    graph::Graph,
    json::{Json, Object},
    plan::{Plan, PlanStatus, TaskSpec, TaskStatus},
    rejections::plan_has_not_ended,
    wait::begins_at,
};

use crate::{
    planning::{
        build::{
            PreparedPlan, check_input, check_limits, graph_of, pending_plan, set_time_limit, specs_of, trace,
        },
        proposal::rounds,
    },
    store::{entry::Entry, task_ref::TaskRef},
};

/// Characters of an unknown task key that an error shows.
const MAX_KEY_CHARS: usize = 64;

/// Checks that a plan can be redriven.
///
/// # Errors
/// `conflict` when the plan is not terminal, was redriven before, or has only succeeded tasks.
pub(crate) fn check_redrivable(plan: &Plan) -> Result<(), OrchestratorError> {
    let conflict = |message: String| OrchestratorError::new(OrchestratorErrorCode::Conflict, message);
    if !plan.status.is_terminal() {
        return Err(plan_has_not_ended(plan.status));
    }
    if let Some(redriven_as) = plan.redriven_as {
        let message = format!("the plan was redriven before, as {redriven_as}");
        return Err(conflict(message).with_detail("redriven_as", redriven_as));
    }
    if plan.tasks.iter().all(|task| task.status == TaskStatus::Succeeded) && !failed_to_plan(plan) {
        return Err(conflict("every task of the plan has succeeded; there is nothing to redrive".into()));
    }
    Ok(())
}

/// Number of dead letters that a redrive of the plan resolves.
pub(crate) fn dead_letters(plan: &Plan) -> u64 {
    plan.tasks.iter().filter(|task| task.status == TaskStatus::DeadLettered).count() as u64
}

/// Prepares the plan that redrives `original`.
///
/// # Errors
/// The first problem of the new inputs, or of the original tasks with today's agents.
pub(crate) fn prepare_redrive(
    agents: &AgentCatalog,
    original: &Plan,
    correlation_id: CorrelationId,
    inputs: BTreeMap<String, Object>,
) -> Result<PreparedPlan, OrchestratorError> {
    let kept = kept_rounds(original);
    let original = kept.as_ref().unwrap_or(original);
    let original_graph = graph_of(original, agents)?;
    let runs_again = tasks_to_run(original, &original_graph);
    let mut specs: Vec<_> = original.tasks.iter().map(|task| task.spec.clone()).collect();
    for (key, input) in inputs {
        let ordinal = editable_task(&specs, &runs_again, &key)?;
        if original.kind.is_chat() {
            check_chat(&input, correlation_id)?;
        }
        specs[ordinal].payload = input;
    }
    // The new plan has the same time limit as the original.
    let began_at = begins_at(original, &original_graph);
    let limit = original.deadline_at.and_then(|at| Duration::try_from(at.duration_since(began_at)).ok());
    let mut plan = pending_plan(correlation_id, original.kind, original.context.clone(), specs);
    plan.redrive_of = Some(original.plan_id);
    // And the same budget, of which nothing is used.
    plan.budget = original.budget;
    check_limits(&plan)?;
    let graph = graph_of(&plan, agents)?;
    set_time_limit(&mut plan, &graph, limit)?;
    (0..plan.tasks.len())
        .filter(|ordinal| runs_again[*ordinal])
        .try_for_each(|ordinal| check_input(&plan, ordinal, agents))?;
    let mut entries = vec![Entry::PlanAccepted { plan: Arc::new(plan.clone()), trace: trace() }];
    entries.extend(keep_outputs(&mut plan, original, &runs_again));
    Ok(PreparedPlan { plan: Arc::new(plan), graph, entries })
}

/// Whether the plan ended with a question to a language model, and without an answer that could be used. It is asked again then.
fn failed_to_plan(plan: &Plan) -> bool {
    plan.status != PlanStatus::Succeeded
        && plan.tasks.len().checked_sub(1).is_some_and(|last| plan.is_planning(last))
}

/// The plan without what a language model decides anew: rounds after one of which a task runs again, and answers of the last
/// round that were of no use. None when all of it is kept.
fn kept_rounds(plan: &Plan) -> Option<Plan> {
    if !plan.kind.is_planned() {
        return None;
    }
    let mut kept = None;
    if failed_to_plan(plan) {
        let first = rounds(plan).pop()?.questions.start;
        let mut plan = truncated(plan, first + 1);
        plan.tasks[first].output = None;
        kept = Some(plan);
    }
    let rest = kept.as_ref().unwrap_or(plan);
    let (rounds, graph) = (rounds(rest), Graph::of_accepted(&specs_of(rest)).ok()?);
    let runs_again = tasks_to_run(rest, &graph);
    let (_, before) = rounds.split_last()?;
    let round = before.iter().find(|round| round.tasks.clone().any(|ordinal| runs_again[ordinal]));
    round.map(|round| truncated(rest, round.tasks.end)).or(kept)
}

fn truncated(plan: &Plan, tasks: usize) -> Plan {
    let mut plan = plan.clone();
    plan.tasks.truncate(tasks);
    plan
}

/// Marks the tasks that do not run again as succeeded, with the original's outputs. Returns the entries that record this.
fn keep_outputs(plan: &mut Plan, original: &Plan, runs_again: &[bool]) -> Vec<Entry> {
    let (plan_id, at) = (plan.plan_id, plan.created_at);
    let mut entries = Vec::new();
    for (ordinal, (task, before)) in plan.tasks.iter_mut().zip(&original.tasks).enumerate() {
        if let (false, Some(output)) = (runs_again[ordinal], &before.output) {
            (task.status, task.ended_at, task.output) =
                (TaskStatus::Succeeded, Some(at), Some(output.clone()));
            let task = TaskRef { plan_id, ordinal };
            let (status, result) = (TaskStatus::Succeeded, Ok(output.clone()));
            entries.push(Entry::TaskEnded { task, status, at, result });
        }
    }
    entries
}

/// By ordinal: whether the task runs again. A succeeded task runs again when one of its dependencies does, because its input
/// changes.
fn tasks_to_run(plan: &Plan, graph: &Graph) -> Vec<bool> {
    let mut runs_again: Vec<_> = plan.tasks.iter().map(|task| task.output.is_none()).collect();
    for ordinal in graph.order().into_iter().flatten() {
        runs_again[ordinal] |= graph.dependencies(ordinal).iter().any(|dependency| runs_again[*dependency]);
    }
    runs_again
}

/// Ordinal of the task with this key, if its input may change.
fn editable_task(specs: &[TaskSpec], runs_again: &[bool], key: &str) -> Result<usize, OrchestratorError> {
    let shown: String = key.chars().take(MAX_KEY_CHARS).collect();
    let invalid = |problem: &str| {
        OrchestratorError::invalid(&format!("input.{shown}"), problem).with_detail("key", &shown)
    };
    let ordinal =
        specs.iter().position(|spec| spec.key == key).ok_or_else(|| invalid("is no task of the plan"))?;
    if runs_again[ordinal] { Ok(ordinal) } else { Err(invalid("has succeeded and is kept as it is")) }
}

/// Validates the new message of a chat as the chat endpoint does.
fn check_chat(input: &Object, correlation_id: CorrelationId) -> Result<(), OrchestratorError> {
    const FIELD: &str = "input.chat.message";
    let Some(Json::String(message)) = input.get("message") else {
        return Err(OrchestratorError::invalid(FIELD, "must be the message as text"));
    };
    let conversation = Conversation::take_from(&mut input.clone()).map_err(|error| {
        let field =
            error.details.get("field").map_or("input.chat".to_owned(), |field| format!("input.chat.{field}"));
        error.with_detail("field", field)
    })?;
    // The messages of a conversation have no limit of their own.
    let message = (!conversation.has_messages()).then(|| message.clone());
    let chat = Chat::with_conversation(message, None, correlation_id, None, conversation);
    chat.map(drop).map_err(|error| error.with_detail("field", FIELD))
}
