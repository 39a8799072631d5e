//! Recovery: plans and bulk operations of a planner that is gone continue from their journaled state.
//!
//! Recovered plans are ordered by acceptance, precede every later plan, and pass the same admission control. Each is read to
//! see its state, and stays loaded only while it runs or if it is small.
//!
//! A plan that needs an agent which this planner does not know is left to a planner that knows it
//! ([`Journal::take_over`](crate::journal::Journal::take_over)). A plan that is suspected of having killed
//! [`MAX_CRASHES`] planners in succession fails.

use std::{collections::HashMap, sync::Arc, time::Duration};

use phoenix_domain::{
    AgentCatalog, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::{
    RequestContext, metrics::record_counter, propagation::background_span, readiness::Readiness,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    admission::priority::PlanPriority,
    background::bulk_redrive::BulkOperations,
    cancellation::Cancellation,
    deps::Deps,
    metrics::{self, RECOVERED},
    plan_metrics::PlanMetricsGuard,
    plan_run::{
        active::{ActivePlan, LoadedPlan, RunState, within_deadline},
        ending::{cancel_tasks, close_open_attempts, fail_tasks, fail_unread},
        registry::{CancelHandle, PlanRegistry},
        task_state::ready_agents,
    },
    plan_trace::continued,
    planning::{build::graph_of_recovered, request::WaitMode},
    store::{
        error::JournalError,
        takeover::{Unfinished, UnfinishedPlan},
    },
};

/// Interval at which unfinished plans of other planners are searched.
const TAKEOVER_INTERVAL: Duration = Duration::from_millis(500);

/// Plans that are read at once: few enough to fit into memory, whatever their size.
const READ_BATCH: usize = 16;

/// Planner crashes in succession after which a suspected plan does not run again.
const MAX_CRASHES: u32 = 5;

/// Recovers plans. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    deps: Arc<Deps>,
    registry: PlanRegistry,
    cancellation: Cancellation,
    bulk: BulkOperations,
}

impl Recovery {
    pub(crate) const fn new(
        deps: Arc<Deps>,
        registry: PlanRegistry,
        cancellation: Cancellation,
        bulk: BulkOperations,
    ) -> Self {
        Self { deps, registry, cancellation, bulk }
    }

