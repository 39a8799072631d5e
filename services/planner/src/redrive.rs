//! Redrive: a terminal plan is run again as a new plan, from where it failed ([`crate::planning::redrive`]).

use phoenix_domain::{
    BulkRedriveId, OrchestratorError, OrchestratorErrorCode, PlanId, dead_letter::check_reason, plan::Plan,
    rejections::no_such_plan,
};
use phoenix_platform::{RequestContext, metrics::record_counter};

use crate::{
    idempotency::Lookup,
    metrics::DEAD_LETTERS_REDRIVEN,
    plan_metrics::PlanMetricsGuard,
    plan_run::registry::CancelHandle,
    plan_trace::link_redriven,
    planning::{
        redrive::{check_redrivable, dead_letters, prepare_redrive},
        request::{RedriveRequest, WaitMode},
    },
    store::entry::Entry,
    submission::{Accepted, StartOptions, Submissions},
};

/// Redrives plans. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Redrives {
    submissions: Submissions,
}

impl Redrives {
    pub(crate) const fn new(submissions: Submissions) -> Self {
        Self { submissions }
    }

    /// Starts the plan that redrives another. With a `bulk` operation, only if a dead letter of the plan is still open.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the plan is not terminal, when all of its tasks have succeeded, or when it was redriven
    /// before (the details then name the new plan); the first problem of the new inputs.
    pub(crate) async fn start(
        &self,
        context: RequestContext,
        request: RedriveRequest,
        wait_mode: WaitMode,
        bulk: Option<BulkRedriveId>,
        cancel: CancelHandle,
    ) -> Result<Accepted, OrchestratorError> {
        let RedriveRequest { plan_id, inputs, reason, continue_on_disconnect: _, key } = request;
        check_reason(&reason)?;
        let reservation = match self.submissions.keys.reserve(key).await? {
            Lookup::New(reservation) => reservation,
            Lookup::Replay(used) => return Ok(used.into()),
        };
        let original = self.redrivable_plan(plan_id).await?;
        link_redriven(&self.submissions.deps.journal, plan_id).await;
        let deps = &self.submissions.deps;
        let metrics = PlanMetricsGuard::start(&deps.metrics);
        let by = context.correlation_id;
        let agents = deps.agents.catalog();
        let prepared = agents.and_then(|agents| prepare_redrive(&agents, &original, by, inputs));
        let prepared = prepared.map(|mut prepared| {
            let (redriven_as, at) = (prepared.plan.plan_id, prepared.plan.created_at);
            prepared.entries.push(Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, bulk });
            prepared
        });
        let with_output = wait_mode == WaitMode::Async;
        let options = StartOptions { context, wait_mode, with_output, metrics, cancel };
        match self.submissions.start(options, prepared, reservation).await {
            // A concurrent redrive came first: the error is the same as for an earlier one.
            Err(error) if error.code == OrchestratorErrorCode::Conflict => {
                self.redrivable_plan(plan_id).await?;
                Err(error)
            }
            Ok(accepted) => {
                record_counter(&DEAD_LETTERS_REDRIVEN, dead_letters(&original));
                Ok(accepted)
            }
            rejected => rejected,
        }
    }

    async fn redrivable_plan(&self, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
        let plan = self.submissions.deps.journal.plan(plan_id).await?;
        let plan = plan.ok_or_else(|| no_such_plan(plan_id))?;
        check_redrivable(&plan)?;
        Ok(plan)
    }
}
