//! One task on its way through its attempts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::{API_VERSION, ActionMeta, ActionRequest, ActionResult},
    health::Outcome,
};
use phoenix_platform::{RequestContext, propagation::mark_failed, record_counter, record_histogram};
use phoenix_proto::HealthSnapshot;
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use super::{Agent, Executor, cancelled};
use crate::{
    agents::Call,
    failure::AttemptFailure,
    health_reports::Report,
    limits::Ticket,
    metrics::{CALL_FAILURES, CALL_SECONDS, TASK_SECONDS},
    running::{CancelReason, Registration},
    task::{Events, Task, TaskEvent},
};

/// One task that was taken in.
pub(super) struct TaskRun {
    executor: Arc<Executor>,
    agent: Arc<Agent>,
    caller: RequestContext,
    request: ActionRequest,
    probe_lease: String,
    registration: Registration,
    events: Events,
    /// Attempts made in all, by others before this run too.
    attempts: u32,
    /// Numbers that none of them had.
    skipped: u32,
    /// When the last of them ended, of those made here.
    ended_at: Option<Timestamp>,
    /// The agent's health after the last report.
    health: Option<HealthSnapshot>,
}

/// Why a task has no result.
enum Stop {
    Failed(OrchestratorError),
    Cancelled(CancelReason),
    /// The caller's deadline passed before the next attempt could be made.
    OutOfTime,
}

/// What follows a failed attempt.
enum Next {
    Retry(Duration),
    GiveUp,
    /// The caller's deadline comes before the next attempt.
    TooLate,
}

