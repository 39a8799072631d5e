//! Plans and sweeps of a planner that is gone, gone on with from what the journal knows.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    plan::{AttemptOutcome, Plan, PlanStatus},
};
use phoenix_platform::{RequestContext, metrics::record_counter};

use super::{Planner, lock};
use crate::{
    make::graph_of,
    metrics::{CountedPlan, RECOVERED},
    run::{Run, Stop, Waits},
    store::{Entry, JournalError, TaskRef, Unfinished},
};

impl Planner {
    /// Takes over plans whose planner is gone, and runs them on from what the journal knows. Those that can't be read at
    /// the moment are tried again the next time: once they are this planner's, nobody else looks after them.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub async fn recover(&self) -> Result<usize, JournalError> {
        let Unfinished { plans, sweeps } = self.journal().claim().await?;
        for sweep in sweeps {
            self.work_off(sweep);
        }
        {
            let mut taken_over = lock(&self.parts.taken_over);
            taken_over.extend(plans);
            taken_over.sort_unstable_by(|a, b| b.cmp(a));
        }
        let mut plans = 0;
        while let Some(plan_id) = self.next_taken_over() {
            match self.journal().plan(plan_id).await {
                Ok(Some(plan)) => {
                    record_counter(&RECOVERED, 1);
                    self.resume(plan).await?;
                }
                Ok(None) => {}
                // Nobody can run it, which must not keep the others from going on.
                Err(JournalError::Damaged(what)) => {
                    tracing::error!(%plan_id, %what, "an unfinished plan cannot be read; it is left as it is");
                }
                Err(error) => return Err(error),
            }
            lock(&self.parts.taken_over).pop();
            plans += 1;
        }
        Ok(plans)
    }

    fn next_taken_over(&self) -> Option<PlanId> {
        lock(&self.parts.taken_over).last().copied()
    }

    async fn resume(&self, plan: Plan) -> Result<(), JournalError> {
        let counted = CountedPlan::start(&self.parts.meters);
        let (plan_id, correlation_id) = (plan.plan_id, plan.correlation_id);
        let mut context = RequestContext::new(correlation_id);
        let span = phoenix_platform::correlation_span("resume_plan", &context);
        let span = tracing::info_span!(parent: &span, "plan_and_execute_v1", %plan_id);
        span.in_scope(|| tracing::info!("plan taken over from a planner that stopped"));
        for (ordinal, task) in plan.tasks.iter().enumerate() {
            for attempt in task.attempts.iter().filter(|attempt| attempt.outcome.is_none()) {
                let entry = Entry::AttemptEnded {
                    task: TaskRef { plan_id, ordinal },
                    number: attempt.number,
                    at: Timestamp::now(),
                    outcome: AttemptOutcome::Cancelled,
                    retried: true,
                };
                self.journal().note(entry).await?;
            }
        }
        if let Some(deadline) = plan.deadline_at {
            let left = Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default();
            context = context.with_deadline(Instant::now() + left);
        }
        let graph = match graph_of(&plan, &self.parts.agents) {
            Ok(graph) => graph,
            // An agent that the plan needs is no longer configured.
            Err(error) => {
                let ended = Entry::PlanEnded {
                    plan_id,
                    status: PlanStatus::Failed,
                    at: Timestamp::now(),
                    result: Err(error),
                };
                return self.journal().record(vec![ended]).await;
            }
        };
        let (planner, stop) = (self.clone(), Stop::default());
        let run = Run { planner, plan, graph, context, stop, waits: Waits::Nobody, counted };
        drop(self.spawn(run, None, span));
        Ok(())
    }
}
