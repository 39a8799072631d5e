//! Plans and sweeps of a planner that is gone, gone on with from what the journal knows.
//!
//! Plans take turns in the order of their acceptance, before every plan that comes later, and go through the same gates. Each
//! is read to see where it stands, and forgotten again if it has to wait and is not small.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    plan::{AttemptOutcome, Plan},
};
use phoenix_platform::{RequestContext, correlation_span, metrics::record_counter};
use tracing::Instrument;

use super::Planner;
use crate::{
    admission::PlanTurn,
    flight::{Flight, Loaded, Start, within_deadline},
    make::{Waits, graph_of},
    metrics::{CountedPlan, RECOVERED},
    run::first_agents,
    running::Stop,
    store::{Entry, JournalError, TaskRef, Unfinished},
};

/// Plans that are read at once: so few that they fit into memory, whatever their size.
const READ_AT_ONCE: usize = 16;

impl Planner {
    /// Takes over plans and sweeps whose planner is gone: how many plans.
    ///
    /// # Errors
    /// When the journal can't be used; then none is.
    pub async fn recover(&self) -> Result<usize, JournalError> {
        let Unfinished { mut plans, sweeps, unreadable: _ } = self.journal().claim().await?;
        for sweep in sweeps {
            self.work_off(sweep);
        }
        // Ids grow with time.
        plans.sort_unstable();
        // On the list before the first is read: each can be cancelled from now on.
        let turns = self.admission().turns(plans.len());
        let flights: Vec<_> = plans.iter().zip(turns).map(|(id, turn)| self.taken_over(*id, turn)).collect();
        let mut flights = flights.into_iter().peekable();
        while flights.peek().is_some() {
            self.go_on_with(flights.by_ref().take(READ_AT_ONCE).collect()).await?;
        }
        Ok(plans.len())
    }

    async fn go_on_with(&self, flights: Vec<Flight>) -> Result<(), JournalError> {
        let plan_ids: Vec<_> = flights.iter().map(Flight::plan_id).collect();
        // Without any, each is tried again by itself.
        let plans = self.read_all(&plan_ids).await.unwrap_or_default();
        let mut plans: HashMap<_, _> = plans.into_iter().collect();
        for flight in flights {
            match plans.remove(&flight.plan_id()) {
                Some(Ok(plan)) => self.go_on(flight, plan).await?,
                // Others need not wait until it can be read.
                Some(Err(_)) | None => drop(self.tasks().spawn(go_on_later(flight))),
            }
        }
        Ok(())
    }

    fn taken_over(&self, plan_id: PlanId, turn: PlanTurn) -> Flight {
        let (room, counted) = (self.admission().room_anyway(), CountedPlan::start(self.meters()));
        let listed = self.running().list(plan_id, Stop::default());
        Flight::new(self, listed, Waits::Nobody, turn, room, counted)
    }

    /// Goes on with a plan from where it stands.
    async fn go_on(&self, flight: Flight, plan: Plan) -> Result<(), JournalError> {
        record_counter(&RECOVERED, 1);
        let context = RequestContext::new(plan.correlation_id);
        let span = correlation_span("resume_plan", &context);
        let span = tracing::info_span!(parent: &span, "plan_and_execute_v1", plan_id = %plan.plan_id);
        span.in_scope(|| tracing::info!("plan taken over from a planner that stopped"));
        for entry in open_attempts(&plan) {
            self.journal().note(entry).await?;
        }
        flight.accepted(plan.status);
        let context = within_deadline(context, plan.created_at, plan.deadline_at);
        let start = match graph_of(&plan, self.agents()) {
            Ok(graph) => {
                let agents = first_agents(&plan, &graph);
                let places = self.admission().take(agents.iter().map(|(agent, _)| agent)).ok();
                Start::new(Loaded { plan: Arc::new(plan), graph }, agents, places)
            }
            // An agent that the plan needs is no longer configured.
            Err(error) => {
                drop(self.tasks().spawn(flight.give_up(Some(plan), error).instrument(span)));
                return Ok(());
            }
        };
        drop(self.tasks().spawn(flight.run(context, start).instrument(span)));
        Ok(())
    }
}

/// Takes a plan up that could not be read at once.
async fn go_on_later(flight: Flight) {
    let planner = flight.planner().clone();
    match flight.read().await {
        Ok(plan) => {
            // Only when the process ends.
            let _ = planner.go_on(flight, plan).await;
        }
        Err(error) => {
            let _ = flight.leave(error);
        }
    }
}

/// Attempts that ran when the planner stopped: nobody will hear of their end.
fn open_attempts(plan: &Plan) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (ordinal, task) in plan.tasks.iter().enumerate() {
        let task_ref = TaskRef { plan_id: plan.plan_id, ordinal };
        for attempt in task.attempts.iter().filter(|attempt| attempt.outcome.is_none()) {
            entries.push(Entry::AttemptEnded {
                task: task_ref,
                number: attempt.number,
                at: Timestamp::now(),
                outcome: AttemptOutcome::Cancelled,
                retried: true,
            });
        }
    }
    entries
}
