//! One plan on its way: which tasks are ready, which run, and what the plan's end is.
//!
//! Every step is in the journal before a later one depends on it, so a run can begin from whatever the journal knows: a
//! plan that was just accepted and one whose planner died are run by the same code.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    graph::Graph,
    input,
    plan::{AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, Task},
    template,
};
use phoenix_platform::{RequestContext, metrics::record_counter};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::{
    execution::{Driven, Handover, Progress},
    metrics::{CountedPlan, REDISPATCHED},
    planner::{Answer, Planner},
    store::{Entry, JournalError, TaskRef},
};

/// A task that took its executor down so often is not handed over again.
const MAX_INTERRUPTIONS: u32 = 5;

/// The wait before a task is handed over again; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a caller who waits is kept waiting for an executor that went away in the middle.
const CALLER_PATIENCE: Duration = Duration::from_secs(10);

/// Who waits for the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// A caller, who would rather hear at once that nothing can be run.
    Caller,
    /// Nobody: the plan can wait until it can be run.
    Nobody,
}

/// Why a plan is ended before its tasks are.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: std::sync::Arc<std::sync::OnceLock<String>>,
}

impl Stop {
    /// Ends the plan as cancelled. The first reason counts.
    pub fn cancel(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
        self.token.cancel();
    }

    async fn cancelled(&self) -> OrchestratorError {
        self.token.cancelled().await;
        let reason = self.reason.get().map_or("the plan was cancelled", String::as_str);
        OrchestratorError::new(OrchestratorErrorCode::Cancelled, reason)
    }
}

/// One plan on its way.
pub(crate) struct Run {
    pub(crate) planner: Planner,
    pub(crate) plan: Plan,
    pub(crate) graph: Graph,
    pub(crate) context: RequestContext,
    pub(crate) stop: Stop,
    pub(crate) waits: Waits,
    pub(crate) counted: CountedPlan,
}

/// How a task ended, as far as those that wait for it are concerned.
enum State {
    Waiting,
    Running,
    /// Its answer, or null after a failure that the plan survives.
    Done(Value),
}

impl Run {
    /// Runs the plan, journals its end, and only then tells.
    pub(crate) async fn finish(self) -> Result<Answer, OrchestratorError> {
        let result = self.run().await;
        let elapsed_ms = self.counted.elapsed_ms();
        let agent = self.last_agent();
        match &result {
            Ok(_) => {
                self.counted.succeeded();
                tracing::info!(%agent, status = "succeeded", elapsed_ms, "plan ended");
            }
            Err(error) => {
                let status = terminal_status(Some(error));
                tracing::info!(%agent, status = status.as_str(), code = %error.code, elapsed_ms, "plan ended");
            }
        }
        let agent_time = self.counted.agent_time();
        result.map(|output| Answer { plan_id: self.plan.plan_id, output, agent, agent_time })
    }

    fn last_agent(&self) -> AgentName {
        let last = self.plan.tasks.last();
        last.map_or_else(|| self.planner.default_agent().clone(), |task| task.spec.agent.clone())
    }

    async fn run(&self) -> Result<String, OrchestratorError> {
        let progress: Vec<_> = self.plan.tasks.iter().map(Progress::of).collect();
        let (mut entries, result) = self.run_tasks(&progress).await?;
        entries.push(Entry::PlanEnded {
            plan_id: self.plan.plan_id,
            status: terminal_status(result.as_ref().err()),
            at: Timestamp::now(),
            result: result.clone(),
        });
        self.planner.journal().record(entries).await?;
        result
    }

