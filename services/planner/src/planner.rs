//! Plans: accepted, run, cancelled, and (in [`takeover`]) taken over.

mod takeover;

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
use tokio::{sync::oneshot, task::JoinHandle};
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
    /// Plans that were taken over and do not run yet, the oldest last.
    taken_over: Mutex<Vec<PlanId>>,
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
    Runs(PlanId, Ended),
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
        let (tasks, keys) = (TaskTracker::new(), Keys::new(journal.clone(), key_life));
        let (running, taken_over) = (Mutex::default(), Mutex::default());
        let parts =
            Parts { agents, journal, health, runner, meters, tasks, running, taken_over, keys, stopping };
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
        let stop = Stop::default();
        let _guard = (!wish.continue_on_disconnect).then(|| CancelOnDrop(stop.clone()));
        let accepted = self.accept(context, wish, Waits::Caller, stop).await?;
        self.answer(accepted).await
    }

    /// Waits for the end of a plan.
    pub(crate) async fn answer(&self, accepted: Accepted) -> Result<Answer, OrchestratorError> {
        match accepted {
            Accepted::Known(plan_id) => self.answer_again(plan_id).await.map_err(naming(plan_id)),
            Accepted::Runs(plan_id, ended) => {
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
        Ok(self.accept(context, wish, Waits::Nobody, Stop::default()).await?.plan_id())
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
    /// `not_found`; `conflict` when it has ended already, unless this very request has cancelled it before.
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
        // It may have come to its own end before the cancel came to it.
        let plan = self.journal().plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        if plan.status == PlanStatus::Cancelled { Ok(()) } else { ended_already(&plan) }
    }

    /// Why a plan that does not run here is not cancelled. One that is cancelled is fine if that was asked for `again`.
    async fn cannot_cancel(&self, plan_id: PlanId, again: bool) -> Result<(), OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        if plan.status.is_terminal() {
            let done = again && plan.status == PlanStatus::Cancelled;
            return if done { Ok(()) } else { ended_already(&plan) };
        }
        let message = "the plan is being taken over from a planner that stopped; try again shortly";
        Err(OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, message)
            .with_retry_after(Duration::from_secs(1)))
    }

    /// Has a plan accepted and begun. Dropping the future gives up before the plan exists, or leaves a plan that runs.
    async fn accept(
        &self,
        context: RequestContext,
        wish: Wish,
        waits: Waits,
        stop: Stop,
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
        self.launch(context, made, claim, waits, counted, stop).await
    }

    /// Makes a plan durable, together with its key, and runs it.
    pub(crate) async fn launch(
        &self,
        context: RequestContext,
        made: Result<Made, OrchestratorError>,
        claim: Claim,
        waits: Waits,
        counted: CountedPlan,
        stop: Stop,
    ) -> Result<Accepted, OrchestratorError> {
        let made = made.and_then(|made| self.has_room().map(|()| made));
        let Made { plan, graph, mut entries } = made.inspect_err(|error| {
            tracing::info!(code = %error.code, elapsed_ms = counted.elapsed_ms(), "plan refused");
        })?;
        let plan_id = plan.plan_id;
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        entries.extend(claim.entry(*plan_id.as_uuid()));
        let context = match plan.deadline_at {
            Some(at) => {
                let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                let own = Instant::now() + left;
                let deadline = context.deadline.map_or(own, |callers| callers.min(own));
                context.with_deadline(deadline)
            }
            None => context,
        };
        let run = Run { planner: self.clone(), plan, graph, context, stop, waits, counted };
        let (done, accepted) = oneshot::channel();
        let acceptance = Acceptance { entries, claim, done };
        let ended = self.spawn(run, Some(acceptance), tracing::Span::current());
        match accepted.await.map_err(|_| JournalError::Closed)? {
            // Somebody else was first, in the same instant; if with this very request, at another planner, it is answered.
            (Err(JournalError::Taken), claim) => {
                let winner = claim.winner().await?;
                winner.map(|plan| Accepted::Known(plan.into())).ok_or_else(|| JournalError::Taken.into())
            }
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Ok(Accepted::Runs(plan_id, ended)),
        }
    }

    /// Runs a plan in a task of its own: when the caller goes away, it is still accepted or refused as a whole, and gets to
    /// write how it ended.
    fn spawn(&self, run: Run, acceptance: Option<Acceptance>, span: tracing::Span) -> Ended {
        let plan_id = run.plan.plan_id;
        self.running().insert(plan_id, run.stop.clone());
        let listed = Listed { planner: self.clone(), plan_id };
        let running = async move {
            // Goes when the plan has ended, also by not coming into being.
            let listed = listed;
            if let Some(Acceptance { entries, claim, done }) = acceptance {
                let accepted = listed.planner.journal().accept(entries).await;
                let exists = accepted.is_ok();
                // Whoever asked may have gone.
                let _ = done.send((accepted, claim));
                if !exists {
                    return Err(JournalError::Behind.into());
                }
            }
            run.counted.accepted();
            if run.plan.status == PlanStatus::Running {
                run.counted.handed_over();
            }
            run.finish().await
        };
        self.parts.tasks.spawn(running.instrument(span))
    }

    fn has_room(&self) -> Result<(), OrchestratorError> {
        if self.running().len() < MAX_IN_FLIGHT {
            return Ok(());
        }
        let message = format!("{MAX_IN_FLIGHT} plans are in flight; try again shortly");
        Err(OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
            .with_retry_after(Duration::from_secs(1)))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<PlanId, Stop>> {
        lock(&self.parts.running)
    }
}

fn ended_already(plan: &Plan) -> Result<(), OrchestratorError> {
    let message = format!("the plan has ended already: {}", plan.status);
    Err(OrchestratorError::new(OrchestratorErrorCode::Conflict, message))
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

/// What makes a plan of a run: the entries that begin it, and who is told that they are durable.
struct Acceptance {
    entries: Vec<Entry>,
    /// The key, which is kept from others until then.
    claim: Claim,
    done: oneshot::Sender<(Result<(), JournalError>, Claim)>,
}

/// Cancels a plan when its caller goes away.
pub(crate) struct CancelOnDrop(pub(crate) Stop);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel("the caller went away before the plan ended");
    }
}

// Whole values: what a panicking thread leaves behind is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
