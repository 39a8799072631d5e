//! Decisions about approvals, whichever planner runs the plan.
//!
//! A decision is one write to the journal, and the first one counts ([`Journal::decide`](crate::journal::Journal::decide)). The planner of the plan is woken at once
//! when it is this one, and finds the decision within a moment otherwise; if it is gone, the planner that takes the plan over
//! reads the decision with the plan. So no decision is forwarded.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    actor::check_actor,
    approval::{Approval, ApprovalKind, ApprovalState, check_replacement},
    budget::Limits,
    budget_pause::{self, ReachedLimit},
    dead_letter::check_reason,
    input,
    json::Object,
    limits::MAX_KEY_CHARS,
    plan::{Plan, Task, TaskSpec, TaskStatus},
    questions,
    rejections::{does_not_await_approval, no_such_plan},
};
use tokio_util::sync::CancellationToken;

use crate::{
    deps::Deps,
    idempotency::{IdempotencyKeys, Lookup, Reservation},
    plan_run::registry::PlanRegistry,
    planning::build::has_free_text,
    store::{approval::NewDecision, entry::IdempotencyKey, error::JournalError, task_ref::TaskRef},
};

/// Interval at which decisions that other planners have written are applied.
const DECISIONS_INTERVAL: Duration = Duration::from_millis(250);

/// Decides about approvals. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Approvals {
    deps: Arc<Deps>,
    registry: PlanRegistry,
    keys: IdempotencyKeys,
}

/// A request to decide about an approval.
#[derive(Debug, Clone)]
pub(crate) struct DecisionRequest {
    pub(crate) plan_id: PlanId,
    /// Key of the task; absent for the only task that waits.
    pub(crate) task_key: Option<String>,
    pub(crate) is_approved: bool,
    /// Name of the person or program that decides.
    pub(crate) actor: String,
    /// Reason; may be empty.
    pub(crate) reason: String,
    /// Hash of the input that the decision is about; absent for any.
    pub(crate) input_hash: Option<String>,
    /// Input with which the task runs instead.
    pub(crate) input: Option<Object>,
    /// New limits of the plan of a task that waits for its budget.
    pub(crate) budget: Option<Limits>,
    /// Correlation id of the request.
    pub(crate) by: CorrelationId,
    /// Idempotency key of the request.
    pub(crate) key: Option<IdempotencyKey>,
}

/// An approval that is decided.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    /// Key of the task.
    pub(crate) task_key: String,
    pub(crate) approval: Approval,
    /// The earlier request with the same key that made the decision.
    pub(crate) replay_of: Option<CorrelationId>,
}

impl Approvals {
    pub(crate) const fn new(deps: Arc<Deps>, registry: PlanRegistry, keys: IdempotencyKeys) -> Self {
        Self { deps, registry, keys }
    }

    /// Decides about an approval, and returns when the decision is durable. A repetition of the decision succeeds.
    ///
    /// # Errors
    /// `not_found`; the first problem of the request; `conflict` when the task does not wait, its approval was decided otherwise
    /// or has expired, or its input has another hash.
    pub(crate) async fn decide(&self, request: DecisionRequest) -> Result<Decided, OrchestratorError> {
        check_actor(&request.actor)?;
        check_reason(&request.reason)?;
        let members = [("input", request.input.is_some()), ("budget", request.budget.is_some())];
        if let Some((name, _)) = members.iter().find(|(_, is_given)| *is_given && !request.is_approved) {
            return Err(OrchestratorError::invalid(name, "is only for an approval; leave it out"));
        }
        let plan_id = request.plan_id;
        let (reservation, replay_of) = match self.keys.reserve(request.key.clone()).await? {
            Lookup::New(reservation) => (Some(reservation), None),
            Lookup::Replay(used) => (None, used.by),
        };
        let plan = self.read(plan_id).await?;
        let ordinal = find_task(&plan, request.task_key.as_deref())?;
        if replay_of.is_none() {
            self.write(&plan, ordinal, &request).await?;
        }
        // What is stored, in the precision of the journal.
        let mut task = self.read(plan_id).await?.tasks.into_iter().nth(ordinal);
        let approval = task.as_ref().and_then(|task| task.last_approval().cloned());
        let (Some(task), Some(approval)) = (task.take(), approval) else {
            return Err(OrchestratorError::internal("the approval is gone"));
        };
        self.use_key(plan_id, reservation.as_ref()).await?;
        Ok(Decided { task_key: task.spec.key, approval, replay_of })
    }

