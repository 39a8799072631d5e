//! Runs one task: hands it to the executor and turns what the executor tells into journal entries.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    json::Object,
    plan::{AttemptOutcome, Task, TaskStatus},
};
use phoenix_platform::{
    RequestContext,
    client::{PeerChannel, UNREACHABLE_RETRY_AFTER, call_error, was_sent},
    multiplex::MultiplexClient,
};
use phoenix_proto::{
    ExecuteTask, InvalidField,
    executor::{
        AttemptFailed, AttemptStarted, ExecuteTaskRequest, ExecuteTaskResponse, TaskFinished,
        execute_task_response::Event, task_finished,
    },
    required, required_timestamp, timestamp,
};
use tonic::Status;

use crate::{
    agent_health::{Admitted, HealthView},
    journal::Journal,
    metrics::{CountedAttempt, CountedPlan},
    store::{Entry, JournalError, TaskRef},
};

/// A task that took its executor down so often is not handed over again.
pub const MAX_INTERRUPTIONS: u32 = 5;

/// Numbers that each planner has for the attempts of a task, at least. One number for all of them, so that agents may be given
/// other retries between two planners.
const NUMBERS_OF_EACH: u32 = 100;

/// Attempts of one handover for which numbers are kept free, at most.
const MOST_ATTEMPTS: u32 = 10_000;

/// Runs tasks on the executor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskRunner {
    executor: MultiplexClient,
    journal: Journal,
    health: HealthView,
}

/// How far a task has come, to be looked at also when nobody drives it any more.
#[derive(Debug, Default)]
pub struct Progress {
    /// The attempt that runs now; 0 for none.
    open_attempt: AtomicU32,
    /// Handovers that ended without a word about whether an attempt had begun.
    lost: AtomicU32,
    /// The highest number of an attempt so far.
    attempts: AtomicU32,
    /// How many there were.
    made: AtomicU32,
    /// The highest number that earlier planners knew of.
    earlier: u32,
    /// The lowest number that no attempt can have had.
    free: AtomicU32,
    /// Attempts that one handover may make.
    max_attempts: u32,
    /// Since when it could run.
    ready: OnceLock<Timestamp>,
    /// Whether the executor was asked to run it, and the journal knows.
    handed_over: AtomicBool,
}

/// What became of handing a task to the executor.
#[derive(Debug)]
pub enum Driven {
    /// The executor said how the task ended.
    Ended(Result<ActionResult, OrchestratorError>),
    /// The executor could not be reached, or went away. The task may be handed over again.
    Interrupted {
        /// What a caller is told if it is not.
        error: OrchestratorError,
        /// When the executor last said something about the task, if it did.
        heard_at: Option<Instant>,
    },
    /// The executor had no place for it: nothing was started. The task may be handed over again.
    Refused,
}

/// A task as it is handed over.
#[derive(Debug, Clone)]
pub struct Handover<'a> {
    /// Its plan, as far as it is measured.
    pub plan: &'a CountedPlan,
    /// The task.
    pub task: &'a Task,
    /// Its place in the journal.
    pub task_ref: TaskRef,
    /// Its input, with every reference replaced.
    pub payload: &'a Object,
    /// What the plan's caller wants agents to know.
    pub context: &'a str,
}

impl Progress {
    /// A task of which `task` is known.
    #[must_use]
    pub fn of(task: &Task) -> Self {
        let attempts = task.attempts.iter().map(|attempt| attempt.number).max().unwrap_or(0);
        Self {
            attempts: AtomicU32::new(attempts),
            made: AtomicU32::new(u32::try_from(task.attempts.len()).unwrap_or(u32::MAX)),
            earlier: attempts,
            free: AtomicU32::new(attempts.saturating_add(1)),
            handed_over: AtomicBool::new(task.dispatched_at.is_some()),
            ..Self::default()
        }
    }

