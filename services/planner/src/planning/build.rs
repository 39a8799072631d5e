//! Building a plan from a request: validation, routing, and the order of the tasks.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentSpec, CorrelationId, OrchestratorError, PlanId, TaskId,
    action::CHAT_ACTION,
    approval::OnExpiry,
    budget::Limits,
    chat::Chat,
    conversation,
    graph::{Graph, check_agent},
    input,
    json::Object,
    limits::{MAX_ACTION_BYTES, MAX_CONTEXT_BYTES, MAX_PLAN_BYTES, check_bytes, check_depth, check_text},
    plan::{OnFailure, Plan, PlanKind, PlanStatus, StartConditions, Task, TaskSpec, TaskStatus},
    planning::PlanningSettings,
    wait::begins_at,
};
use phoenix_platform::spans;
use tracing::Span;

use crate::{
    planning::{
        proposal,
        request::{PlanRequest, Work},
        routing::route,
        strategy::is_planned_by_model,
    },
    store::entry::Entry,
};

/// A plan that is ready to be accepted.
pub(crate) struct PreparedPlan {
    /// Plan in its initial state.
    pub(crate) plan: Arc<Plan>,
    /// Dependencies of the tasks.
    pub(crate) graph: Graph,
    /// Journal entries that create the plan.
    pub(crate) entries: Vec<Entry>,
}

/// Builds a plan and the entry that creates it.
///
/// # Errors
/// As [`build_plan`].
pub(crate) fn prepare_plan(
    agents: &AgentCatalog,
    correlation_id: CorrelationId,
    request: PlanRequest,
    settings: &PlanningSettings,
) -> Result<PreparedPlan, OrchestratorError> {
    let (plan, graph) = build_plan(agents, correlation_id, request, settings)?;
    let plan = Arc::new(plan);
    let entries = vec![Entry::PlanAccepted { plan: Arc::clone(&plan), trace: trace() }];
    Ok(PreparedPlan { plan, graph, entries })
}

/// The span in which a plan is accepted, if it is exported.
pub(super) fn trace() -> Option<Box<str>> {
    spans::traceparent(&Span::current()).map(Into::into)
}

/// Builds a plan from a request.
///
/// # Errors
/// The first problem of the request.
pub(crate) fn build_plan(
    agents: &AgentCatalog,
    correlation_id: CorrelationId,
    request: PlanRequest,
    settings: &PlanningSettings,
) -> Result<(Plan, Graph), OrchestratorError> {
    let PlanRequest {
        work,
        planning,
        context: agents_context,
        not_before,
        time_limit,
        budget,
        on_budget,
        wait_mode: _,
        with_output: _,
        record_output,
        continue_on_disconnect: _,
        key: _,
    } = request;
    let (kind, agents_context, specs) = match work {
        Work::Chat { message, agent, conversation } => {
            let context = Some(agents_context);
            let agent = agent.as_deref();
            let chat = Chat::with_conversation(message, context, correlation_id, agent, conversation)?;
            if !record_output && is_planned_by_model(agents, &chat, planning, settings)? {
                let kind = if planning.is_proposal() { PlanKind::Proposal } else { PlanKind::Planned };
                let Chat { message, context, conversation, .. } = chat;
                let question =
                    proposal::ask(agents, settings, kind, &message, &context, conversation.messages());
                (kind, context, vec![question])
            } else {
                let (context, spec) = chat_task(agents, chat)?;
                let kind = if record_output { PlanKind::RecordedChat } else { PlanKind::Chat };
                (kind, context, vec![spec])
            }
        }
        Work::Tasks(specs) => (PlanKind::Graph, agents_context, specs),
    };
    let mut plan = pending_plan(correlation_id, kind, agents_context, specs);
    plan.budget = if kind.is_planned() { budget.min(settings.budget) } else { budget };
    plan.tasks.iter_mut().for_each(|task| task.spec.start.on_budget = on_budget.unwrap_or_default());
    check_limits(&plan)?;
    let graph = graph_of(&plan, agents)?;
    delay(&mut plan, &graph, not_before);
    set_time_limit(&mut plan, &graph, time_limit)?;
    (0..plan.tasks.len()).try_for_each(|ordinal| check_input(&plan, ordinal, agents))?;
    (0..plan.tasks.len()).try_for_each(|ordinal| check_approval(&plan, ordinal, agents))?;
    Ok((plan, graph))
}

