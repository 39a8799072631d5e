//! Dispatch of one task: sends it to the executor and turns the executor's messages into journal entries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    json::Object,
    plan::{AttemptOutcome, Task},
    retry::RetryPolicy,
    usage::ModelCall,
};
use phoenix_platform::{
    RequestContext,
    catalogs::ExecutorPeer,
    client::{UNREACHABLE_RETRY_AFTER, call_error, was_sent},
    multiplex::ResponseStream,
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
    agent_health::{HealthPermit, HealthView},
    deps::Deps,
    live::Recorder,
    plan_metrics::{AttemptMetricsGuard, PlanMetricsGuard},
    plan_run::{
        progress::{Failure, TaskProgress},
        recording::OutputRecording,
    },
    store::{entry::Entry, error::JournalError, task_ref::TaskRef},
    usage_metrics::record_calls,
};

/// A task to dispatch.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch<'a> {
    /// The executor that gets the task.
    pub(crate) executor: &'a Arc<ExecutorPeer>,
    /// Metrics of the task's plan.
    pub(crate) plan: &'a PlanMetricsGuard,
    /// Records what the task says before it ends.
    pub(crate) output: &'a Recorder,
    /// Whether that is journaled, too.
    pub(crate) records_output: bool,
    pub(crate) task: &'a Task,
    /// The task's identity in the journal.
    pub(crate) task_ref: TaskRef,
    /// Input with all references resolved.
    pub(crate) payload: &'a Object,
    /// Context that the plan's caller gave for agents.
    pub(crate) context: &'a str,
    /// When the planner repeats an attempt itself, the agent's policy.
    pub(crate) retry: Option<&'a RetryPolicy>,
}

/// Outcome of a dispatch.
#[derive(Debug)]
pub(crate) enum DispatchOutcome {
    /// The executor reported the end of the task.
    Ended(Result<ActionResult, OrchestratorError>),
    /// The executor was unreachable, disconnected, or does not offer the agent any more. The task may be dispatched again.
    Interrupted {
        /// Error of the task if it is not dispatched again.
        error: OrchestratorError,
        /// When the executor last sent a message about the task, if it did.
        heard_at: Option<Instant>,
    },
    /// The executor was at capacity and started nothing. The task may be dispatched again.
    AtCapacity,
    /// The attempt failed; the next one is to follow after this pause.
    Retry(Duration),
}

/// Dispatches a task and follows it until the executor reports its end. Dropping the future cancels the task at the executor;
/// [`TaskProgress::end`] then returns the entries that are left to write.
///
/// # Errors
/// Only when the journal is closed.
pub(crate) async fn dispatch(
    deps: &Deps,
    dispatch: Dispatch<'_>,
    progress: &TaskProgress,
    permit: HealthPermit,
    context: &RequestContext,
) -> Result<DispatchOutcome, JournalError> {
    let task = dispatch.task_ref;
    // Recorded once, however often the task is dispatched again.
    if !progress.mark_dispatched() {
        deps.journal.append(Entry::TaskDispatched { task, at: Timestamp::now() }).await?;
    }
    dispatch.plan.dispatched();
    let (first, attempts) = (progress.next_number(), progress.attempts());
    let _in_flight = dispatch.executor.start(&dispatch.task.spec.agent);
    let calls = dispatch.executor.calls();
    let mut events = calls.call::<ExecuteTask>(context, request(&dispatch, progress, permit));
    // Dropped with this future.
    let mut running = None;
    let mut heard_at = None;
    let mut recording = OutputRecording::new(&deps.journal, task, dispatch.records_output);
    loop {
        let event = match next_message(&mut events, &mut recording).await? {
            Ok(Some(ExecuteTaskResponse { event })) => event,
            Ok(None) => return Ok(DispatchOutcome::Interrupted { error: disconnected(), heard_at }),
            Err(status) => {
                // An executor that ends the call itself has reported every attempt before.
                if was_sent(&status) {
                    progress.dispatch_broke(first, attempts);
                }
                return Ok(call_failed(&status, heard_at));
            }
        };
        heard_at = Some(Instant::now());
        measure_attempt(&mut running, dispatch.plan, event.as_ref());
        let entry = match event {
            Some(Event::AttemptStarted(started)) => attempt_started(&dispatch, progress, started),
            Some(Event::AttemptFailed(failed)) => attempt_failed(&dispatch, progress, failed),
            Some(Event::Finished(finished)) => {
                return Ok(DispatchOutcome::Ended(task_result(&deps.health, finished)));
            }
            Some(Event::Output(output)) => {
                let recorded = recording.is_wanted().then(|| output.clone());
                if let Err(invalid) = dispatch.output.output(&dispatch.task.spec.key, output) {
                    return Ok(DispatchOutcome::Ended(Err(malformed(&invalid))));
                }
                if let Some(output) = recorded {
                    recording.push(output).await?;
                }
                continue;
            }
            Some(Event::Progress(progress)) => {
                dispatch.output.progress(&dispatch.task.spec.key, progress);
                continue;
            }
            // An event of a newer executor.
            None => continue,
        };
        match entry {
            Ok(entry) => deps.journal.append(entry).await?,
            Err(invalid) => return Ok(DispatchOutcome::Ended(Err(malformed(&invalid)))),
        }
    }
}

/// The next message about a task. What the task said before is journaled first, unless the message is more of it; while there is no
/// message, it is journaled when it is due.
async fn next_message(
    events: &mut ResponseStream<ExecuteTaskResponse>,
    recording: &mut OutputRecording<'_>,
) -> Result<Result<Option<ExecuteTaskResponse>, Status>, JournalError> {
    loop {
        tokio::select! {
            biased;
            () = recording.is_due() => recording.flush().await?,
            message = events.message() => {
                if !matches!(&message, Ok(Some(ExecuteTaskResponse { event: Some(Event::Output(_)) }))) {
                    recording.flush().await?;
                }
                return Ok(message);
            }
        }
    }
}

