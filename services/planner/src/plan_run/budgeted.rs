//! Dispatches of a task: without a budget as many attempts as the agent allows, within one a single attempt at a time.
//!
//! Within a budget, what an attempt may use is reserved before it starts and settled when it has ended. So the executor makes
//! one attempt, and its repetition is decided here, with a reservation of its own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{AgentSpec, OrchestratorError, OrchestratorErrorCode, budget::Room, retry::RetryPolicy};
use tokio::sync::oneshot;

use crate::{
    budgets::{self, Ended, Hold, charges},
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        dispatch::{Dispatch, DispatchOutcome, dispatch},
        progress::{Failure, TaskProgress},
    },
    store::{
        budget::{Call, is_granted},
        error::JournalError,
    },
};

/// First pause before another look at a budget that running calls have reserved; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// Longest pause before another look.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl ActivePlan {
    /// Dispatches a task to the executor in `request`, which makes up to `max_attempts` attempts.
    pub(super) async fn dispatch(
        &self,
        loaded: &LoadedPlan,
        agent: Result<&AgentSpec, OrchestratorError>,
        max_attempts: u32,
        request: Dispatch<'_>,
        progress: &TaskProgress,
    ) -> Result<DispatchOutcome, JournalError> {
        let agent = match agent {
            Ok(agent) => agent,
            Err(error) => return Ok(DispatchOutcome::Ended(Err(error))),
        };
        let of_plan = loaded.budget();
        let has_budget = of_plan.is_limited() || !self.deps.budgets.is_empty();
        let charges = match has_budget {
            true => {
                let (budgets, action) = (&self.deps.budgets, request.task.spec.action.as_str());
                charges(budgets, &loaded.plan, of_plan, agent, action, request.payload, Timestamp::now())
            }
            false => Vec::new(),
        };
        if !charges.is_empty() {
            let call = Call { task: request.task_ref, number: progress.next_number() };
            return self.dispatch_within(Hold::new(call, charges), agent, request, progress).await;
        }
        if progress.reserve(max_attempts).is_none() {
            return Ok(DispatchOutcome::Ended(Err(out_of_numbers(agent))));
        }
        match self.deps.health.permit(&agent.name, &self.context).await {
            Ok(permit) => dispatch(&self.deps, request, progress, permit, &self.context).await,
            Err(error) => Ok(DispatchOutcome::Ended(Err(error))),
        }
    }

    /// Makes one attempt within a budget.
    async fn dispatch_within(
        &self,
        hold: Hold,
        agent: &AgentSpec,
        request: Dispatch<'_>,
        progress: &TaskProgress,
    ) -> Result<DispatchOutcome, JournalError> {
        if progress.reserve(1).is_none() {
            return Ok(DispatchOutcome::Ended(Err(out_of_numbers(agent))));
        }
        if let Err(error) = self.reserve(hold, progress).await? {
            return Ok(DispatchOutcome::Ended(Err(error)));
        }
        let permit = match self.deps.health.permit(&agent.name, &self.context).await {
            Ok(permit) => permit,
            Err(error) => {
                self.settle(progress, |_| Ended::NotStarted).await?;
                return Ok(DispatchOutcome::Ended(Err(error)));
            }
        };
        let starts = progress.possible_starts();
        let retry = agent.retry_of(&request.task.spec.action);
        let request = Dispatch { retry: Some(&retry), ..request };
        let attempt = dispatch(&self.deps, request, progress, permit, &self.context);
        let outcome = match progress.held().and_then(|hold| hold.time_limit()) {
            // The executor takes an attempt that is given up for no evidence about the agent.
            Some((limit, error)) => match tokio::time::timeout(limit, attempt).await {
                Ok(outcome) => outcome?,
                Err(_) => DispatchOutcome::Ended(Err(error)),
            },
            None => attempt.await?,
        };
        let has_started = progress.possible_starts() > starts;
        let Failure { model_calls, is_repeated } = progress.take_failure();
        self.settle(progress, |_| match &outcome {
            _ if !has_started => Ended::NotStarted,
            DispatchOutcome::Ended(result) => budgets::ended(result, model_calls),
            DispatchOutcome::Interrupted { .. } | DispatchOutcome::AtCapacity | DispatchOutcome::Retry(_) => {
                Ended::Unknown
            }
        })
        .await?;
        Ok(if is_repeated { self.repetition(outcome, &retry, progress) } else { outcome })
    }

    /// The outcome of an attempt that is repeated if there is time.
    fn repetition(
        &self,
        outcome: DispatchOutcome,
        retry: &RetryPolicy,
        progress: &TaskProgress,
    ) -> DispatchOutcome {
        let DispatchOutcome::Ended(Err(error)) = outcome else { return outcome };
        let pause = retry.backoff(progress.attempts(), fastrand::f64());
        match self.context.remaining() {
            Some(remaining) if remaining <= pause => DispatchOutcome::Ended(Err(error)),
            _ => DispatchOutcome::Retry(pause),
        }
    }

    /// Reserves what a call may need. Waits while it would fit if running calls used less than is reserved for them.
    async fn reserve(
        &self,
        hold: Hold,
        progress: &TaskProgress,
    ) -> Result<Result<(), OrchestratorError>, JournalError> {
        let (call, charges): (Call, Arc<[_]>) = (hold.call, hold.charges().into());
        // From here on the reservation is ended, whatever happens to this future.
        progress.hold(hold);
        let mut pause = FIRST_PAUSE;
        loop {
            let (answer, verdicts) = oneshot::channel();
            let (journal, of_call) = (self.deps.journal.clone(), Arc::clone(&charges));
            // On its own, because a reservation that was not awaited would stay.
            self.deps.tasks.spawn(async move {
                let reserved = journal.reserve(call, &of_call).await;
                if answer.send(reserved).is_err() {
                    // Fails only when the process ends or is fenced; the next planner settles it then.
                    let _ = journal.settle(call, &[]).await;
                }
            });
            let verdicts = verdicts.await.map_err(|_| JournalError::Closed)??;
            if is_granted(&verdicts) {
                progress.granted(&verdicts);
                return Ok(Ok(()));
            }
            let exhausted = charges.iter().zip(&verdicts).find_map(|(charge, verdict)| match verdict.room {
                Room::Exhausted(resource) => Some(budgets::exhausted(charge, verdict, resource)),
                Room::Enough(_) | Room::Later(_) => None,
            });
            if let Some(error) = exhausted {
                progress.release();
                return Ok(Err(error));
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends the reservation of a task's call, if there is one.
    async fn settle(
        &self,
        progress: &TaskProgress,
        ended: impl FnOnce(&Hold) -> Ended,
    ) -> Result<(), JournalError> {
        let Some(hold) = progress.held() else { return Ok(()) };
        let ended = ended(&hold);
        let uses = hold.uses(&self.deps.budgets, &ended, Timestamp::now());
        self.deps.journal.settle(hold.call, &uses).await?;
        progress.release();
        Ok(())
    }

    /// Ends the reservations of calls that were given up.
    pub(super) async fn settle_abandoned(&self, progress: &[TaskProgress]) -> Result<(), JournalError> {
        for progress in progress {
            self.settle(progress, Hold::abandoned).await?;
        }
        Ok(())
    }
}

/// Error of a task whose dispatches broke so often that this planner has no attempt number left for it.
fn out_of_numbers(agent: &AgentSpec) -> OrchestratorError {
    let message = "the executors were lost during so many attempts of the task that no attempt number is left; redrive the plan";
    OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message).with_detail("agent", &agent.name)
}