/// Checks the limits on a plan's parts and on its total size.
///
/// # Errors
/// `validation_failed` that names the field, the limit and the value found.
pub(crate) fn check_limits(plan: &Plan) -> Result<(), OrchestratorError> {
    check_text("context", &plan.context, MAX_CONTEXT_BYTES)?;
    for (ordinal, task) in plan.tasks.iter().enumerate() {
        check_text(&format!("tasks[{ordinal}].action"), &task.spec.action, MAX_ACTION_BYTES)?;
        check_depth(&format!("tasks[{ordinal}].input"), task.spec.payload.depth())?;
        if let Some(terms) = &task.spec.start.approval {
            terms.check(&format!("tasks[{ordinal}].approval"))?;
        }
    }
    check_bytes("tasks", plan.size(), MAX_PLAN_BYTES)
}

/// Lets the tasks without dependencies start no earlier than at this time: the others start later anyway.
fn delay(plan: &mut Plan, graph: &Graph, not_before: Option<Timestamp>) {
    let Some(at) = not_before else { return };
    for ordinal in (0..plan.tasks.len()).filter(|ordinal| graph.dependencies(*ordinal).is_empty()) {
        let start = &mut plan.tasks[ordinal].spec.start;
        start.not_before = Some(start.not_before.map_or(at, |own| own.max(at)));
    }
}

/// Sets the deadline of a plan that may take `limit` from when work on it may begin.
///
/// # Errors
/// `validation_failed` when a task must not start before the deadline.
pub(crate) fn set_time_limit(
    plan: &mut Plan,
    graph: &Graph,
    limit: Option<Duration>,
) -> Result<(), OrchestratorError> {
    let deadline_at = limit.and_then(|limit| begins_at(plan, graph).checked_add(limit).ok());
    let Some(deadline_at) = deadline_at else { return Ok(()) };
    plan.deadline_at = Some(deadline_at);
    for (ordinal, task) in plan.tasks.iter().enumerate() {
        let Some(start) = task.spec.start.not_before.filter(|start| *start >= deadline_at) else { continue };
        let problem = format!("must be before the deadline of the plan, {deadline_at}, not {start}");
        let field = format!("tasks[{ordinal}].not_before");
        return Err(OrchestratorError::invalid(&field, problem).with_detail("key", &task.spec.key));
    }
    Ok(())
}

/// Checks that a caller who waits for the plan can wait until work on it begins.
///
/// # Errors
/// `validation_failed` when the caller's time is over before that.
pub(crate) fn check_caller(
    plan: &Plan,
    graph: &Graph,
    remaining: Option<Duration>,
) -> Result<(), OrchestratorError> {
    let (start, now) = (begins_at(plan, graph), Timestamp::now());
    let waits = Duration::try_from(start.duration_since(now)).unwrap_or_default();
    match remaining {
        Some(remaining) if !waits.is_zero() && remaining <= waits => {
            let problem = format!(
                "is {start}, after the end of this request's time limit; submit the plan with `Prefer: respond-async`"
            );
            Err(OrchestratorError::invalid("not_before", problem))
        }
        _ => Ok(()),
    }
}

/// Checks a task's input against the schema that its agent declares. Recovery skips this check: an accepted plan stays
/// accepted, and a task that has not run yet is checked again when it does.
pub(crate) fn check_input(
    plan: &Plan,
    ordinal: usize,
    agents: &AgentCatalog,
) -> Result<(), OrchestratorError> {
    let spec = &plan.tasks[ordinal].spec;
    match plan.kind {
        PlanKind::Chat | PlanKind::RecordedChat => input::check_chat(spec, agents),
        PlanKind::Planned | PlanKind::Proposal if plan.is_planning(ordinal) => {
            input::check_chat(spec, agents)
        }
        PlanKind::Graph | PlanKind::Planned | PlanKind::Proposal => input::check_task(ordinal, spec, agents),
    }
}

/// Checks that a task does not ask to run without the decision that its agent requires.
fn check_approval(plan: &Plan, ordinal: usize, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    let spec = &plan.tasks[ordinal].spec;
    let runs_anyway = spec.start.approval.as_ref().is_some_and(|terms| terms.on_expiry == OnExpiry::Approve);
    if runs_anyway && agents.get(&spec.agent)?.approval.requires(&spec.action) {
        let problem = format!(
            "must not be `approve`: agent `{}` requires an approval of `{}`; use `fail` or `reject`",
            spec.agent, spec.action
        );
        let field = format!("tasks[{ordinal}].approval.on_expiry");
        return Err(OrchestratorError::invalid(&field, problem).with_detail("key", &spec.key));
    }
    Ok(())
}