    /// Applies the decisions of other planners, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(DECISIONS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.deps.journal.decided_approvals().await {
                Ok(plans) => plans.into_iter().for_each(|plan_id| self.wake(plan_id)),
                // The journal's writer logs that it cannot be used.
                Err(error) => tracing::debug!(%error, "decisions about approvals cannot be read"),
            }
        }
    }

    /// Writes the decision. A repetition of it changes nothing.
    async fn write(
        &self,
        plan: &Plan,
        ordinal: usize,
        request: &DecisionRequest,
    ) -> Result<(), OrchestratorError> {
        let task = &plan.tasks[ordinal];
        let approval = task.last_approval().ok_or_else(|| does_not_wait(task))?;
        let input = self.new_input(plan, ordinal, approval, request)?;
        if is_repetition(approval, request, input.as_ref()) {
            return Ok(());
        }
        if approval.state != ApprovalState::Waiting {
            return Err(approval.too_late(&task.spec.key));
        }
        if request.input_hash.as_ref().is_some_and(|hash| *hash != approval.input_hash) {
            return Err(other_hash(&task.spec.key, &approval.input_hash));
        }
        let decision = NewDecision {
            state: if request.is_approved { ApprovalState::Approved } else { ApprovalState::Rejected },
            about: Some(approval.requested_at),
            at: Timestamp::now(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            by: Some(request.by),
            input: input.clone(),
        };
        let task_ref = TaskRef { plan_id: plan.plan_id, ordinal };
        let (key, state) = (&task.spec.key, decision.state.as_str());
        match self.deps.journal.decide(task_ref, &decision).await {
            Ok(true) => {
                tracing::info!(plan_id = %plan.plan_id, key, decision = state, "approval decided");
                self.wake(plan.plan_id);
                return Ok(());
            }
            // It may have been written, which the plan tells.
            Ok(false) | Err(JournalError::InDoubt(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let plan = self.read(plan.plan_id).await?;
        let task = &plan.tasks[ordinal];
        let approval = task.last_approval().ok_or_else(|| does_not_wait(task))?;
        if is_repetition(approval, request, input.as_ref()) {
            self.wake(plan.plan_id);
            return Ok(());
        }
        if approval.state == ApprovalState::Waiting && decision.about != Some(approval.requested_at) {
            return Err(asked_again(&task.spec.key));
        }
        Err(approval.too_late(&task.spec.key))
    }

    /// The input of the decision: one with which the task runs instead, or new limits of the plan.
    fn new_input(
        &self,
        plan: &Plan,
        ordinal: usize,
        approval: &Approval,
        request: &DecisionRequest,
    ) -> Result<Option<Object>, OrchestratorError> {
        let key = &plan.tasks[ordinal].spec.key;
        if approval.kind == ApprovalKind::Budget {
            if request.input.is_some() {
                let problem =
                    format!("is for the input of a task, and task `{key}` waits for a budget; leave it out");
                return Err(OrchestratorError::invalid("input", problem));
            }
            return new_limits(approval, request, key);
        }
        if request.budget.is_some() {
            let problem =
                format!("is for a task that waits for a budget, and task `{key}` does not; leave it out");
            return Err(OrchestratorError::invalid("budget", problem));
        }
        if questions::are_asked(approval) && request.is_approved {
            return questions::answered(approval, request.input.as_ref()).map(Some);
        }
        if let (Some(input), ApprovalState::Waiting) = (&request.input, approval.state) {
            self.check_input(plan, ordinal, input)?;
        }
        Ok(request.input.clone())
    }

    /// Checks an input that replaces the one of a task, as if the task had asked for it.
    fn check_input(&self, plan: &Plan, ordinal: usize, input: &Object) -> Result<(), OrchestratorError> {
        check_replacement(input)?;
        let spec = &plan.tasks[ordinal].spec;
        let agents: AgentCatalog = self.deps.agents_of_task(&spec.agent)?;
        if has_free_text(plan, ordinal) {
            return input::check_chat(&TaskSpec { payload: input.clone(), ..spec.clone() }, &agents);
        }
        input::check_rendered(ordinal, spec, input, &agents)
    }

    async fn read(&self, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
        self.deps.journal.plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))
    }

    fn wake(&self, plan_id: PlanId) {
        if let Some(handle) = self.registry.get(plan_id) {
            handle.wake();
        }
    }

    /// Makes the request's key name the plan.
    async fn use_key(
        &self,
        plan_id: PlanId,
        reservation: Option<&Reservation>,
    ) -> Result<(), OrchestratorError> {
        let used = reservation.and_then(|reservation| reservation.entry(*plan_id.as_uuid()));
        let (Some(used), Some(reservation)) = (used, reservation) else { return Ok(()) };
        match self.deps.journal.create(vec![used]).await {
            Err(JournalError::AlreadyReserved) => reservation.existing().await.map(drop),
            created => Ok(created?),
        }
    }
}

/// Ordinal of the task with this key, or of the only task that waits.
fn find_task(plan: &Plan, key: Option<&str>) -> Result<usize, OrchestratorError> {
    let plan_id = plan.plan_id;
    if let Some(key) = key {
        let found = plan.tasks.iter().position(|task| task.spec.key == key);
        return found.ok_or_else(|| {
            let shown: String = key.chars().take(MAX_KEY_CHARS).collect();
            let message = format!("plan {plan_id} has no task `{shown}`");
            OrchestratorError::new(OrchestratorErrorCode::NotFound, message)
        });
    }
    let waiting: Vec<usize> = (0..plan.tasks.len())
        .filter(|ordinal| {
            matches!(plan.tasks[*ordinal].status, TaskStatus::AwaitingApproval | TaskStatus::AwaitingBudget)
        })
        .collect();
    let asked: Vec<usize> =
        (0..plan.tasks.len()).filter(|ordinal| plan.tasks[*ordinal].last_approval().is_some()).collect();
    match (&waiting[..], &asked[..]) {
        ([only], _) | ([], [only]) => Ok(*only),
        ([], _) => {
            let message = format!(
                "no task of plan {plan_id} waits for an approval or a budget; the plan is {}",
                plan.status
            );
            Err(OrchestratorError::new(OrchestratorErrorCode::Conflict, message))
        }
        (several, _) => {
            let keys: Vec<_> = several.iter().map(|ordinal| plan.tasks[*ordinal].spec.key.as_str()).collect();
            let problem = format!("must name one of the tasks that wait: {}", keys.join(", "));
            Err(OrchestratorError::invalid("task", problem))
        }
    }
}

/// The limits that a decision about a budget grants. Only the budget of a plan is raised by a decision.
fn new_limits(
    pause: &Approval,
    request: &DecisionRequest,
    key: &str,
) -> Result<Option<Object>, OrchestratorError> {
    let Some(reached) = budget_pause::reached(pause).filter(|_| request.is_approved) else { return Ok(None) };
    let ReachedLimit { scope, name, resource, limit, .. } = &reached;
    if !reached.is_of_plan() {
        return match request.budget {
            None => Ok(None),
            Some(_) => {
                let problem = format!(
                    "is for the budget of a plan, and task `{key}` waits for that of {scope} `{name}`, which is raised in the configuration; \
                     without `budget`, the task looks again"
                );
                Err(OrchestratorError::invalid("budget", problem))
            }
        };
    }
    let limits = request.budget.unwrap_or(Limits::NONE);
    if limits[*resource].is_none_or(|new| new <= *limit) {
        let problem = format!("must raise `{resource}`, of which {} are used up", resource.display(*limit));
        return Err(OrchestratorError::invalid("budget", problem).with_detail("key", key));
    }
    Ok(Some(budget_pause::limits_input(&limits)))
}

/// Whether the approval was decided as `request` asks, with this input.
fn is_repetition(approval: &Approval, request: &DecisionRequest, input: Option<&Object>) -> bool {
    let state = if request.is_approved { ApprovalState::Approved } else { ApprovalState::Rejected };
    let hash_fits = request.input_hash.as_ref().is_none_or(|hash| *hash == approval.input_hash);
    let is_same = |decision: &phoenix_domain::approval::Decision| {
        decision.actor == request.actor && decision.input.as_ref() == input
    };
    approval.state == state && hash_fits && approval.decision.as_ref().is_some_and(is_same)
}

fn does_not_wait(Task { spec, status, .. }: &Task) -> OrchestratorError {
    does_not_await_approval(&spec.key, *status)
}

fn asked_again(key: &str) -> OrchestratorError {
    let message =
        format!("task `{key}` has asked again since; read what it waits for before you decide about it");
    OrchestratorError::new(OrchestratorErrorCode::Conflict, message).with_detail("key", key)
}

fn other_hash(key: &str, hash: &str) -> OrchestratorError {
    let message = format!(
        "the input of task `{key}` has another hash than `input_hash`; read it again before you decide about it"
    );
    OrchestratorError::new(OrchestratorErrorCode::Conflict, message)
        .with_detail("key", key)
        .with_detail("input_hash", hash)
}
