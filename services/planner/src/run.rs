//! The tasks of one plan: which are ready, which run, and what the plan's end is.
//!
//! Every step is in the journal before a later one depends on it, so a run can begin from whatever the journal knows: a plan
//! that was just accepted, one whose planner died, and one that had to wait are run by the same code. When nothing is left of
//! a plan but tasks in line, its run is over until one of them has a place: nothing is kept in memory for it meanwhile.

mod task;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode,
    graph::Graph,
    input,
    json::{Json, Object},
    plan::{OnFailure, Plan, PlanKind, PlanStatus, Task},
    template::{self, Referent},
};
use phoenix_platform::RequestContext;

use crate::{
    admission::{Place, Places, PlanTurn},
    execution::Progress,
    make::{Waits, specs_of},
    metrics::CountedPlan,
    planner::Planner,
    running::Stop,
    store::{Entry, JournalError, TaskRef},
};

/// One plan whose tasks are run.
pub(crate) struct Run<'a> {
    pub(crate) planner: &'a Planner,
    pub(crate) counted: &'a CountedPlan,
    pub(crate) plan: Arc<Plan>,
    pub(crate) graph: Graph,
    pub(crate) context: RequestContext,
    pub(crate) stop: Stop,
    pub(crate) waits: Waits,
    pub(crate) turn: PlanTurn,
    /// How often the plan was taken over.
    pub(crate) takeovers: u32,
}

/// What a plan gives its caller.
#[derive(Default)]
pub(crate) struct PlanOutput {
    /// The answer of the last task as a person reads it, if that gave one.
    pub(crate) text: Option<String>,
    /// Why it is not complete; nothing when it is.
    pub(crate) finish_reason: Option<String>,
}

/// What a run has come to. Whatever led to it is durable by then.
pub(crate) enum Course {
    /// The plan's end, with its answer.
    Ended(Result<PlanOutput, OrchestratorError>),
    /// It goes on when one of these agents has a place. With each goes the first task that there is for it.
    InLine(Vec<(AgentName, usize)>),
}

/// How far a task has come, as far as those that wait for it are concerned.
enum State {
    Waiting,
    /// Handed over, or in line for it.
    Ready,
    /// Its answer, and why that is not complete.
    Done(Json, Option<String>),
    /// It ended without one.
    Failed,
}