/// The context and the single task of a chat, for the named or routed agent.
fn chat_task(agents: &AgentCatalog, chat: Chat) -> Result<(String, TaskSpec), OrchestratorError> {
    let Chat { message, context, correlation_id: _, agent, conversation } = chat;
    let agent = match &agent {
        Some(named) => agents.get(named)?,
        None => agents.get(route(agents, &message))?,
    };
    let mut payload = Object::from_iter([("message".to_owned(), message.into())]);
    if !conversation.is_empty() {
        payload.extend(conversation.into_members());
        omit_unknown_members(agent, &mut payload);
    }
    let spec = TaskSpec {
        key: "chat".into(),
        agent: agent.name.clone(),
        action: CHAT_ACTION.into(),
        payload,
        depends_on: Vec::new(),
        on_failure: OnFailure::Fail,
        start: StartConditions::default(),
    };
    Ok((context, spec))
}

/// Omits the members of a conversation that the schema of the agent's chat excludes by name: such an agent knows only the
/// message and the context.
fn omit_unknown_members(agent: &AgentSpec, payload: &mut Object) {
    let declared = agent.action(CHAT_ACTION).ok().flatten();
    let Some(schema) = declared.and_then(|action| action.input_schema.as_ref()) else { return };
    for name in conversation::MEMBERS.into_iter().filter(|name| !schema.admits(name)) {
        payload.shift_remove(name);
    }
}

/// The dependency graph of a plan. The input of a chat or of a planning task is free text, so references in it are not resolved.
pub(crate) fn graph_of(plan: &Plan, agents: &AgentCatalog) -> Result<Graph, OrchestratorError> {
    Graph::of(&specs_of(plan), agents)
}

/// The dependency graph of an accepted plan. Its agents may be unknown.
pub(crate) fn graph_of_accepted(plan: &Plan) -> Result<Graph, OrchestratorError> {
    Graph::of_accepted(&specs_of(plan))
}

/// The dependency graph of a plan that was taken over. Agents of terminal tasks may be unknown.
pub(crate) fn graph_of_recovered(plan: &Plan, agents: &AgentCatalog) -> Result<Graph, OrchestratorError> {
    let open = plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal());
    for (ordinal, task) in open {
        check_agent(ordinal, &task.spec, agents)?;
    }
    graph_of_accepted(plan)
}

/// Task specs from which the graph is built.
pub(crate) fn specs_of(plan: &Plan) -> Vec<TaskSpec> {
    let spec = |(ordinal, task): (usize, &Task)| {
        if !has_free_text(plan, ordinal) {
            return task.spec.clone();
        }
        TaskSpec {
            key: task.spec.key.clone(),
            agent: task.spec.agent.clone(),
            action: task.spec.action.clone(),
            payload: Object::new(),
            depends_on: task.spec.depends_on.clone(),
            on_failure: task.spec.on_failure,
            start: StartConditions::default(),
        }
    };
    plan.tasks.iter().enumerate().map(spec).collect()
}

/// Whether the input of a task is free text instead of a template.
pub(crate) fn has_free_text(plan: &Plan, ordinal: usize) -> bool {
    plan.kind.is_chat() || plan.is_planning(ordinal)
}

/// A pending plan with these tasks, all queued.
pub(crate) fn pending_plan(
    correlation_id: CorrelationId,
    kind: PlanKind,
    context: String,
    specs: Vec<TaskSpec>,
) -> Plan {
    let now = Timestamp::now();
    Plan {
        plan_id: PlanId::generate(),
        correlation_id,
        kind,
        status: PlanStatus::Pending,
        created_at: now,
        deadline_at: None,
        ended_at: None,
        context,
        budget: Limits::NONE,
        output: None,
        error: None,
        redrive_of: None,
        redriven_as: None,
        tasks: queued(specs, now),
    }
}

/// Queued tasks with these specifications.
pub(crate) fn queued(specs: impl IntoIterator<Item = TaskSpec>, at: Timestamp) -> Vec<Task> {
    let task = |spec| Task {
        task_id: TaskId::generate(),
        spec,
        status: TaskStatus::Queued,
        queued_at: at,
        dispatched_at: None,
        ended_at: None,
        output: None,
        error: None,
        approval: None,
        pause: None,
        attempts: Vec::new(),
    };
    specs.into_iter().map(task).collect()
}