    /// The same of a task that makes up to `max_attempts` attempts, and whose plan was taken over so often.
    ///
    /// What the planners before made of it need not have reached the journal: each may have handed the task over up to
    /// [`MAX_INTERRUPTIONS`] times. So every planner has numbers of its own, from 1, 101, 201 and so on: an agent never sees one
    /// twice, and nothing has to be durable before an attempt begins.
    #[must_use]
    pub fn numbered(mut self, takeovers: u32, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts.clamp(1, MOST_ATTEMPTS);
        if takeovers > 0 {
            let of_each = (self.max_attempts * MAX_INTERRUPTIONS).max(NUMBERS_OF_EACH);
            let before = takeovers.saturating_mul(of_each);
            // More than that only after planners that gave the agent more attempts.
            let before = if self.earlier > before { self.earlier.saturating_add(of_each) } else { before };
            self.free = AtomicU32::new(before.saturating_add(1));
        }
        self
    }

    /// Attempts so far.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    /// How often the agent may have been started: attempts that are known of, and handovers that were lost.
    #[must_use]
    pub fn beginnings(&self) -> u32 {
        self.made() + self.lost.load(Ordering::Relaxed)
    }

    /// The number that the next attempt gets.
    fn free_number(&self) -> u32 {
        self.free.load(Ordering::Relaxed)
    }

    /// A handover that began with the number `first`, when `made` attempts had been made, broke on its way: whatever it may
    /// have begun since its last word has had a number.
    fn broke(&self, first: u32, made: u32) {
        if self.made() == made {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.free.fetch_max(first.saturating_add(self.max_attempts), Ordering::Relaxed);
    }

    /// Nothing that it waits for stands in its way any more, since that moment.
    pub fn became_ready(&self, since: Timestamp) {
        let _ = self.ready.set(since);
    }

    /// Whether the executor was asked to run it.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// An attempt began, of which its plan hears when it is the first.
    fn started(&self, attempt: u32, at: Timestamp, plan: &CountedPlan) {
        self.open_attempt.store(attempt, Ordering::Relaxed);
        let before = self.attempts.fetch_max(attempt, Ordering::Relaxed);
        if before < attempt {
            self.made.fetch_add(1, Ordering::Relaxed);
            self.free.fetch_max(attempt.saturating_add(1), Ordering::Relaxed);
        }
        if let (true, Some(ready)) = (before == self.earlier, self.ready.get()) {
            plan.task_began(*ready, at);
        }
    }

    /// The entry that closes the attempt that runs, if one does, as ended from outside.
    pub fn close(&self, task: TaskRef, outcome: AttemptOutcome, retried: bool) -> Option<Entry> {
        let number = self.open_attempt.swap(0, Ordering::Relaxed);
        (number > 0).then(|| Entry::AttemptEnded { task, number, at: Timestamp::now(), outcome, retried })
    }

    /// The last entries of a task: of the attempt that was still open, and of the task itself.
    pub fn end(&self, task: TaskRef, result: &Result<ActionResult, OrchestratorError>) -> Vec<Entry> {
        let (status, outcome) = match result {
            Ok(_) => (TaskStatus::Succeeded, AttemptOutcome::Succeeded),
            Err(error) if error.code == OrchestratorErrorCode::Cancelled => {
                (TaskStatus::Cancelled, AttemptOutcome::Cancelled)
            }
            Err(_) => (TaskStatus::DeadLettered, AttemptOutcome::Cancelled),
        };
        let attempt = self.close(task, outcome, false);
        let ended = Entry::TaskEnded { task, status, at: Timestamp::now(), result: result.clone() };
        attempt.into_iter().chain([ended]).collect()
    }
}

impl TaskRunner {
    /// Runs tasks on the service behind `executor`.
    #[must_use]
    pub fn new(executor: PeerChannel, journal: Journal, health: HealthView) -> Self {
        Self { executor: MultiplexClient::new(executor), journal, health }
    }

