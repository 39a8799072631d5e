//! Plans: accepted, run, cancelled.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    graph::Graph,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::RequestContext;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    agent_health::HealthView,
    execution::TaskRunner,
    journal::Journal,
    keys::{Claim, Keys, Use},
    make::{Wish, make},
    metrics::{CountedPlan, PlanMeters},
    run::{Run, Stop, Waits, naming},
    store::{Entry, IdempotencyKey, JournalError},
};

/// Plans in flight at once; one more is refused before anything is journalled.
const MAX_IN_FLIGHT: usize = 20_000;

/// A plan that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The plan.
    pub plan_id: PlanId,
    /// The answer as a person reads it: that of the last task.
    pub output: String,
    /// Who gave it.
    pub agent: AgentName,
    /// How long agents worked for this request, each moment once; zero when the answer is that of an earlier one.
    pub agent_time: Duration,
}

/// Makes plans and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Planner {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    agents: AgentCatalog,
    journal: Journal,
    health: HealthView,
    runner: TaskRunner,
    meters: PlanMeters,
    tasks: TaskTracker,
    running: Mutex<HashMap<PlanId, Stop>>,
    keys: Keys,
    /// Ends what goes on in the background.
    stopping: CancellationToken,
}

pub(crate) type Ended = JoinHandle<Result<Answer, OrchestratorError>>;

/// A plan that is ready to be accepted.
pub(crate) struct Made {
    /// As it is to be run.
    pub(crate) plan: Plan,
    /// Who waits for whom.
    pub(crate) graph: Graph,
    /// What makes it durable.
    pub(crate) entries: Vec<Entry>,
}

/// What became of a request to run something.
pub(crate) enum Accepted {
    /// A plan runs.
    Runs(PlanId, Stop, Ended),
    /// Its key stands for this plan already.
    Known(PlanId),
}

impl Accepted {
    /// The plan.
    pub(crate) const fn plan_id(&self) -> PlanId {
        match self {
            Self::Runs(plan_id, ..) | Self::Known(plan_id) => *plan_id,
        }
    }
}

