//! Submission: a request becomes a durable, active plan.
//!
//! Every reason to reject a request is found before anything is journaled. From then on the plan lives in a task of its own,
//! its creation in the journal included: a caller that disconnects during the commit does not leave a plan that no task runs.

use std::sync::Arc;

use phoenix_domain::{CorrelationId, OrchestratorError, PlanId, budget::OnBudget, plan::PlanStatus};
use phoenix_platform::{RequestContext, propagation::mark_failed};
use tokio::{sync::oneshot, task::JoinHandle};
use tracing::Instrument;

use crate::{
    deps::Deps,
    idempotency::{IdempotencyKeys, Lookup, Reservation, replay_result},
    plan_metrics::PlanMetricsGuard,
    plan_run::{
        active::{ActivePlan, LoadedPlan, PlanResult, RunState, within_deadline},
        registry::{CancelHandle, PlanRegistry},
        task_state::ready_agents,
    },
    planning::{
        build::{PreparedPlan, check_caller, prepare_plan},
        request::{PlanRequest, WaitMode},
    },
    store::{
        entry::{Entry, UsedKey},
        error::JournalError,
    },
};

/// A plan that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Identifier of the plan.
    pub plan_id: PlanId,
    /// The earlier request with the same key that created the plan.
    pub replay_of: Option<CorrelationId>,
}

/// Task that runs a plan: how the plan ended, or why it could not be made durable.
pub(crate) type RunHandle = JoinHandle<Result<PlanResult, OrchestratorError>>;

/// Outcome of a request to run a plan.
pub(crate) enum Accepted {
    /// The plan runs.
    Running(PlanId, RunHandle),
    /// The request's key names this plan since an earlier request.
    Replay(PlanId, Option<CorrelationId>),
}

/// Submits plans. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Submissions {
    pub(crate) deps: Arc<Deps>,
    pub(crate) registry: PlanRegistry,
    pub(crate) keys: IdempotencyKeys,
}

/// A plan to start, apart from what it consists of.
pub(crate) struct StartOptions {
    pub(crate) context: RequestContext,
    pub(crate) wait_mode: WaitMode,
    /// As [`PlanRequest::with_output`].
    pub(crate) with_output: bool,
    /// Counts the plan, and ends with it.
    pub(crate) metrics: PlanMetricsGuard,
    pub(crate) cancel: CancelHandle,
}

/// An admitted plan that starts once it is durable.
struct AdmittedPlan {
    active: ActivePlan,
    state: RunState,
    entries: Vec<Entry>,
}

/// Receives whether the plan is durable, and the request's reservation.
type Committed = oneshot::Sender<(Result<(), JournalError>, Reservation)>;

impl From<UsedKey> for Accepted {
    fn from(used: UsedKey) -> Self {
        Self::Replay(used.subject.into(), used.by)
    }
}

impl Accepted {
    pub(crate) const fn plan_id(&self) -> PlanId {
        match self {
            Self::Running(plan_id, ..) | Self::Replay(plan_id, _) => *plan_id,
        }
    }

    pub(crate) const fn submitted(&self) -> Submitted {
        let replay_of = if let Self::Replay(_, by) = self { *by } else { None };
        Submitted { plan_id: self.plan_id(), replay_of }
    }
}

impl Submissions {
    /// Accepts a request and starts its plan. Dropping the future gives up before the plan exists, or leaves it running.
    ///
    /// # Errors
    /// Every reason that is found before the plan is durable.
    pub(crate) async fn submit(
        &self,
        context: RequestContext,
        request: PlanRequest,
        cancel: CancelHandle,
    ) -> Result<Accepted, OrchestratorError> {
        let reservation = match self.keys.reserve(request.key.clone()).await? {
            Lookup::New(reservation) => reservation,
            Lookup::Replay(used) => return Ok(used.into()),
        };
        let metrics = PlanMetricsGuard::start(&self.deps.metrics);
        let PlanRequest { wait_mode, with_output, .. } = request;
        let by = context.correlation_id;
        let options = StartOptions { context, wait_mode, with_output, metrics, cancel };
        let agents = self.deps.agents.catalog();
        let request = PlanRequest {
            budget: request.budget.or(self.deps.budgets.plan),
            on_budget: request.on_budget.or_else(|| self.default_on_budget(wait_mode)),
            ..request
        };
        let prepared = agents.and_then(|agents| prepare_plan(&agents, by, request, &self.deps.planning));
        self.start(options, prepared, reservation).await
    }

    /// What happens to a plan that does not say it when a budget is used up. A caller who waits is answered.
    fn default_on_budget(&self, wait_mode: WaitMode) -> Option<OnBudget> {
        (wait_mode == WaitMode::Async).then_some(self.deps.budgets.on_budget)
    }

