//! A plan is accepted: admitted, durable, on its way.
//!
//! Whatever can be said against it is said before anything is journalled. From there on the plan lives in a task of its own,
//! its acceptance included: a caller that goes away while the journal is written leaves no plan behind that nobody runs.

use std::sync::Arc;

use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    graph::Graph,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::{RequestContext, propagation::mark_failed};
use tokio::{sync::oneshot, task::JoinHandle};
use tracing::Instrument;

use crate::{
    flight::{Flight, Loaded, Start, within_deadline},
    keys::{Claim, Use},
    make::{Waits, Wish, make},
    metrics::CountedPlan,
    planner::{Answer, Planner, Submitted},
    run::first_agents,
    running::Stop,
    store::{Entry, JournalError, UsedKey},
};

/// How a plan ends, or why it could not be made durable.
pub(crate) type Ended = JoinHandle<Result<Answer, OrchestratorError>>;

/// A plan that is ready to be accepted.
pub(crate) struct Made {
    /// As it is to be run.
    pub(crate) plan: Arc<Plan>,
    /// Who waits for whom.
    pub(crate) graph: Graph,
    /// What makes it durable.
    pub(crate) entries: Vec<Entry>,
}

/// What became of a request to run something.
pub(crate) enum Accepted {
    /// A plan runs.
    Runs(PlanId, Ended),
    /// Its key stands for this plan already, since that request.
    Known(PlanId, Option<CorrelationId>),
}

/// A plan that begins once it is durable.
struct Admitted {
    flight: Flight,
    context: RequestContext,
    start: Start,
    entries: Vec<Entry>,
}

/// Hears whether a plan is durable, and has its key back.
type Durable = oneshot::Sender<(Result<(), JournalError>, Claim)>;

impl From<UsedKey> for Accepted {
    fn from(used: UsedKey) -> Self {
        Self::Known(used.subject.into(), used.by)
    }
}

impl Accepted {
    /// The plan.
    pub(crate) const fn plan_id(&self) -> PlanId {
        match self {
            Self::Runs(plan_id, ..) | Self::Known(plan_id, _) => *plan_id,
        }
    }

    /// Where the plan is found.
    pub(crate) const fn submitted(&self) -> Submitted {
        let replay_of = if let Self::Known(_, by) = self { *by } else { None };
        Submitted { plan_id: self.plan_id(), replay_of }
    }
}

impl Planner {
    /// Has a plan accepted and begun. Dropping the future gives up before the plan exists, or leaves a plan that runs.
    ///
    /// # Errors
    /// Whatever can be said before it is durable.
    pub(crate) async fn accept(
        &self,
        context: RequestContext,
        wish: Wish,
        stop: Stop,
    ) -> Result<Accepted, OrchestratorError> {
        let claim = match self.keys().take(wish.key.clone()).await? {
            Use::First(claim) => claim,
            Use::Again(used) => return Ok(used.into()),
        };
        let counted = CountedPlan::start(self.meters());
        let waits = wish.waits;
        let made = make(self.agents(), context.correlation_id, wish).map(|(plan, graph)| {
            let plan = Arc::new(plan);
            let accepted = Entry::PlanAccepted { plan: Arc::clone(&plan) };
            Made { plan, graph, entries: vec![accepted] }
        });
        self.launch(context, made, claim, waits, counted, stop).await
    }

    /// Finds room for a plan and places for its first tasks, makes it durable, together with its key, and runs it.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub(crate) async fn launch(
        &self,
        context: RequestContext,
        made: Result<Made, OrchestratorError>,
        claim: Claim,
        waits: Waits,
        counted: CountedPlan,
        stop: Stop,
    ) -> Result<Accepted, OrchestratorError> {
        let admitted = made.and_then(|made| self.admit(context, made, waits, counted, stop));
        let admitted = admitted.inspect_err(|error| {
            if error.code.http_status() >= 500 {
                mark_failed(&tracing::Span::current(), error.code.as_str());
            }
            tracing::info!(code = %error.code, "plan refused");
        })?;
        let plan_id = admitted.flight.plan_id();
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        let (done, durable) = oneshot::channel();
        let ended = self.tasks().spawn(begin(admitted, claim, done).in_current_span());
        match durable.await.map_err(|_| JournalError::Closed)? {
            // Somebody else was first, in the same instant; if with this very request, at another planner, it is answered.
            (Err(JournalError::Taken), claim) => {
                let winner = claim.winner().await?;
                winner.map(Accepted::from).ok_or_else(|| JournalError::Taken.into())
            }
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Ok(Accepted::Runs(plan_id, ended)),
        }
    }

    fn admit(
        &self,
        context: RequestContext,
        made: Made,
        waits: Waits,
        counted: CountedPlan,
        stop: Stop,
    ) -> Result<Admitted, OrchestratorError> {
        let Made { plan, graph, entries } = made;
        let room = self.admission().room()?;
        let agents = first_agents(&plan, &graph);
        let places = match self.admission().take(agents.iter().map(|(agent, _)| agent)) {
            Ok(places) => Some(places),
            Err(full) if waits == Waits::Caller => return Err(full.refuse()),
            Err(_) => None,
        };
        let context = within_deadline(context, plan.created_at, plan.deadline_at);
        let turn = self.admission().turn();
        let flight = Flight::new(self, self.running().list(plan.plan_id, stop), waits, turn, room, counted);
        let start = Start::new(Loaded { plan, graph }, agents, places);
        Ok(Admitted { flight, context, start, entries })
    }
}

/// Makes a plan durable, and runs it.
async fn begin(admitted: Admitted, claim: Claim, done: Durable) -> Result<Answer, OrchestratorError> {
    let Admitted { flight, context, start, mut entries } = admitted;
    entries.extend(claim.entry(*flight.plan_id().as_uuid()));
    let written = flight.journal().accept(entries).await;
    let exists = written.is_ok();
    // Whoever asked may have gone: the plan is there all the same.
    let _ = done.send((written, claim));
    if !exists {
        return Err(JournalError::Behind.into());
    }
    flight.accepted(PlanStatus::Pending);
    flight.run(context, start).await
}