impl Run<'_> {
    /// Runs the tasks as far as they get by now. `places` are those that the plan has already.
    ///
    /// # Errors
    /// Only when the process ends meanwhile.
    pub(crate) async fn run(&self, places: Places) -> Result<Course, JournalError> {
        let progress: Vec<_> = self.plan.tasks.iter().map(|task| self.progress(task)).collect();
        let (mut entries, course) = self.run_tasks(places, &progress).await?;
        if let Course::Ended(result) = &course {
            entries.push(Entry::PlanEnded {
                plan_id: self.plan.plan_id,
                status: terminal_status(result.as_ref().err()),
                at: Timestamp::now(),
                result: result.as_ref().map(drop).map_err(Clone::clone),
            });
        }
        self.planner.journal().record(entries).await?;
        Ok(course)
    }

    fn progress(&self, task: &Task) -> Progress {
        let spec = self.planner.agents().get(&task.spec.agent);
        // Whoever does not know the agent hands nothing over.
        let max_attempts = spec.map_or(1, |spec| spec.retry.max_attempts);
        Progress::of(task).numbered(self.takeovers, max_attempts)
    }

    /// The agent that gives the plan's answer.
    pub(crate) fn last_agent(&self) -> AgentName {
        let last = self.plan.tasks.last();
        last.map_or_else(|| self.planner.default_agent().clone(), |task| task.spec.agent.clone())
    }

    /// Runs tasks as they become ready and have a place. Gives the entries that are still to be written.
    async fn run_tasks(
        &self,
        mut places: Places,
        progress: &[Progress],
    ) -> Result<(Vec<Entry>, Course), JournalError> {
        let admission = self.planner.admission();
        let mut states = known_states(&self.plan);
        let mut entries = Vec::new();
        let (mut running, mut line) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut deadline = std::pin::pin!(sleep_until(self.context.deadline));
        let hand_over = |ordinal: usize, place: Place, states: &[State]| {
            let payload = self.payload(ordinal, states);
            async move { (ordinal, self.run_task(ordinal, payload, &progress[ordinal]).await, place) }
        };
        let error = loop {
            for ordinal in ready(&self.graph, &states) {
                states[ordinal] = State::Ready;
                progress[ordinal].became_ready(self.ready_since(ordinal));
                let agent = &self.plan.tasks[ordinal].spec.agent;
                match places.take(agent).or_else(|| admission.take_one(agent)) {
                    Some(place) => running.push(hand_over(ordinal, place, &states)),
                    None => {
                        let turn = admission.wait(agent, self.turn.task(ordinal));
                        line.push(async move { (ordinal, turn.await) });
                    }
                }
            }
            // Nothing of the plan can use them now.
            places.clear();
            if running.is_empty() {
                let in_line = (0..states.len()).filter(|ordinal| matches!(states[*ordinal], State::Ready));
                match agents_of(&self.plan, in_line) {
                    // All is done: whoever ends it now comes too late.
                    none if none.is_empty() => return Ok((entries, Course::Ended(Ok(output(&states))))),
                    agents if !self.is_over() => return Ok((entries, Course::InLine(agents))),
                    _ => {}
                }
            }
            // Nobody is told of a task's end before a later step is durable, so it need not be waited for.
            for entry in entries.drain(..) {
                self.planner.journal().note(entry).await?;
            }
            let (ordinal, result) = tokio::select! {
                // In this order, so that nothing is begun for a plan that is to be ended.
                biased;
                error = self.stop.asked() => break self.abandoned(error, progress),
                () = &mut deadline => break self.timed_out(progress),
                Some((ordinal, ended, place)) = running.next() => {
                    // For the next task of this plan, before another plan's.
                    places.keep(&self.plan.tasks[ordinal].spec.agent, place);
                    (ordinal, ended?)
                }
                Some((ordinal, place)) = line.next() => {
                    // No place is given any more when the planner ends; what runs goes on for now.
                    running.extend(place.ok().map(|place| hand_over(ordinal, place, &states)));
                    continue;
                }
            };
            entries.extend(progress[ordinal].end(self.task_ref(ordinal), &result));
            states[ordinal] = match (result, self.plan.tasks[ordinal].spec.on_failure) {
                (Ok(output), _) => {
                    let finish_reason = output.finish_reason();
                    State::Done(output.data, finish_reason)
                }
                (Err(_), OnFailure::Continue) => State::Failed,
                (Err(error), OnFailure::Fail) => {
                    states[ordinal] = State::Failed;
                    break error;
                }
            };
        };
        // Cancels what still runs.
        drop(running);
        entries.extend(self.end_the_rest(&states, progress, &error));
        Ok((entries, Course::Ended(Err(error))))
    }

    /// Since when a task that is ready now has been: its plan's acceptance, or the end of what it waited for.
    fn ready_since(&self, ordinal: usize) -> Timestamp {
        let before = self.graph.dependencies(ordinal);
        // What ended before this run began is known to the plan; what ended since has just done so.
        let ended = before.iter().map(|before| self.plan.tasks[*before].ended_at);
        let ended = ended.map(|ended_at| ended_at.unwrap_or_else(Timestamp::now));
        ended.max().unwrap_or_else(|| self.counted.accepted_at())
    }

    fn payload(&self, ordinal: usize, states: &[State]) -> Result<Object, OrchestratorError> {
        let task = &self.plan.tasks[ordinal];
        if self.plan.kind == PlanKind::Chat {
            return Ok(task.spec.payload.clone());
        }
        let output = |key: &str| {
            let ordinal = self.plan.tasks.iter().position(|task| task.spec.key == key);
            match ordinal.map(|ordinal| &states[ordinal]) {
                Some(State::Done(answer, _)) => Referent::Answer(answer),
                Some(State::Failed | State::Waiting | State::Ready) | None => Referent::Failed,
            }
        };
        let payload = template::render(&task.spec.payload, &output).map_err(|error| {
            OrchestratorError::invalid(&format!("tasks[{ordinal}].input"), error)
                .with_detail("key", &task.spec.key)
        })?;
        input::check_rendered(ordinal, &task.spec, &payload, self.planner.agents())?;
        Ok(payload)
    }

    fn task_ref(&self, ordinal: usize) -> TaskRef {
        TaskRef { plan_id: self.plan.plan_id, ordinal }
    }

    /// The plan ends: what runs and what waits ends with it.
    fn end_the_rest(&self, states: &[State], progress: &[Progress], error: &OrchestratorError) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (ordinal, state) in states.iter().enumerate() {
            let result = match state {
                State::Done(..) | State::Failed => continue,
                // The plan's own time ran out under it: that is its failure too.
                State::Ready if error.code == OrchestratorErrorCode::Timeout => Err(error.clone()),
                State::Ready | State::Waiting => Err(ended_before_it()),
            };
            entries.extend(progress[ordinal].end(self.task_ref(ordinal), &result));
        }
        entries
    }

    fn timed_out(&self, progress: &[Progress]) -> OrchestratorError {
        let message = match (&self.plan.tasks[..], progress) {
            ([only], [progress]) if progress.is_handed_over() => {
                format!("agent `{}` did not end within the time the caller gave", only.spec.agent)
            }
            ([only], _) => {
                format!(
                    "agent `{}` had no place for the task within the time the caller gave",
                    only.spec.agent
                )
            }
            _ => "the plan did not end within the time the caller gave".into(),
        };
        OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
    }

    /// Somebody ended the plan. A caller that leaves when its time is up has not changed its mind.
    fn abandoned(&self, error: OrchestratorError, progress: &[Progress]) -> OrchestratorError {
        if self.context.remaining() == Some(Duration::ZERO) { self.timed_out(progress) } else { error }
    }

    /// Whether the plan is to be ended before its tasks have.
    fn is_over(&self) -> bool {
        self.stop.is_asked() || self.context.remaining() == Some(Duration::ZERO)
    }
}

