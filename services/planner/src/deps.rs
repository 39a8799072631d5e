//! Dependencies that every part of the planner shares.

use std::time::Duration;

use phoenix_domain::{AgentCatalog, AgentName, PlanId, plan::Plan};
use phoenix_platform::{client::PeerChannel, multiplex::MultiplexClient};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission, agent_health::HealthView, journal::Journal, plan_metrics::PlanMetrics,
    store::error::JournalError,
};

/// Concurrent reads of plans that are about to run. Few, so that other readers of the journal do not wait behind thousands
/// of them.
const CONCURRENT_READS: usize = 2;

/// Limits of a planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of plans in flight; further requests are rejected before anything is journaled.
    pub plans: u32,
    /// Lifetime of an idempotency key.
    pub key_ttl: Duration,
    /// How long an unfinished plan waits for a planner that knows its agents.
    pub takeover_grace: Duration,
}

/// Shared dependencies; one per planner, behind an `Arc`.
#[derive(Debug)]
pub(crate) struct Deps {
    /// Agents that plans may use.
    pub(crate) agents: AgentCatalog,
    /// Admission control.
    pub(crate) admission: Admission,
    /// Durable state.
    pub(crate) journal: Journal,
    /// Health of the agents.
    pub(crate) health: HealthView,
    /// Calls to the executor.
    pub(crate) executor: MultiplexClient,
    /// Metrics of plans.
    pub(crate) metrics: PlanMetrics,
    /// Tasks of the runtime that drive plans and bulk operations; shutdown waits for them.
    pub(crate) tasks: TaskTracker,
    /// Ends background work.
    pub(crate) stopping: CancellationToken,
    /// As [`Limits::takeover_grace`].
    pub(crate) takeover_grace: Duration,
    reads: Semaphore,
}

impl Deps {
    pub(crate) fn new(
        agents: AgentCatalog,
        limits: Limits,
        journal: Journal,
        health: HealthView,
        executor: PeerChannel,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            admission: Admission::new(&agents, limits.plans),
            agents,
            journal,
            health,
            executor: MultiplexClient::new(executor),
            metrics: PlanMetrics::new(),
            tasks: TaskTracker::new(),
            stopping,
            takeover_grace: limits.takeover_grace,
            reads: Semaphore::new(CONCURRENT_READS),
        }
    }

    pub(crate) fn default_agent(&self) -> &AgentName {
        self.agents.default_agent()
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
