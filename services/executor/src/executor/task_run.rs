//! One task from its start to its end, through its attempts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    ActionLimits, FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::{API_VERSION, ActionMeta, ActionRequest, ActionResult},
    health::Outcome,
    questions::{self, Questions},
};
use phoenix_platform::{
    RequestContext,
    propagation::mark_failed,
    record_counter, record_histogram,
    spans::{WaitSpan, record_wait},
};
use phoenix_proto::HealthSnapshot;
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use super::{agent::Agent, attempt_span::AttemptSpan, errors};
use crate::{
    agents::Attempt,
    failure::AttemptFailure,
    health_reports::{HealthReports, Report},
    metrics::{CALL_FAILURES, CALL_SECONDS, TASK_SECONDS},
    running::{CancelReason, Registration},
    task::{EventQueue, Task, TaskEvent},
    task_queue::QueueTicket,
};

/// A task that was accepted.
pub(super) struct TaskRun {
    health_reports: HealthReports,
    agent: Arc<Agent>,
    caller: RequestContext,
    request: ActionRequest,
    /// Limits of the action, read before each attempt: those of an MCP server's tool may become known later.
    limits: ActionLimits,
    probe_lease: String,
    registration: Registration,
    events: EventQueue,
    /// Attempts made in all, those of earlier runs included.
    attempts: u32,
    /// Whether an earlier run made attempts whose end is not known.
    was_run_before: bool,
    /// Attempt numbers that were skipped.
    skipped: u32,
    /// Highest number of an attempt that the caller has reserved.
    last_attempt: u32,
    /// End of the last attempt made here.
    ended_at: Option<Timestamp>,
    /// Time of the last attempt made here.
    took: Duration,
    /// Health of the agent after the last report.
    health: Option<HealthSnapshot>,
}

/// Reason why a task has no result.
enum TaskFailure {
    Failed(OrchestratorError),
    Cancelled(CancelReason),
    /// The caller's deadline passed before the next attempt.
    DeadlineExceeded,
}

/// What follows a failed attempt.
enum RetryDecision {
    Retry(Duration),
    GiveUp,
    /// The caller's deadline comes before the next attempt.
    DeadlineTooClose,
}

impl TaskRun {
    pub(super) fn new(
        health_reports: HealthReports,
        agent: Arc<Agent>,
        task: Task,
        registration: Registration,
        events: EventQueue,
    ) -> Self {
        let Task {
            caller,
            plan_id,
            task_id,
            agent: tool,
            action,
            context,
            payload,
            idempotency_key,
            first_attempt,
            earlier_attempts: attempts,
            last_attempt,
            probe_lease,
            with_output,
        } = task;
        // Attempts that ended with questions, which are answered now, were not lost.
        let questions = payload.get(questions::MEMBER).and_then(Questions::from_json);
        let answered_attempts = questions.map_or(0, |questions| questions.attempts);
        let skipped = first_attempt.saturating_sub(1).saturating_sub(attempts);
        let request = ActionRequest {
            request_id: Uuid::nil(),
            api_version: API_VERSION.into(),
            tool,
            action,
            context,
            plan_id,
            task_id,
            correlation_id: caller.correlation_id,
            payload,
            meta: ActionMeta {
                traceparent: None,
                attempt: attempts,
                deadline_ms: 0,
                idempotency_key,
                stream: with_output,
            },
        };
        Self {
            health_reports,
            agent,
            caller,
            request,
            limits: ActionLimits::default(),
            probe_lease,
            registration,
            events,
            attempts,
            was_run_before: attempts > answered_attempts,
            skipped,
            last_attempt,
            ended_at: None,
            took: Duration::ZERO,
            health: None,
        }
    }

    /// Runs the task to its end.
    pub(super) async fn execute_agent_for_task(mut self, ticket: QueueTicket) {
        let started_at = Instant::now();
        let span = tracing::info_span!("execute_agent_with_retries", otel.status_description = Empty);
        let result = self.execute_agent_with_retries(ticket).instrument(span.clone()).await;
        let was_cancelled = matches!(result, Err(TaskFailure::Cancelled(_)));
        // The lease of a probe is returned even if no attempt was made.
        if was_cancelled || !self.probe_lease.is_empty() {
            self.report(Outcome::Neutral, true).await;
        }
        let elapsed = started_at.elapsed();
        record_histogram(&TASK_SECONDS, elapsed.as_secs_f64());
        self.log_end(&result, elapsed, &span);
        self.finish(result);
    }

