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
    plan::PlanStatus,
};
use phoenix_platform::RequestContext;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    agent_health::HealthView,
    execution::TaskRunner,
    journal::Journal,
    make::{Wish, make},
    metrics::{CountedPlan, PlanMeters},
    run::{Run, Stop, Waits, naming},
    store::{Entry, IdempotencyKey, JournalError},
};

/// How long a key stands for the plan it was first used for.
pub(crate) const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

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
    keys: Mutex<HashMap<String, ()>>,
    /// Plans that were taken over and do not run yet, the oldest last.
    taken_over: Mutex<Vec<PlanId>>,
}

type Ended = JoinHandle<Result<Answer, OrchestratorError>>;

/// What became of a request to run something.
enum Accepted {
    /// A plan runs.
    Runs(PlanId, Ended),
    /// Its key stands for this plan already.
    Known(PlanId),
}

impl Planner {
    /// A planner over these parts.
    #[must_use]
    pub fn new(
        agents: AgentCatalog,
        journal: Journal,
        health: HealthView,
        runner: TaskRunner,
        meters: PlanMeters,
    ) -> Self {
        let (running, keys, taken_over) = (Mutex::default(), Mutex::default(), Mutex::default());
        let tasks = TaskTracker::new();
        let parts = Parts { agents, journal, health, runner, meters, tasks, running, keys, taken_over };
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
        match self.accept(context, wish, Waits::Caller, stop).await? {
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
        match self.accept(context, wish, Waits::Nobody, Stop::default()).await? {
            Accepted::Known(plan_id) | Accepted::Runs(plan_id, ..) => Ok(plan_id),
        }
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
    /// `not_found`; `conflict` when it has ended already.
    pub async fn cancel(&self, plan_id: PlanId, reason: String) -> Result<(), OrchestratorError> {
        let running = self.running().get(&plan_id).cloned();
        let is_ours = running.is_some();
        if let Some(stop) = running {
            stop.cancel(if reason.is_empty() { "the plan was cancelled".into() } else { reason });
            let mut changes = self.journal().changes();
            while self.running().contains_key(&plan_id) {
                // Whether told of it or having missed it: look again.
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.recv()).await;
            }
        }
        let Some(plan) = self.journal().plan(plan_id).await? else {
            let message = format!("there is no plan {plan_id}");
            return Err(OrchestratorError::new(OrchestratorErrorCode::NotFound, message));
        };
        if is_ours && plan.status == PlanStatus::Cancelled {
            return Ok(());
        }
        // Perhaps only now: it may have come to its own end before the cancel came to it.
        if plan.status.is_terminal() {
            let message = format!("the plan has ended already: {}", plan.status);
            return Err(OrchestratorError::new(OrchestratorErrorCode::Conflict, message));
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
        let key = wish.key.clone();
        let mut held = None;
        if let Some(key) = &key {
            // Once more when it is held: who held it meanwhile has made a plan of it.
            for hold in [true, false] {
                if let Some(plan_id) = self.known_key(key).await? {
                    return Ok(Accepted::Known(plan_id));
                }
                if hold {
                    held = Some(self.hold(&key.key)?);
                }
            }
        }
        let counted = CountedPlan::start(&self.parts.meters);
        let made = make(&self.parts.agents, context.correlation_id, wish)
            .and_then(|made| self.has_room().map(|()| made));
        let (plan, graph) = made.inspect_err(|error| {
            tracing::info!(code = %error.code, elapsed_ms = counted.elapsed_ms(), "plan refused");
        })?;
        let plan_id = plan.plan_id;
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        let entries = vec![Entry::PlanAccepted { plan: Box::new(plan.clone()), key }];
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
        let acceptance = Acceptance { entries, done, _held: held };
        let ended = self.spawn(run, Some(acceptance), tracing::Span::current());
        accepted.await.unwrap_or(Err(JournalError::Closed))?;
        Ok(Accepted::Runs(plan_id, ended))
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
            if let Some(Acceptance { entries, done, _held }) = acceptance {
                let accepted = listed.planner.journal().accept(entries).await;
                let exists = accepted.is_ok();
                // Whoever asked may have gone.
                let _ = done.send(accepted);
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

    /// The plan that a key stands for.
    async fn known_key(&self, key: &IdempotencyKey) -> Result<Option<PlanId>, OrchestratorError> {
        let not_before = Timestamp::now().checked_sub(KEY_LIFE).unwrap_or(Timestamp::MIN);
        match self.journal().plan_of_key(&key.key, not_before).await? {
            Some((_, digest)) if digest != key.digest => Err(OrchestratorError::new(
                OrchestratorErrorCode::PlanningFailed,
                "the idempotency key was used before, for a different request",
            )
            .with_detail("field", "Idempotency-Key")),
            known => Ok(known.map(|(plan_id, _)| plan_id)),
        }
    }

    /// Keeps a second request with the same key away while the first is being accepted.
    fn hold(&self, key: &str) -> Result<HeldKey, OrchestratorError> {
        let taken = lock(&self.parts.keys).insert(key.to_owned(), ()).is_some();
        if taken { Err(still_running()) } else { Ok(HeldKey { planner: self.clone(), key: key.to_owned() }) }
    }

    /// What the caller of an earlier request was told.
    async fn answer_again(&self, plan_id: PlanId) -> Result<Answer, OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?;
        let plan = plan.ok_or_else(|| OrchestratorError::internal("the plan of this key is gone"))?;
        let agent =
            plan.tasks.last().map_or_else(|| self.default_agent().clone(), |task| task.spec.agent.clone());
        match (plan.status.is_terminal(), plan.output, plan.error) {
            (true, Some(output), _) => Ok(Answer { plan_id, output, agent, agent_time: Duration::ZERO }),
            (true, None, Some(error)) => Err(error),
            (true, None, None) => Err(OrchestratorError::internal("the plan of this key has no result")),
            (false, ..) => Err(still_running()),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<PlanId, Stop>> {
        lock(&self.parts.running)
    }
}

fn still_running() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::Conflict,
        "a request with this idempotency key is still running; ask again shortly",
    )
    .with_retry_after(Duration::from_secs(1))
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
    done: oneshot::Sender<Result<(), JournalError>>,
    /// Until they are.
    _held: Option<HeldKey>,
}

/// A key whose first request is being accepted.
struct HeldKey {
    planner: Planner,
    key: String,
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        lock(&self.planner.parts.keys).remove(&self.key);
    }
}

struct CancelOnDrop(Stop);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel("the caller went away before the plan ended");
    }
}

// Maps of whole values: what a panicking thread leaves behind is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
