//! From what a caller asks for to a plan: checked, routed, with the order of its tasks.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, CorrelationId, OrchestratorError, PlanId, TaskId,
    action::CHAT_ACTION,
    chat::Chat,
    graph::{Graph, check_agent},
    input,
    json::Object,
    limits::{MAX_ACTION_BYTES, MAX_CONTEXT_BYTES, MAX_PLAN_BYTES, check_bytes, check_depth, check_text},
    plan::{OnFailure, Plan, PlanKind, PlanStatus, Task, TaskSpec, TaskStatus},
};

use crate::{routing::route, store::IdempotencyKey};

/// What a caller asks for, unchecked.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What is to be done.
    pub work: Work,
    /// What agents should know beside it.
    pub context: String,
    /// The time the plan may take.
    pub time_limit: Option<Duration>,
    /// Who waits for it.
    pub waits: Waits,
    /// Whether the plan goes on when its caller goes away.
    pub continue_on_disconnect: bool,
    /// The caller's name for this request.
    pub key: Option<IdempotencyKey>,
}

/// Who waits for a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// A caller, who would rather hear at once that nothing can be run.
    Caller,
    /// Nobody: the plan can wait until it can be run.
    Nobody,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Work {
    /// A message, for the agent it is meant for or the one that is named.
    Chat {
        /// What the person wrote.
        message: String,
        /// The agent to use instead of routing.
        agent: Option<String>,
    },
    /// Tasks.
    Tasks(Vec<TaskSpec>),
}

/// Makes a plan of a wish.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn make(
    agents: &AgentCatalog,
    correlation_id: CorrelationId,
    wish: Wish,
) -> Result<(Plan, Graph), OrchestratorError> {
    let Wish { work, context: agents_context, time_limit, waits: _, continue_on_disconnect: _, key: _ } =
        wish;
    let deadline_at = time_limit.and_then(|limit| Timestamp::now().checked_add(limit).ok());
    let (kind, agents_context, specs) = match work {
        Work::Chat { message, agent } => {
            let chat = Chat::new(message, Some(agents_context), correlation_id, agent.as_deref())?;
            let spec = plan_chat(agents, &chat)?;
            (PlanKind::Chat, chat.context, vec![spec])
        }
        Work::Tasks(specs) => (PlanKind::Graph, agents_context, specs),
    };
    let plan = pending_plan(correlation_id, kind, agents_context, deadline_at, specs);
    check_limits(&plan)?;
    let graph = graph_of(&plan, agents)?;
    (0..plan.tasks.len()).try_for_each(|place| check_input(&plan, place, agents))?;
    Ok((plan, graph))
}

/// Whether a plan is within the limits on its parts and on the whole of it.
///
/// # Errors
/// `validation_failed` that names the field, the limit and the value found.
pub(crate) fn check_limits(plan: &Plan) -> Result<(), OrchestratorError> {
    check_text("context", &plan.context, MAX_CONTEXT_BYTES)?;
    for (place, task) in plan.tasks.iter().enumerate() {
        check_text(&format!("tasks[{place}].action"), &task.spec.action, MAX_ACTION_BYTES)?;
        check_depth(&format!("tasks[{place}].input"), task.spec.payload.depth())?;
    }
    check_bytes("tasks", plan.size(), MAX_PLAN_BYTES)
}

/// Whether an agent is asked for what it says it takes. Not so when a plan is taken over: what was accepted is accepted,
/// and a task that has not run yet is checked once more when it does.
pub(crate) fn check_input(plan: &Plan, place: usize, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    let spec = &plan.tasks[place].spec;
    match plan.kind {
        PlanKind::Chat => input::check_chat(spec, agents),
        PlanKind::Graph => input::check_task(place, spec, agents),
    }
}

/// One task for the agent that the chat is meant for.
fn plan_chat(agents: &AgentCatalog, chat: &Chat) -> Result<TaskSpec, OrchestratorError> {
    let agent = match &chat.agent {
        Some(named) => agents.get(named)?,
        None => agents.get(route(agents, &chat.message))?,
    };
    Ok(TaskSpec {
        key: "chat".into(),
        agent: agent.name.clone(),
        action: CHAT_ACTION.into(),
        payload: Object::from_iter([("message".to_owned(), chat.message.clone().into())]),
        depends_on: Vec::new(),
        on_failure: OnFailure::Fail,
    })
}

/// Who waits for whom. A chat's input is not read for references: people write what they like.
pub(crate) fn graph_of(plan: &Plan, agents: &AgentCatalog) -> Result<Graph, OrchestratorError> {
    Graph::of(&specs_of(plan), agents)
}

/// The same of a plan that was accepted before. The agents of tasks that have ended need not be known any more.
pub(crate) fn graph_of_accepted(plan: &Plan, agents: &AgentCatalog) -> Result<Graph, OrchestratorError> {
    let open = plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal());
    for (ordinal, task) in open {
        check_agent(ordinal, &task.spec, agents)?;
    }
    Graph::of_accepted(&specs_of(plan))
}

/// The tasks as their order is told from them.
pub(crate) fn specs_of(plan: &Plan) -> Vec<TaskSpec> {
    let spec = |task: &Task| match plan.kind {
        PlanKind::Chat => TaskSpec {
            key: task.spec.key.clone(),
            agent: task.spec.agent.clone(),
            action: task.spec.action.clone(),
            payload: Object::new(),
            depends_on: task.spec.depends_on.clone(),
            on_failure: task.spec.on_failure,
        },
        PlanKind::Graph => task.spec.clone(),
    };
    plan.tasks.iter().map(spec).collect()
}

/// A plan of these tasks, none of which has begun.
pub(crate) fn pending_plan(
    correlation_id: CorrelationId,
    kind: PlanKind,
    context: String,
    deadline_at: Option<Timestamp>,
    specs: Vec<TaskSpec>,
) -> Plan {
    let now = Timestamp::now();
    let tasks = specs.into_iter().map(|spec| Task {
        task_id: TaskId::generate(),
        spec,
        status: TaskStatus::Queued,
        queued_at: now,
        dispatched_at: None,
        ended_at: None,
        output: None,
        error: None,
        attempts: Vec::new(),
    });
    Plan {
        plan_id: PlanId::generate(),
        correlation_id,
        kind,
        status: PlanStatus::Pending,
        created_at: now,
        deadline_at,
        ended_at: None,
        context,
        output: None,
        error: None,
        redrive_of: None,
        redriven_as: None,
        tasks: tasks.collect(),
    }
}