    /// Hands a task over and follows it until the executor says how it ended. Dropping the future cancels it there;
    /// [`Progress::end`] then says what is left to write.
    ///
    /// # Errors
    /// Only when the journal is closed.
    pub async fn drive(
        &self,
        handover: Handover<'_>,
        progress: &Progress,
        admitted: Admitted,
        context: &RequestContext,
    ) -> Result<Driven, JournalError> {
        let task = handover.task_ref;
        // Once, however often the executor goes away or has no place.
        if !progress.handed_over.swap(true, Ordering::Relaxed) {
            self.journal.note(Entry::TaskDispatched { task, at: Timestamp::now() }).await?;
        }
        handover.plan.handed_over();
        let (first, made) = (progress.free_number(), progress.made());
        let request = request(&handover, progress, admitted);
        let mut events = self.executor.call::<ExecuteTask>(context, request);
        // Ends with whatever ends this call.
        let mut running = None;
        let mut heard_at = None;
        loop {
            let event = match events.message().await {
                Ok(Some(ExecuteTaskResponse { event })) => event,
                Ok(None) => return Ok(Driven::Interrupted { error: vanished(), heard_at }),
                Err(status) => {
                    // An executor that ends the call itself has told of every attempt before.
                    if was_sent(&status) {
                        progress.broke(first, made);
                    }
                    return Ok(broken(&status, heard_at));
                }
            };
            heard_at = Some(Instant::now());
            time_attempt(&mut running, handover.plan, event.as_ref());
            let entry = match event {
                Some(Event::AttemptStarted(started)) => attempt_started(&handover, progress, started),
                Some(Event::AttemptFailed(failed)) => attempt_failed(task, progress, failed),
                Some(Event::Finished(finished)) => return Ok(Driven::Ended(self.finished(finished))),
                // A step that this version does not know yet.
                None => continue,
            };
            match entry {
                Ok(entry) => self.journal.note(entry).await?,
                Err(invalid) => return Ok(Driven::Ended(Err(malformed(&invalid)))),
            }
        }
    }

    fn finished(&self, finished: TaskFinished) -> Result<ActionResult, OrchestratorError> {
        let TaskFinished { attempts: _, ended_at: _, result, health } = finished;
        if let Some(health) = health {
            self.health.learn(health);
        }
        match required("result", result).map_err(|invalid| malformed(&invalid))? {
            task_finished::Result::Output(output) => {
                ActionResult::try_from(output).map_err(|invalid| malformed(&invalid))
            }
            task_finished::Result::Error(error) => Err(error.into()),
        }
    }
}

fn request(handover: &Handover<'_>, progress: &Progress, admitted: Admitted) -> ExecuteTaskRequest {
    let Handover { plan: _, task, task_ref, payload, context } = handover;
    let plan_id: PlanId = task_ref.plan_id;
    ExecuteTaskRequest {
        plan_id: plan_id.to_string(),
        task_id: task.task_id.to_string(),
        agent: task.spec.agent.to_string(),
        action: task.spec.action.clone(),
        context: (*context).into(),
        payload_json: payload.to_string(),
        idempotency_key: task.task_id.to_string(),
        first_attempt: progress.free_number(),
        probe_lease: admitted.probe_lease,
        earlier_attempts: Some(progress.made()),
    }
}

/// A call that failed. When the executor could not be reached, went away or had no place, the task may be handed over
/// again; anything else it decided on ends the task.
fn broken(status: &Status, heard_at: Option<Instant>) -> Driven {
    let error = call_error("the executor", status);
    match error.code {
        OrchestratorErrorCode::Unavailable => Driven::Interrupted { error, heard_at },
        OrchestratorErrorCode::Overloaded => Driven::Refused,
        _ => Driven::Ended(Err(error)),
    }
}

/// The executor closed the stream without a word about the task's end.
fn vanished() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::Unavailable,
        "the executor stopped while the task ran; try again shortly",
    )
    .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

fn malformed(invalid: &InvalidField) -> OrchestratorError {
    OrchestratorError::internal(format!("the executor sent an invalid message: {invalid}"))
}

/// Times attempts by what the executor tells of them.
fn time_attempt<'p>(running: &mut Option<CountedAttempt<'p>>, plan: &'p CountedPlan, event: Option<&Event>) {
    let (begins, at) = match event {
        Some(Event::AttemptStarted(AttemptStarted { started_at, .. })) => (true, started_at),
        Some(Event::AttemptFailed(AttemptFailed { ended_at, .. })) => (false, ended_at),
        Some(Event::Finished(TaskFinished { ended_at, .. })) => (false, ended_at),
        None => return,
    };
    // What can't be read is refused by whoever needs it more.
    let Ok(Some(at)) = timestamp("at", *at) else { return };
    if let Some(attempt) = running.take() {
        attempt.ended(at);
    }
    if begins {
        *running = Some(plan.attempt_began(at));
    }
}