    fn finish(self, result: Result<ActionResult, TaskFailure>) {
        let agent = &self.agent.spec.name;
        let result = match result {
            Ok(result) => Ok(result),
            Err(TaskFailure::Failed(error)) => Err(error),
            Err(TaskFailure::DeadlineExceeded) => Err(errors::deadline_exceeded(agent, self.attempts)),
            Err(TaskFailure::Cancelled(reason)) => {
                let error = errors::cancelled(agent, self.attempts, reason);
                if matches!(reason, CancelReason::Stopping | CancelReason::Superseded) {
                    return self.events.push(TaskEvent::Interrupted(error));
                }
                Err(error)
            }
        };
        self.events.push(TaskEvent::Finished {
            attempts: self.attempts,
            ended_at: self.ended_at.unwrap_or_else(Timestamp::now),
            result,
            health: self.health.map(Box::new),
        });
    }

    /// Waits for a permit and makes attempts until one succeeds or none is left. The permit is held between attempts, so that
    /// retries of a failing agent do not add to its load, and released before the last report.
    async fn execute_agent_with_retries(&mut self, ticket: QueueTicket) -> Result<ActionResult, TaskFailure> {
        let queued_at = Timestamp::now();
        let permit = self.until_stopped(ticket.permit()).await;
        record_wait(WaitSpan::Place, queued_at, None, None);
        let permit = permit?;
        let permit = permit.ok_or_else(|| {
            TaskFailure::Failed(OrchestratorError::internal("the queue of the agent is closed"))
        })?;
        let mut last = None;
        loop {
            let outcome =
                self.attempt().await.map_err(|failure| self.with_last_failure(failure, last.take()))?;
            let ended_at = Instant::now();
            let failure = match outcome {
                Ok(result) => {
                    drop(permit);
                    self.report(Outcome::Success, true).await;
                    return Ok(result);
                }
                Err(failure) => failure,
            };
            let decision = self.decide(&failure);
            self.publish_failure(&failure, &decision);
            if let RetryDecision::Retry(pause) = decision {
                self.report(failure.outcome(), false).await;
                let failed_at = self.ended_at.unwrap_or_else(Timestamp::now);
                let pause = self.until_stopped(tokio::time::sleep_until((ended_at + pause).into())).await;
                record_wait(WaitSpan::Backoff, failed_at, None, None);
                pause.map_err(|stopped| self.with_last_failure(stopped, Some(failure.clone())))?;
                last = Some(failure);
                continue;
            }
            drop(permit);
            self.report(failure.outcome(), true).await;
            let (agent, attempts) = (&self.agent.spec.name, self.attempts);
            return Err(TaskFailure::Failed(match decision {
                RetryDecision::DeadlineTooClose => failure.into_deadline_error(agent, attempts),
                RetryDecision::GiveUp | RetryDecision::Retry(_) => failure.into_error(agent, attempts),
            }));
        }
    }

    /// A task whose deadline passes after a failed attempt ends with the error of that attempt.
    fn with_last_failure(&self, stopped: TaskFailure, last: Option<AttemptFailure>) -> TaskFailure {
        match (stopped, last) {
            (TaskFailure::DeadlineExceeded, Some(failure)) => {
                TaskFailure::Failed(failure.into_deadline_error(&self.agent.spec.name, self.attempts))
            }
            (stopped, _) => stopped,
        }
    }

    /// Makes one attempt and records its metrics.
    async fn attempt(&mut self) -> Result<Result<ActionResult, AttemptFailure>, TaskFailure> {
        self.limits = self.agent.runner.limits_of(&self.request.action);
        let own = self.limits.timeout.unwrap_or(self.agent.spec.timeout);
        let limit = self.caller.remaining().map_or(own, |callers| callers.min(own));
        if limit.is_zero() {
            return Err(TaskFailure::DeadlineExceeded);
        }
        let started_at = Instant::now();
        self.attempts += 1;
        let number = self.attempt_number();
        let span = AttemptSpan::open(&self.agent.spec, &self.request, number);
        self.request.request_id = Uuid::new_v4();
        self.request.meta.attempt = number;
        self.request.meta.traceparent = Some(span.span.in_scope(|| self.caller.traceparent()));
        let mut attempt = Attempt::new(&mut self.request, limit, &self.events);
        attempt.follows_lost_dispatch = self.was_run_before;
        let outcome = tokio::select! {
            biased;
            // First, so that no process is started for a caller that has left already.
            reason = self.registration.cancel.cancelled() => {
                span.cancelled(reason);
                Err(TaskFailure::Cancelled(reason))
            }
            outcome = self.agent.runner.run(&mut attempt).instrument(span.span.clone()) => {
                attempt.report_start(None);
                span.end(&outcome);
                // A timeout under the caller's shorter deadline says nothing about the agent.
                let is_callers = limit < own;
                Ok(outcome.map_err(|failure| {
                    let timed_out = failure.class == FailureClass::Timeout;
                    failure.neutral_if(is_callers && timed_out)
                }))
            }
        };
        self.ended_at = Some(Timestamp::now());
        self.took = started_at.elapsed();
        record_histogram(&CALL_SECONDS, self.took.as_secs_f64());
        let verdict =
            outcome.as_ref().ok().map(|attempt| attempt.as_ref().map(drop).map_err(|failure| failure.class));
        self.agent.metrics.record_attempt(verdict);
        outcome
    }

