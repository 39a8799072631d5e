//! Dependencies that every part of the planner shares.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError, OrchestratorErrorCode, PlanId,
    approval::{ApprovalPolicy, DEFAULT_APPROVAL_TIMEOUT},
    budget::BudgetSettings,
    plan::{Plan, Task, TaskSpec, TaskStatus},
    planning::PlanningSettings,
};
use phoenix_platform::{catalogs::CatalogView, client::UNREACHABLE_RETRY_AFTER};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission, agent_health::HealthView, journal::Journal, live::LiveOutputs,
    plan_metrics::PlanMetrics, store::error::JournalError,
};

/// Concurrent reads of plans that are about to run. Few, so that other readers of the journal do not wait behind thousands
/// of them.
const CONCURRENT_READS: usize = 2;

/// Limits of a planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of plans in flight; further requests are rejected before anything is journaled.
    pub plans: u32,
    /// Lifetime of an idempotency key.
    pub key_ttl: Duration,
    /// How long an unfinished plan waits for a planner that knows its agents.
    pub takeover_grace: Duration,
    /// Budgets.
    pub budgets: BudgetSettings,
    /// How the tasks of messages are found.
    pub planning: PlanningSettings,
}

/// Shared dependencies; one per planner, behind an `Arc`.
#[derive(Debug)]
pub(crate) struct Deps {
    /// Agents that the executors offer, and calls to the executors.
    pub(crate) agents: CatalogView,
    /// Admission control.
    pub(crate) admission: Admission,
    /// Durable state.
    pub(crate) journal: Journal,
    /// Health of the agents.
    pub(crate) health: HealthView,
    /// What running tasks have said so far.
    pub(crate) live: LiveOutputs,
    /// Metrics of plans.
    pub(crate) metrics: PlanMetrics,
    /// Tasks of the runtime that drive plans and bulk operations; shutdown waits for them.
    pub(crate) tasks: TaskTracker,
    /// Ends background work.
    pub(crate) stopping: CancellationToken,
    /// As [`Limits::takeover_grace`].
    pub(crate) takeover_grace: Duration,
    /// As [`Limits::budgets`].
    pub(crate) budgets: BudgetSettings,
    /// As [`Limits::planning`].
    pub(crate) planning: PlanningSettings,
    reads: Semaphore,
}

impl Deps {
    pub(crate) fn new(
        agents: CatalogView,
        limits: Limits,
        journal: Journal,
        health: HealthView,
        stopping: CancellationToken,
    ) -> Self {
        let admission = Admission::new(limits.plans);
        if let Ok(agents) = agents.catalog() {
            admission.set_agents(&agents);
        }
        Self {
            admission,
            agents,
            journal,
            health,
            live: LiveOutputs::default(),
            metrics: PlanMetrics::new(),
            tasks: TaskTracker::new(),
            stopping,
            takeover_grace: limits.takeover_grace,
            budgets: limits.budgets,
            planning: limits.planning,
            reads: Semaphore::new(CONCURRENT_READS),
        }
    }

    pub(crate) fn default_agent(&self) -> AgentName {
        self.agents.default_agent()
    }

    /// The agents for a task of an accepted plan.
    ///
    /// # Errors
    /// `agent_unavailable` when `agent` is not known any more.
    pub(crate) fn agents_of_task(&self, agent: &AgentName) -> Result<AgentCatalog, OrchestratorError> {
        let known = self.agents.known();
        let agents = known.catalog()?;
        if agents.get(agent).is_ok() {
            return Ok(agents.clone());
        }
        Err(self.forgotten(agent))
    }

    /// The policy of the task's agent and whether it requires an approval, if the task needs one.
    pub(crate) fn approval_policy(&self, spec: &TaskSpec) -> Option<(ApprovalPolicy, bool)> {
        let known = self.agents.known();
        let policy =
            known.catalog().ok().and_then(|agents| agents.get(&spec.agent).ok()).map(|agent| &agent.approval);
        let is_required = policy.is_some_and(|policy| policy.requires(&spec.action));
        let is_needed = is_required || spec.start.approval.is_some();
        is_needed.then(|| (policy.cloned().unwrap_or_default(), is_required))
    }

    /// Time until an approval of a task of this agent expires.
    pub(crate) fn approval_timeout(&self, agent: &AgentName) -> Duration {
        let known = self.agents.known();
        let agent = known.catalog().ok().and_then(|agents| agents.get(agent).ok());
        agent.map_or(DEFAULT_APPROVAL_TIMEOUT, |agent| agent.approval.timeout)
    }

    /// Whether a task of which the dependencies have ended waits for something else than capacity before it runs.
    pub(crate) fn waits(&self, task: &Task) -> bool {
        task.spec.start.not_before.is_some_and(|at| at > Timestamp::now())
            || task.status == TaskStatus::AwaitingBudget
            || self.awaits_approval(task)
    }

    fn awaits_approval(&self, task: &Task) -> bool {
        match &task.approval {
            Some(approval) => approval.approved_input().is_none(),
            None => self.approval_policy(&task.spec).is_some(),
        }
    }

    /// Error of a task whose agent no executor offers any more.
    pub(crate) fn forgotten(&self, agent: &AgentName) -> OrchestratorError {
        let absent_secs = self.agents.known().absent_since(agent).map(|since| since.elapsed().as_secs());
        let since = absent_secs.map_or_else(String::new, |secs| format!(" for {secs} s"));
        let message = format!(
            "agent `{agent}` has not been offered by any executor{since}; start an executor that offers it"
        );
        let error = OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, message)
            .with_retry_after(UNREACHABLE_RETRY_AFTER)
            .with_detail("agent", agent);
        absent_secs.into_iter().fold(error, |error, secs| error.with_detail("absent_secs", secs))
    }

    /// Reads an accepted plan.
    pub(crate) async fn read_plan(&self, plan_id: PlanId) -> Result<Plan, JournalError> {
        let plan = self.read_plans(&[plan_id]).await?.pop().map(|(_, plan)| plan);
        plan.unwrap_or_else(|| Err(JournalError::Damaged(format!("plans has no row for {plan_id}"))))
    }

    /// Reads several plans. Missing ones are left out.
    pub(crate) async fn read_plans(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        let _permit = self.reads.acquire().await.map_err(|_| JournalError::Closed)?;
        self.journal.plans_by_id(plan_ids).await
    }
}