    /// Runs tasks as they become ready. Gives the entries that are still to be written, and the plan's result.
    async fn run_tasks(
        &self,
        progress: &[Progress],
    ) -> Result<(Vec<Entry>, Result<String, OrchestratorError>), JournalError> {
        let mut states = self.known_states();
        let mut entries = Vec::new();
        let mut running = FuturesUnordered::new();
        let deadline = sleep_until(self.context.deadline);
        tokio::pin!(deadline);
        let failure = loop {
            for place in self.ready(&states) {
                states[place] = State::Running;
                progress[place].became_ready(self.ready_since(place));
                let payload = self.payload(place, &states);
                running.push(async move { (place, self.run_task(place, payload, &progress[place]).await) });
            }
            if running.is_empty() {
                break None;
            }
            // Nobody is told of a task's end before a later step is durable, so it need not be waited for.
            for entry in entries.drain(..) {
                self.planner.journal().note(entry).await?;
            }
            let (place, result) = tokio::select! {
                Some((place, ended)) = running.next() => (place, ended?),
                () = &mut deadline => break Some(self.timed_out()),
                error = self.stop.cancelled() => break Some(self.abandoned(error)),
            };
            entries.extend(progress[place].end(self.task_ref(place), &result));
            states[place] = match (result, self.plan.tasks[place].spec.on_failure) {
                (Ok(output), _) => State::Done(output.data),
                (Err(_), OnFailure::Continue) => State::Done(Value::Null),
                (Err(error), OnFailure::Fail) => {
                    states[place] = State::Done(Value::Null);
                    break Some(error);
                }
            };
        };
        // Cancels what still runs.
        drop(running);
        let Some(error) = failure else { return Ok((entries, Ok(self.output(&states)))) };
        entries.extend(self.end_the_rest(&states, progress, &error));
        Ok((entries, Err(error)))
    }

    /// What the journal knows of the tasks: nothing of a new plan.
    fn known_states(&self) -> Vec<State> {
        let known = |task: &Task| match &task.output {
            Some(output) => State::Done(output.data.clone()),
            None if task.status.is_terminal() => State::Done(Value::Null),
            None => State::Waiting,
        };
        self.plan.tasks.iter().map(known).collect()
    }

    fn ready(&self, states: &[State]) -> Vec<usize> {
        let done = |place: &usize| matches!(states[*place], State::Done(_));
        let waiting = states.iter().enumerate().filter(|(_, state)| matches!(state, State::Waiting));
        waiting
            .map(|(place, _)| place)
            .filter(|place| self.graph.dependencies(*place).iter().all(done))
            .collect()
    }

    /// Since when a task that is ready now has been: its plan's acceptance, or the end of what it waited for.
    fn ready_since(&self, place: usize) -> Timestamp {
        let waited = !self.graph.dependencies(place).is_empty();
        if waited { Timestamp::now() } else { self.counted.accepted_at() }
    }

    fn payload(&self, place: usize, states: &[State]) -> Result<Map<String, Value>, OrchestratorError> {
        let task = &self.plan.tasks[place];
        if self.plan.kind == PlanKind::Chat {
            return Ok(task.spec.payload.clone());
        }
        let output = |key: &str| {
            let place = self.plan.tasks.iter().position(|task| task.spec.key == key)?;
            match &states[place] {
                State::Done(value) => Some(value),
                State::Waiting | State::Running => None,
            }
        };
        let payload = template::render(&task.spec.payload, &output).map_err(|error| {
            OrchestratorError::invalid(&format!("tasks[{place}].input"), error)
                .with_detail("key", &task.spec.key)
        })?;
        input::check_filled(place, &task.spec, &payload, self.planner.agents())?;
        Ok(payload)
    }