    /// Number of the last attempt.
    const fn attempt_number(&self) -> u32 {
        self.attempts.saturating_add(self.skipped)
    }

    fn decide(&self, failure: &AttemptFailure) -> RetryDecision {
        let policy = self.limits.retry.unwrap_or(self.agent.spec.retry);
        // Another executor may use the numbers that follow.
        let is_last = self.attempt_number() >= self.last_attempt;
        let is_final = !failure.class.is_retried() || failure.may_have_effect;
        if is_final || !policy.allows_another(self.attempts) || is_last {
            return RetryDecision::GiveUp;
        }
        let pause = policy.backoff(self.attempts, fastrand::f64());
        if self.caller.remaining().is_some_and(|remaining| remaining <= pause) {
            RetryDecision::DeadlineTooClose
        } else {
            RetryDecision::Retry(pause)
        }
    }

    fn publish_failure(&self, failure: &AttemptFailure, decision: &RetryDecision) {
        record_counter(&CALL_FAILURES, 1);
        let retry_in = match decision {
            RetryDecision::Retry(pause) => {
                self.agent.metrics.record_retry(failure.class);
                Some(*pause)
            }
            RetryDecision::GiveUp | RetryDecision::DeadlineTooClose => None,
        };
        let ended_at = self.ended_at.unwrap_or_else(Timestamp::now);
        self.agent.metrics.observed.last_stderr.record(&failure.stderr, ended_at);
        // Without the agent's message, which may quote the caller's input. The plan keeps it.
        tracing::warn!(
            attempt = self.attempt_number(),
            error_class = failure.class.as_str(),
            exit_code = failure.exit_code,
            response_code = failure.response_code,
            retry_in_ms = retry_in.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            "attempt failed"
        );
        self.events.push(TaskEvent::AttemptFailed {
            attempt: self.attempt_number(),
            ended_at,
            failure: failure.clone(),
            retry_in,
        });
    }

    /// Reports an outcome; the last report carries the lease of the probe.
    async fn report(&mut self, outcome: Outcome, is_last: bool) {
        let probe_lease = if is_last { std::mem::take(&mut self.probe_lease) } else { String::new() };
        let agent = &self.agent.spec.name;
        let task = self.request.task_id;
        let (took, is_slow) = (self.took, self.agent.spec.breaker.is_slow(self.took));
        let report = Report { caller: &self.caller, agent, task, outcome, probe_lease, took, is_slow };
        self.health = self.health_reports.send(report).await.or(self.health.take());
    }

    /// Runs `work` until the caller's deadline or a cancellation.
    async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, TaskFailure> {
        let deadline = async {
            match self.caller.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = self.registration.cancel.cancelled() => Err(TaskFailure::Cancelled(reason)),
            done = work => Ok(done),
            () = deadline => Err(TaskFailure::DeadlineExceeded),
        }
    }

    /// Logs the end of the task in its own span; `attempts` is the span of its attempts.
    fn log_end(&self, result: &Result<ActionResult, TaskFailure>, elapsed: Duration, attempts: &Span) {
        let (outcome, reason) = match result {
            Ok(_) => ("succeeded", None),
            Err(TaskFailure::Failed(error)) => (error.code.as_str(), None),
            Err(TaskFailure::DeadlineExceeded) => (OrchestratorErrorCode::Timeout.as_str(), None),
            Err(TaskFailure::Cancelled(reason)) => ("cancelled", Some(reason.as_str())),
        };
        if !matches!(outcome, "succeeded" | "cancelled") {
            mark_failed(attempts, outcome);
            mark_failed(&Span::current(), outcome);
        }
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(outcome, reason, attempts = self.attempts, elapsed_ms, "task finished");
    }
}
