//! Plans: asked for, cancelled ([`cancel`]) and taken over ([`takeover`]).
//!
//! ```text
//! accept.rs            a wish becomes a plan ─┐
//! redrive.rs           a plan once more ──────┼─▶ flight.rs  its turn ──▶ run.rs  its tasks ──▶ run/task.rs  one task
//! planner/takeover.rs  a plan is taken over ──┘
//! ```

mod cancel;
mod takeover;

use std::{sync::Arc, time::Duration};

use phoenix_domain::{AgentCatalog, AgentName, CorrelationId, OrchestratorError, PlanId, plan::Plan};
use phoenix_platform::RequestContext;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::Accepted,
    admission::Admission,
    agent_health::HealthView,
    execution::TaskRunner,
    journal::Journal,
    keys::Keys,
    make::{Wish, make},
    metrics::PlanMeters,
    running::{CancelOnDrop, RunningPlans, Stop},
    store::JournalError,
};

/// Who reads plans to run them on, at once: so that whoever else reads the journal is not kept waiting by thousands of them.
const READERS: usize = 2;

/// A plan that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The plan.
    pub plan_id: PlanId,
    /// The answer as a person reads it: that of the last task, if it gave one.
    pub output: Option<String>,
    /// Why it is not complete; nothing when it is.
    pub finish_reason: Option<String>,
    /// Who gave it.
    pub agent: AgentName,
    /// How long agents worked for this request, each moment once; zero when the answer is that of an earlier one.
    pub agent_time: Duration,
    /// The earlier request that was given this answer first.
    pub replay_of: Option<CorrelationId>,
}

/// A plan that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The plan.
    pub plan_id: PlanId,
    /// The earlier request that was told of it first.
    pub replay_of: Option<CorrelationId>,
}

/// Makes plans and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Planner {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    agents: AgentCatalog,
    admission: Admission,
    journal: Journal,
    health: HealthView,
    runner: TaskRunner,
    meters: PlanMeters,
    tasks: TaskTracker,
    running: RunningPlans,
    reading: Semaphore,
    keys: Keys,
    takeover_grace: Duration,
    /// Ends what goes on in the background.
    stopping: CancellationToken,
}

/// What a planner is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Plans in flight at once; one more is refused before anything is journalled.
    pub plans: u32,
    /// How long a caller's key counts.
    pub key_life: Duration,
    /// How long an unfinished plan waits for a planner that knows its agents.
    pub takeover_grace: Duration,
}

impl Planner {
    /// A planner over these parts. What goes on in the background ends with `stopping`.
    #[must_use]
    pub fn new(
        agents: AgentCatalog,
        limits: Limits,
        journal: Journal,
        health: HealthView,
        runner: TaskRunner,
        meters: PlanMeters,
        stopping: CancellationToken,
    ) -> Self {
        let Limits { plans, key_life, takeover_grace } = limits;
        let parts = Parts {
            admission: Admission::new(&agents, plans),
            agents,
            keys: Keys::new(journal.clone(), key_life),
            journal,
            health,
            runner,
            meters,
            tasks: TaskTracker::new(),
            running: RunningPlans::default(),
            reading: Semaphore::new(READERS),
            takeover_grace,
            stopping,
        };
        Self { parts: Arc::new(parts) }
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.parts.journal
    }

    pub(crate) fn health(&self) -> &HealthView {
        &self.parts.health
    }

    pub(crate) fn runner(&self) -> &TaskRunner {
        &self.parts.runner
    }

    pub(crate) fn agents(&self) -> &AgentCatalog {
        &self.parts.agents
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.parts.admission
    }

    pub(crate) fn running(&self) -> &RunningPlans {
        &self.parts.running
    }

    pub(crate) fn takeover_grace(&self) -> Duration {
        self.parts.takeover_grace
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.parts.keys
    }

    pub(crate) fn meters(&self) -> &PlanMeters {
        &self.parts.meters
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.parts.tasks
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.parts.stopping
    }

    pub(crate) fn default_agent(&self) -> &AgentName {
        self.parts.agents.default_agent()
    }

    /// A plan that was accepted, as the journal knows it.
    pub(crate) async fn read(&self, plan_id: PlanId) -> Result<Plan, JournalError> {
        let plan = self.read_all(&[plan_id]).await?.pop().map(|(_, plan)| plan);
        plan.unwrap_or_else(|| Err(JournalError::Damaged(format!("plans has no row for {plan_id}"))))
    }

    /// Several of them, those that are there.
    pub(crate) async fn read_all(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        let _one_of_few = self.parts.reading.acquire().await.map_err(|_| JournalError::Closed)?;
        self.journal().whole_plans(plan_ids).await
    }

    /// Waits until every plan that has begun has written its end, at most for `limit`; those that have not are left to the
    /// next planner. To be called when nobody can start another.
    pub async fn drained(&self, limit: Duration) {
        self.parts.admission.close();
        self.parts.tasks.close();
        if tokio::time::timeout(limit, self.parts.tasks.wait()).await.is_err() {
            tracing::warn!(
                plans = self.parts.tasks.len(),
                "plans did not end in time; the next planner goes on with them"
            );
        }
    }

    /// Makes a plan, runs it and waits for its end. Dropping the future cancels the plan, unless its wish says otherwise.
    ///
    /// # Errors
    /// What the caller got wrong, what the agent failed with, `overloaded`, `unavailable`, `agent_unavailable`, `timeout`.
    /// Once there is a plan, the details name it.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty))]
    pub async fn plan_and_execute_v1(
        &self,
        context: RequestContext,
        wish: Wish,
    ) -> Result<Answer, OrchestratorError> {
        let stop = Stop::default();
        let _guard =
            (!wish.continue_on_disconnect).then(|| CancelOnDrop(stop.clone(), context.cancel_reason.clone()));
        let accepted = self.accept(context, wish, stop).await?;
        self.answer(accepted).await
    }

    /// Waits for the end of a plan.
    pub(crate) async fn answer(&self, accepted: Accepted) -> Result<Answer, OrchestratorError> {
        match accepted {
            Accepted::Known(plan_id, by) => {
                self.answer_again(plan_id, by).await.map_err(|error| error.with_detail("plan_id", plan_id))
            }
            Accepted::Runs(_, ended) => {
                let unexpected = || OrchestratorError::internal("the plan ended unexpectedly");
                ended.await.unwrap_or_else(|_| Err(unexpected()))
            }
        }
    }

    /// Makes a plan and answers as soon as it is durable.
    ///
    /// # Errors
    /// What the caller got wrong, `overloaded`, or a journal that can't be written.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty))]
    pub async fn submit_plan(
        &self,
        context: RequestContext,
        wish: Wish,
    ) -> Result<Submitted, OrchestratorError> {
        // The time that the caller waits for this answer is not the time that the plan may take.
        let context = RequestContext { deadline: None, ..context };
        Ok(self.accept(context, wish, Stop::default()).await?.submitted())
    }

    /// The order in which tasks would run, by key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn dry_run(&self, wish: Wish) -> Result<Vec<Vec<String>>, OrchestratorError> {
        let (plan, graph) = make(&self.parts.agents, CorrelationId::generate(), wish)?;
        let key = |place: &usize| plan.tasks[*place].spec.key.clone();
        Ok(graph.order().iter().map(|wave| wave.iter().map(key).collect()).collect())
    }
}
