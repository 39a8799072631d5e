//! Runs one task: hands it to the executor and turns what the executor tells into journal entries.

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    plan::{AttemptOutcome, Task, TaskStatus},
};
use phoenix_platform::{
    RequestContext,
    client::{PeerChannel, call_error},
    server::MAX_MESSAGE_BYTES,
};
use phoenix_proto::{
    InvalidField,
    action::json_text,
    executor::{
        AttemptFailed, AttemptStarted, ExecuteTaskRequest, ExecuteTaskResponse, TaskFinished,
        execute_task_response::Event, executor_service_client::ExecutorServiceClient, task_finished,
    },
    required, required_timestamp,
};

use crate::{
    agent_health::{Admitted, HealthView},
    store::{Entry, Journal, JournalError, TaskRef},
};

/// Runs tasks on the executor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskRunner {
    executor: ExecutorServiceClient<PeerChannel>,
    journal: Journal,
    health: HealthView,
}

/// How a task ended. Its entries up to the last attempt are on their way to the journal; these are the rest.
#[derive(Debug)]
pub struct TaskEnd {
    /// The agent's answer, or why there is none.
    pub result: Result<ActionResult, OrchestratorError>,
    /// What is still to be made durable, in order.
    pub entries: Vec<Entry>,
}

impl TaskRunner {
    /// Runs tasks on the service behind `executor`.
    #[must_use]
    pub fn new(executor: PeerChannel, journal: Journal, health: HealthView) -> Self {
        let executor = ExecutorServiceClient::new(executor)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { executor, journal, health }
    }

    /// A run of the task at `task`, to be driven.
    #[must_use]
    pub const fn start(&self, task: TaskRef) -> TaskRun<'_> {
        TaskRun { runner: self, task, open_attempt: None }
    }
}

fn request(task: &Task, plan_id: PlanId, plan_context: &str, admitted: Admitted) -> ExecuteTaskRequest {
    ExecuteTaskRequest {
        plan_id: plan_id.to_string(),
        task_id: task.task_id.to_string(),
        agent: task.spec.agent.to_string(),
        action: task.spec.action.clone(),
        context: plan_context.into(),
        payload_json: json_text(&task.spec.payload),
        idempotency_key: task.task_id.to_string(),
        first_attempt: task.attempts.last().map_or(1, |attempt| attempt.number + 1),
        probe_lease: admitted.probe_lease,
    }
}

/// The executor closed the stream without a word about the task's end.
fn vanished() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::AgentUnavailable,
        "the executor stopped while the task ran; try again shortly",
    )
    .with_retry_after(phoenix_platform::client::UNREACHABLE_RETRY_AFTER)
}

fn malformed(invalid: &InvalidField) -> OrchestratorError {
    OrchestratorError::internal(format!("the executor sent an invalid message: {invalid}"))
}

enum Step {
    Goes,
    Ended(TaskEnd),
}

/// One task on its way through the executor.
#[derive(Debug)]
pub struct TaskRun<'a> {
    runner: &'a TaskRunner,
    task: TaskRef,
    /// The attempt that runs now.
    open_attempt: Option<u32>,
}

