//! A plan in flight: from its acceptance, by this planner or by one before it, to its end.
//!
//! While no agent that it can begin with has a place, a plan is little more than its name: unless it is small, what it is
//! made of stays in the journal until then, so that tens of thousands can wait, whatever their size.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, PlanId,
    graph::Graph,
    json::Json,
    plan::{Plan, PlanStatus, Task},
};
use phoenix_platform::{RequestContext, propagation::mark_failed};

use crate::{
    admission::{Place, Places, PlanTurn},
    journal::Journal,
    make::{Waits, graph_of_accepted},
    metrics::CountedPlan,
    planner::{Answer, Planner},
    run::{Course, PlanOutput, Run, cancel_tasks, sleep_until, terminal_status},
    running::{Listed, Stop},
    store::{Entry, JournalError},
};

/// A plan that is no larger than so many bytes, roughly, is kept in memory while it waits: to read it again would cost more.
const KEPT_BYTES: usize = 8 * 1024;

/// What a task or a JSON value takes beside its text, roughly.
const TASK_BYTES: usize = 512;
const VALUE_BYTES: usize = 64;

/// The wait before a plan is read again that could not be read.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A plan in flight.
pub(crate) struct Flight {
    plan_id: PlanId,
    planner: Planner,
    waits: Waits,
    turn: PlanTurn,
    /// How often it was taken over before.
    takeovers: u32,
    counted: CountedPlan,
    listed: Listed,
    _room: Place,
}

/// What a plan is made of.
pub(crate) struct Loaded {
    pub(crate) plan: Arc<Plan>,
    pub(crate) graph: Graph,
}

/// How a plan begins.
pub(crate) enum Start {
    /// With places for its first tasks.
    Now { loaded: Box<Loaded>, places: Places },
    /// As soon as one of these agents has a place. With each goes the first task that there is for it.
    InTurn { agents: Vec<(AgentName, usize)>, kept: Option<Box<Loaded>> },
}

impl Start {
    /// A plan that begins with `agents`: now if there are places, else in turn.
    pub(crate) fn new(loaded: Loaded, agents: Vec<(AgentName, usize)>, places: Option<Places>) -> Self {
        match places {
            Some(places) => Self::Now { loaded: Box::new(loaded), places },
            None => {
                let is_small = weight(&loaded.plan) <= KEPT_BYTES;
                Self::InTurn { agents, kept: is_small.then(|| Box::new(loaded)) }
            }
        }
    }
}

impl Flight {
    /// A plan that takes off.
    pub(crate) fn new(
        planner: &Planner,
        listed: Listed,
        waits: Waits,
        turn: PlanTurn,
        room: Place,
        counted: CountedPlan,
    ) -> Self {
        let plan_id = listed.plan_id();
        let planner = planner.clone();
        Self { plan_id, planner, waits, turn, takeovers: 0, counted, listed, _room: room }
    }

    /// The same, of a plan that has been taken over so often.
    pub(crate) fn taken_over(self, takeovers: u32) -> Self {
        Self { takeovers, ..self }
    }

    pub(crate) const fn plan_id(&self) -> PlanId {
        self.plan_id
    }

    /// What ends it early.
    pub(crate) fn stop(&self) -> Stop {
        self.listed.stop()
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.planner.journal()
    }

    /// The plan is durable; it may be on its way already.
    pub(crate) fn accepted(&self, status: PlanStatus) {
        self.counted.accepted();
        if status == PlanStatus::Running {
            self.counted.handed_over();
        }
    }

    pub(crate) const fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Runs the plan to its end, whenever it is its turn.
    pub(crate) async fn run(
        self,
        context: RequestContext,
        mut start: Start,
    ) -> Result<Answer, OrchestratorError> {
        loop {
            let (loaded, places) = match start {
                Start::Now { loaded, places } => (loaded, places),
                Start::InTurn { agents, kept } => match self.turn(&context, &agents, kept).await {
                    Ok(begun) => begun,
                    Err(Grounded::Unfit(plan, error)) => {
                        return self.give_up(cancel_tasks(&plan), error).await;
                    }
                    Err(Grounded::Left(error)) => return self.leave(error),
                },
            };
            // In a box: while it waits, the plan's task is not of the size of a run.
            let (agent, course) = Box::pin(self.begin(context.clone(), *loaded, places)).await;
            start = match course {
                Ok(Course::InLine(agents)) => Start::InTurn { agents, kept: None },
                Ok(Course::Ended(result)) => return self.end(&agent, Ok(result)),
                Err(error) => return self.end(&agent, Err(error)),
            };
        }
    }

    /// Runs the plan's tasks, for as long as one of them has a place.
    async fn begin(
        &self,
        context: RequestContext,
        loaded: Loaded,
        places: Places,
    ) -> (AgentName, Result<Course, JournalError>) {
        let Loaded { plan, graph } = loaded;
        let Self { planner, waits, turn, takeovers, counted, .. } = self;
        let (stop, waits, turn, takeovers) = (self.stop(), *waits, *turn, *takeovers);
        let run = Run { planner, counted, plan, graph, context, stop, waits, turn, takeovers };
        let course = run.run(places).await;
        (run.last_agent(), course)
    }