    /// Acquires capacity for a plan and permits for its first tasks, makes it durable together with its key, and runs it.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(crate) async fn start(
        &self,
        options: StartOptions,
        prepared: Result<PreparedPlan, OrchestratorError>,
        reservation: Reservation,
    ) -> Result<Accepted, OrchestratorError> {
        let prepared = prepared.and_then(|prepared| {
            let remaining = options.context.remaining().filter(|_| options.wait_mode == WaitMode::Sync);
            check_caller(&prepared.plan, &prepared.graph, remaining).map(|()| prepared)
        });
        let admitted = prepared.and_then(|prepared| self.admit(options, prepared));
        let admitted = admitted.inspect_err(|error| {
            if error.code.http_status() >= 500 {
                mark_failed(&tracing::Span::current(), error.code.as_str());
            }
            tracing::info!(code = %error.code, "plan refused");
        })?;
        let plan_id = admitted.active.plan_id();
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        let (committed, durable) = oneshot::channel();
        let running =
            self.deps.tasks.spawn(create_and_run(admitted, reservation, committed).in_current_span());
        match durable.await.map_err(|_| JournalError::Closed)? {
            // A concurrent request reserved the same; if it was this request at another planner, this is a replay.
            (Err(JournalError::AlreadyReserved), reservation) => {
                let existing = reservation.existing().await?;
                existing.map(Accepted::from).ok_or_else(|| JournalError::AlreadyReserved.into())
            }
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Ok(Accepted::Running(plan_id, running)),
        }
    }

    fn admit(
        &self,
        options: StartOptions,
        prepared: PreparedPlan,
    ) -> Result<AdmittedPlan, OrchestratorError> {
        let StartOptions { context, wait_mode, with_output, metrics, cancel } = options;
        let PreparedPlan { plan, graph, entries } = prepared;
        let admission = &self.deps.admission;
        let capacity = admission.try_acquire_plan()?;
        let agents = ready_agents(&plan, &graph, |task| self.deps.waits(task));
        let permits = match admission.try_acquire_all(agents.iter().map(|(agent, _)| agent)) {
            Ok(permits) => Some(permits),
            Err(at_capacity) if wait_mode == WaitMode::Sync => return Err(at_capacity.reject()),
            Err(_) => None,
        };
        let active = ActivePlan {
            deps: Arc::clone(&self.deps),
            registration: self.registry.register(plan.plan_id, cancel),
            context: within_deadline(context, plan.created_at, plan.deadline_at),
            wait_mode,
            priority: admission.priority(),
            takeovers: 0,
            output: self.deps.live.recorder(plan.plan_id, with_output || plan.kind.records_output()),
            metrics,
            capacity: Some(capacity).into(),
        };
        let state = RunState::new(LoadedPlan::new(plan, graph), agents, permits);
        Ok(AdmittedPlan { active, state, entries })
    }

    /// Waits for the end of a plan.
    pub(crate) async fn result(&self, accepted: Accepted) -> Result<PlanResult, OrchestratorError> {
        match accepted {
            Accepted::Replay(plan_id, by) => {
                self.replay(plan_id, by).await.map_err(|error| error.with_detail("plan_id", plan_id))
            }
            Accepted::Running(_, running) => {
                let unexpected = || OrchestratorError::internal("the plan ended unexpectedly");
                running.await.unwrap_or_else(|_| Err(unexpected()))
            }
        }
    }

    async fn replay(
        &self,
        plan_id: PlanId,
        by: Option<CorrelationId>,
    ) -> Result<PlanResult, OrchestratorError> {
        let plan = self.deps.journal.plan(plan_id).await?;
        let plan = plan.ok_or_else(|| OrchestratorError::internal("the plan of this key is gone"))?;
        replay_result(plan, by, &self.deps.default_agent())
    }
}

/// Makes a plan durable, and runs it.
async fn create_and_run(
    admitted: AdmittedPlan,
    reservation: Reservation,
    committed: Committed,
) -> Result<PlanResult, OrchestratorError> {
    let AdmittedPlan { active, state, mut entries } = admitted;
    entries.extend(reservation.entry(*active.plan_id().as_uuid()));
    let created = active.deps.journal.create(entries).await;
    let exists = created.is_ok();
    // The caller may have disconnected: the plan exists and runs all the same.
    let _ = committed.send((created, reservation));
    if !exists {
        return Err(JournalError::Behind.into());
    }
    active.accepted(PlanStatus::Pending);
    active.run(state).await
}