/// The agents that a plan can go on with, by what the journal knows of it. With each goes the first task that there is for
/// it.
pub(crate) fn first_agents(plan: &Plan, graph: &Graph) -> Vec<(AgentName, usize)> {
    agents_of(plan, ready(graph, &known_states(plan)))
}

/// The agents of some tasks. With each goes the first of them.
fn agents_of(plan: &Plan, ordinals: impl IntoIterator<Item = usize>) -> Vec<(AgentName, usize)> {
    let mut agents: Vec<(AgentName, usize)> = Vec::new();
    for ordinal in ordinals {
        let agent = &plan.tasks[ordinal].spec.agent;
        if agents.iter().all(|(known, _)| known != agent) {
            agents.push((agent.clone(), ordinal));
        }
    }
    agents
}

/// What the journal knows of the tasks: nothing of a new plan.
fn known_states(plan: &Plan) -> Vec<State> {
    let known = |task: &Task| match &task.output {
        Some(output) => State::Done(output.data.clone(), output.finish_reason()),
        None if task.status.is_terminal() => State::Failed,
        None => State::Waiting,
    };
    plan.tasks.iter().map(known).collect()
}

/// The tasks that wait for no other any more and have not been taken up yet.
fn ready(graph: &Graph, states: &[State]) -> Vec<usize> {
    let done = |ordinal: &usize| matches!(states[*ordinal], State::Done(..) | State::Failed);
    let waiting = states.iter().enumerate().filter(|(_, state)| matches!(state, State::Waiting));
    waiting
        .map(|(ordinal, _)| ordinal)
        .filter(|ordinal| graph.dependencies(*ordinal).iter().all(done))
        .collect()
}

/// The plan's answer: that of its last task, if that gave one.
fn output(states: &[State]) -> PlanOutput {
    match states.last() {
        Some(State::Done(answer, finish_reason)) => {
            PlanOutput { text: Some(answer.to_text()), finish_reason: finish_reason.clone() }
        }
        Some(State::Failed | State::Waiting | State::Ready) | None => PlanOutput::default(),
    }
}

/// The entries that end every task of a plan that can't be run.
pub(crate) fn cancel_tasks(plan: &Plan) -> Vec<Entry> {
    let open = plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal());
    open.flat_map(|(ordinal, task)| {
        let task_ref = TaskRef { plan_id: plan.plan_id, ordinal };
        Progress::of(task).end(task_ref, &Err(ended_before_it()))
    })
    .collect()
}

/// The entries that end every task of a plan that is given up because of what its run did: the tasks that ran or could have
/// run fail with `error`, the others are cancelled.
pub(crate) fn fail_tasks(plan: &Plan, error: &OrchestratorError) -> Vec<Entry> {
    let graph = Graph::of_accepted(&specs_of(plan)).ok();
    let is_done = |ordinal: &usize| plan.tasks[*ordinal].status.is_terminal();
    let could_run =
        |ordinal| graph.as_ref().is_none_or(|graph| graph.dependencies(ordinal).iter().all(is_done));
    let open = plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal());
    open.flat_map(|(ordinal, task)| {
        let fails = task.dispatched_at.is_some() || could_run(ordinal);
        let result = Err(if fails { error.clone() } else { ended_before_it() });
        Progress::of(task).end(TaskRef { plan_id: plan.plan_id, ordinal }, &result)
    })
    .collect()
}

fn ended_before_it() -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Cancelled, "the plan ended before this task did")
}

pub(crate) fn terminal_status(error: Option<&OrchestratorError>) -> PlanStatus {
    match error.map(|error| error.code) {
        None => PlanStatus::Succeeded,
        Some(OrchestratorErrorCode::Cancelled) => PlanStatus::Cancelled,
        Some(_) => PlanStatus::Failed,
    }
}

pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