impl TaskRun {
    pub(super) fn new(
        executor: Arc<Executor>,
        agent: Arc<Agent>,
        task: Task,
        registration: Registration,
        events: Events,
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
            probe_lease,
        } = task;
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
            meta: ActionMeta { traceparent: None, attempt: attempts, deadline_ms: 0, idempotency_key },
        };
        Self {
            executor,
            agent,
            caller,
            request,
            probe_lease,
            registration,
            events,
            attempts,
            skipped,
            ended_at: None,
            health: None,
        }
    }

    /// Runs the task to its end, whatever that is.
    pub(super) async fn execute_agent_for_task(mut self, ticket: Ticket) {
        let started = Instant::now();
        let span = tracing::info_span!("execute_agent_with_retries", otel.status_description = Empty);
        let result = self.execute_agent_with_retries(ticket).instrument(span.clone()).await;
        let was_cancelled = matches!(result, Err(Stop::Cancelled(_)));
        // A probe's place must be given back even if no attempt was made.
        if was_cancelled || !self.probe_lease.is_empty() {
            self.report(Outcome::Neutral, true).await;
        }
        let elapsed = started.elapsed();
        record_histogram(&TASK_SECONDS, elapsed.as_secs_f64());
        self.log_end(&result, elapsed, &span);
        self.finish(result);
    }

    fn finish(self, result: Result<ActionResult, Stop>) {
        let agent = &self.agent.spec.name;
        let result = match result {
            Ok(result) => Ok(result),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::OutOfTime) => Err(out_of_time(agent, self.attempts)),
            Err(Stop::Cancelled(reason)) => {
                let error = cancelled(agent, self.attempts, reason);
                if reason == CancelReason::Stopping {
                    return self.events.push(TaskEvent::Interrupted(error));
                }
                Err(error)
            }
        };
        self.events.push(TaskEvent::Finished {
            attempts: self.attempts,
            ended_at: self.ended_at.unwrap_or_else(Timestamp::now),
            result,
            health: self.health,
        });
    }

    /// Waits for a place and makes attempts until one succeeds or none is left. The place is kept between attempts, so
    /// that an agent that fails is not asked more often for it, and given up before the last report.
    async fn execute_agent_with_retries(&mut self, ticket: Ticket) -> Result<ActionResult, Stop> {
        let place = self.unless_stopped(ticket.place()).await?;
        let place = place.ok_or_else(|| Stop::Failed(OrchestratorError::internal("the queue is gone")))?;
        let mut last = None;
        loop {
            let outcome = self.attempt().await.map_err(|stop| self.explain(stop, last.take()))?;
            let ended = Instant::now();
            let failure = match outcome {
                Ok(result) => {
                    drop(place);
                    self.report(Outcome::Success, true).await;
                    return Ok(result);
                }
                Err(failure) => failure,
            };
            let next = self.next(&failure);
            self.tell_failure(&failure, &next);
            if let Next::Retry(pause) = next {
                self.report(failure.outcome(), false).await;
                let pause = self.unless_stopped(tokio::time::sleep_until((ended + pause).into())).await;
                pause.map_err(|stop| self.explain(stop, Some(failure.clone())))?;
                last = Some(failure);
                continue;
            }
            drop(place);
            self.report(failure.outcome(), true).await;
            let (agent, attempts) = (&self.agent.spec.name, self.attempts);
            return Err(Stop::Failed(match next {
                Next::TooLate => failure.into_deadline_error(agent, attempts),
                Next::GiveUp | Next::Retry(_) => failure.into_error(agent, attempts),
            }));
        }
    }

    /// A task that ran out of time after a failed attempt ends with the error of that attempt.
    fn explain(&self, stop: Stop, last: Option<AttemptFailure>) -> Stop {
        match (stop, last) {
            (Stop::OutOfTime, Some(failure)) => {
                Stop::Failed(failure.into_deadline_error(&self.agent.spec.name, self.attempts))
            }
            (stop, _) => stop,
        }
    }

    /// One attempt, with what is measured of it.
    async fn attempt(&mut self) -> Result<Result<ActionResult, AttemptFailure>, Stop> {
        let own = self.agent.spec.timeout;
        let limit = self.caller.remaining().map_or(own, |callers| callers.min(own));
        if limit.is_zero() {
            return Err(Stop::OutOfTime);
        }
        let begun = Instant::now();
        self.attempts += 1;
        let span =
            tracing::info_span!("agent_attempt", attempt = self.number(), otel.status_description = Empty);
        self.request.request_id = Uuid::new_v4();
        self.request.meta.attempt = self.number();
        self.request.meta.traceparent = Some(span.in_scope(|| self.caller.traceparent()));
        let mut call = Call::new(&mut self.request, limit, &self.events);
        let outcome = tokio::select! {
            biased;
            // First, so that nothing is started for a caller that has left already.
            reason = self.registration.cancel.cancelled() => Err(Stop::Cancelled(reason)),
            outcome = self.agent.runner.run(&mut call).instrument(span.clone()) => {
                call.started(None);
                if let Err(failure) = &outcome {
                    mark_failed(&span, failure.class.as_str());
                }
                // An agent that had less time than its own is not to blame for using all of it.
                let is_callers = limit < own;
                Ok(outcome.map_err(|failure| {
                    let timed_out = failure.class == FailureClass::Timeout;
                    failure.neutral_if(is_callers && timed_out)
                }))
            }
        };
        self.ended_at = Some(Timestamp::now());
        record_histogram(&CALL_SECONDS, begun.elapsed().as_secs_f64());
        let measured =
            outcome.as_ref().ok().map(|attempt| attempt.as_ref().map(drop).map_err(|failure| failure.class));
        self.agent.meters.attempt_ended(measured);
        outcome
    }

    /// The number of the last attempt.
    const fn number(&self) -> u32 {
        self.attempts.saturating_add(self.skipped)
    }

    fn next(&self, failure: &AttemptFailure) -> Next {
        let policy = &self.agent.spec.retry;
        if !failure.class.is_retried() || !policy.allows_another(self.attempts) {
            return Next::GiveUp;
        }
        let pause = policy.backoff(self.attempts, fastrand::f64());
        if self.caller.remaining().is_some_and(|left| left <= pause) {
            Next::TooLate
        } else {
            Next::Retry(pause)
        }
    }

    fn tell_failure(&self, failure: &AttemptFailure, next: &Next) {
        record_counter(&CALL_FAILURES, 1);
        let retry_in = match next {
            Next::Retry(pause) => {
                self.agent.meters.attempt_retried(failure.class);
                Some(*pause)
            }
            Next::GiveUp | Next::TooLate => None,
        };
        // Without the agent's words, which may quote the caller's. They are kept in the plan.
        tracing::warn!(
            attempt = self.number(),
            error_class = failure.class.as_str(),
            exit_code = failure.exit_code,
            response_code = failure.response_code,
            retry_in_ms = retry_in.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            "attempt failed"
        );
        self.events.push(TaskEvent::AttemptFailed {
            attempt: self.number(),
            ended_at: self.ended_at.unwrap_or_else(Timestamp::now),
            failure: failure.clone(),
            retry_in,
        });
    }

    /// Reports an outcome; the probe's lease goes with the last.
    async fn report(&mut self, outcome: Outcome, is_last: bool) {
        let probe_lease = if is_last { std::mem::take(&mut self.probe_lease) } else { String::new() };
        let agent = &self.agent.spec.name;
        let task = self.request.task_id;
        let report = Report { caller: &self.caller, agent, task, outcome, probe_lease };
        self.health = self.executor.health.send(report).await.or(self.health.take());
    }

    /// Waits for `work`, but not past the caller's deadline or a cancellation.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let deadline = async {
            match self.caller.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = self.registration.cancel.cancelled() => Err(Stop::Cancelled(reason)),
            done = work => Ok(done),
            () = deadline => Err(Stop::OutOfTime),
        }
    }

    /// Logs how the task ended, in its own span; `attempts` is the span of its attempts.
    fn log_end(&self, result: &Result<ActionResult, Stop>, elapsed: Duration, attempts: &Span) {
        let (outcome, reason) = match result {
            Ok(_) => ("succeeded", None),
            Err(Stop::Failed(error)) => (error.code.as_str(), None),
            Err(Stop::OutOfTime) => (OrchestratorErrorCode::Timeout.as_str(), None),
            Err(Stop::Cancelled(reason)) => ("cancelled", Some(reason.as_str())),
        };
        if !matches!(outcome, "succeeded" | "cancelled") {
            mark_failed(attempts, outcome);
            mark_failed(&Span::current(), outcome);
        }
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(outcome, reason, attempts = self.attempts, elapsed_ms, "task finished");
    }
}

fn out_of_time(agent: &AgentName, attempts: u32) -> OrchestratorError {
    let message = format!("the request's deadline passed before agent `{agent}` could make its next attempt");
    OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
        .with_detail("agent", agent)
        .with_detail("attempts", attempts)
}