    /// Waits for the plan's turn, or for its early end, and reads the plan if it was not kept.
    async fn turn(
        &self,
        context: &RequestContext,
        agents: &[(AgentName, usize)],
        kept: Option<Box<Loaded>>,
    ) -> Result<(Box<Loaded>, Places), Grounded> {
        let agents: Vec<_> =
            agents.iter().map(|(agent, task)| (agent.clone(), self.turn.task(*task))).collect();
        let stop = self.stop();
        loop {
            let places = tokio::select! {
                biased;
                // The run that is to be ended does so by itself, and needs no place for it.
                _ = stop.asked() => Places::default(),
                () = sleep_until(context.deadline) => Places::default(),
                places = self.planner.admission().any_place(&agents) => {
                    places.map_err(|_| Grounded::Left(JournalError::Closed))?
                }
            };
            if let Some(loaded) = kept {
                return Ok((loaded, places));
            }
            match self.planner.read(self.plan_id).await {
                Ok(plan) => {
                    return match graph_of_accepted(&plan, self.planner.agents()) {
                        Ok(graph) => Ok((Box::new(Loaded { plan: Arc::new(plan), graph }), places)),
                        Err(error) => Err(Grounded::Unfit(Box::new(plan), error)),
                    };
                }
                Err(JournalError::Database(_)) => {
                    // Others can go first meanwhile.
                    drop(places);
                    self.read().await.map_err(Grounded::Left)?;
                }
                Err(error) => return Err(Grounded::Left(error)),
            }
        }
    }

    /// The plan, as soon as it can be read.
    pub(crate) async fn read(&self) -> Result<Plan, JournalError> {
        let mut is_told = false;
        loop {
            match self.planner.read(self.plan_id).await {
                Err(error @ JournalError::Database(_)) => {
                    if !is_told {
                        tracing::error!(plan_id = %self.plan_id, %error, "an unfinished plan cannot be read; it is tried again");
                        is_told = true;
                    }
                    tokio::time::sleep(READ_AGAIN_AFTER).await;
                }
                read => return read,
            }
        }
    }

    /// Leaves a plan as it is: it can't be read, or the planner ends.
    pub(crate) fn leave(self, error: JournalError) -> Result<Answer, OrchestratorError> {
        let agent = self.planner.default_agent().clone();
        self.end(&agent, Err(error))
    }

    /// Ends a plan that can't be run, with the ends of its tasks.
    pub(crate) async fn give_up(
        self,
        mut entries: Vec<Entry>,
        error: OrchestratorError,
    ) -> Result<Answer, OrchestratorError> {
        let status = terminal_status(Some(&error));
        let plan_id = self.plan_id;
        entries.push(Entry::PlanEnded { plan_id, status, at: Timestamp::now(), result: Err(error.clone()) });
        let recorded = self.journal().record(entries).await;
        let agent = self.planner.default_agent().clone();
        self.end(&agent, recorded.map(|()| Err(error)))
    }

    /// Tells what became of the plan, which is durable by now.
    fn end(
        mut self,
        agent: &AgentName,
        result: Result<Result<PlanOutput, OrchestratorError>, JournalError>,
    ) -> Result<Answer, OrchestratorError> {
        let (plan_id, elapsed_ms) = (self.plan_id, self.counted.elapsed_ms());
        let named = |error: OrchestratorError| error.with_detail("plan_id", plan_id);
        let result = match result {
            Ok(result) => result,
            // The next planner's business.
            Err(error) => {
                tracing::debug!(%error, "plan left as it is");
                return Err(named(error.into()));
            }
        };
        let status = terminal_status(result.as_ref().err());
        self.listed.ended(status);
        match result {
            Ok(PlanOutput { text: output, finish_reason }) => {
                self.counted.succeeded();
                tracing::info!(%agent, plan_status = status.as_str(), elapsed_ms, "plan ended");
                let (agent, agent_time) = (agent.clone(), self.counted.agent_time());
                Ok(Answer { plan_id, output, finish_reason, agent, agent_time, replay_of: None })
            }
            Err(error) => {
                if status == PlanStatus::Failed {
                    mark_failed(&tracing::Span::current(), error.code.as_str());
                }
                tracing::info!(%agent, plan_status = status.as_str(), code = %error.code, elapsed_ms, "plan ended");
                Err(named(error))
            }
        }
    }
}

/// Why a plan whose turn has come does not begin.
enum Grounded {
    /// It can't be run.
    Unfit(Box<Plan>, OrchestratorError),
    /// It can't be read, or the planner ends.
    Left(JournalError),
}

/// What a plan takes in memory, roughly, in bytes.
fn weight(plan: &Plan) -> usize {
    fn of(value: &Json) -> usize {
        VALUE_BYTES
            + match value {
                Json::Null | Json::Bool(_) => 0,
                Json::Number(number) => number.as_str().len(),
                Json::String(text) => text.len(),
                Json::Array(items) => items.iter().map(of).sum(),
                Json::Object(members) => members.iter().map(|(name, value)| name.len() + of(value)).sum(),
            }
    }
    let task = |task: &Task| {
        let input: usize = task.spec.payload.iter().map(|(name, value)| name.len() + of(value)).sum();
        TASK_BYTES + input + task.output.as_ref().map_or(0, |output| of(&output.data))
    };
    plan.context.len() + plan.tasks.iter().map(task).sum::<usize>()
}

/// A request's context, bounded by its plan's own deadline.
pub(crate) fn within_deadline(
    context: RequestContext,
    created_at: Timestamp,
    deadline_at: Option<Timestamp>,
) -> RequestContext {
    let Some(at) = deadline_at else { return context };
    // The clock may have been set back meanwhile: there is never more time left than there was at first.
    let since = Timestamp::now().max(created_at);
    let left = Duration::try_from(at.duration_since(since)).unwrap_or_default();
    let own = Instant::now() + left;
    let deadline = context.deadline.map_or(own, |callers| callers.min(own));
    context.with_deadline(deadline)
}
