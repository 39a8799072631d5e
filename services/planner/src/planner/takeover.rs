//! Plans and sweeps of a planner that is gone, gone on with from what the journal knows.
//!
//! Plans take turns in the order of their acceptance, before every plan that comes later, and go through the same gates. Each
//! is read to see where it stands, and forgotten again if it has to wait and is not small.
//!
//! A plan that needs an agent which this planner does not know is left to one that does
//! ([`Journal::claim`](crate::journal::Journal::claim)). A plan during whose run planners died again and again is more likely
//! the cause than the victim, and fails.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    plan::{AttemptOutcome, Plan, PlanStatus},
};
use phoenix_platform::{RequestContext, correlation_span, metrics::record_counter};
use tracing::Instrument;

use super::Planner;
use crate::{
    admission::PlanTurn,
    flight::{Flight, Loaded, Start, within_deadline},
    make::{Waits, graph_of_accepted},
    metrics::{CountedPlan, RECOVERED},
    run::{cancel_tasks, fail_tasks, first_agents},
    running::Stop,
    store::{Entry, JournalError, TaskRef, Unfinished, UnfinishedPlan},
};

/// Plans that are read at once: so few that they fit into memory, whatever their size.
const READ_AT_ONCE: usize = 16;

/// A plan during whose run planners died so often is not run again.
const MAX_CRASHES: u32 = 5;

impl Planner {
    /// Takes over plans and sweeps whose planner is gone: how many plans.
    ///
    /// # Errors
    /// When the journal can't be used; then none is.
    pub async fn recover(&self) -> Result<usize, JournalError> {
        let claimed = self.journal().claim(self.agents(), self.takeover_grace()).await?;
        let Unfinished { mut plans, sweeps, left: _, unreadable: _ } = claimed;
        for sweep in sweeps {
            self.work_off(sweep);
        }
        // Ids grow with time.
        plans.sort_unstable_by_key(|plan| plan.plan_id);
        // On the list before the first is read: each can be cancelled from now on.
        let turns = self.admission().turns(plans.len());
        let flights: Vec<_> =
            plans.iter().zip(turns).map(|(plan, turn)| (*plan, self.taken_over(*plan, turn))).collect();
        if !plans.is_empty() {
            // What is to be cancelled does not begin again.
            self.cancel_requested().await?;
        }
        let (suspects, flights): (Vec<_>, Vec<_>) =
            flights.into_iter().partition(|(plan, _)| plan.crashes >= MAX_CRASHES);
        for (plan, flight) in suspects {
            drop(self.tasks().spawn(fail_after_crashes(flight, plan.crashes)));
        }
        let mut flights = flights.into_iter().map(|(_, flight)| flight).peekable();
        while flights.peek().is_some() {
            self.go_on_with(flights.by_ref().take(READ_AT_ONCE).collect()).await?;
        }
        Ok(plans.len())
    }

    async fn go_on_with(&self, flights: Vec<Flight>) -> Result<(), JournalError> {
        let plan_ids: Vec<_> = flights.iter().map(Flight::plan_id).collect();
        // Without any, each is tried again by itself.
        let plans = self.read_all(&plan_ids).await.unwrap_or_default();
        let mut plans: HashMap<PlanId, _> = plans.into_iter().collect();
        for flight in flights {
            match plans.remove(&flight.plan_id()) {
                Some(Ok(plan)) => self.go_on(flight, plan).await?,
                // Others need not wait until it can be read.
                Some(Err(_)) | None => drop(self.tasks().spawn(go_on_later(flight))),
            }
        }
        Ok(())
    }

    fn taken_over(&self, plan: UnfinishedPlan, turn: PlanTurn) -> Flight {
        let UnfinishedPlan { plan_id, takeovers, crashes: _ } = plan;
        let (room, counted) = (self.admission().room_anyway(), CountedPlan::start(self.meters()));
        let listed = self.running().list(plan_id, Stop::default());
        Flight::new(self, listed, Waits::Nobody, turn, room, counted).taken_over(takeovers)
    }

    /// Goes on with a plan from where it stands.
    async fn go_on(&self, flight: Flight, plan: Plan) -> Result<(), JournalError> {
        record_counter(&RECOVERED, 1);
        let context = RequestContext::new(plan.correlation_id);
        let span = correlation_span("resume_plan", &context);
        let span = tracing::info_span!(
            parent: &span,
            "plan_and_execute_v1",
            plan_id = %plan.plan_id,
            otel.status_description = tracing::field::Empty
        );
        span.in_scope(|| tracing::info!("plan taken over from a planner that stopped"));
        for entry in open_attempts(&plan) {
            self.journal().note(entry).await?;
        }
        flight.accepted(plan.status);
        let context = within_deadline(context, plan.created_at, plan.deadline_at);
        let start = match graph_of_accepted(&plan, self.agents()) {
            Ok(graph) => {
                let agents = first_agents(&plan, &graph);
                let places = self.admission().take(agents.iter().map(|(agent, _)| agent)).ok();
                Start::new(Loaded { plan: Arc::new(plan), graph }, agents, places)
            }
            // No planner that knows the agent took the plan over in time, or the plan is to be cancelled anyway.
            Err(error) => {
                let stop = flight.stop();
                let error = if stop.is_asked() { stop.asked().await } else { error };
                drop(self.tasks().spawn(flight.give_up(cancel_tasks(&plan), error).instrument(span)));
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

/// Fails a plan that planners did not survive.
async fn fail_after_crashes(flight: Flight, crashes: u32) {
    flight.accepted(PlanStatus::Running);
    let message = format!(
        "the planner stopped unexpectedly {crashes} times while this plan ran, so the plan is not run again; \
         find the cause (memory, for example) before you redrive it"
    );
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
        .with_detail("planner_crashes", crashes);
    // A planner that died of this, too, has shown that even to read the plan is too much: it ends unread then.
    let plan = if crashes == MAX_CRASHES { flight.read().await.ok() } else { None };
    let Some(plan) = plan else {
        tracing::error!(plan_id = %flight.plan_id(), crashes, "plan failed unread: planners died while it ran");
        drop(flight.give_up(Vec::new(), error).await);
        return;
    };
    let context = RequestContext::new(plan.correlation_id);
    let span = correlation_span("resume_plan", &context);
    let ended = async {
        tracing::error!(plan_id = %plan.plan_id, crashes, "plan failed: planners died while it ran");
        let mut entries = open_attempts(&plan);
        entries.extend(fail_tasks(&plan, &error));
        drop(flight.give_up(entries, error).await);
    };
    ended.instrument(span).await;
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