impl Planner {
    /// A planner over these parts. A caller's key counts for `key_life`; what goes on in the background ends with
    /// `stopping`.
    #[must_use]
    pub fn new(
        agents: AgentCatalog,
        journal: Journal,
        health: HealthView,
        runner: TaskRunner,
        meters: PlanMeters,
        key_life: Duration,
        stopping: CancellationToken,
    ) -> Self {
        let (tasks, running, keys) =
            (TaskTracker::new(), Mutex::default(), Keys::new(journal.clone(), key_life));
        let parts = Parts { agents, journal, health, runner, meters, tasks, running, keys, stopping };
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

    /// Waits until every plan in flight has written its end, at most for `limit`. To be called when nobody can start
    /// another.
    pub async fn drained(&self, limit: Duration) {
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
    /// What the caller got wrong, what the agent failed with, `agent_unavailable`, `timeout`. Once there is a plan, the
    /// details name it.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty))]
    pub async fn plan_and_execute_v1(
        &self,
        context: RequestContext,
        wish: Wish,
    ) -> Result<Answer, OrchestratorError> {
        let keep = wish.continue_on_disconnect;
        let accepted = self.accept(context, wish, Waits::Caller).await?;
        self.answer(accepted, keep).await
    }

    /// Waits for the end of a plan. Dropping the future cancels it, unless it is to be kept.
    pub(crate) async fn answer(&self, accepted: Accepted, keep: bool) -> Result<Answer, OrchestratorError> {
        match accepted {
            Accepted::Known(plan_id) => self.answer_again(plan_id).await.map_err(naming(plan_id)),
            Accepted::Runs(plan_id, stop, ended) => {
                let _guard = (!keep).then(|| CancelOnDrop(stop));
                let result = ended.await;
                let result = result
                    .unwrap_or_else(|_| Err(OrchestratorError::internal("the plan ended unexpectedly")));
                result.map_err(naming(plan_id))
            }
        }
    }

    /// Makes a plan and answers as soon as it is durable.
    ///
    /// # Errors
    /// What the caller got wrong, or a journal that can't be written.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty))]
    pub async fn submit_plan(
        &self,
        context: RequestContext,
        wish: Wish,
    ) -> Result<PlanId, OrchestratorError> {
        // The time that the caller waits for this answer is not the time that the plan may take.
        let context = RequestContext { deadline: None, ..context };
        Ok(self.accept(context, wish, Waits::Nobody).await?.plan_id())
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

    /// Ends a plan, and answers when its end is durable.
    ///
    /// # Errors
    /// `not_found`; `conflict` when it has ended already, unless that is what this very request brought about.
    pub async fn cancel(
        &self,
        plan_id: PlanId,
        reason: String,
        key: Option<IdempotencyKey>,
    ) -> Result<(), OrchestratorError> {
        // Asked for before: a planner that died meanwhile may have left it undone, so it is done again.
        let (claim, again) = match self.parts.keys.take(key).await? {
            Use::First(claim) => (Some(claim), false),
            Use::Again(_) => (None, true),
        };
        let running = self.running().get(&plan_id).cloned();
        let Some(stop) = running else { return self.cannot_cancel(plan_id, again).await };
        if let Some(claim) = &claim
            && let Some(used) = claim.entry(*plan_id.as_uuid())
        {
            match self.journal().accept(vec![used]).await {
                Err(JournalError::Taken) => drop(claim.winner().await?),
                written => written?,
            }
        }
        stop.cancel(if reason.is_empty() { "the plan was cancelled".into() } else { reason });
        let mut changes = self.journal().changes();
        while self.running().contains_key(&plan_id) {
            // Whether told of it or having missed it: look again.
            let _ = tokio::time::timeout(Duration::from_millis(20), changes.recv()).await;
        }
        Ok(())
    }

    /// Why a plan that does not run here is not cancelled. One that has ended is fine if this was asked for `again`.
    async fn cannot_cancel(&self, plan_id: PlanId, again: bool) -> Result<(), OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        if plan.status.is_terminal() {
            if again {
                return Ok(());
            }
            let message = format!("the plan has ended already: {}", plan.status);
            return Err(OrchestratorError::new(OrchestratorErrorCode::Conflict, message));
        }
        let message = "the plan is being taken over from a planner that stopped; try again shortly";
        Err(OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, message)
            .with_retry_after(Duration::from_secs(1)))
    }

    async fn accept(
        &self,
        context: RequestContext,
        wish: Wish,
        waits: Waits,
    ) -> Result<Accepted, OrchestratorError> {
        let claim = match self.parts.keys.take(wish.key.clone()).await? {
            Use::First(claim) => claim,
            Use::Again(subject) => return Ok(Accepted::Known(subject.into())),
        };
        let counted = CountedPlan::start(&self.parts.meters);
        let made = make(&self.parts.agents, context.correlation_id, wish).map(|(plan, graph)| {
            let accepted = Entry::PlanAccepted { plan: Box::new(plan.clone()) };
            Made { plan, graph, entries: vec![accepted] }
        });
        self.launch(context, made, &claim, waits, counted).await
    }

    /// Makes a plan durable, together with its key, and runs it.
    pub(crate) async fn launch(
        &self,
        context: RequestContext,
        made: Result<Made, OrchestratorError>,
        claim: &Claim,
        waits: Waits,
        counted: CountedPlan,
    ) -> Result<Accepted, OrchestratorError> {
        let made = made.and_then(|made| self.has_room().map(|()| made));
        let Made { plan, graph, mut entries } = made.inspect_err(|error| {
            tracing::info!(code = %error.code, elapsed_ms = counted.elapsed_ms(), "plan refused");
        })?;
        let plan_id = plan.plan_id;
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        entries.extend(claim.entry(*plan_id.as_uuid()));
        match self.journal().accept(entries).await {
            // Somebody else was first, in the same instant; if with this very request, at another planner, it is answered.
            Err(JournalError::Taken) => {
                let winner = claim.winner().await?;
                return winner
                    .map(|plan| Accepted::Known(plan.into()))
                    .ok_or_else(|| JournalError::Taken.into());
            }
            written => written?,
        }
        let context = match plan.deadline_at {
            Some(at) => {
                let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                let own = Instant::now() + left;
                let deadline = context.deadline.map_or(own, |callers| callers.min(own));
                context.with_deadline(deadline)
            }
            None => context,
        };
        let (stop, ended) = self.spawn(plan, graph, context, waits, counted, tracing::Span::current());
        Ok(Accepted::Runs(plan_id, stop, ended))
    }

    /// Runs a plan in a task of its own: when the caller goes away, it still gets to write how it ended.
    pub(crate) fn spawn(
        &self,
        plan: Plan,
        graph: Graph,
        context: RequestContext,
        waits: Waits,
        counted: CountedPlan,
        span: tracing::Span,
    ) -> (Stop, Ended) {
        let stop = Stop::default();
        let plan_id = plan.plan_id;
        self.running().insert(plan_id, stop.clone());
        let listed = Listed { planner: self.clone(), plan_id };
        counted.accepted();
        if plan.status == PlanStatus::Running {
            counted.handed_over();
        }
        let run = Run { planner: self.clone(), plan, graph, context, stop: stop.clone(), waits, counted };
        let ended = self.parts.tasks.spawn(
            async move {
                let result = run.finish().await;
                drop(listed);
                result
            }
            .instrument(span),
        );
        (stop, ended)
    }

    fn has_room(&self) -> Result<(), OrchestratorError> {
        if self.running().len() < MAX_IN_FLIGHT {
            return Ok(());
        }
        let message = format!("{MAX_IN_FLIGHT} plans are in flight; try again shortly");
        Err(OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
            .with_retry_after(Duration::from_secs(1)))
    }

    // A map of whole values: what a panicking thread leaves behind is still consistent.
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<PlanId, Stop>> {
        self.parts.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn no_such_plan(plan_id: PlanId) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::NotFound, format!("there is no plan {plan_id}"))
}

/// A plan that is in the list of those that run.
struct Listed {
    planner: Planner,
    plan_id: PlanId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.planner.running().remove(&self.plan_id);
    }
}

struct CancelOnDrop(Stop);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel("the caller went away before the plan ended");
    }
}
