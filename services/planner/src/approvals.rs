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
    approval::{Approval, ApprovalState, check_replacement},
    dead_letter::check_reason,
    input,
    json::Object,
    limits::MAX_KEY_CHARS,
    plan::{Plan, Task, TaskSpec, TaskStatus},
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
        if request.input.is_some() && !request.is_approved {
            return Err(OrchestratorError::invalid("input", "is only for an approval; leave it out"));
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
        let approval = task.as_mut().and_then(|task| task.approval.take());
        let (Some(task), Some(approval)) = (task, approval) else {
            return Err(OrchestratorError::internal("the approval is gone"));
        };
        self.use_key(plan_id, reservation.as_ref()).await?;
        Ok(Decided { task_key: task.spec.key, approval: *approval, replay_of })
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
        let approval = task.approval.as_deref().ok_or_else(|| does_not_wait(task))?;
        if is_repetition(approval, request) {
            return Ok(());
        }
        if approval.state != ApprovalState::Waiting {
            return Err(approval.too_late(&task.spec.key));
        }
        if request.input_hash.as_ref().is_some_and(|hash| *hash != approval.input_hash) {
            return Err(other_hash(&task.spec.key, &approval.input_hash));
        }
        if let Some(input) = &request.input {
            self.check_input(plan, ordinal, input)?;
        }
        let decision = NewDecision {
            state: if request.is_approved { ApprovalState::Approved } else { ApprovalState::Rejected },
            at: Timestamp::now(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            by: Some(request.by),
            input: request.input.clone(),
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
        let approval = task.approval.as_deref().ok_or_else(|| does_not_wait(task))?;
        if is_repetition(approval, request) {
            self.wake(plan.plan_id);
            return Ok(());
        }
        Err(approval.too_late(&task.spec.key))
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
        .filter(|ordinal| plan.tasks[*ordinal].status == TaskStatus::AwaitingApproval)
        .collect();
    let asked: Vec<usize> =
        (0..plan.tasks.len()).filter(|ordinal| plan.tasks[*ordinal].approval.is_some()).collect();
    match (&waiting[..], &asked[..]) {
        ([only], _) | ([], [only]) => Ok(*only),
        ([], _) => {
            let message =
                format!("no task of plan {plan_id} waits for an approval; the plan is {}", plan.status);
            Err(OrchestratorError::new(OrchestratorErrorCode::Conflict, message))
        }
        (several, _) => {
            let keys: Vec<_> = several.iter().map(|ordinal| plan.tasks[*ordinal].spec.key.as_str()).collect();
            let problem = format!("must name one of the tasks that wait: {}", keys.join(", "));
            Err(OrchestratorError::invalid("task", problem))
        }
    }
}

/// Whether the approval was decided as `request` asks.
fn is_repetition(approval: &Approval, request: &DecisionRequest) -> bool {
    let state = if request.is_approved { ApprovalState::Approved } else { ApprovalState::Rejected };
    let hash_fits = request.input_hash.as_ref().is_none_or(|hash| *hash == approval.input_hash);
    let is_same = |decision: &phoenix_domain::approval::Decision| {
        decision.actor == request.actor && decision.input == request.input
    };
    approval.state == state && hash_fits && approval.decision.as_ref().is_some_and(is_same)
}

fn does_not_wait(Task { spec, status, .. }: &Task) -> OrchestratorError {
    does_not_await_approval(&spec.key, *status)
}

fn other_hash(key: &str, hash: &str) -> OrchestratorError {
    let message = format!(
        "the input of task `{key}` has another hash than `input_hash`; read it again before you decide about it"
    );
    OrchestratorError::new(OrchestratorErrorCode::Conflict, message)
        .with_detail("key", key)
        .with_detail("input_hash", hash)
}