fn request(dispatch: &Dispatch<'_>, progress: &TaskProgress, permit: HealthPermit) -> ExecuteTaskRequest {
    let Dispatch { output, task, task_ref, payload, context, .. } = dispatch;
    let plan_id: PlanId = task_ref.plan_id;
    ExecuteTaskRequest {
        plan_id: plan_id.to_string(),
        task_id: task.task_id.to_string(),
        agent: task.spec.agent.to_string(),
        action: task.spec.action.clone(),
        context: (*context).into(),
        payload_json: payload.to_string(),
        idempotency_key: task.task_id.to_string(),
        first_attempt: progress.next_number(),
        probe_lease: permit.probe_lease,
        earlier_attempts: Some(progress.attempts()),
        with_output: output.is_wanted(),
        reserved_attempts: progress.reserved(),
    }
}

fn task_result(health: &HealthView, finished: TaskFinished) -> Result<ActionResult, OrchestratorError> {
    let TaskFinished { attempts: _, ended_at: _, result, health: snapshot } = finished;
    if let Some(snapshot) = snapshot {
        health.learn(snapshot);
    }
    match required("result", result).map_err(|invalid| malformed(&invalid))? {
        task_finished::Result::Output(output) => {
            let output = ActionResult::try_from(output).map_err(|invalid| malformed(&invalid))?;
            record_calls(&ModelCall::in_metadata(&output.metadata));
            Ok(output)
        }
        task_finished::Result::Error(error) => Err(error.into()),
    }
}

/// Outcome of a failed call. A task whose executor was unreachable, disconnected, at capacity or without the agent may be
/// dispatched again;
/// every other failure ends the task.
fn call_failed(status: &Status, heard_at: Option<Instant>) -> DispatchOutcome {
    let error = call_error("the executor", status);
    match error.code {
        // An executor that has restarted without the agent does not know it. The agent may return, here or elsewhere.
        OrchestratorErrorCode::Unavailable | OrchestratorErrorCode::PlanningFailed => {
            DispatchOutcome::Interrupted { error, heard_at }
        }
        OrchestratorErrorCode::Overloaded => DispatchOutcome::AtCapacity,
        _ => DispatchOutcome::Ended(Err(error)),
    }
}

/// Error of a task whose executor closed the stream before it reported the task's end.
fn disconnected() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::Unavailable,
        "the executor stopped while the task ran; try again shortly",
    )
    .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

fn malformed(invalid: &InvalidField) -> OrchestratorError {
    OrchestratorError::internal(format!("the executor sent an invalid message: {invalid}"))
}

/// Measures attempts by the times that the executor reports.
fn measure_attempt<'p>(
    running: &mut Option<AttemptMetricsGuard<'p>>,
    plan: &'p PlanMetricsGuard,
    event: Option<&Event>,
) {
    let (starts, at) = match event {
        Some(Event::AttemptStarted(AttemptStarted { started_at, .. })) => (true, started_at),
        Some(Event::AttemptFailed(AttemptFailed { ended_at, .. })) => (false, ended_at),
        Some(Event::Finished(TaskFinished { ended_at, .. })) => (false, ended_at),
        Some(Event::Output(_) | Event::Progress(_)) | None => return,
    };
    // The conversion of the message rejects an invalid time.
    let Ok(Some(at)) = timestamp("at", *at) else { return };
    if let Some(attempt) = running.take() {
        attempt.ended(at);
    }
    if starts {
        *running = Some(plan.attempt_started(at));
    }
}

fn attempt_started(
    dispatch: &Dispatch<'_>,
    progress: &TaskProgress,
    started: AttemptStarted,
) -> Result<Entry, InvalidField> {
    let AttemptStarted { attempt, started_at, worker } = started;
    let at = required_timestamp("started_at", started_at)?;
    progress.attempt_started(attempt, at, dispatch.plan);
    dispatch.output.attempt_started(&dispatch.task.spec.key, attempt);
    Ok(Entry::AttemptStarted { task: dispatch.task_ref, number: attempt, at, worker })
}

fn attempt_failed(
    dispatch: &Dispatch<'_>,
    progress: &TaskProgress,
    failed: AttemptFailed,
) -> Result<Entry, InvalidField> {
    let AttemptFailed {
        attempt,
        ended_at,
        error_class,
        message,
        stderr_tail,
        retry_in_ms,
        model_calls,
        is_final,
    } = failed;
    let model_calls: Vec<ModelCall> = model_calls.into_iter().map(Into::into).collect();
    record_calls(&model_calls);
    progress.attempt_ended();
    let class = FailureClass::from_name(&error_class)
        .ok_or_else(|| InvalidField::new("error_class", "is not a failure class"))?;
    let is_repeated = dispatch
        .retry
        .is_some_and(|policy| class.is_retried() && !is_final && policy.allows_another(progress.attempts()));
    if dispatch.retry.is_some() {
        progress.failed_with(Failure { model_calls: model_calls.clone(), is_repeated });
    }
    Ok(Entry::AttemptEnded {
        task: dispatch.task_ref,
        number: attempt,
        at: required_timestamp("ended_at", ended_at)?,
        outcome: AttemptOutcome::Failed { class, message, stderr_tail, model_calls },
        retried: retry_in_ms.is_some() || is_repeated,
    })
}
