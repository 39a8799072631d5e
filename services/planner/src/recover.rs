//! What a planner that is gone left undone: taken over, and gone on with from what the journal knows.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::plan::{AttemptOutcome, Plan, PlanStatus};
use phoenix_platform::{RequestContext, correlation_span, metrics::record_counter};

use crate::{
    make::graph_of,
    metrics::{CountedPlan, RECOVERED},
    planner::Planner,
    run::Waits,
    store::{Entry, JournalError, TaskRef, Unfinished},
};

impl Planner {
    /// Takes over plans and sweeps whose planner is gone, and goes on with them from what the journal knows: how many plans.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub async fn recover(&self) -> Result<usize, JournalError> {
        let Unfinished { plans, sweeps } = self.journal().claim().await?;
        for sweep in sweeps {
            self.work_off(sweep);
        }
        for plan_id in &plans {
            let Some(plan) = self.journal().plan(*plan_id).await? else { continue };
            record_counter(&RECOVERED, 1);
            self.resume(plan).await?;
        }
        Ok(plans.len())
    }

    async fn resume(&self, plan: Plan) -> Result<(), JournalError> {
        let counted = CountedPlan::start(self.meters());
        let (plan_id, correlation_id) = (plan.plan_id, plan.correlation_id);
        let mut context = RequestContext::new(correlation_id);
        let span = correlation_span("resume_plan", &context);
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
        let graph = match graph_of(&plan, self.agents()) {
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
        drop(self.spawn(plan, graph, context, Waits::Nobody, counted, span));
        Ok(())
    }
}