    /// Runs one task to its end: again when the executor went away under it, for as long as whoever waits has patience.
    async fn run_task(
        &self,
        place: usize,
        payload: Result<Map<String, Value>, OrchestratorError>,
        progress: &Progress,
    ) -> Result<Result<ActionResult, OrchestratorError>, JournalError> {
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => return Ok(Err(error)),
        };
        let task = &self.plan.tasks[place];
        let task_ref = self.task_ref(place);
        let mut patience = Patience::new(self.waits, progress.beginnings());
        loop {
            let admitted = match self.planner.health().admit(&task.spec.agent, &self.context).await {
                Ok(admitted) => admitted,
                Err(error) => return Ok(Err(error)),
            };
            let handover = Handover {
                plan: &self.counted,
                task,
                task_ref,
                payload: &payload,
                context: &self.plan.context,
            };
            let error = match self.planner.runner().drive(handover, progress, admitted, &self.context).await?
            {
                Driven::Ended(result) => return Ok(result),
                Driven::Interrupted(error) => error,
            };
            if let Some(entry) = progress.close(task_ref, AttemptOutcome::Cancelled, true) {
                self.planner.journal().note(entry).await?;
            }
            match patience.another(progress.beginnings(), &error) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Ok(Err(error)),
            }
            record_counter(&REDISPATCHED, 1);
        }
    }

    fn task_ref(&self, ordinal: usize) -> TaskRef {
        TaskRef { plan_id: self.plan.plan_id, ordinal }
    }

    /// The plan ends: what runs and what waits ends with it.
    fn end_the_rest(&self, states: &[State], progress: &[Progress], error: &OrchestratorError) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (place, state) in states.iter().enumerate() {
            let result = match state {
                State::Done(_) => continue,
                // The plan's own time ran out under it: that is its failure too.
                State::Running if error.code == OrchestratorErrorCode::Timeout => Err(error.clone()),
                State::Running | State::Waiting => Err(OrchestratorError::new(
                    OrchestratorErrorCode::Cancelled,
                    "the plan ended before this task did",
                )),
            };
            entries.extend(progress[place].end(self.task_ref(place), &result));
        }
        entries
    }

    /// The plan's answer: that of its last task.
    fn output(&self, states: &[State]) -> String {
        match states.last() {
            Some(State::Done(Value::String(text))) => text.clone(),
            Some(State::Done(value)) => value.to_string(),
            Some(State::Waiting | State::Running) | None => String::new(),
        }
    }

    fn timed_out(&self) -> OrchestratorError {
        let message = match &self.plan.tasks[..] {
            [only] => format!("agent `{}` did not end within the time the caller gave", only.spec.agent),
            _ => "the plan did not end within the time the caller gave".into(),
        };
        OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
    }

    /// Somebody ended the plan. A caller that leaves when its time is up has not changed its mind.
    fn abandoned(&self, error: OrchestratorError) -> OrchestratorError {
        if self.context.remaining() == Some(Duration::ZERO) { self.timed_out() } else { error }
    }
}

/// How often a task is handed over again.
struct Patience {
    waits: Waits,
    since: Instant,
    beginnings: u32,
    interruptions: u32,
    wait: Duration,
}

impl Patience {
    fn new(waits: Waits, beginnings: u32) -> Self {
        Self { waits, since: Instant::now(), beginnings, interruptions: 0, wait: FIRST_WAIT }
    }

    /// The wait before the next handover; none when it is enough. `beginnings` tells whether the agent may have been
    /// started.
    fn another(&mut self, beginnings: u32, error: &OrchestratorError) -> Option<Duration> {
        if beginnings > self.beginnings {
            self.beginnings = beginnings;
            self.interruptions += 1;
            self.wait = FIRST_WAIT;
        }
        let patient = match self.waits {
            Waits::Nobody => true,
            // A caller is told at once that nothing can be started; what was started is seen through.
            Waits::Caller => {
                self.interruptions > 0
                    && error.code != OrchestratorErrorCode::Overloaded
                    && self.since.elapsed() < CALLER_PATIENCE
            }
        };
        if !patient || self.interruptions >= MAX_INTERRUPTIONS {
            return None;
        }
        let wait = self.wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Some(wait)
    }
}

pub(crate) fn terminal_status(error: Option<&OrchestratorError>) -> PlanStatus {
    match error.map(|error| error.code) {
        None => PlanStatus::Succeeded,
        Some(OrchestratorErrorCode::Cancelled) => PlanStatus::Cancelled,
        Some(_) => PlanStatus::Failed,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Names a plan in what its caller is told.
pub(crate) fn naming(plan_id: PlanId) -> impl Fn(OrchestratorError) -> OrchestratorError {
    move |error| error.with_detail("plan_id", plan_id)
}