impl TaskRun<'_> {
    /// Runs `task` until the executor says how it ended. Dropping the future cancels the task there; [`Self::end`] then
    /// says what is left to write.
    ///
    /// # Errors
    /// Only when the journal is closed.
    pub async fn drive(
        &mut self,
        task: &Task,
        plan_context: &str,
        admitted: Admitted,
        context: &RequestContext,
    ) -> Result<TaskEnd, JournalError> {
        self.runner.journal.note(Entry::TaskDispatched { task: self.task, at: Timestamp::now() }).await?;
        let request = context.request(request(task, self.task.plan_id, plan_context, admitted));
        let mut events = match self.runner.executor.clone().execute_task(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(self.end(Err(call_error("the executor", &status)))),
        };
        loop {
            match events.message().await {
                Ok(Some(ExecuteTaskResponse { event })) => match self.take(event).await? {
                    Step::Goes => {}
                    Step::Ended(end) => return Ok(end),
                },
                Ok(None) => return Ok(self.end(Err(vanished()))),
                Err(status) => return Ok(self.end(Err(call_error("the executor", &status)))),
            }
        }
    }

    async fn take(&mut self, event: Option<Event>) -> Result<Step, JournalError> {
        let read = match event {
            Some(Event::AttemptStarted(started)) => self.attempt_started(started).map(Some),
            Some(Event::AttemptFailed(failed)) => self.attempt_failed(failed).map(Some),
            Some(Event::Finished(finished)) => return Ok(Step::Ended(self.finished(finished))),
            // A step that this version does not know yet.
            None => Ok(None),
        };
        match read {
            Ok(Some(entry)) => self.runner.journal.note(entry).await.map(|()| Step::Goes),
            Ok(None) => Ok(Step::Goes),
            Err(invalid) => Ok(Step::Ended(self.end(Err(malformed(&invalid))))),
        }
    }

    fn attempt_started(&mut self, started: AttemptStarted) -> Result<Entry, InvalidField> {
        let AttemptStarted { attempt, started_at, worker } = started;
        self.open_attempt = Some(attempt);
        let at = required_timestamp("started_at", started_at)?;
        Ok(Entry::AttemptStarted { task: self.task, number: attempt, at, worker })
    }

    fn attempt_failed(&mut self, failed: AttemptFailed) -> Result<Entry, InvalidField> {
        let AttemptFailed { attempt, ended_at, error_class, message, stderr_tail, retry_in_ms } = failed;
        self.open_attempt = None;
        let class = FailureClass::from_name(&error_class)
            .ok_or_else(|| InvalidField::new("error_class", "is not a failure class"))?;
        Ok(Entry::AttemptEnded {
            task: self.task,
            number: attempt,
            at: required_timestamp("ended_at", ended_at)?,
            outcome: AttemptOutcome::Failed { class, message, stderr_tail },
            retried: retry_in_ms.is_some(),
        })
    }

    fn finished(&mut self, finished: TaskFinished) -> TaskEnd {
        let TaskFinished { attempts: _, ended_at: _, result, health } = finished;
        if let Some(health) = health {
            self.runner.health.learn(health);
        }
        let result = match required("result", result) {
            Ok(task_finished::Result::Output(output)) => {
                ActionResult::try_from(output).map_err(|invalid| malformed(&invalid))
            }
            Ok(task_finished::Result::Error(error)) => Err(error.into()),
            Err(invalid) => Err(malformed(&invalid)),
        };
        self.end(result)
    }

    /// Ends the task with `result`, whatever the executor would still have said.
    pub fn end(&mut self, result: Result<ActionResult, OrchestratorError>) -> TaskEnd {
        let entries = end_entries(self.task, self.open_attempt.take(), &result);
        TaskEnd { result, entries }
    }
}

/// The last entries of a task: of the attempt that was still open, and of the task itself.
fn end_entries(
    task: TaskRef,
    open_attempt: Option<u32>,
    result: &Result<ActionResult, OrchestratorError>,
) -> Vec<Entry> {
    let at = Timestamp::now();
    let (status, outcome) = match result {
        Ok(_) => (TaskStatus::Succeeded, AttemptOutcome::Succeeded),
        Err(error) if error.code == OrchestratorErrorCode::Cancelled => {
            (TaskStatus::Cancelled, AttemptOutcome::Cancelled)
        }
        Err(_) => (TaskStatus::DeadLettered, AttemptOutcome::Cancelled),
    };
    let attempt =
        open_attempt.map(|number| Entry::AttemptEnded { task, number, at, outcome, retried: false });
    let ended = Entry::TaskEnded { task, status, at, result: result.clone() };
    attempt.into_iter().chain([ended]).collect()
}