fn attempt_started(
    handover: &Handover<'_>,
    progress: &Progress,
    started: AttemptStarted,
) -> Result<Entry, InvalidField> {
    let AttemptStarted { attempt, started_at, worker } = started;
    let at = required_timestamp("started_at", started_at)?;
    progress.started(attempt, at, handover.plan);
    Ok(Entry::AttemptStarted { task: handover.task_ref, number: attempt, at, worker })
}

fn attempt_failed(task: TaskRef, progress: &Progress, failed: AttemptFailed) -> Result<Entry, InvalidField> {
    let AttemptFailed { attempt, ended_at, error_class, message, stderr_tail, retry_in_ms } = failed;
    progress.open_attempt.store(0, Ordering::Relaxed);
    let class = FailureClass::from_name(&error_class)
        .ok_or_else(|| InvalidField::new("error_class", "is not a failure class"))?;
    Ok(Entry::AttemptEnded {
        task,
        number: attempt,
        at: required_timestamp("ended_at", ended_at)?,
        outcome: AttemptOutcome::Failed { class, message, stderr_tail },
        retried: retry_in_ms.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use phoenix_domain::{
        TaskId,
        plan::{Attempt, OnFailure, TaskSpec},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::PlanMeters;

    fn task() -> Task {
        Task {
            task_id: TaskId::generate(),
            spec: TaskSpec {
                key: "a".into(),
                agent: "model".parse().unwrap(),
                action: "do".into(),
                payload: phoenix_domain::json::Object::new(),
                depends_on: Vec::new(),
                on_failure: OnFailure::Fail,
            },
            status: TaskStatus::Queued,
            queued_at: Timestamp::now(),
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
            attempts: Vec::new(),
        }
    }

    /// A handover: attempts that it began, how many of them the planner heard of, and of those the journal.
    fn handover(max_attempts: u32) -> impl Strategy<Value = (u32, u32, u32)> {
        (0..=max_attempts).prop_flat_map(|begun| {
            (0..=begun).prop_flat_map(move |heard| (Just(begun), Just(heard), 0..=heard))
        })
    }

    /// What a planner gives the agent in attempts, and its handovers, one after the other.
    fn planner() -> impl Strategy<Value = (u32, Vec<(u32, u32, u32)>)> {
        (1u32..=20).prop_flat_map(|most| {
            (Just(most), prop::collection::vec(handover(most), 0..=MAX_INTERRUPTIONS as usize))
        })
    }

    proptest! {
        /// Whatever is lost on the way, and whoever goes on with the task.
        #[test]
        fn attempt_number_is_never_used_twice(
            planners in prop::collection::vec(planner(), 1..6)
        ) {
            let plan = CountedPlan::start(&PlanMeters::new());
            let (mut task, mut used) = (task(), HashSet::new());
            for (takeovers, (max_attempts, handovers)) in planners.into_iter().enumerate() {
                let progress = Progress::of(&task).numbered(u32::try_from(takeovers).unwrap(), max_attempts);
                let mut durable = true;
                for (begun, heard, known) in handovers {
                    let (first, made) = (progress.free_number(), progress.made());
                    for number in first..first + begun {
                        prop_assert!(used.insert(number), "{} again, by planner {}", number, takeovers);
                    }
                    for number in first..first + heard {
                        progress.started(number, Timestamp::now(), &plan);
                        // The journal knows nothing of what came after something that it does not know.
                        durable &= number < first + known;
                        if durable {
                            let (started_at, worker) = (Timestamp::now(), String::new());
                            task.attempts.push(Attempt { number, started_at, ended_at: None, outcome: None, worker });
                        }
                    }
                    progress.broke(first, made);
                }
            }
        }
    }
}