    /// Takes plans over until `stop`. Meets the condition `takeover` of `readiness` while the journal can be searched: a
    /// planner that cannot read the journal is not ready.
    pub(crate) async fn run(self, readiness: Readiness, stop: CancellationToken) {
        let mut is_failing = false;
        // Until an executor is reached, every agent would be unknown.
        if stop.run_until_cancelled(self.deps.agents.reached()).await.is_none() {
            return;
        }
        while !stop.is_cancelled() {
            let Ok(agents) = self.deps.agents.catalog() else { return };
            let recovered = self.recover(&agents).await;
            readiness.set("takeover", recovered.is_ok());
            match recovered {
                Ok(plans) => {
                    is_failing = false;
                    if plans > 0 {
                        metrics::recovered_now();
                        tracing::warn!(plans, "plans of a planner that stopped were taken over");
                    }
                }
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::error!(%error, "unfinished plans cannot be searched; retrying");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(TAKEOVER_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Takes over plans of `agents`, and bulk operations, whose planner is gone. Returns the number of plans.
    ///
    /// # Errors
    /// When the journal cannot be used; nothing is taken over then.
    async fn recover(&self, agents: &AgentCatalog) -> Result<usize, JournalError> {
        let deps = &self.deps;
        let taken = deps.journal.take_over(agents, deps.takeover_grace).await?;
        let Unfinished { mut plans, bulk, skipped: _, unreadable: _ } = taken;
        for operation in bulk {
            self.bulk.resume(operation);
        }
        // Ids grow with time.
        plans.sort_unstable_by_key(|plan| plan.plan_id);
        // Registered before the first is read, so that each can be cancelled from now on.
        let priorities = deps.admission.priorities(plans.len());
        let active: Vec<_> = plans
            .iter()
            .zip(priorities)
            .map(|(plan, priority)| (*plan, self.activate(*plan, priority)))
            .collect();
        if !plans.is_empty() {
            // A plan with a pending cancel does not start again.
            self.cancellation.apply_requests().await?;
        }
        let (suspects, active): (Vec<_>, Vec<_>) =
            active.into_iter().partition(|(plan, _)| plan.crashes >= MAX_CRASHES);
        for (plan, active) in suspects {
            drop(deps.tasks.spawn(fail_suspect(active, plan.crashes)));
        }
        let mut active = active.into_iter().map(|(_, active)| active).peekable();
        while active.peek().is_some() {
            self.resume_batch(active.by_ref().take(READ_BATCH).collect()).await?;
        }
        Ok(plans.len())
    }

    async fn resume_batch(&self, batch: Vec<ActivePlan>) -> Result<(), JournalError> {
        let plan_ids: Vec<_> = batch.iter().map(ActivePlan::plan_id).collect();
        // If the read fails, each plan is read again on its own.
        let plans = self.deps.read_plans(&plan_ids).await.unwrap_or_default();
        let mut plans: HashMap<PlanId, _> = plans.into_iter().collect();
        for active in batch {
            match plans.remove(&active.plan_id()) {
                Some(Ok(plan)) => resume(active, plan).await?,
                // The other plans need not wait until it can be read.
                Some(Err(_)) | None => drop(self.deps.tasks.spawn(read_and_resume(active))),
            }
        }
        Ok(())
    }

    fn activate(&self, plan: UnfinishedPlan, priority: PlanPriority) -> ActivePlan {
        let UnfinishedPlan { plan_id, takeovers, crashes: _ } = plan;
        ActivePlan {
            deps: Arc::clone(&self.deps),
            registration: self.registry.register(plan_id, CancelHandle::default()),
            // Replaced when the plan is read.
            context: RequestContext::new(CorrelationId::generate()),
            wait_mode: WaitMode::Async,
            priority,
            takeovers,
            output: self.deps.live.recorder(plan_id, true),
            metrics: PlanMetricsGuard::start(&self.deps.metrics),
            capacity: Some(self.deps.admission.acquire_plan_over_limit()).into(),
        }
    }
}

/// Continues a plan from its journaled state.
async fn resume(mut active: ActivePlan, plan: Plan) -> Result<(), JournalError> {
    record_counter(&RECOVERED, 1);
    let deps = Arc::clone(&active.deps);
    let trace = continued(&deps.journal, plan.plan_id).await;
    let context = RequestContext::in_trace(plan.correlation_id, trace);
    let span = background_span("resume_plan", &context);
    let span = tracing::info_span!(
        parent: &span,
        "plan_and_execute_v1",
        plan_id = %plan.plan_id,
        otel.status_description = tracing::field::Empty
    );
    span.in_scope(|| tracing::info!("plan taken over from a planner that stopped"));
    for entry in close_open_attempts(&plan) {
        active.append(entry).await?;
    }
    active.accepted(plan.status);
    active.context = within_deadline(context, plan.created_at, plan.deadline_at);
    let graph = deps.agents.catalog().and_then(|agents| graph_of_recovered(&plan, &agents));
    let state = match graph {
        Ok(graph) => {
            let agents = ready_agents(&plan, &graph, |task| deps.waits(task));
            let permits = deps.admission.try_acquire_all(agents.iter().map(|(agent, _)| agent)).ok();
            RunState::new(LoadedPlan::new(Arc::new(plan), graph), agents, permits)
        }
        // No planner that knows the agent took the plan over in time, or the plan is cancelled.
        Err(error) => {
            let cancel = active.cancel_handle();
            let error = if cancel.is_cancelled() { cancel.cancelled().await } else { error };
            drop(deps.tasks.spawn(active.fail(cancel_tasks(&plan), error).instrument(span)));
            return Ok(());
        }
    };
    drop(deps.tasks.spawn(active.run(state).instrument(span)));
    Ok(())
}

/// Continues a plan that could not be read at once.
async fn read_and_resume(active: ActivePlan) {
    match active.read().await {
        Ok(plan) => {
            // Fails only when the process ends.
            let _ = resume(active, plan).await;
        }
        Err(error) => {
            let _ = active.abandon(error);
        }
    }
}

/// Fails a plan that is suspected of killing planners.
async fn fail_suspect(active: ActivePlan, crashes: u32) {
    active.accepted(PlanStatus::Running);
    let message = format!(
        "the planner stopped unexpectedly {crashes} times while this plan ran, so the plan is not run again; \
         find the cause (memory, for example) before you redrive it"
    );
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
        .with_detail("planner_crashes", crashes);
    // One more crash means that even reading the plan kills the planner: it fails then without its content being read.
    let plan = if crashes == MAX_CRASHES { active.read().await.ok() } else { None };
    let Some(plan) = plan else {
        tracing::error!(plan_id = %active.plan_id(), crashes, "plan failed unread: planners died while it ran");
        match active.read_open_tasks().await {
            Ok(tasks) => {
                let entries = fail_unread(active.plan_id(), &tasks, &error);
                drop(active.fail(entries, error).await);
            }
            Err(error) => drop(active.abandon(error)),
        }
        return;
    };
    let trace = continued(&active.deps.journal, plan.plan_id).await;
    let context = RequestContext::in_trace(plan.correlation_id, trace);
    let span = background_span("resume_plan", &context);
    let ended = async {
        tracing::error!(plan_id = %plan.plan_id, crashes, "plan failed: planners died while it ran");
        let mut entries = close_open_attempts(&plan);
        entries.extend(fail_tasks(&plan, &error));
        drop(active.fail(entries, error).await);
    };
    ended.instrument(span).await;
}
